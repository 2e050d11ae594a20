"""Sans-IO. Opcodes and message bodies: slots dataclasses inside, msgpack arrays on the wire, checked once at the edge.

Payload is never inside a body. A request's payload (WRITE, AUX_WRITE, TRANSACT) and a reply's (READ, AUX_READ) follow the body in
the frame. The codec is `codec.py`. Owns no memory.
"""

import enum
from dataclasses import dataclass, field
from typing import ClassVar, Final, NewType

__all__ = [
    "IDEMPOTENT",
    "REPLY_PAYLOAD",
    "REQUEST_PAYLOAD",
    "Ack",
    "Attr",
    "AttrReply",
    "AuxRead",
    "AuxWrite",
    "Body",
    "Commit",
    "Create",
    "DirEntry",
    "EntryReply",
    "FileType",
    "Getattr",
    "Handle",
    "Lookup",
    "Mkdir",
    "Mount",
    "Op",
    "Open",
    "Ping",
    "Read",
    "ReadReply",
    "Readdir",
    "ReaddirReply",
    "RecordGet",
    "RecordReply",
    "Rename",
    "Request",
    "Rmdir",
    "Setattr",
    "Step",
    "StepKind",
    "Transact",
    "TransactReply",
    "Truncate",
    "Unlink",
    "Write",
    "WriteReply",
]

Handle = NewType("Handle", bytes)
"""A server's name for a file, opaque to clients, at most 64 bytes, stable while the file exists."""


class Op(enum.IntEnum):
    """What a request asks for; the number is the wire value."""

    PING = 0
    MOUNT = 1
    LOOKUP = 2
    GETATTR = 3
    SETATTR = 4
    CREATE = 5
    OPEN = 6
    READ = 7
    WRITE = 8
    COMMIT = 9
    TRUNCATE = 10
    MKDIR = 11
    READDIR = 12
    UNLINK = 13
    RMDIR = 14
    RENAME = 15
    AUX_READ = 16
    AUX_WRITE = 17
    RECORD_GET = 18
    TRANSACT = 19


class FileType(enum.IntEnum):
    """Kind of a filesystem object."""

    FILE = 1
    DIRECTORY = 2
    SYMLINK = 3
    OTHER = 4


class StepKind(enum.IntEnum):
    """What one step of a transaction does."""

    AUX_WRITE = 1
    AUX_TRUNCATE = 2
    RECORD_PUT = 3
    TRUNCATE = 4


@dataclass(slots=True)
class Attr:
    """Attributes of an object; times in nanoseconds since 1970, size in bytes.

    change: grows with every change of content or attributes. sealed: it is a file that has a record, so its bytes and size are
    not what a user means by them.
    """

    ino: int
    type: FileType
    mode: int
    nlink: int
    uid: int
    gid: int
    size: int
    atime_ns: int
    mtime_ns: int
    ctime_ns: int
    change: int
    sealed: bool = False


@dataclass(slots=True)
class DirEntry:
    """One entry of a directory; `cookie` resumes a listing behind it; `record` is the opaque record of a file that has one."""

    name: str
    cookie: int
    handle: Handle
    attr: Attr
    record: bytes | None = None


@dataclass(slots=True)
class Step:
    """One step of a transaction on `handle`.

    AUX_WRITE: the next `length` bytes of the request's payload go to `pos` of the aux stream. AUX_TRUNCATE, TRUNCATE: cut or
    extend the aux or data stream to `pos` bytes. RECORD_PUT: `record` replaces the record and its generation grows by one.
    """

    kind: StepKind
    handle: Handle
    pos: int = 0
    length: int = 0
    record: bytes = b""


@dataclass(slots=True)
class Ping:
    """Do nothing; measures the round trip. Reply: Ack."""

    op: ClassVar[Op] = Op.PING


@dataclass(slots=True)
class Mount:
    """Ask for the root of the export. Reply: EntryReply."""

    op: ClassVar[Op] = Op.MOUNT


@dataclass(slots=True)
class Lookup:
    """Find `name` in a directory. Reply: EntryReply."""

    op: ClassVar[Op] = Op.LOOKUP
    parent: Handle
    name: str


@dataclass(slots=True)
class Getattr:
    """Reply: AttrReply."""

    op: ClassVar[Op] = Op.GETATTR
    handle: Handle


@dataclass(slots=True)
class Setattr:
    """Change attributes that are not None. Reply: AttrReply."""

    op: ClassVar[Op] = Op.SETATTR
    handle: Handle
    mode: int | None = None
    uid: int | None = None
    gid: int | None = None
    atime_ns: int | None = None
    mtime_ns: int | None = None


@dataclass(slots=True)
class Create:
    """Create a regular file, or find the existing one unless `exclusive`. Reply: EntryReply."""

    op: ClassVar[Op] = Op.CREATE
    parent: Handle
    name: str
    mode: int = 0o644
    exclusive: bool = False


@dataclass(slots=True)
class Open:
    """Check that the object is a file and may be read or written as asked. Reply: AttrReply, for close-to-open."""

    op: ClassVar[Op] = Op.OPEN
    handle: Handle
    write: bool = False


