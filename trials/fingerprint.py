"""Trio shell. A short digest of the code a trial runs, package by package, so that a token can say what has changed since.

The digest is over the source files as they are installed, by their names and contents. Owns no memory.
"""

import hashlib
from functools import cache
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Final

__all__ = ["DIGEST", "PARTS", "changed", "fingerprint"]

PACKAGES: Final = ("iov", "transport", "crypto", "servers", "netfs", "trials")
LIBRARIES: Final = ("trio",)
PARTS: Final = PACKAGES + LIBRARIES
DIGEST: Final = 2
"""Bytes of each part's digest."""


@cache
def fingerprint() -> bytes:
    """Return the digests of all parts, one behind the other."""
    texts = [*map(_package, PACKAGES), *(version(name).encode() for name in LIBRARIES)]
    return b"".join(hashlib.blake2b(text, digest_size=DIGEST).digest() for text in texts)


def changed(then: bytes, now: bytes) -> list[str]:
    """Return the parts in which two fingerprints differ."""
    parts = enumerate(PARTS)
    return [name for at, name in parts if then[at * DIGEST : (at + 1) * DIGEST] != now[at * DIGEST : (at + 1) * DIGEST]]


def _package(name: str) -> bytes:
    """Return one digest of all source files of a package."""
    spec = find_spec(name)
    assert spec is not None and spec.submodule_search_locations, f"{name} is not installed as source"
    root = Path(spec.submodule_search_locations[0])
    digest = hashlib.blake2b()
    for path in sorted(root.rglob("*.py")):
        digest.update(f"{path.relative_to(root).as_posix()}\0".encode())
        digest.update(path.read_bytes())
    return digest.digest()
