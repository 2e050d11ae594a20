"""Trio shell. Where a user's own files are: `~/.config/netfs`, or the folder that XDG_CONFIG_HOME names. Owns no memory."""

import os
from pathlib import Path
from typing import Literal

__all__ = ["user_file"]


def user_file(name: Literal["identity", "known_hosts", "authorized_keys", "known_volumes"]) -> Path:
    """Return the path of a file, whether it is there or not."""
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "netfs" / name
