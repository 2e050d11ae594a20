"""Sans-IO. What the store does for a request that has no payload, by the kind of request: one row of a table each.

Owns no memory.
"""

import errno
import logging
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from servers.numbered import release
from servers.stores.base import Store
from transport.base import Landing
from transport.messages import (
    Ack,
    Allocate,
    AttrReply,
    AuxWrite,
    BlobGet,
    Body,
    Commit,
    CopyRange,
    Create,
    Getattr,
    Link,
    Lookup,
    Mkdir,
    Mount,
    Open,
    Ping,
    Punch,
    Readlink,
    Rename,
    Request,
    Rmdir,
    Seek,
    SeekReply,
    Setattr,
    Statfs,
    Symlink,
    TargetReply,
    Truncate,
    Unlink,
    Write,
    WriteReply,
    XattrGet,
    XattrList,
    XattrListReply,
    XattrRemove,
    XattrReply,
    XattrSet,
)

__all__ = ["brings_intent", "plain_works", "put_intent", "status_of", "tell_of", "unsupported"]

log: Final = logging.getLogger("servers.dispatch")
_STATUS_END: Final = 4096
_TOLD: Final = frozenset({errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE, errno.ENOMEM})
"""What whoever runs the server should hear of."""


def plain_works(store: Store) -> dict[type[Any], Callable[[Any], Body]]:
    """Return the table for a store."""
    return {
        Ping: lambda _: Ack(),
        Mount: lambda _: store.root(),
        Lookup: lambda r: store.lookup(r.parent, r.name),
        Getattr: lambda r: AttrReply(store.getattr(r.handle)),
        Setattr: lambda r: AttrReply(store.setattr(r)),
        Create: lambda r: store.create(r.parent, r.name, r.mode, exclusive=r.exclusive),
        Open: lambda r: AttrReply(store.open(r.handle, write=r.write)),
        Commit: partial(_commit, store),
        Truncate: lambda r: AttrReply(store.truncate(r.handle, r.size)),
        Mkdir: lambda r: store.mkdir(r.parent, r.name, r.mode),
        Unlink: lambda r: _ack(store.unlink(r.parent, r.name)),
        Rmdir: lambda r: _ack(store.rmdir(r.parent, r.name)),
        Rename: lambda r: _ack(store.rename(r.parent, r.name, r.new_parent, r.new_name, r.flags)),
        BlobGet: lambda r: XattrReply(store.blob_get(r.handle, r.slot)),
        Link: lambda r: store.link(r.handle, r.parent, r.name),
        Symlink: lambda r: store.symlink(r.parent, r.name, r.target),
        Readlink: lambda r: TargetReply(store.readlink(r.handle)),
        Allocate: lambda r: AttrReply(store.allocate(r.handle, r.pos, r.length, keep_size=r.keep_size)),
        Punch: lambda r: AttrReply(store.punch(r.handle, r.pos, r.length)),
        Seek: lambda r: SeekReply(store.seek(r.handle, r.pos, r.whence)),
        CopyRange: partial(_copy_range, store),
        XattrGet: lambda r: XattrReply(store.xattr_get(r.handle, r.name)),
        XattrSet: lambda r: AttrReply(store.xattr_set(r.handle, r.name, r.value, r.mode)),
        XattrList: lambda r: XattrListReply(store.xattr_list(r.handle)),
        XattrRemove: lambda r: AttrReply(store.xattr_remove(r.handle, r.name)),
        Statfs: lambda r: store.statfs(r.handle),
    }


def unsupported(_: Request) -> Body:
    """Refuse what is in no table."""
    raise OSError(errno.EOPNOTSUPP, "no such operation here")


def _ack(_: None) -> Ack:
    return Ack()


def _commit(store: Store, request: Commit) -> Body:
    store.commit(request.handle)
    return WriteReply(0, store.verifier)


def _copy_range(store: Store, request: CopyRange) -> Body:
    count = store.copy_range(request.handle, request.pos, request.target, request.target_pos, request.length)
    return WriteReply(count, store.verifier)


def brings_intent(request: Write | AuxWrite) -> bool:
    """Say whether a write intent comes with a write."""
    return isinstance(request, Write) and bool(request.record)


def put_intent(store: Store, request: Write, length: int, session: int) -> int:
    """Put the write intent that comes with a write of `length` bytes. Returns: its key, 0 where none comes.

    Raises: as the store; EINVAL where nothing is written.
    """
    if not request.record:
        return 0
    if not length:
        raise OSError(errno.EINVAL, "a write intent for nothing")
    return store.put_intent(request.handle, request.pos, length, session, request.intent, request.record)


def tell_of(store: Store, request: Write | AuxWrite, landing: Landing, session: int) -> int:
    """The same before what has landed is written; where that is not to be, the landing is given back."""
    if not isinstance(request, Write):
        return 0
    try:
        return put_intent(store, request, len(landing.iter.mem or b"") if request.record else 0, session)
    except BaseException:
        release(landing)
        raise


def status_of(error: Exception, request: Request) -> int:
    """Return the errno to answer for an error; a defect of ours, and what whoever runs the server should hear of, is logged."""
    if isinstance(error, OSError) and error.errno is not None and 0 < error.errno < _STATUS_END:
        if error.errno in _TOLD:
            log.warning("trouble operation=%s error=%s", type(request).__name__, error.strerror)
        return error.errno
    log.error("defect operation=%s error=%r", type(request).__name__, error, exc_info=error)
    return errno.EIO
