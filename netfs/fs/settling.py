"""Trio shell. What is held back of a file that was made here (`own.py`) goes to the server, if it can with the last of its bytes.

Owns no memory.
"""

from dataclasses import replace
from typing import TYPE_CHECKING

from netfs.engine.writeback import behind, fsync
from netfs.fs.own import Keeper, heard
from transport.messages import Attr, Setattr

if TYPE_CHECKING:
    from netfs.fs.inode import Inode

__all__ = ["change_behind", "flush", "settle"]


async def settle(client: Keeper, inode: "Inode") -> None:
    """Send what is held back, behind what was written. What fails is recorded as failed writes are. Cancellation: it is kept."""
    while True:
        mine = inode.own
        if mine is None or mine.held is None:
            return
        sent = replace(mine.held)
        try:
            await change_behind(client, inode, sent)
        except Exception as error:  # noqa: BLE001 (told at the flush, fsync or close)
            inode.wb_error.record(error)
        if mine.held == sent:  # nothing was added meanwhile
            mine.held = None


async def change_behind(client: Keeper, inode: "Inode", change: Setattr) -> Attr | None:
    """Change attributes when all that was written is on the server; in one message with it, if that is a single piece.

    Returns, raises: as `FileOps.setattr`. Cancellation: may have happened.
    """
    ops = inode.file_ops
    attr: Attr | None = None

    async def then() -> None:
        nonlocal attr
        attr = ops.gathered() or await ops.setattr(change)

    try:
        await behind(inode, lambda: _gather(inode, change), then)
    except BaseException:
        ops.gather_no_more()
        raise
    if attr is not None:
        heard(client, inode, attr)
    return attr


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
    if len(dirty) != 1 or inode.uncommitted or inode.mapping.unstable:
        return
    folio = next(iter(dirty.values()))
    if not folio.writeback:
        inode.file_ops.gather(folio.pos + folio.dirty_from, folio.dirty_to - folio.dirty_from, change)
