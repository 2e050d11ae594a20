"""Sans-IO. The hello: who speaks, which versions, which features and limits; and what both agree on.

The client sends its hello first; the server answers with its own. Each is one fixed structure behind its magic and length; a
later version may append fields, which an earlier one skips. Agreed are the highest common version, the features both have, and
the smaller of each limit. Whatever else comes is told in one line that quotes how the peer began. Owns no memory.
"""

import struct
from dataclasses import dataclass
from typing import Final

from transport.base import Feature, Limits
from transport.errors import HelloMismatch, LeftSilently

__all__ = ["HELLO", "HELLO_LENGTH", "MAGIC", "VERSION", "Hello", "HelloReader", "agree", "encode_hello"]

MAGIC: Final = b"NETFSIO1"
VERSION: Final = 1
HELLO: Final = struct.Struct("<8sHHHHIIQII")
HELLO_LENGTH: Final = HELLO.size
MAX_HELLO: Final = 4096
MIN_BODY: Final = 4096
_PREFIX: Final = struct.Struct("<8sH")
_TLS_RECORDS: Final = frozenset({0x15, 0x16})
"""How an alert and a handshake begin."""


@dataclass(frozen=True, slots=True)
class Hello:
    """What one side says of itself."""

    min_version: int
    max_version: int
    limits: Limits


def encode_hello(limits: Limits, min_version: int = VERSION, max_version: int = VERSION) -> bytes:
    """Return our hello."""
    return HELLO.pack(
        MAGIC, HELLO_LENGTH, min_version, max_version, 0, int(limits.features),
        limits.credits, limits.max_payload, limits.max_body, limits.max_segs,
    )  # fmt: skip


class HelloReader:
    """Take a peer's hello as its bytes come, and not a byte more.

    role: what the peer is to be called in an error ("server", "client").
    """

    __slots__ = ("_data", "_need", "_role")

    def __init__(self, role: str) -> None:
        self._role = role
        self._data = bytearray()
        self._need = _PREFIX.size

    @property
    def need(self) -> int:
        """Bytes to receive next; 0 when the hello is whole."""
        return self._need - len(self._data)

    def feed(self, data: bytes | bytearray | memoryview) -> None:
        """Add at most `need` bytes.

        Raises: HelloMismatch as soon as they cannot be the beginning of a hello.
        """
        self._data += data
        known = min(len(self._data), len(MAGIC))
        if self._data[:known] != MAGIC[:known]:
            if self._data[0] in _TLS_RECORDS:
                raise HelloMismatch(f"not a netfs {self._role}: it speaks TLS, and this side does not")
            raise HelloMismatch(f"not a netfs {self._role}: it began with {self._quote()}")
        if len(self._data) == _PREFIX.size:
            length = _PREFIX.unpack(self._data)[1]
            if not HELLO_LENGTH <= length <= MAX_HELLO:
                raise HelloMismatch(f"not a netfs {self._role}: a hello of {length} bytes")
            self._need = length

    def ended(self) -> HelloMismatch:
        """Return the error for a peer that closed the connection now."""
        if not self._data:
            return LeftSilently(f"not a netfs {self._role}: it closed the connection without a word")
        return HelloMismatch(f"not a netfs {self._role}: it closed the connection after {self._quote()}")

    def silent(self, timeout_s: float) -> HelloMismatch:
        """Return the error for a peer that said no more in time."""
        said = f"no more than {self._quote()}" if self._data else "nothing"
        return HelloMismatch(f"not a netfs {self._role}: it said {said} in {timeout_s:g} s")

    def hello(self) -> Hello:
        """Return the whole hello. Raises: HelloMismatch for limits that nobody could work with."""
        fields = HELLO.unpack_from(self._data)
        _, _, low, high, _, features, credits_, max_payload, max_body, max_segs = fields
        if low > high or not credits_ or not max_payload or max_body < MIN_BODY or not max_segs:
            raise HelloMismatch(f"the {self._role}'s hello makes no sense: versions {low}–{high}, {credits_} credits, "
                                f"payload {max_payload}, body {max_body}, {max_segs} segments")  # fmt: skip
        known = Feature(features & sum(Feature))
        return Hello(low, high, Limits(max_body, max_payload, credits_, max_segs, known))

    def _quote(self) -> str:
        return repr(bytes(self._data[: _PREFIX.size]))  # header: the first bytes of a stranger's, for the error


def agree(limits: Limits, theirs: Hello, role: str) -> Limits:
    """Return the limits both sides keep to.

    Raises: HelloMismatch when no version is common.
    """
    if not theirs.min_version <= VERSION <= theirs.max_version:
        raise HelloMismatch(f"the {role} speaks version {theirs.min_version}–{theirs.max_version}, we speak {VERSION}–{VERSION}")
    return Limits(
        max_body=min(limits.max_body, theirs.limits.max_body),
        max_payload=min(limits.max_payload, theirs.limits.max_payload),
        credits=min(limits.credits, theirs.limits.credits),
        max_segs=min(limits.max_segs, theirs.limits.max_segs),
        features=limits.features & theirs.limits.features,
    )
