"""Sans-IO. Who is trusted, as text: fingerprints of keys, the lines of known_hosts and those of authorized_keys.

A fingerprint is the SHA-256 of a key's SubjectPublicKeyInfo, printed as SSH prints one. Both files have a line for each key;
empty lines and what follows a `#` are skipped:

    host:port SHA256:…              known_hosts: this server has this key; several lines for one server are alternatives
    SHA256:… name [rw|ro] [export]  authorized_keys: whoever has this key may come in, as name; rw when nothing is said, and
                                    to the export of that name, else to the one that is served by default

A line that says something else is an error of the whole file: nobody is let in by a guess. Owns no memory.
"""

import base64
import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, NewType

__all__ = [
    "Fingerprint",
    "Grant",
    "fingerprint_of",
    "known_host_line",
    "parse_authorized_keys",
    "parse_fingerprint",
    "parse_known_hosts",
]

Fingerprint = NewType("Fingerprint", str)
PREFIX: Final = "SHA256:"
_FORM: Final = re.compile(r"SHA256:[A-Za-z0-9+/]{43}")
_NAME: Final = re.compile(r"[\w.@+-]+")
_RIGHTS: Final = {"rw": False, "ro": True}


@dataclass(frozen=True, slots=True)
class Grant:
    """What a key gives its owner: a name in the log, and an export, perhaps for reading only. export: "" for the default one."""

    name: str
    read_only: bool = False
    export: str = ""


def fingerprint_of(spki: bytes) -> Fingerprint:
    """Return the fingerprint of a key, from its SubjectPublicKeyInfo in DER."""
    digest = base64.b64encode(hashlib.sha256(spki).digest()).decode()
    return Fingerprint(PREFIX + digest.rstrip("="))


def parse_fingerprint(text: str) -> Fingerprint:
    """Read a fingerprint. Raises: ValueError, one line."""
    if not _FORM.fullmatch(text):
        raise ValueError(f"not a fingerprint: {text!r} (SHA256: and 43 characters)")
    return Fingerprint(text)


def parse_known_hosts(text: str) -> dict[str, list[Fingerprint]]:
    """Read known_hosts. Returns: the keys of each `host:port`. Raises: ValueError, one line that names the line."""
    known: dict[str, list[Fingerprint]] = {}
    for number, words in _lines(text):
        if len(words) != 2:
            raise ValueError(f"line {number}: expected 'host:port SHA256:…'")
        known.setdefault(words[0].lower(), []).append(_fingerprint_in(number, words[1]))
    return known


def known_host_line(peer: str, fingerprint: Fingerprint) -> str:
    """Return the line that says that a server has a key."""
    return f"{peer.lower()} {fingerprint}\n"


def parse_authorized_keys(text: str) -> dict[Fingerprint, Grant]:
    """Read authorized_keys. Raises: ValueError, one line that names the line, also for a key that is there twice."""
    grants: dict[Fingerprint, Grant] = {}
    for number, words in _lines(text):
        rights = words[2] if len(words) > 2 else "rw"
        export = words[3] if len(words) > 3 else ""
        if (
            not 2 <= len(words) <= 4
            or rights not in _RIGHTS
            or not all(_NAME.fullmatch(word) for word in (words[1], export or "x"))
        ):
            raise ValueError(f"line {number}: expected 'SHA256:… name', then nothing, or rw or ro and perhaps an export")
        fingerprint = _fingerprint_in(number, words[0])
        if fingerprint in grants:
            raise ValueError(f"line {number}: the key of an earlier line again")
        grants[fingerprint] = Grant(words[1], _RIGHTS[rights], export)
    return grants


def _lines(text: str) -> Iterator[tuple[int, list[str]]]:
    for number, line in enumerate(text.splitlines(), 1):
        words = line.partition("#")[0].split()
        if words:
            yield number, words


def _fingerprint_in(number: int, word: str) -> Fingerprint:
    try:
        return parse_fingerprint(word)
    except ValueError as error:
        raise ValueError(f"line {number}: {error}") from None
