"""Trio shell. Giving up root: a server started as root serves as somebody else once everything is open. Owns no memory."""

import ctypes
import errno
import os
import pwd
from pathlib import Path
from typing import Final

__all__ = ["become", "user_for"]

_PR_SET_NO_NEW_PRIVS: Final = 38


def user_for(asked: str | None, folder: Path | None) -> pwd.struct_passwd | None:
    """Return who a server should be: who was asked for, else, as root, the folder's owner. None: as it was started.

    Raises: ValueError for a user there is not, or one that only root can become.
    """
    if asked is not None:
        try:
            user = pwd.getpwnam(asked)
        except KeyError:
            raise ValueError(f"no such user: {asked}") from None
        if os.geteuid() not in (0, user.pw_uid):
            raise ValueError(f"only root can become {asked}")
        return user if os.geteuid() != user.pw_uid else None
    if os.geteuid() != 0 or folder is None:
        return None
    owner = folder.stat().st_uid
    try:
        return pwd.getpwuid(owner) if owner else None
    except KeyError:
        raise ValueError(f"{folder} belongs to user {owner}, who has no name here; say --user") from None


def become(user: pwd.struct_passwd | None) -> None:
    """Become a user for good, with its groups; whoever we are, no program we start can become more. Raises: OSError."""
    if user is not None:
        os.initgroups(user.pw_name, user.pw_gid)
        os.setgid(user.pw_gid)
        os.setuid(user.pw_uid)
        if os.geteuid() != user.pw_uid or os.getegid() != user.pw_gid:
            raise OSError(errno.EPERM, "the privileges of root could not be given up")
    libc = ctypes.CDLL(None, use_errno=True)
    if hasattr(libc, "prctl"):
        libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
