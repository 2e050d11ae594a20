"""The mounted filesystem: clients, inodes, files and paths."""
