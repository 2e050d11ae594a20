"""The page cache and the local cache."""
