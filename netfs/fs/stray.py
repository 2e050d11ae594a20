"""Trio shell. Bytes that a server keeps where an encrypted file has none: in its holes, and behind its end.

No reader ever sees them (what a hole reads as is known from the tags), so they are nothing but a sign that somebody was at work,
or a disk at fault; `fsck` looks for them. The server is asked where it has data, and only that is read. Owns one lease at a time.
"""

import errno

from crypto.file import first_of_other_kind
from crypto.layout import ENTRY_SIZE, FAN_OUT, nr_blocks, padded_size
from iov.iov_iter import Direction, IovIter
from netfs.fs.calls import ask, body_of
from netfs.fs.sealed_file import SealedFile
from netfs.fs.waiting import finished
from transport.messages import AttrReply, Getattr, Read, ReadReply, Seek, SeekReply, Whence

__all__ = ["strays"]


async def strays(sealed: SealedFile) -> list[int]:
    """Return the numbers of blocks that are holes, or lie behind the end, and for which the server has something all the same.

    Raises: OSError, IntegrityError for tags that do not verify. Cancellation: no effect.
    """
    file = sealed.file
    record = file.record
    blocks = nr_blocks(record.size, record.log2bs)
    found: list[int] = []
    if (await ask(sealed.transport, Getattr(sealed.handle), AttrReply)).attr.size > padded_size(record.size, record.log2bs):
        found.append(blocks)
    at = 0
    while at < blocks:
        count = min(FAN_OUT - at % FAN_OUT, blocks - at)
        await finished(lambda then, at=at, count=count: sealed.with_tags(at, count, then))  # type: ignore[misc]
        entries = file.entries(at, count)
        while entries:
            is_hole, alike = first_of_other_kind(entries)
            if is_hole:
                found += await in_hole(sealed, at, alike)
            at += alike
            del entries[: alike * ENTRY_SIZE]
    return found


async def in_hole(sealed: SealedFile, first: int, count: int) -> list[int]:
    """Return the blocks of a hole for which the server has something else than zeros."""
    size = sealed.file.block_size
    pos, end = first * size, (first + count) * size
    found: list[int] = []
    while pos < end:
        try:
            pos = max(pos, (await ask(sealed.transport, Seek(sealed.handle, pos, Whence.DATA), SeekReply)).pos)
        except OSError as error:
            if error.errno == errno.ENXIO:  # no more data
                break
            raise
        block = pos // size
        pos = (block + 1) * size
        if block < first + count and await has_bytes(sealed, block):
            found.append(block)
    return found


async def has_bytes(sealed: SealedFile, block: int) -> bool:
    """Say whether the server has anything but zeros for a block."""
    size = sealed.file.block_size
    lease = sealed.pool.get(size)
    try:
        dest = IovIter.ubuf(Direction.DEST, lease.view)
        reply = await sealed.transport.call(Read(sealed.handle, block * size, size), dest=dest)
        body = body_of(reply, ReadReply)
        if isinstance(body, Exception):
            raise body
        return any(lease.view[: reply.received])
    finally:
        lease.release()