@dataclass(slots=True)
class Read:
    """Read up to `length` bytes at `pos`. Reply: ReadReply with payload."""

    op: ClassVar[Op] = Op.READ
    handle: Handle
    pos: int
    length: int


@dataclass(slots=True)
class Write:
    """Write the payload at `pos`; unless `stable`, durable only after COMMIT. Reply: WriteReply."""

    op: ClassVar[Op] = Op.WRITE
    handle: Handle
    pos: int
    stable: bool = False


@dataclass(slots=True)
class Commit:
    """Make unstable writes of the file durable. Reply: WriteReply with count 0."""

    op: ClassVar[Op] = Op.COMMIT
    handle: Handle


@dataclass(slots=True)
class Truncate:
    """Set the size of the data stream. Reply: AttrReply."""

    op: ClassVar[Op] = Op.TRUNCATE
    handle: Handle
    size: int


@dataclass(slots=True)
class Mkdir:
    """Reply: EntryReply."""

    op: ClassVar[Op] = Op.MKDIR
    parent: Handle
    name: str
    mode: int = 0o755


@dataclass(slots=True)
class Readdir:
    """List at most `count` entries of a directory behind `cookie` (0: from the start), with attributes and records.

    Reply: ReaddirReply.
    """

    op: ClassVar[Op] = Op.READDIR
    handle: Handle
    cookie: int = 0
    count: int = 1024


@dataclass(slots=True)
class Unlink:
    """Remove a name that is not a directory. Reply: Ack."""

    op: ClassVar[Op] = Op.UNLINK
    parent: Handle
    name: str


@dataclass(slots=True)
class Rmdir:
    """Remove an empty directory. Reply: Ack."""

    op: ClassVar[Op] = Op.RMDIR
    parent: Handle
    name: str


@dataclass(slots=True)
class Rename:
    """Give an object another name, replacing what had it as POSIX rename does. Reply: Ack."""

    op: ClassVar[Op] = Op.RENAME
    parent: Handle
    name: str
    new_parent: Handle
    new_name: str


@dataclass(slots=True)
class AuxRead:
    """Read from the aux stream of a file. Reply: ReadReply with payload."""

    op: ClassVar[Op] = Op.AUX_READ
    handle: Handle
    pos: int
    length: int


@dataclass(slots=True)
class AuxWrite:
    """Write the payload to the aux stream at `pos`. Reply: WriteReply."""

    op: ClassVar[Op] = Op.AUX_WRITE
    handle: Handle
    pos: int


@dataclass(slots=True)
class RecordGet:
    """Get the opaque record of a file. Reply: RecordReply; a file without one has generation 0 and an empty record."""

    op: ClassVar[Op] = Op.RECORD_GET
    handle: Handle


@dataclass(slots=True)
class Transact:
    """Apply all steps or none, durable in the order data, tags, record; refused when an assertion does not hold.

    asserts: (handle, generation) pairs; a moved generation answers EAGAIN with nothing changed. verifier: the boot verifier
    of the unstable writes the transaction covers, 0 for none; another boot answers ESTALE and the client writes again.
    Reply: TransactReply.
    """

    op: ClassVar[Op] = Op.TRANSACT
    asserts: list[tuple[Handle, int]]
    verifier: int
    steps: list[Step]


@dataclass(slots=True)
class Ack:
    """The empty reply."""


@dataclass(slots=True)
class EntryReply:
    """A name resolved."""

    handle: Handle
    attr: Attr


@dataclass(slots=True)
class AttrReply:
    """Attributes after the operation."""

    attr: Attr


@dataclass(slots=True)
class ReadReply:
    """The payload's length is the count; `eof` when it ends at or behind the end of the stream."""

    eof: bool


@dataclass(slots=True)
class WriteReply:
    """Bytes written and the boot verifier of the server (unsigned 64 bit, never 0)."""

    count: int
    verifier: int


@dataclass(slots=True)
class ReaddirReply:
    """Entries in cookie order; `eof` when none are left."""

    entries: list[DirEntry] = field(default_factory=list)
    eof: bool = True


@dataclass(slots=True)
class RecordReply:
    """A record and its generation."""

    record: bytes
    generation: int


@dataclass(slots=True)
class TransactReply:
    """The new generation of each asserted handle, in the order of the assertions."""

    generations: list[int]


Request = (
    Ping | Mount | Lookup | Getattr | Setattr | Create | Open | Read | Write | Commit | Truncate | Mkdir | Readdir | Unlink
    | Rmdir | Rename | AuxRead | AuxWrite | RecordGet | Transact
)  # fmt: skip

Body = Ack | EntryReply | AttrReply | ReadReply | WriteReply | ReaddirReply | RecordReply | TransactReply

REQUEST_PAYLOAD: Final = frozenset({Op.WRITE, Op.AUX_WRITE, Op.TRANSACT})
"""Operations whose request may carry payload."""

REPLY_PAYLOAD: Final = frozenset({Op.READ, Op.AUX_READ})
"""Operations whose reply may carry payload."""

IDEMPOTENT: Final = frozenset(Op) - {Op.CREATE, Op.MKDIR, Op.UNLINK, Op.RMDIR, Op.RENAME, Op.TRANSACT}
"""Operations that may be sent again when it is not known whether they happened."""
