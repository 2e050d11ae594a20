"""Random operations on one file against an oracle, and their replay."""
