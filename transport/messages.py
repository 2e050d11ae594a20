"""Sans-IO. Message bodies: slots dataclasses inside, msgpack arrays on the wire, checked once at the edge.

Payload is never inside a body. A request's payload (WRITE, AUX_WRITE, TRANSACT) and a reply's (READ, AUX_READ) follow the body in
the frame; that of a compound is its steps' payloads, one behind the other. Here are names, data, records and compounds;
`messages_posix.py`, `messages_sharing.py` and `opcodes.py` have the rest, all of it is imported from here. The codec is
`codec.py`. Owns no memory.
"""

from dataclasses import dataclass, field
from typing import ClassVar, Final

from transport.messages_posix import (
    Allocate,
    CopyRange,
    Link,
    Punch,
    Readlink,
    Seek,
    SeekReply,
    Statfs,
    StatfsReply,
    Symlink,
    TargetReply,
    XattrGet,
    XattrList,
    XattrListReply,
    XattrRemove,
    XattrReply,
    XattrSet,
)
from transport.messages_session import Bind, BindReply, EndSession, Fence, Sequenced, SequencedReply
from transport.messages_sharing import (
    Await,
    Event,
    EventsReply,
    Lease,
    LeaseReply,
    LeaseReturn,
    Lock,
    LockFree,
    LockReply,
    LockTest,
    Recall,
    Revoke,
    Unlock,
)
from transport.opcodes import (
    IDEMPOTENT,
    REPLY_PAYLOAD,
    REQUEST_PAYLOAD,
    EventKind,
    FileType,
    Handle,
    LeaseKind,
    LockKind,
    Op,
    RenameFlag,
    StepKind,
    Whence,
    XattrMode,
)

__all__ = [
    "IDEMPOTENT", "NOW_NS", "NO_HANDLE", "REPLY_PAYLOAD", "REQUEST_PAYLOAD", "Ack", "Allocate", "Attr", "AttrReply",
    "AuxRead", "AuxWrite", "Await", "Bind", "BindReply", "BlobGet", "Body", "Commit", "Compound", "CompoundReply",
    "CompoundStep", "CopyRange", "Create", "DirEntry", "EndSession", "EntryReply", "Event", "EventKind", "EventsReply",
    "Fence", "FileType", "Getattr", "Handle", "IntentRow", "Lease", "LeaseKind", "LeaseReply", "LeaseReturn", "Link",
    "Lock", "LockFree", "LockKind", "LockReply", "LockTest", "Lookup", "Mkdir", "Mount", "Op", "Open", "Ping", "Punch",
    "Read", "ReadReply", "Readdir", "ReaddirReply", "Readlink", "Recall", "RecordGet", "RecordReply", "Rename",
    "RenameFlag", "Request", "Result", "Revoke", "Rmdir", "Seek", "SeekReply", "Sequenced", "SequencedReply", "Setattr",
    "Statfs", "StatfsReply", "Step", "StepKind", "Symlink", "TargetReply", "Transact", "TransactReply", "Truncate",
    "Unlink", "Unlock", "Whence", "Write", "WriteReply", "XattrGet", "XattrList", "XattrListReply", "XattrMode",
    "XattrRemove", "XattrReply", "XattrSet", "is_idempotent", "name_of",
]  # fmt: skip


NO_HANDLE: Final = Handle(b"")
"""In a step: the object that was made before; in a field that names none: none."""


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
    """One entry of a directory; `cookie` resumes a listing behind it; `record` is the opaque record of an object that has one.

    certificate: its blob 0.
    """

    name: str
    cookie: int
    handle: Handle
    attr: Attr
    record: bytes | None = None
    certificate: bytes = b""


@dataclass(slots=True)
class Step:
    """One step of a transaction on `handle`; an empty handle is the object that CREATE made before.

    AUX_WRITE, WRITE: the next `length` bytes of the request's payload go to `pos` of the aux or data stream. AUX_TRUNCATE,
    TRUNCATE: cut or extend the aux or data stream to `pos` bytes. RECORD_PUT: `record` replaces the record and its generation
    grows by one. BLOB_PUT: `record` becomes blob `pos` (0 or 1) of the object. CREATE: make `name` in the directory, a file or
    directory (`length`, a FileType) of mode `pos`. REMOVE: take `name` from the directory, if it is `other`. MOVE: rename `name`
    to `new_name` of the directory `other`, as RENAME does. INTENT_PUT: from now on only this session may write to `length` bytes
    at `pos` of the data stream; `record` is kept and told to whoever asks. INTENT_DROP: end the intent with key `pos`.
    """

    kind: StepKind
    handle: Handle
    pos: int = 0
    length: int = 0
    record: bytes = b""
    name: str = ""
    other: Handle = NO_HANDLE
    new_name: str = ""


