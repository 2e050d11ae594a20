"""Trio shell. What is held back of a file that was made here (`own.py`) goes to the server, if it can with the last of its bytes.

Owns no memory.
"""

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from netfs.engine.writeback import behind, fsync
from netfs.fs.own import Keeper, Own, heard
from transport.messages import Attr, Setattr

if TYPE_CHECKING:
    from netfs.fs.inode import Inode

__all__ = ["change_behind", "flush", "settle"]


async def settle(client: Keeper, inode: "Inode") -> None:
    """Send what is held back, behind what was written. What fails is recorded as failed writes are. Cancellation: it is kept."""
    mine = inode.own
    while mine is not None and mine.held is not None:
        await _settle_once(client, inode, mine)


async def _settle_once(client: Keeper, inode: "Inode", mine: Own) -> None:
    sent: Setattr | None = None

    def first() -> None:
        nonlocal sent
        # Looked at in its turn: what another has sent meanwhile would undo, sent again, what came behind it.
        sent = None if mine.held is None else replace(mine.held)
        _gather(inode, sent)

    async def then() -> None:
        if sent is None:
            return
        try:
            heard(client, inode, await _changed(inode, sent))
        except Exception as error:  # noqa: BLE001 (told at the flush, fsync or close)
            inode.wb_error.record(error)
        if mine.held == sent:  # nothing was added meanwhile
            mine.held = None

    await _behind(inode, first, then)


async def change_behind(client: Keeper, inode: "Inode", change: Setattr) -> Attr:
    """Change attributes when all that was written is on the server; in one message with it, if that is a single piece.

    Returns, raises: as `FileOps.setattr`. Cancellation: may have happened.
    """
    attrs: list[Attr] = []

    async def then() -> None:
        attrs.append(await _changed(inode, change))

    await _behind(inode, lambda: _gather(inode, change), then)
    heard(client, inode, attrs[0])
    return attrs[0]


async def _changed(inode: "Inode", change: Setattr) -> Attr:
    """Return the attributes after a change, which has gone with a write, or goes now."""
    return inode.file_ops.gathered() or await inode.file_ops.setattr(change)


async def _behind(inode: "Inode", first: Callable[[], None], then: Callable[[], Awaitable[None]]) -> None:
    try:
        await behind(inode, first, then)
    except BaseException:
        inode.file_ops.gather_no_more()
        raise


async def flush(client: Keeper, inode: "Inode") -> None:
    """Make all that was written or held back durable; a single piece takes one message. Raises, cancellation: as `fsync`."""
    if inode.own is not None and inode.own.held is not None:
        await settle(client, inode)
    elif len(inode.mapping.dirty) == 1 and not inode.ops.seals:
        await behind(inode, lambda: _gather(inode, None))
    await fsync(inode)


def _gather(inode: "Inode", change: Setattr | None) -> None:
    """Have the only piece that is dirty be durable when it is written, and take a change along."""
    dirty = inode.mapping.dirty
    if len(dirty) != 1 or inode.uncommitted or inode.mapping.unstable or inode.lock.busy:
        return  # what goes past the cache, under the lock, may be on its way and has to be committed
    folio = next(iter(dirty.values()))
    if not folio.writeback:
        inode.file_ops.gather(folio.pos + folio.dirty_from, folio.dirty_to - folio.dirty_from, change)
