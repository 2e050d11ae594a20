"""The request library: split, issue, collect and retry."""
