"""Trio shell. The operations table of an encrypted file: blocks encrypted on the way, commits by transaction.

What was written is readable by others, and after a restart, from the commit on that `fsync`, close and truncation make. Owns no
memory; landing areas are the volume's.
"""

import contextlib
import errno
from typing import TYPE_CHECKING

from crypto.errors import CryptoError, Malformed
from crypto.file import first_of_other_kind
from crypto.intent import INTENT_BLOCKS_MAX
from crypto.record import MAX_PLAIN_SIZE
from netfs.engine.request import FileChanged, IoRequest, IoSubrequest, Origin
from netfs.fs.calls import ask
from netfs.fs.sealed_claims import SealedClaims
from netfs.fs.sealed_commit import SealedCommit
from netfs.fs.sealed_file import SealedFile, Then
from netfs.fs.sealed_folder import attr_of
from netfs.fs.sealed_io import SealedRead
from netfs.fs.sealed_names import failed
from netfs.fs.sealed_turn import Turn
from netfs.fs.sealed_write import HEAD_MAX, SealedWrite, partial_blocks
from netfs.fs.stray import strays
from netfs.fs.volume import CacheIdentity, Change, FileOps
from netfs.fs.waiting import finished
from transport.errors import TransportError
from transport.messages import Attr, AttrReply, EntryReply, FileType, Getattr, Setattr, Whence

if TYPE_CHECKING:
    from netfs.fs.encrypted import EncryptedVolume
    from netfs.fs.inode import Inode

__all__ = ["EncryptedOps"]

CLAIMING = frozenset({
    Origin.READ_FOR_WRITE, Origin.WRITEBACK, Origin.WRITETHROUGH, Origin.DIO_WRITE, Origin.UNBUFFERED_WRITE
})  # fmt: skip
MOST_INTENTS = 768
"""Of one client on one file, before it commits in between: a server keeps about a thousand on a file."""
ENTRIES_MAX = 3
"""Under so many a block may be when it is written: as committed, as being committed, and as written since."""
SEEK_BLOCKS = 4096
"""How many blocks' tags are looked at in one go for data or a hole."""
NOT_A_FILE = {FileType.DIRECTORY: errno.EISDIR, FileType.SYMLINK: errno.ELOOP, FileType.OTHER: errno.EINVAL}


