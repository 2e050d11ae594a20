"""Sans-IO. Paths of the mounted filesystem: absolute or relative to its root, `/` between names, no way above the root.

Owns no memory.
"""

import errno

__all__ = ["child", "is_name", "names_of", "split_last"]


def is_name(name: str) -> bool:
    """Say whether a text can name an entry of a directory."""
    return name not in {"", ".", ".."} and "/" not in name and "\0" not in name


def names_of(path: str) -> list[str]:
    """Return the names of a path's components; `.` and empty ones vanish.

    Raises: OSError(EINVAL) for `..` and for what no name may have; how long one may be is the server's to say, in its turn.
    """
    names = [name for name in path.split("/") if name not in {"", "."}]
    for name in names:
        if not is_name(name):
            raise OSError(errno.EINVAL, "not a path of this filesystem", path)
    return names


def split_last(path: str) -> tuple[list[str], str]:
    """Return the names of the parent and the last name. Raises: OSError(EBUSY) for the root, else as `names_of`."""
    names = names_of(path)
    if not names:
        raise OSError(errno.EBUSY, "the root cannot be changed", path)
    return names[:-1], names[-1]


def child(parent: str, name: str) -> str:
    """Return the path of an entry of a directory."""
    return f"{parent.rstrip('/')}/{name}"
