"""Seeded runs of whole systems under a virtual clock."""
