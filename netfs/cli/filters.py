"""Sans-IO. Which names of a tree a command takes: patterns that include, patterns that exclude, and how fast it may go.

A pattern without a slash is matched with the last name at any depth, one with a slash with the whole path below the tree's top;
`*` stops at a slash, `**` does not. What is excluded is left out with all it holds. With patterns that include, only files that
match one are taken; directories are looked into. Owns no memory.
"""

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Final

__all__ = ["EVERYTHING", "Filters", "parse_rate"]

UNITS: Final = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "KI": 2**10, "MI": 2**20, "GI": 2**30}


@lru_cache(maxsize=256)
def _matcher(pattern: str) -> re.Pattern[str]:
    """Return what a pattern matches, as a regular expression."""
    parts = []
    at = 0
    body = pattern.strip("/")
    while at < len(body):
        if body.startswith("**/", at):
            parts.append("(?:.*/)?")
            at += 3
        elif body.startswith("**", at):
            parts.append(".*")
            at += 2
        elif body[at] == "*":
            parts.append("[^/]*")
            at += 1
        elif body[at] == "?":
            parts.append("[^/]")
            at += 1
        else:
            parts.append(re.escape(body[at]))
            at += 1
    return re.compile("".join(parts) + r"\Z", re.DOTALL)


class Filters:
    """Patterns to include and to exclude."""

    def __init__(self, include: Sequence[str] = (), exclude: Sequence[str] = ()) -> None:
        self.include = tuple(include)
        self.exclude = tuple(exclude)

    @property
    def choosy(self) -> bool:
        """Whether anything is left out at all."""
        return bool(self.include or self.exclude)

    def admits(self, path: str, *, is_directory: bool) -> bool:
        """Tell whether what lies at `path` below the top is taken. The top itself is the empty path and always is."""
        if not path:
            return True
        if any(_matches(pattern, path, is_directory) for pattern in self.exclude):
            return False
        return is_directory or not self.include or any(_matches(pattern, path, is_directory) for pattern in self.include)


def _matches(pattern: str, path: str, is_directory: bool) -> bool:
    if pattern.endswith("/") and not is_directory:
        return False
    whole = "/" in pattern.rstrip("/")
    return _matcher(pattern).match(path if whole else path.rpartition("/")[2]) is not None


EVERYTHING: Final = Filters()


def parse_rate(text: str) -> float:
    """Return the bytes a second that a text such as 500k, 10M or 1.5Gi names. Raises: ValueError."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMG]I?)?B?", text.strip().upper())
    if found is None or not float(found[1]):
        raise ValueError(f"{text!r} is no number of bytes a second; write 500k, 10M or 1Gi")
    return float(found[1]) * UNITS[found[2] or ""]