class EncryptedOps(FileOps):
    """The operations table of an encrypted file."""

    seals = True
    stages_writes = True

    def __init__(self, volume: "EncryptedVolume", inode: "Inode") -> None:
        self._volume = volume
        self._inode = inode
        self._transport = volume.transport
        self._sealed = SealedFile(
            volume.transport, inode.handle, volume.key, volume.env, volume.pool, volume.freshness
        )  # fmt: skip
        self._commits = SealedCommit(self._sealed, inode, volume.writer)
        self._claims = SealedClaims(self._sealed, self._commits, volume.ageing)
        self._commits.claim = self._claims.take
        self._sealed.on_others = self._changed_elsewhere
        limits = volume.transport.limits
        self.max_segs = limits.max_segs
        self.max_in_flight = min(16, limits.credits)
        self._set_block_size(1 << volume.log2bs)

    def _set_block_size(self, size: int) -> None:
        most = self._transport.limits.max_payload
        if size > most:
            raise Malformed(f"blocks of {size} bytes do not fit into the {most} bytes the server takes at a time")
        self.block_size = size
        self._go_by_limits()

    def _go_by_limits(self) -> None:
        """Take the sizes from what the connection allows; with the next connection it may be something else."""
        self._limits = self._transport.limits
        size, most = self.block_size, self._limits.max_payload
        self.rsize = max(size, min(self._volume.rsize, most) // size * size)
        self.wsize = max(size, min(self._volume.wsize, most, INTENT_BLOCKS_MAX // ENTRIES_MAX * size) // size * size)

    # ---- reading and writing

    async def init_request(self, rreq: IoRequest) -> None:
        """Load the tags of the range, unless they are there. Raises: OSError(EFBIG) for what no record can describe."""
        if rreq.start + rreq.length > MAX_PLAIN_SIZE:
            raise OSError(errno.EFBIG, "larger than an encrypted file can be")
        if self._sealed.file.tree.dirty_count > self._volume.max_dirty_pages:
            await self._commits.relieve()
        elif len(self._sealed.intents) >= MOST_INTENTS:
            await self._commits.relieve(MOST_INTENTS)
        first = rreq.start // self.block_size
        count = -(-rreq.length // self.block_size)
        sealed = self._sealed
        if rreq.origin in CLAIMING and not self._is_alone(first, count):
            await self._claims.take(first, count)
            sealed.held[rreq.debug_id] = (first, first + count)
        if sealed.file.fetches(first, count):
            await finished(lambda then: sealed.with_tags(first, count, then))
        if rreq.debug_id in sealed.held and rreq.origin is not Origin.READ_FOR_WRITE:
            here = [claim for claim in sealed.claims if claim.first < first + count and first < claim.end]
            for block in partial_blocks(rreq, self.block_size):
                if sealed.is_outdated(block, block + 1, rreq.basis):
                    # What is read now is read under this claim; so it is left at the next commit, if one comes before the write.
                    for claim in here:
                        claim.again = True
                    raise FileChanged
            for claim in here:
                claim.again = False  # this is the write

    def end_request(self, rreq: IoRequest) -> None:
        """Let a commit end the request's claims."""
        self._sealed.held.pop(rreq.debug_id, None)

    def _changed_elsewhere(self) -> None:
        """Another client's record was taken: what was read before may be outdated, and the file may be longer or shorter."""
        inode, sealed = self._inode, self._sealed
        inode.others = sealed.others
        dirty = max((folio.pos + folio.dirty_to for folio in inode.mapping.dirty.values()), default=0)
        inode.sizes.moved(sealed.file.size, sealed.ours(), dirty)

    def _is_alone(self, first: int, count: int) -> bool:
        """Say whether blocks are written without a claim: a small file is merged."""
        file = self._sealed.file
        return file.block_size <= HEAD_MAX and file.takes_head(first, count) and (file.head is not None or not file.tree.blocks)

    def prepare_read(self, subreq: IoSubrequest) -> None:
        """Keep holes and data apart, so that for holes nothing is asked."""
        if self._transport.limits is not self._limits:
            self._go_by_limits()
        size = self.block_size
        length = min(subreq.max_len, self.rsize)
        first, count = (subreq.start + subreq.transferred) // size, length // size
        file = self._sealed.file
        if count > 1 and not file.fetches(first, count):
            _, alike = first_of_other_kind(file.entries(first, count))
            length = min(length, alike * size)
        subreq.max_len = length

    def prepare_write(self, subreq: IoSubrequest) -> None:
        """See `NetfsOps`."""
        if self._transport.limits is not self._limits:
            self._go_by_limits()
        super().prepare_write(subreq)

    def issue_read(self, subreq: IoSubrequest) -> None:
        """Send READ for the blocks; they are decrypted into the subrequest's memory when they are there."""
        call = subreq.call = SealedRead(self._sealed, subreq, self._inode.probe)
        call.start()

    def issue_cache_read(self, subreq: IoSubrequest) -> None:
        """Take the blocks from the local cache instead; they are verified and decrypted as if the server had sent them."""
        call = subreq.call = SealedRead(self._sealed, subreq, self._inode.probe)
        call.start()

    def issue_write(self, subreq: IoSubrequest) -> None:
        """Encrypt the blocks, unless that was done ahead, and send WRITE."""
        staged, subreq.staged = subreq.staged, None
        call = subreq.call = staged if isinstance(staged, SealedWrite) else SealedWrite(self._sealed, subreq, self._inode.probe)
        call.start()

    def stage_write(self, subreq: IoSubrequest) -> None:
        """Encrypt the blocks ahead."""
        call = subreq.staged = SealedWrite(self._sealed, subreq, self._inode.probe)
        call.seal()

    def drop_staged(self, subreq: IoSubrequest) -> None:
        """Give back the landing area of blocks that will not be written."""
        if isinstance(subreq.staged, SealedWrite):
            subreq.staged.forgo()

    # ---- commit

    async def commit(self, verifier: int) -> int:
        """Store tags and record, and with them make the data durable."""
        return await self._commits.commit(verifier)

    async def resize(self, size: int) -> None:
        """Cut the file, or extend it by a hole; the block that is cut is encrypted anew."""
        await self._commits.resize(size)

    async def change(self, change: Change) -> bool:
        """Change fields of the record, and a blob with them."""
        return await self._commits.change(change)

    # ---- opening and closing

    async def opened(self, entry: EntryReply, sent: Attr | None = None, *, write: bool) -> tuple[Attr, int]:
        """Take the record that came with the name. Returns: the size it seals, or more if this client has written more."""
        del write  # the server checks what is written when it is
        if entry.attr.type in NOT_A_FILE:
            raise failed(NOT_A_FILE[entry.attr.type])
        await finished(lambda then: self._sealed.take_entry(entry.record, entry.generation, then))
        if sent is not None:
            # The lease came after the name: what was committed in between would not be told of.
            await finished(self._sealed.refresh)
        file = self._sealed.file
        if file.block_size != self.block_size:
            # Known only now; nothing of the file can have been cached yet.
            self._set_block_size(file.block_size)
            self._inode.set_ops(self)
        if self._inode.uncommitted or file.is_uncommitted:
            # What this client wrote and has not committed is in no record yet; a commit may be under way.
            return entry.attr, max(file.size, self._inode.sizes.remote_i_size)
        return entry.attr, file.size

    async def getattr(self) -> Attr:
        """Send GETATTR; what the record says counts."""
        attr = (await ask(self._transport, Getattr(self._sealed.handle), AttrReply)).attr
        return attr_of(attr, self._sealed.file.record)

    async def setattr(self, change: Setattr) -> Attr:
        """Put the values into the record."""
        values = self._volume.values_of(change)
        while values and not await self._commits.change(Change(values)):
            await self._commits.catch_up()
        return await self.getattr()

    async def set_mtime(self, mtime_ns: int) -> None:
        """Put the time into the record."""
        while not await self._commits.change(Change({"mtime_ns": mtime_ns})):
            await self._commits.catch_up()

    async def entry(self) -> EntryReply:
        """Send GETATTR; the record is read again unless the file has no name any more, when nobody else changes it."""
        attr = (await ask(self._transport, Getattr(self._sealed.handle), AttrReply)).attr
        if attr.nlink:
            await finished(self._sealed.refresh)
        file = self._sealed.file
        return EntryReply(self._sealed.handle, attr_of(attr, file.record), file.sealed, self._sealed.generation)

    async def seek(self, pos: int, whence: Whence, size: int) -> int:
        """Find data or a hole by the verified tags, whatever the server has there. Raises: ENXIO."""
        sealed, length = self._sealed, self.block_size
        if pos >= size or sealed.file.head is not None:
            return await super().seek(pos, whence, size)  # a small file is all data
        block = pos // length
        found: list[tuple[bool, int]] = []

        def look(then: Then) -> None:
            count = min(SEEK_BLOCKS, sealed.file.tree.blocks - block)

            def tagged(error: Exception | None) -> None:
                if error is None:
                    found.append(first_of_other_kind(sealed.file.entries(block, count)))
                then(error)

            sealed.with_tags(block, count, tagged)

        while block < min(sealed.file.tree.blocks, -(-size // length)):
            await finished(look)
            is_hole, alike = found.pop()
            if is_hole is (whence is Whence.HOLE):
                return max(pos, block * length)
            block += alike
        if whence is Whence.DATA:
            raise OSError(errno.ENXIO, "no more data")
        return min(size, max(pos, block * length))  # behind the last data, at the end of the file at the latest

    def cache_identity(self, attr: Attr, size: int) -> CacheIdentity:
        """The file is known by its own number, whatever the server calls it; each of its blocks answers for itself."""
        del attr
        file_id = self._sealed.file.record.file_id
        return CacheIdentity(f"encrypted volume {self._volume.key.key_id.hex()}", file_id, b"", size + -size % self.block_size)

    async def strays(self) -> list[int]:
        """Return the numbers of blocks that are holes here, or behind the end, and something else on the server."""
        return await strays(self._sealed)

    def idle(self) -> None:
        """Give up the tags that are on the server too."""
        if self._sealed.loaded:
            self._sealed.file.tree.rest()

    async def written(self) -> None:
        """Give back claims that nothing was written under, known or not; what refused writes left behind is settled."""
        if self._sealed.has_refused:
            with contextlib.suppress(OSError, TransportError, CryptoError):  # tried again the next time
                await self._claims.settle_refused()
        if self._sealed.unsure:
            with contextlib.suppress(OSError, TransportError, CryptoError):
                await finished(self._sealed.refresh)
        if self._sealed.claims or self._sealed.orphans:
            async with Turn(self._sealed):
                await self._commits.end_claims()
