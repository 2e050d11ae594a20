"""Sans-IO. The words of messages that are numbers on the wire: operations, kinds, flags; and what may be done twice.

Owns no memory.
"""

import enum
from typing import Final, NewType

__all__ = [
    "IDEMPOTENT",
    "REPLY_PAYLOAD",
    "REQUEST_PAYLOAD",
    "EventKind",
    "FileType",
    "Handle",
    "LeaseKind",
    "LockKind",
    "Op",
    "RenameFlag",
    "StepKind",
    "Whence",
    "XattrMode",
]

Handle = NewType("Handle", bytes)
"""A server's name for a file, opaque to clients, 2 to 64 bytes, stable while the file exists.

One byte n, inside a compound, stands for the object that its n-th step named.
"""


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
    LINK = 20
    SYMLINK = 21
    READLINK = 22
    ALLOCATE = 23
    PUNCH = 24
    SEEK = 25
    COPY_RANGE = 26
    XATTR_GET = 27
    XATTR_SET = 28
    XATTR_LIST = 29
    XATTR_REMOVE = 30
    STATFS = 31
    LOCK_TEST = 32
    LOCK = 33
    UNLOCK = 34
    LEASE = 35
    LEASE_RETURN = 36
    COMPOUND = 37
    BLOB_GET = 38
    BIND = 39
    FENCE = 40
    END_SESSION = 41
    SEQUENCED = 42
    AWAIT = 48


class EventKind(enum.IntEnum):
    """What a server has to tell its client, or asks of it."""

    RECALL = 1
    REVOKE = 2
    LOCK_FREE = 3


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
    CREATE = 5
    REMOVE = 6
    MOVE = 7
    BLOB_PUT = 8
    WRITE = 9
    INTENT_PUT = 10
    INTENT_DROP = 11


class RenameFlag(enum.IntFlag):
    """How a rename treats an object that has the new name; as renameat2's flags."""

    NONE = 0
    NOREPLACE = 1
    EXCHANGE = 2


class XattrMode(enum.IntEnum):
    """Whether setting an extended attribute may make a new one or replace one."""

    EITHER = 0
    CREATE = 1
    REPLACE = 2


class Whence(enum.IntEnum):
    """What SEEK looks for; as lseek's numbers."""

    DATA = 3
    HOLE = 4


class LockKind(enum.IntEnum):
    """A lock that others may share, or not."""

    READ = 1
    WRITE = 2


class LeaseKind(enum.IntFlag):
    """What a client may do by itself while it holds a lease.

    READ: keep what it has read. WRITE: keep writes back, alone. HANDLE: keep the file open, also when its name is removed.
    """

    NONE = 0
    READ = 1
    WRITE = 2
    HANDLE = 4


REQUEST_PAYLOAD: Final = frozenset({Op.WRITE, Op.AUX_WRITE, Op.TRANSACT, Op.COMPOUND, Op.SEQUENCED})
"""Operations whose request may carry payload."""

REPLY_PAYLOAD: Final = frozenset({Op.READ, Op.AUX_READ, Op.COMPOUND, Op.SEQUENCED})
"""Operations whose reply may carry payload."""

IDEMPOTENT: Final = frozenset(Op) - {
    Op.CREATE, Op.MKDIR, Op.UNLINK, Op.RMDIR, Op.RENAME, Op.TRANSACT, Op.LINK, Op.SYMLINK, Op.COPY_RANGE, Op.XATTR_SET,
    Op.XATTR_REMOVE, Op.COMPOUND, Op.BIND, Op.FENCE, Op.END_SESSION, Op.SEQUENCED,
}  # fmt: skip
"""Operations that may be sent again when it is not known whether they happened; a compound may be if all its steps may."""
