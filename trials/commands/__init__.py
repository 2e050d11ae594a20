"""The commands under `netfs trial`."""
