"""Runs of whole systems."""
