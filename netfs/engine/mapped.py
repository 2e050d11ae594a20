"""Trio shell. Access to folios in place, as a mapping of the file has it: no copy between the page cache and its user.

A part that is mapped to be read is pinned: it is not evicted, and a truncation meanwhile does not take its memory away. One that
is mapped to be changed keeps writers and writeback of the file out until it is unmapped, because what is on its way must not
change; its folio is whole before, and dirty after. This is what a front end needs that hands pages to somebody else, as a kernel
does (fault and page_mkwrite of Linux). The memory is the page cache's, lent for the length of the block.
"""

import errno
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from netfs.cache.folio import Folio
from netfs.engine.buffered_read import readable_folio
from netfs.engine.buffered_write import writable_folio, wrote_folio
from netfs.engine.inode import NetfsInode
from netfs.engine.park import acquire_exclusive, park
from netfs.engine.readahead import Readahead
from netfs.engine.writeback import writeback_held

__all__ = ["map_read", "map_write"]


@asynccontextmanager
async def map_read(inode: NetfsInode, pos: int, length: int, ahead: Readahead) -> AsyncIterator[memoryview]:
    """Lend the bytes at `pos`, as many of `length` as lie in one folio and in the file; none behind its end.

    Raises: the read's error. Cancellation: no effect.
    """
    end = min(pos + length, inode.sizes.i_size)
    if end <= pos:
        yield memoryview(b"")
        return
    folio = await readable_folio(inode, pos, end, ahead)
    folio.pins += 1
    folio.uses += 1
    try:
        yield _part(folio, pos, end).toreadonly()
    finally:
        inode.cache.unpin(folio)


@asynccontextmanager
async def map_write(inode: NetfsInode, pos: int, length: int) -> AsyncIterator[memoryview]:
    """Lend the bytes at `pos` to be changed, as many of `length` as lie in one folio and in the file: a mapping extends no file.

    Raises: the read's error; OSError(EINVAL) behind the end. Cancellation: what was changed is written.
    """
    await acquire_exclusive(inode.lock)
    try:
        end = min(pos + length, inode.sizes.i_size)
        if end <= pos:
            raise OSError(errno.EINVAL, "a mapping does not extend the file")
        folio = await writable_folio(inode, pos, end - pos, whole=True)
        while inode.wb_lock:
            # What the folio needs may be writeback itself, so that is held back afterwards, and the folio looked at again.
            await park(inode.wb_waiters)
            folio = await writable_folio(inode, pos, end - pos, whole=True)
        async with writeback_held(inode):
            view = _part(folio, pos, end)
            folio.pins += 1
            try:
                yield view
            finally:
                inode.cache.unpin(folio)
                wrote_folio(inode, folio, pos - folio.pos, pos - folio.pos + len(view))
    finally:
        inode.lock.release_exclusive()


def _part(folio: Folio, pos: int, end: int) -> memoryview:
    return folio.memory[pos - folio.pos : min(end - folio.pos, folio.size)]
