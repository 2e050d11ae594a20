"""Trio shell. Files of an encrypted folder: sealed records, blocks encrypted on the way, commits that are transactions.

An encrypted folder is a directory tree in which every regular file has a record; names stay in clear in this version. What was
written is readable by others, and after a restart, from the commit on that `fsync`, close and truncation make: one transaction
stores tags and record, asserting that the record is still the one this client knows. If it has moved, the newer one is read and
what was written here is laid over it. Without write intents, two clients that write the same block at the same time, or a crash
between data and commit, can leave that block unreadable (EBADMSG), never wrong. Owns the pool of landing areas.
"""

import contextlib
import errno
from typing import TYPE_CHECKING, Final

import trio

from crypto.aead import KEY_SIZE, NONCE_SIZE, TAG_SIZE, XAES_NONCE_SIZE, wipe
from crypto.errors import IntegrityError, Malformed
from crypto.file import CommitPlan, first_of_other_kind, new_record
from crypto.keys import FILE_ID_SIZE, VolumeKey
from crypto.layout import ENTRY_SIZE, MAX_LOG2BS, MIN_LOG2BS, PAGE_SIZE
from crypto.record import MAX_PLAIN_SIZE, open_record, seal_record
from crypto.volume import HEADER_NAME
from iov.iov_iter import Direction, IovIter
from iov.pool import BufferPool
from iov.probe import Probe
from netfs.engine.request import IoRequest, IoSubrequest
from netfs.fs.calls import ask, body_of
from netfs.fs.freshness import Freshness
from netfs.fs.sealed_file import SealedFile
from netfs.fs.sealed_io import SealedRead, SealedWrite
from netfs.fs.stray import strays
from netfs.fs.volume import CacheIdentity, FileOps, Volume
from netfs.fs.waiting import finished
from transport.base import Transport
from transport.env import Env
from transport.messages import (
    Attr,
    Commit,
    DirEntry,
    EntryReply,
    Handle,
    Read,
    ReadReply,
    RecordGet,
    RecordReply,
    Step,
    StepKind,
    Transact,
    TransactReply,
    Write,
    WriteReply,
)  # fmt: skip

if TYPE_CHECKING:
    from netfs.fs.inode import Inode

__all__ = ["DEFAULT_BLOCK_SIZE", "EncryptedOps", "EncryptedVolume"]

DEFAULT_BLOCK_SIZE: Final = 1 << 14
MAX_AREAS: Final = 16
MAX_COMMIT_PAGES: Final = 256
MAX_DIRTY_PAGES: Final = 4096
"""Tag pages of one file held back for its next commit: 16 MiB, for 8 GiB of blocks of 16 KiB."""
CONFLICTS: Final = 8
"""How often a commit is tried while other clients commit to the same file."""


