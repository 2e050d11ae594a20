"""The netfs command."""
