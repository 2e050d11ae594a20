"""Sans-IO. The fields of message bodies: how each kind goes out, and the check that it must pass to come in.

What does not pass is a `ProtocolError`. Names travel as byte strings and are UTF-8 here, undecodable bytes kept as surrogates.
`codec.py` makes bodies of them. Owns no memory: what is decoded is a copy of the body.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields
from enum import IntEnum, IntFlag
from operator import attrgetter
from typing import Any, Final

from transport.errors import ProtocolError
from transport.opcodes import FileType, Handle, LeaseKind, LockKind, RenameFlag, StepKind, Whence, XattrMode

__all__ = [
    "END_U63", "END_U64", "FILE_TYPE", "FLAG", "HANDLE", "LEASE_KINDS", "LOCK_KIND", "MAX_HANDLE", "NAME", "RECORD",
    "RENAME_FLAGS", "STEP_KIND", "TIME", "U32", "U63", "U64", "WHENCE", "XATTR_MODE", "Kind", "Layout", "array", "bad",
    "check_handle", "integer", "optional",
]  # fmt: skip

MAX_HANDLE: Final = 64
END_U63: Final = 1 << 63
END_U64: Final = 1 << 64


def bad(what: str, value: object) -> ProtocolError:
    """Build the error for a field; the value is the peer's, so only its type is told."""
    return ProtocolError(f"bad message: {what} expected, got {type(value).__name__}")


@dataclass(frozen=True, slots=True)
class Kind:
    """How one field is encoded (None: as it is) and checked when decoded."""

    check: Callable[[Any], Any]
    encode: Callable[[Any], object] | None = None


def check_handle(value: Any) -> Handle:
    """Raises: ProtocolError for what is no handle."""
    if type(value) is not bytes or len(value) > MAX_HANDLE:
        raise bad("a handle", value)
    return Handle(value)


def _check_name(value: Any) -> str:
    if type(value) is not bytes:
        raise bad("a name", value)
    return value.decode("utf-8", "surrogateescape")


def _encode_name(value: str) -> bytes:
    return value.encode("utf-8", "surrogateescape")


def _check_bytes(value: Any) -> bytes:
    if type(value) is not bytes:
        raise bad("a byte string", value)
    return value


def _check_flag(value: Any) -> bool:
    if value is not True and value is not False:
        raise bad("a truth value", value)
    return bool(value)


def integer(low: int, end: int) -> Callable[[Any], int]:
    """Return the check of an integer from `low` to below `end`."""

    def check(value: Any) -> int:
        if type(value) is not int or not low <= value < end:
            raise bad(f"an integer from {low} to {end - 1}", value)
        return value

    return check


def optional(kind: Kind) -> Kind:
    """Return a kind that may be nil too."""
    encode = kind.encode
    return Kind(
        lambda value: None if value is None else kind.check(value),
        None if encode is None else lambda value: None if value is None else encode(value),
    )


def array(check: Callable[[Any], Any], most: int, encode: Callable[[Any], object] | None = None) -> Kind:
    """Return the kind of an array of at most `most` items."""

    def check_array(value: Any) -> list[Any]:
        if type(value) is not tuple or len(value) > most:
            raise bad(f"an array of at most {most}", value)
        return [check(item) for item in value]

    def encode_array(value: list[Any]) -> object:
        return value if encode is None else [encode(item) for item in value]

    return Kind(check_array, encode_array)


def _member(enumeration: type[IntEnum]) -> Kind:
    members: dict[int, IntEnum] = {int(member): member for member in enumeration}

    def check(value: Any) -> IntEnum:
        if type(value) is not int or value not in members:
            raise bad(f"a {enumeration.__name__}", value)
        return members[value]

    return Kind(check, int)


def _flags(enumeration: type[IntFlag]) -> Kind:
    every = 0
    for member in enumeration:
        every |= int(member)

    def check(value: Any) -> IntFlag:
        if type(value) is not int or value & ~every:
            raise bad(f"flags of {enumeration.__name__}", value)
        return enumeration(value)

    return Kind(check, int)


HANDLE: Final = Kind(check_handle)
NAME: Final = Kind(_check_name, _encode_name)
RECORD: Final = Kind(_check_bytes)
FLAG: Final = Kind(_check_flag)
U32: Final = Kind(integer(0, 1 << 32))
U63: Final = Kind(integer(0, END_U63))
U64: Final = Kind(integer(0, END_U64))
TIME: Final = Kind(integer(-END_U63, END_U63))
FILE_TYPE: Final = _member(FileType)
STEP_KIND: Final = _member(StepKind)
XATTR_MODE: Final = _member(XattrMode)
WHENCE: Final = _member(Whence)
LOCK_KIND: Final = _member(LockKind)
LEASE_KINDS: Final = _flags(LeaseKind)
RENAME_FLAGS: Final = _flags(RenameFlag)


class Layout:
    """The fields of one dataclass on the wire, each with its kind, in the order of the dataclass."""

    __slots__ = ("build", "checks", "encoders", "get", "kinds", "name")

    def __init__(self, build: type[Any], **kinds: Kind) -> None:
        assert tuple(field.name for field in fields(build)) == tuple(kinds), (
            f"{build.__name__}: the fields and their kinds differ"
        )
        self.build = build
        self.name = build.__name__
        self.kinds = kinds
        self.checks = tuple(kind.check for kind in kinds.values())
        self.encoders = tuple((index, kind.encode) for index, kind in enumerate(kinds.values()) if kind.encode is not None)
        self.get = attrgetter(*kinds) if len(kinds) > 1 else None

    def encode(self, item: Any) -> list[object]:
        """Return the fields of an item as they go into a msgpack array."""
        if self.get is not None:
            values = list(self.get(item))
        else:
            values = [getattr(item, name) for name in self.kinds]
        for index, encode in self.encoders:
            values[index] = encode(values[index])
        return values

    def check(self, value: Any) -> Any:
        """Build an item from a decoded array. Raises: ProtocolError."""
        if type(value) is not tuple or len(value) != len(self.checks):
            raise bad(f"the {len(self.checks)} fields of {self.name}", value)
        return self.build(*[check(field) for check, field in zip(self.checks, value, strict=True)])