@dataclass(slots=True)
class IntentRow:
    """A write intent: who may write to a range meanwhile, and what it left word of.

    key: what INTENT_DROP takes. live: its session is there still. mine: it is the asker's own.
    """

    key: int
    pos: int
    length: int
    live: bool
    mine: bool
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
    """Change attributes that are not None. A time of NOW_NS is the server's clock. Reply: AttrReply."""

    op: ClassVar[Op] = Op.SETATTR
    handle: Handle
    mode: int | None = None
    uid: int | None = None
    gid: int | None = None
    atime_ns: int | None = None
    mtime_ns: int | None = None
    size: int | None = None


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
    """Write the payload at `pos`; unless `stable`, durable only after COMMIT. Reply: WriteReply.

    intent: the write intent it goes under, 0 for none. Where the session has none any more, nothing is written and EAGAIN
    answered. record: unless empty, an intent with it is put on what is written first, as INTENT_PUT does.
    """

    op: ClassVar[Op] = Op.WRITE
    handle: Handle
    pos: int
    stable: bool = False
    intent: int = 0
    record: bytes = b""


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
    """Give an object another name, replacing what had it as POSIX rename does, unless `flags` say otherwise. Reply: Ack."""

    op: ClassVar[Op] = Op.RENAME
    parent: Handle
    name: str
    new_parent: Handle
    new_name: str
    flags: RenameFlag = RenameFlag.NONE


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
class BlobGet:
    """Get blob `slot` (0 or 1) of an object, empty where none was ever put. Reply: XattrReply."""

    op: ClassVar[Op] = Op.BLOB_GET
    handle: Handle
    slot: int


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
class CompoundStep:
    """One request of a compound; the next `payload_length` bytes of the compound's payload are its."""

    request: "Request"
    payload_length: int = 0


@dataclass(slots=True)
class Compound:
    """Do requests in order until one fails; no compounds. A handle of one byte n is the object that step n named.

    Reply: CompoundReply. The compound itself never fails for a step's failure.
    """

    op: ClassVar[Op] = Op.COMPOUND
    steps: list[CompoundStep]


@dataclass(slots=True)
class Ack:
    """The empty reply."""


@dataclass(slots=True)
class EntryReply:
    """A name resolved. record, generation, certificate: of an object that has a record; the certificate is blob 0."""

    handle: Handle
    attr: Attr
    record: bytes = b""
    generation: int = 0
    certificate: bytes = b""


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
    """Bytes written and the boot verifier of the server (unsigned 64 bit, never 0).

    intent: the key of the write intent that came along, 0 where none did.
    """

    count: int
    verifier: int
    intent: int = 0


@dataclass(slots=True)
class ReaddirReply:
    """Entries in cookie order; `eof` when none are left."""

    entries: list[DirEntry] = field(default_factory=list)
    eof: bool = True


@dataclass(slots=True)
class RecordReply:
    """A record, its generation, and the write intents on the file."""

    record: bytes
    generation: int
    intents: list[IntentRow] = field(default_factory=list)


@dataclass(slots=True)
class TransactReply:
    """The new generation of each asserted handle; what CREATE made; the keys of intents; each in the order of the request."""

    generations: list[int]
    made: list[EntryReply] = field(default_factory=list)
    intents: list[int] = field(default_factory=list)


@dataclass(slots=True)
class Result:
    """What became of one step: `body` when `status` is 0. Its payload is the next `payload_length` bytes of the reply's."""

    op: Op
    status: int
    payload_length: int = 0
    body: "Body | None" = None


@dataclass(slots=True)
class CompoundReply:
    """The results of the steps that were done; only the last can be one that failed."""

    results: list[Result]


Request = (
    Ping | Mount | Lookup | Getattr | Setattr | Create | Open | Read | Write | Commit | Truncate | Mkdir | Readdir | Unlink
    | Rmdir | Rename | AuxRead | AuxWrite | RecordGet | Transact | Link | Symlink | Readlink | Allocate | Punch | Seek | CopyRange
    | XattrGet | XattrSet | XattrList | XattrRemove | Statfs | LockTest | Lock | Unlock | Lease | LeaseReturn | Compound
    | BlobGet | Bind | Fence | EndSession | Sequenced | Await
)  # fmt: skip

Body = (
    Ack | EntryReply | AttrReply | ReadReply | WriteReply | ReaddirReply | RecordReply | TransactReply | TargetReply | SeekReply
    | XattrReply | XattrListReply | StatfsReply | LockReply | LeaseReply | CompoundReply
    | BindReply | SequencedReply | EventsReply
)  # fmt: skip

NOW_NS: Final = -(1 << 63)
"""Instead of a time in a Setattr: the moment at which the server does it."""


def name_of(request: Request) -> str:
    """Return the name of what is asked, for traces: a numbered request is what it is about, a compound the kinds of its steps."""
    asked = request.request if isinstance(request, Sequenced) else request
    names = [step.request.op.name for step in asked.steps] if isinstance(asked, Compound) else [asked.op.name]
    return "+".join(dict.fromkeys(names))


def is_idempotent(request: Request) -> bool:
    """Tell whether a request may be sent again when it is not known whether it happened."""
    if isinstance(request, Compound):
        return all(step.request.op in IDEMPOTENT for step in request.steps)
    return request.op in IDEMPOTENT
