"""Trio shell. Where a user's own files are: `~/.config/netfs`, `~/.local/state/netfs`, `~/.cache/netfs`, or where XDG
variables say.

Owns no memory.
"""

import os
from pathlib import Path
from typing import Literal

__all__ = ["user_cache", "user_file", "user_state"]


def user_file(name: Literal["identity", "known_hosts", "authorized_keys", "known_volumes", "netfs.toml"]) -> Path:
    """Return the path of a file, whether it is there or not."""
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "netfs" / name


def user_state(name: Literal["copies", "volumes"]) -> Path:
    """Return the path of a folder for what is noted from one run to the next, whether it is there or not."""
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "netfs" / name


def user_cache() -> Path:
    """Return the path of the folder for what may be removed at any time, whether it is there or not."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "netfs"