class Turn:
    """The turn at a file, as an async context manager. Cancellation: not taken."""

    def __init__(self, sealed: SealedFile) -> None:
        self._sealed = sealed
        self._come = trio.Event()

    async def __aenter__(self) -> None:
        run = self._come.set
        self._sealed.take_turn(run)
        try:
            await self._come.wait()
        except BaseException:
            if not self._sealed.forgo_turn(run):
                self._sealed.give_turn()
            raise

    async def __aexit__(self, *_: object) -> None:
        self._sealed.give_turn()


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
        limits = volume.transport.limits
        self.max_segs = limits.max_segs
        self.max_in_flight = min(16, limits.credits)
        self._set_block_size(1 << volume.log2bs)

    def _set_block_size(self, size: int) -> None:
        most = self._transport.limits.max_payload
        if size > most:
            raise Malformed(f"blocks of {size} bytes do not fit into the {most} bytes the server takes at a time")
        self.block_size = size
        self.rsize = max(size, min(self._volume.rsize, most) // size * size)
        self.wsize = max(size, min(self._volume.wsize, most) // size * size)

    # ---- reading and writing

    async def init_request(self, rreq: IoRequest) -> None:
        """Load the tags of the range, unless they are there. Raises: OSError(EFBIG) for what no record can describe."""
        if rreq.start + rreq.length > MAX_PLAIN_SIZE:
            raise OSError(errno.EFBIG, "larger than an encrypted file can be")
        if self._sealed.file.tree.dirty_count > self._volume.max_dirty_pages:
            await self._relieve()
        first = rreq.start // self.block_size
        count = -(-rreq.length // self.block_size)
        if self._sealed.file.fetches(first, count):
            await finished(lambda then: self._sealed.with_tags(first, count, then))

    def prepare_read(self, subreq: IoSubrequest) -> None:
        """Keep holes and data apart, so that for holes nothing is asked."""
        size = self.block_size
        length = min(subreq.max_len, self.rsize)
        first, count = (subreq.start + subreq.transferred) // size, length // size
        file = self._sealed.file
        if count > 1 and not file.fetches(first, count):
            _, alike = first_of_other_kind(file.entries(first, count))
            length = min(length, alike * size)
        subreq.max_len = length

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
        if verifier < 0:
            return await self._boot()  # of two boots, so one at least is over
        for _ in range(CONFLICTS):
            async with Turn(self._sealed):
                if not self._sealed.file.needs_commit(self._inode.sizes.i_size):
                    return await self._boot()
                try:
                    if await self._store(self._inode.sizes.i_size, verifier):
                        return verifier
                except OSError as error:
                    if error.errno != errno.ESTALE or not verifier:
                        raise
                    boot = await self._boot()
                    if boot == verifier:
                        raise
                    return boot
            await finished(self._sealed.refresh)
        raise OSError(errno.EAGAIN, "other clients are faster at changing the file")

    async def resize(self, size: int) -> None:
        """Cut the file, or extend it by a hole; the block that is cut is encrypted anew."""
        if size > MAX_PLAIN_SIZE:
            raise OSError(errno.EFBIG, "larger than an encrypted file can be")
        sealed = self._sealed
        for _ in range(CONFLICTS):
            bad: IntegrityError | None = None
            known = sealed.file.sealed
            async with Turn(sealed):
                try:
                    await self._resize_blocks(size)
                except IntegrityError as error:
                    bad = error
                else:
                    # Unstable writes of an earlier boot are the library's to find out at its next commit.
                    if await self._store(size, 0):
                        return
            await finished(sealed.refresh)
            if bad is not None and sealed.file.sealed == known:
                raise bad
        raise OSError(errno.EAGAIN, "other clients are faster at changing the file")

    async def _relieve(self) -> None:
        """Commit what has been written so far, so that its tags need not all be held; what fails is the next commit's to tell."""
        async with Turn(self._sealed):
            with contextlib.suppress(OSError):
                await self._store(self._inode.sizes.i_size, self._sealed.verifier)

    async def _boot(self) -> int:
        return (await ask(self._transport, Commit(self._sealed.handle), WriteReply)).verifier

    async def _store(self, plain_size: int, verifier: int) -> bool:
        """Commit all there is to commit. Returns: false when another client's commit came first."""
        file = self._sealed.file
        most = min(MAX_COMMIT_PAGES, self._transport.limits.max_payload // PAGE_SIZE)
        while file.needs_commit(plain_size):
            plan = file.begin_commit(plain_size, self._volume.env.nonces(XAES_NONCE_SIZE), most)
            stored = False
            try:
                stored = await self._transact(plan, verifier)
            finally:
                file.end_commit(stored=stored)
            if not stored:
                return False
        return True

    async def _transact(self, plan: CommitPlan, verifier: int) -> bool:
        """Send one transaction. Returns: false when another client's commit came first."""
        sealed = self._sealed
        handle = sealed.handle
        steps: list[Step] = []
        if plan.data_size is not None:
            steps.append(Step(StepKind.TRUNCATE, handle, plan.data_size))
        if plan.aux_size is not None:
            steps.append(Step(StepKind.AUX_TRUNCATE, handle, plan.aux_size))
        length = sum(len(pages) for _, pages in plan.writes) * PAGE_SIZE
        lease = self._volume.pool.get(length)
        try:
            at = 0
            for pos, pages in plan.writes:
                steps.append(Step(StepKind.AUX_WRITE, handle, pos, len(pages) * PAGE_SIZE))
                for page in pages:
                    lease.view[at : at + PAGE_SIZE] = page
                    at += PAGE_SIZE
            steps.append(Step(StepKind.RECORD_PUT, handle, record=plan.record))
            request = Transact([(handle, sealed.generation)], verifier, steps)
            source = IovIter.ubuf(Direction.SOURCE, lease.view) if length else None
            body = body_of(await self._transport.call(request, source=source), TransactReply)
        finally:
            lease.release()
        if isinstance(body, TransactReply):
            sealed.generation = body.generations[0]
            record = sealed.file.record
            self._volume.freshness.committed(record.file_id, record.generation + 1, plan.record)
            return True
        if isinstance(body, OSError) and body.errno == errno.EAGAIN:
            return False
        raise body

    # ---- size

    async def _resize_blocks(self, size: int) -> None:
        sealed = self._sealed
        file = sealed.file
        if size < self._inode.sizes.i_size:
            await finished(lambda then: sealed.with_tags(max(0, size - 1) // self.block_size, 2, then, tries=0))
            block = file.block_to_rewrite(size)
            if block is not None:
                await self._cut_block(block, size % self.block_size)
        file.resize(size)

    async def _cut_block(self, block: int, kept: int) -> None:
        """Read a block, zero what is behind its first `kept` bytes, and write it anew."""
        sealed = self._sealed
        cipher, probe = sealed.file.cipher, self._inode.probe
        size = self.block_size
        lease, stage = self._volume.pool.get(size), self._volume.pool.get(size)
        try:
            area = lease.view_with_tail(TAG_SIZE)
            pos = block * size
            reply = await self._transport.call(Read(sealed.handle, pos, size), dest=IovIter.ubuf(Direction.DEST, lease.view))
            body = body_of(reply, ReadReply)
            if isinstance(body, Exception):
                raise body
            if reply.received < size:
                raise IntegrityError("the server's file is cut off", file_id=sealed.file.record.file_id, block_no=block)
            cipher.open(area, sealed.file.entries(block, 1), block, 1, IovIter.ubuf(Direction.DEST, stage.view))
            entry = bytearray(ENTRY_SIZE)
            source = IovIter.ubuf(Direction.SOURCE, stage.view[:kept])
            cipher.seal(source, area, block, 1, self._volume.env.nonces(NONCE_SIZE), entry, sealed.file.record.rekey)
            probe.transformed_bytes += 2 * size
            probe.copied(kept)
            request = Write(sealed.handle, pos, stable=True)
            written = body_of(await self._transport.call(request, source=IovIter.ubuf(Direction.SOURCE, lease.view)), WriteReply)
            if isinstance(written, Exception):
                raise written
            if written.count < size:
                raise OSError(errno.EIO, "the server wrote less than a block")
            sealed.file.wrote(block, entry)
        finally:
            wipe(stage.view)
            stage.release()
            lease.release()

    # ---- opening and closing

    async def revalidate(self, attr: Attr) -> int:
        """Read the record. Returns: the size it seals, or more if this client has written more."""
        await finished(self._sealed.refresh)
        file = self._sealed.file
        if file.block_size != self.block_size:
            # Known only now; nothing of the file can have been cached yet.
            self._set_block_size(file.block_size)
            self._inode.set_ops(self)
        if self._inode.uncommitted:
            # What this client wrote and has not committed is in no record yet.
            return max(file.size, self._inode.sizes.remote_i_size)
        return file.size

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


class EncryptedVolume(Volume):
    """An export, or a folder of one, whose files are encrypted under one key."""

    def __init__(
        self,
        transport: Transport,
        key: VolumeKey,
        env: Env,
        probe: Probe,
        rsize: int,
        wsize: int,
        block_size: int = DEFAULT_BLOCK_SIZE,
        freshness: Freshness | None = None,
    ) -> None:
        log2bs = block_size.bit_length() - 1
        if block_size != 1 << log2bs or not MIN_LOG2BS <= log2bs <= MAX_LOG2BS:
            raise ValueError(f"a block has {1 << MIN_LOG2BS} to {1 << MAX_LOG2BS} bytes, a power of two")
        self.transport = transport
        self.key = key
        self.env = env
        self.rsize = rsize
        self.wsize = wsize
        self.log2bs = log2bs
        self.freshness = freshness or Freshness()
        self.max_dirty_pages = MAX_DIRTY_PAGES
        self.pool = BufferPool(probe, max(rsize, wsize), MAX_AREAS)

    def file_ops(self, inode: "Inode") -> EncryptedOps:
        """Make the table of a file."""
        return EncryptedOps(self, inode)

    async def created(self, entry: EntryReply) -> None:
        """Give an empty file that has none a record, with a key of its own."""
        if entry.attr.size:
            return
        nonces = self.env.nonces
        record = new_record(nonces(FILE_ID_SIZE), nonces(KEY_SIZE), log2bs=self.log2bs, suite=self.key.suites[0])
        sealed = seal_record(self.key, record, nonces(XAES_NONCE_SIZE))
        try:
            await ask(
                self.transport,
                Transact([(entry.handle, 0)], 0, [Step(StepKind.RECORD_PUT, entry.handle, record=sealed)]),
                TransactReply,
            )
        except OSError as error:
            if error.errno != errno.EAGAIN:  # it has a record already
                raise
        else:
            self.freshness.marks.committed(record.file_id, record.generation, sealed)

    async def file_size(self, handle: Handle, attr: Attr) -> int:
        """Return the size the record seals."""
        while True:
            asked = self.freshness.clock
            reply = await ask(self.transport, RecordGet(handle), RecordReply)
            if not reply.record:
                raise Malformed("not an encrypted file: it has no record")
            record = open_record(self.key, reply.record)
            if self.freshness.observe(record.file_id, record.generation, reply.record, asked):
                return record.size

    def entry_size(self, entry: DirEntry, asked: int) -> int:
        """Return the size the record seals; of a file without one, which can be listed but not opened, the server's."""
        if not entry.record:
            return entry.attr.size
        record = open_record(self.key, entry.record)
        # An answer that was overtaken is as good as a listing can be.
        self.freshness.observe(record.file_id, record.generation, entry.record, asked)
        return record.size

    @property
    def clock(self) -> int:
        """What has been seen of the volume."""
        return self.freshness.clock

    def hides(self, name: str) -> bool:
        """Say whether a name is that of the volume's header, or of one being written."""
        return name.startswith(HEADER_NAME)

    def close(self) -> None:
        """Insist that every landing area was given back, and close the log of what was seen. Raises: OSError of the log."""
        self.pool.close()
        self.freshness.close()
