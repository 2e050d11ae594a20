"""Trio shell. Commits of an encrypted file: tags and record in one transaction, and with them data of up to a block.

A transaction asserts that the record is still the one this client knows. If it has moved, the newer one is read and what was
written here is laid over it. A block that a cut goes through is sealed anew, and a small file's only block is sealed at all, for
the transaction, so that data and tag change as one. Owns no memory; leases are the volume's.
"""

import contextlib
import errno
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

import trio

from crypto.aead import XAES_NONCE_SIZE, wipe
from crypto.errors import IntegrityError
from crypto.file import CommitPlan
from crypto.layout import PAGE_SIZE, nr_blocks
from crypto.record import MAX_PLAIN_SIZE
from iov.iov_iter import Direction, IovIter
from netfs.fs.calls import ask, body_of
from netfs.fs.sealed_block import entries_that_fit, open_block, seal_block
from netfs.fs.sealed_file import SealedFile
from netfs.fs.sealed_turn import Turn
from netfs.fs.volume import Change
from netfs.fs.waiting import finished
from transport.errors import TransportError
from transport.messages import (
    Commit,
    Step,
    StepKind,
    Transact,
    TransactReply,
    Write,
    WriteReply,
)

if TYPE_CHECKING:
    from iov.pool import Lease
    from netfs.fs.inode import Inode

__all__ = ["SealedCommit"]

MAX_COMMIT_PAGES: Final = 256
LEAST_PAGES: Final = 8
"""Pages there must be room for beside the blocks of a transaction: a leaf and all above it."""
FAR: Final = 1 << 62
MOST_DELAY_S: Final = 0.5
CONFLICTS: Final = 32
"""How often a commit is tried while other clients commit to the same file."""


def _runs(blocks: Sequence[int], most: int) -> Iterator[list[int]]:
    """Yield ascending blocks in runs of consecutive ones, each of at most so many."""
    run: list[int] = []
    for block in blocks:
        if run and (block != run[-1] + 1 or len(run) == most):
            yield run
            run = []
        run.append(block)
    if run:
        yield run


async def nobody(first: int, count: int) -> None:
    """Ask nobody for a claim."""
    await trio.lowlevel.checkpoint()


