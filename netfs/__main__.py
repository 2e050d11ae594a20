"""Trio shell. `python -m netfs` is the `netfs` command."""

from netfs.cli.main import main

main()