class SealedCommit:
    """What changes record and tag tree of one file as a whole. writer: names this client in the record."""

    def __init__(self, sealed: SealedFile, inode: "Inode", writer: bytes) -> None:
        self._sealed = sealed
        self._inode = inode
        self._writer = writer
        self._transport = sealed.transport
        self._env = sealed.env
        self._pool = sealed.pool
        self._freshness = sealed.freshness
        self._change: Change | None = None
        self.claim: Callable[[int, int], Awaitable[None]] = nobody

    async def commit(self, verifier: int) -> int:
        """Store tags and record, and with them make the data durable."""
        if verifier < 0:  # of two boots, so one at least is over
            boot = await self._boot()
            async with self._quiet_turn():
                self._sealed.started_again(boot)
                await self._settle_lost()
            return boot
        for conflicts in range(CONFLICTS):
            if conflicts > CONFLICTS // 4:
                await trio.sleep(self._env.rng.uniform(0, MOST_DELAY_S))  # so that somebody comes first
            if self._sealed.doubtful:
                await self.catch_up()
            known = self._sealed.generation
            async with self._quiet_turn():
                if not self._sealed.file.needs_commit(self._inode.sizes.i_size):
                    await self.end_claims()
                    return await self._boot() if verifier else 0
                try:
                    if await self._store(self._inode.sizes.i_size, verifier):
                        return verifier
                except OSError as error:
                    if error.errno != errno.ESTALE or not verifier:
                        raise
                    boot = await self._boot()
                    if boot == verifier:
                        raise
                    self._sealed.started_again(boot)
                    await self._settle_lost()
                    return boot
            await self.catch_up(known)
        raise OSError(errno.EAGAIN, "other clients are faster at changing the file")

    async def catch_up(self, known: int = -1) -> None:
        """Take what another client has committed, and lay over it what was changed here.

        known: the generation that was asserted in vain; if it has not moved, another client is writing to what was to be changed.
        """
        sealed = self._sealed
        await finished(sealed.refresh)
        async with Turn(sealed):
            file = sealed.file
            bad = False
            if file.wants_merge:
                if file.record.inline or not file.record.size:
                    file.merge_head(file.record.inline)
                else:
                    try:
                        await finished(lambda then: sealed.with_tags(0, 1, then, tries=0))
                        file.merge_head(await self._first_block())
                    except IntegrityError:
                        bad = not sealed.has_claim(0, 1)
                        if not bad and sealed.generation == known:
                            raise
        if bad or (sealed.generation == known and file.has_new_head):
            await self.claim(0, 1)

    @asynccontextmanager
    async def _quiet_turn(self) -> AsyncIterator[None]:
        """Have the turn while nothing is on its way to blocks that the commit itself writes, or cuts away."""
        sealed = self._sealed
        while True:
            async with Turn(sealed):
                if not self._collides():
                    yield
                    return
            written = trio.Event()
            if self._collides():
                sealed.block(written.set)
                await written.wait()

    def _collides(self) -> bool:
        sealed, file, size = self._sealed, self._sealed.file, self._inode.sizes.i_size
        return (file.must_spill(size) and sealed.is_written(0, 1)) or (file.cuts(size) and bool(sealed.writing))

    async def _first_block(self) -> bytes:
        """Return the first block as the server has it."""
        lease = self._pool.get(self._sealed.file.block_size)
        try:
            await open_block(self._sealed, self._inode.probe, 0, lease.view)
            return bytes(lease.view).rstrip(b"\0")  # header: the only block of a small file
        finally:
            wipe(lease.view)
            lease.release()

    async def resize(self, size: int) -> None:
        """Cut the file, or extend it by a hole; the block that is cut is encrypted anew."""
        if size > MAX_PLAIN_SIZE:
            raise OSError(errno.EFBIG, "larger than an encrypted file can be")
        sealed = self._sealed
        for conflicts in range(CONFLICTS):
            if conflicts > CONFLICTS // 4:
                await trio.sleep(self._env.rng.uniform(0, MOST_DELAY_S))
            bad: IntegrityError | None = None
            known = sealed.generation
            async with self._quiet_turn():
                # What was written before is committed before, so that a change of size that comes to nothing leaves nothing.
                # Unstable writes of an earlier boot are the library's to find out at its next commit.
                written = self._inode.sizes.i_size
                if not sealed.file.needs_commit(written) or await self._store(written, 0):
                    done = False
                    try:
                        done = await self._store(size, 0, await self._resize_blocks(size))
                    except IntegrityError as error:
                        bad = error
                    finally:
                        if not done:
                            sealed.file.revert()
                            sealed.risk.end()
                    if done:
                        return
            await self.catch_up(known)
            if sealed.generation != known:
                continue
            last = FAR // self._block_size
            if not sealed.has_claim(0, last):
                # Another client is writing there, or has gone while it was: it ends first, or what it left is settled.
                await self.claim(0, last)
            elif bad is not None:
                raise bad
        raise OSError(errno.EAGAIN, "other clients are faster at changing the file")

    async def relieve(self, intents: int = 0) -> None:
        """Commit what has been written so far, so that its tags need not all be held; what fails is the next commit's to tell.

        intents: no effect where fewer are left when the turn has come, as another writer was faster; else claims are kept.
        """
        async with self._quiet_turn():
            if len(self._sealed.intents) >= intents:
                with contextlib.suppress(OSError):
                    await self._store(self._inode.sizes.i_size, self._sealed.verifier, keep_claims=bool(intents))
                    if not intents:
                        await self.end_claims()

    async def end_claims(self) -> None:
        """Give back the claims under which nothing was written; the caller has the turn. Cancellation: may have happened."""
        sealed = self._sealed
        claims, orphans = [claim for claim in sealed.claims if sealed.may_drop(claim)], sealed.orphans
        if sealed.file.is_uncommitted:
            # A head is laid over what others commit: it is no reason to keep them out, and two who did would wait for each other.
            written, orphans = sealed.file.written_blocks(), []
            claims = [claim for claim in claims if not any(claim.first <= block < claim.end for block in written)]
        keys = [*orphans, *(claim.key for claim in claims)]
        if keys:
            steps = [Step(StepKind.INTENT_DROP, sealed.handle, key) for key in keys]
            self._dropped(keys)
            with contextlib.suppress(OSError, TransportError):
                await ask(self._transport, Transact([], 0, steps), TransactReply)

    @property
    def has_claims(self) -> bool:
        """Say whether others may be kept out."""
        return bool(self._sealed.claims or self._sealed.orphans)

    async def _settle_lost(self) -> None:
        """The server was started again: find out which of the blocks that were written and not committed it has.

        The others are as they were; whoever wrote them is told, or writes them again. The caller has the turn.
        """
        sealed, file = self._sealed, self._sealed.file
        if file.has_redo:
            return  # looked at before the next commit, when it has been laid over the newer record
        most = max(1, self._transport.limits.max_payload // file.block_size)
        risky = [
            block for block in file.written_blocks() if block < file.tree.blocks and sealed.risk.covers(block, sealed.others)
        ]
        for run in _runs(risky, most):
            # What is here may be on its way, or written anew meanwhile: that is looked at then.
            here, others = [bytes(file.entries(block, 1)) for block in run], sealed.others  # header: entries
            possible = [[entry, *sealed.lost_entries(block)] for block, entry in zip(run, here, strict=True)]
            found = await entries_that_fit(sealed, self._inode.probe, run[0], possible)
            for block, mine, entry in zip(run, here, found, strict=True):
                if block >= file.tree.blocks or sealed.is_written(block, block + 1) or file.entries(block, 1) != mine:
                    continue
                if entry == mine:
                    sealed.risk.seen(block, others)
                elif entry is not None:
                    file.lost(block, entry)
                    sealed.risk.gone(block)

    async def _boot(self) -> int:
        return (await ask(self._transport, Commit(self._sealed.handle), WriteReply)).verifier

    async def _store(
        self, plain_size: int, verifier: int, blocks: "list[tuple[int, Lease]] | None" = None, *, keep_claims: bool = False
    ) -> bool:
        """Commit all there is to commit. Returns: false when another client's commit came first.

        blocks: number and ciphertext of blocks that were sealed and staged for this commit; they are released.
        """
        sealed, file = self._sealed, self._sealed.file
        limit = self._transport.limits.max_payload
        carried = blocks or []
        try:
            if file.wants_merge or file.has_redo:
                return False
            if sealed.risk:
                await self._settle_lost()
            sealed.carried = [(block, block + 1) for block, _ in carried]
            if file.cuts(plain_size):
                sealed.carried.append((nr_blocks(plain_size, file.record.log2bs), FAR))
            while carried or file.needs_commit(plain_size):
                if file.must_spill(plain_size):
                    # Perhaps only now, as the file has grown since; what is on its way to the block is waited for then.
                    if sealed.is_written(0, 1):
                        return False
                    sealed.carried.append((0, 1))
                    await finished(lambda then: self._sealed.with_tags(0, 1, then, tries=0))
                    carried.append((0, seal_block(self._sealed, self._inode.probe, 0, file.head or b"")))
                while carried and len(carried) * file.block_size + LEAST_PAGES * PAGE_SIZE > limit:
                    await self._write_block(*carried[0])
                    carried.pop(0)[1].release()
                most = min(MAX_COMMIT_PAGES, (limit - len(carried) * file.block_size) // PAGE_SIZE)
                drops = self._drops(keep_claims=keep_claims) if file.tree.dirty_count <= most else []
                plan = file.begin_commit(plain_size, self._env.nonces(XAES_NONCE_SIZE), most, **self._values())
                stored = False
                try:
                    stored = await self._transact(plan, verifier, carried, drops)
                finally:
                    file.end_commit(stored=stored)
                if not stored:
                    return False
                self._dropped(drops)
                if not file.is_uncommitted:
                    sealed.own_end = 0
                    sealed.risk.end()
                while carried:
                    carried.pop()[1].release()
                sealed.carried = []
                sealed.go_on()
            return True
        finally:
            file.unstage()
            for _, lease in carried:
                lease.release()
            if sealed.carried:
                sealed.carried = []
                sealed.go_on()

    async def _write_block(self, block: int, lease: "Lease") -> None:
        """Write a block by itself, where a transaction has no room for it."""
        size = self._sealed.file.block_size
        request = Write(self._sealed.handle, block * size, stable=True)
        reply = await self._transport.call(request, source=IovIter.ubuf(Direction.SOURCE, lease.view))
        body = body_of(reply, WriteReply)
        if isinstance(body, Exception):
            raise body
        if body.count < size:
            raise OSError(errno.EIO, "the server wrote less than a block")

    def _values(self) -> dict[str, Any]:
        """Return the fields of a record that change with every commit."""
        now = self._env.wall_ns()
        written = self._change is None or self._inode.uncommitted
        return {"ctime_ns": now, "writer": self._writer, **({"mtime_ns": now} if written else {})}

    def _drops(self, *, keep_claims: bool) -> list[int]:
        """Return the keys of the intents whose blocks are all noted, and of the claims under which nothing is on its way."""
        sealed = self._sealed
        claims = [] if keep_claims else [claim.key for claim in sealed.claims if sealed.may_drop(claim)]
        return [*sealed.orphans, *claims, *(key for key, is_noted in sealed.intents.items() if is_noted)]

    def _dropped(self, keys: list[int]) -> None:
        sealed = self._sealed
        gone = set(keys)
        for claim in sealed.claims:
            claim.again = False
        sealed.claims = [claim for claim in sealed.claims if claim.key not in gone]
        sealed.orphans = [key for key in sealed.orphans if key not in gone]
        sealed.intents = {key: is_noted for key, is_noted in sealed.intents.items() if key not in gone}

    def beside(self, sealed: SealedFile) -> "SealedCommit":
        """Return the same of the file without what was written here, so that what others left behind can be settled."""
        return SealedCommit(sealed, self._inode, self._writer)

    async def store_recovered(self, keys: list[int]) -> bool:
        """Commit what was settled of others' intents, which end with it. Returns: false if too late."""
        file = self._sealed.file
        plan = file.begin_commit(file.size, self._env.nonces(XAES_NONCE_SIZE), MAX_COMMIT_PAGES, **self._values())
        stored = False
        try:
            stored = await self._transact(plan, 0, [], keys)
        finally:
            file.end_commit(stored=stored)
        return stored

    async def fits(self, block: int) -> bool:
        """Say whether a block on the server is under its entry."""
        stage = self._pool.get(self._block_size)
        try:
            await open_block(self._sealed, self._inode.probe, block, stage.view)
        except IntegrityError:
            return False
        else:
            return True
        finally:
            wipe(stage.view)
            stage.release()

    async def _transact(self, plan: CommitPlan, verifier: int, blocks: "list[tuple[int, Lease]]", drops: list[int]) -> bool:
        """Send one transaction. Returns: false when another client's commit came first."""
        sealed = self._sealed
        handle = sealed.handle
        steps: list[Step] = []
        if plan.data_size is not None:
            steps.append(Step(StepKind.TRUNCATE, handle, plan.data_size))
        if plan.aux_size is not None:
            steps.append(Step(StepKind.AUX_TRUNCATE, handle, plan.aux_size))
        views: list[memoryview] = []
        size = sealed.file.block_size
        if plan.has_head and not blocks:
            # Writes nothing, and is refused where another client has claimed the block that the record has inline.
            steps.append(Step(StepKind.WRITE, handle, 0, 0))
        for block, ciphertext in blocks:
            steps.append(Step(StepKind.WRITE, handle, block * size, size))
            views.append(ciphertext.view)
        at = 0
        length = sum(len(pages) for _, pages in plan.writes) * PAGE_SIZE
        joined = len(views) + bool(length) > self._transport.limits.max_segs
        lease = self._pool.get(length + sum(len(view) for view in views) if joined else length)
        try:
            if joined:
                for view in views:
                    lease.view[at : at + len(view)] = view
                    at += len(view)
                self._inode.probe.copied(at)
                views.clear()
            for pos, pages in plan.writes:
                steps.append(Step(StepKind.AUX_WRITE, handle, pos, len(pages) * PAGE_SIZE))
                for page in pages:
                    lease.view[at : at + PAGE_SIZE] = page
                    at += PAGE_SIZE
            if joined or length:
                views.append(lease.view)
            if self._change is not None and self._change.blob is not None:
                steps.append(Step(StepKind.BLOB_PUT, handle, 1, record=self._change.blob))
            steps.append(Step(StepKind.RECORD_PUT, handle, record=plan.record))
            steps += [Step(StepKind.INTENT_DROP, handle, key) for key in drops]
            request = Transact([(handle, sealed.generation)], verifier, steps)
            source = IovIter.kvec(Direction.SOURCE, views) if views else None
            body = body_of(await self._transport.call(request, source=source), TransactReply)
        finally:
            lease.release()
        if isinstance(body, TransactReply):
            sealed.generation = body.generations[0]
            record = sealed.file.record
            self._freshness.committed(record.file_id, record.generation + 1, plan.record)
            return True
        if isinstance(body, OSError) and body.errno == errno.EINVAL and drops:
            sealed.lost_claims()  # of another start of the server, or of a connection that was lost
            return False
        if isinstance(body, OSError) and body.errno == errno.EAGAIN:
            return False
        raise body

    # ---- attributes

    async def change(self, change: Change) -> bool:
        """Change fields of the record. Returns: false when another client's commit came first; then nothing is changed."""
        sealed = self._sealed
        async with self._quiet_turn():
            sealed.file.set_attributes(**change.values)
            self._change = change
            try:
                stored = await self._store(self._inode.sizes.i_size, 0)
            finally:
                self._change = None
                sealed.file.forget_attributes()
        return stored

    # ---- size

    async def _resize_blocks(self, size: int) -> "list[tuple[int, Lease]]":
        """Cut or extend the file. Returns: the block that is cut through, sealed anew, if there is one."""
        sealed = self._sealed
        file = sealed.file
        if size >= self._inode.sizes.i_size:
            file.resize(size)
            return []
        await finished(lambda then: sealed.with_tags(max(0, size - 1) // self._block_size, 2, then, tries=0))
        block = file.block_to_rewrite(size)
        if block is None:
            file.resize(size)
            return []
        stage = self._pool.get(self._block_size)
        try:
            await open_block(self._sealed, self._inode.probe, block, stage.view)
            file.resize(size)
            return [(block, seal_block(self._sealed, self._inode.probe, block, stage.view[: size % self._block_size]))]
        finally:
            wipe(stage.view)
            stage.release()

    @property
    def _block_size(self) -> int:
        return self._sealed.file.block_size
