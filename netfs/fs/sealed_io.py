"""Sans-IO. One subrequest of an encrypted file: ciphertext between server and landing area, blocks between area and iterator.

    read     tags there? ─▶ READ into the area ─▶ open ─▶ done          bad tag: read again if a block was written here meanwhile,
                ▲                                  │                   else read the record again, once, and then again
                └──────────────────────────────────┘
    write    seal into the area ─▶ WRITE ─▶ note the tags ─▶ done

With a local cache a read may take the ciphertext from there, block by block as its tags say; what does not fit is downloaded.
What came from the server, or went to it, is kept there on the way out, and the area as long. A block is decrypted only after
the transport has given the area back, when no peer can write it any more. Memory: the area is a lease of the volume's pool,
lent to the transport from issue to reply; the iterator is the request's.
"""

import errno

from crypto.aead import NONCE_SIZE, TAG_SIZE, XAES_NONCE_SIZE
from crypto.errors import IntegrityError
from crypto.file import first_of_other_kind
from crypto.intent import Intent, seal_intent
from crypto.layout import ENTRY_SIZE
from iov.copy_iter import copy_from_iter, copy_to_iter, zero_iter
from iov.iov_iter import Direction, IovIter
from iov.pool import Lease
from iov.probe import Probe
from netfs.cache.base import BlockCookie
from netfs.engine.events import trace_call
from netfs.engine.request import FileChanged, IoRequest, IoSubrequest, Origin, Source
from netfs.fs.calls import body_of
from netfs.fs.sealed_file import SealedFile
from transport.base import Abandonable, Outcome, Reply
from transport.errors import SmallerLimits
from transport.messages import Read, ReadReply, Step, StepKind, Transact, TransactReply, Write, WriteReply

__all__ = ["SealedRead", "SealedWrite"]

PAST_CACHES = frozenset({Origin.DIO_READ, Origin.UNBUFFERED_READ, Origin.DIO_WRITE, Origin.UNBUFFERED_WRITE})
READS_AGAIN = 64
"""How often a block is read again because others went on writing to the file meanwhile."""
RECORD_MOVES = 32
"""How often a write intent is put anew because the record has moved meanwhile."""
HEAD_MAX = 1 << 16
"""Blocks of so many bytes at most are kept for the commit of a file that has only one."""


def partial_blocks(request: IoRequest, size: int) -> list[int]:
    """Return the blocks of a write that the caller has written in part, so that the rest of them was read."""
    found: dict[int, None] = {}
    at, end = request.start, request.start + request.length
    for start, stop in (*request.changed, (end, end)):
        if start > at:
            found.update(dict.fromkeys(range(at // size, -(-start // size))))
        at = max(at, stop)
    return list(found)


class SealedCall:
    """What reading and writing have in common; it stands in for the transport's call while there is none."""

    __slots__ = ("_abandoned", "_call", "_lease", "_sealed", "_subreq", "count", "first", "probe")

    def __init__(self, sealed: SealedFile, subreq: IoSubrequest, probe: Probe) -> None:
        size = sealed.file.block_size
        pos = subreq.start + subreq.transferred
        assert not (pos % size or subreq.iter.count % size), "a subrequest of whole blocks"
        self._sealed = sealed
        self._subreq = subreq
        self.probe = probe
        self.first = pos // size
        self.count = subreq.iter.count // size
        self._lease: Lease | None = None
        self._call: Abandonable | None = None
        self._abandoned = False

    def abandon(self) -> None:
        """Ask that the subrequest end soon."""
        self._abandoned = True
        if self._call is not None:
            self._call.abandon()

    def _area(self) -> memoryview:
        """Lease a landing area, without its tail."""
        self._lease = self._sealed.pool.get(self.count * self._sealed.file.block_size)
        return self._lease.view

    def _cookie(self) -> BlockCookie | None:
        """Return the local cache's side of the file, unless there is none or the caller reads and writes past caches."""
        request = self._subreq.request
        cookie = request.inode.cookie
        if isinstance(cookie, BlockCookie) and cookie.usable and request.origin not in PAST_CACHES:
            return cookie
        return None

    def _keep(self, cookie: BlockCookie, entries: bytes | bytearray, blocks: int) -> None:
        """Give the local cache the first `blocks` of the area, which is its until it has them."""
        lease, self._lease = self._lease, None
        assert lease is not None
        size = self._sealed.file.block_size
        source = IovIter.ubuf(Direction.SOURCE, lease.view[: blocks * size])
        cookie.write_blocks(self.first, entries[: blocks * ENTRY_SIZE], source, lambda *_: lease.release())

    def _give_back(self) -> None:
        lease, self._lease = self._lease, None
        if lease is not None:
            lease.release()

    def _tell(self, event: str, blocks: int) -> None:
        subreq, size = self._subreq, self._sealed.file.block_size
        self.probe.emit(event, subreq.request.debug_id, subreq.index, self.first, blocks, size)

    def _finish(self, blocks: int, error: Exception | None = None) -> None:
        self._give_back()
        self._subreq.terminated(blocks * self._sealed.file.block_size, error, retry=isinstance(error, SmallerLimits))


class SealedRead(SealedCall):
    """Read, verify and decrypt the blocks of one subrequest."""

    __slots__ = ("_again", "_changes", "_entries", "_told", "_unmoved")

    def __init__(self, sealed: SealedFile, subreq: IoSubrequest, probe: Probe) -> None:
        super().__init__(sealed, subreq, probe)
        self._changes = 0
        self._entries = bytearray()
        self._again = self._unmoved = self._told = 0

    def start(self) -> None:
        """Begin, or begin again."""
        self._call = None
        if self._abandoned:
            self._finish(0, OSError(errno.ECANCELED, "abandoned"))
        elif self._sealed.is_written(self.first, self.first + self.count):
            self._sealed.block(self.start)
        else:
            self._sealed.with_tags(self.first, self.count, self._tagged)

    def _tagged(self, error: Exception | None) -> None:
        if error is not None or self._abandoned:
            self._finish(0, error or OSError(errno.ECANCELED, "abandoned"))
            return
        sealed = self._sealed
        if not self.first and sealed.file.head is not None:
            self._from_head(sealed.file.head)
            return
        self._changes, self._told = sealed.file.changes, sealed.told
        self._entries = sealed.file.entries(self.first, self.count)
        # What was cut out as one kind may have become two since: then this is a short read.
        is_hole, self.count = first_of_other_kind(self._entries)
        if is_hole:
            zero_iter(self.count * sealed.file.block_size, self._subreq.iter.copy())
            self._finish(self.count)
            return
        view = self._area()
        if self._subreq.source is Source.READ_FROM_CACHE:
            cookie = self._cookie()
            if cookie is None:
                self._finish(0, OSError(errno.ESTALE, "no longer cached"))
            elif sealed.in_doubt(self.first, self._entries[: self.count * ENTRY_SIZE]):
                # The cache may have a block as it was, where a read past it gave it as it was to be.
                self._finish(0, OSError(errno.ESTALE, "perhaps overwritten"))
            else:
                call = cookie.read_blocks(self.first, self._entries, IovIter.ubuf(Direction.DEST, view), self._cached)
                self._call = call if self._lease is not None else None
            return
        request = Read(sealed.handle, self.first * sealed.file.block_size, len(view))
        call = sealed.transport.submit(request, self._received, dest=IovIter.ubuf(Direction.DEST, view))
        if self.probe.sink is not None:
            trace_call(self._subreq, "READ", call)
        if self._lease is not None:
            self._call = call

    def _cached(self, count: int, error: Exception | None) -> None:
        """Take blocks from the local cache; whatever is wrong with them, the server has them too."""
        blocks = count // self._sealed.file.block_size
        try:
            if blocks and not self._abandoned:
                self._open(blocks)
        except IntegrityError as bad:
            blocks, error = 0, bad
        self._finish(0 if self._abandoned else blocks, error)

    def _from_head(self, head: bytes) -> None:
        """Read the first block of a small file, which is not in the data stream."""
        size = self._sealed.file.block_size
        dest = self._subreq.iter.copy()
        dest.truncate(size)
        self.probe.copied(copy_to_iter(head, dest))
        zero_iter(size - len(head), dest)
        self._finish(1)

    def _received(self, outcome: Outcome) -> None:
        body = body_of(outcome, ReadReply)
        if isinstance(body, Exception):
            self._finish(0, body)
            return
        assert isinstance(outcome, Reply)
        file = self._sealed.file
        blocks = outcome.received // file.block_size
        try:
            if blocks:
                self._open(blocks)
            if blocks < self.count and (body.eof or not blocks):
                raise IntegrityError("the server's file is cut off", file_id=file.record.file_id, block_no=self.first + blocks)
        except IntegrityError as error:
            self._bad(error)
            return
        cookie = self._cookie()
        if cookie is not None and blocks:
            self._keep(cookie, self._entries, blocks)
        self._finish(blocks)

    def _open(self, blocks: int) -> None:
        lease, file = self._lease, self._sealed.file
        assert lease is not None
        dest = self._subreq.iter.copy()
        dest.truncate(blocks * file.block_size)
        if self.probe.sink is not None:
            self._tell("crypto_open", blocks)
        staged = self._open_as_named(lease.view_with_tail(TAG_SIZE), blocks, dest)
        self.probe.transformed_bytes += blocks * file.block_size
        if staged:
            self.probe.copied(staged)

    def _open_as_named(self, area: memoryview, blocks: int, dest: IovIter) -> int:
        """Decrypt; a block that does not fit may be one whose write has begun, under an entry that an intent names."""
        sealed = self._sealed
        tried: dict[int, int] = {}
        while True:
            try:
                return sealed.file.cipher.open(area, self._entries, self.first, blocks, dest.copy())
            except IntegrityError as error:
                if sealed.file.fetches(error.block_no, 1):
                    raise  # a newer record was taken meanwhile: this read begins again
                at = error.block_no - self.first
                part = slice(at * ENTRY_SIZE, (at + 1) * ENTRY_SIZE)
                others = sealed.other_entries(error.block_no, sealed.file.entries(error.block_no, 1))
                others += sealed.lost_entries(error.block_no)
                turn = tried.get(at, 0)
                if turn >= len(others) or at < 0:
                    raise
                tried[at] = turn + 1
                self._entries[part] = others[turn]

    def _bad(self, error: IntegrityError) -> None:
        """Decide whether what does not fit is our own doing, another client's, or the server's."""
        sealed = self._sealed
        if sealed.is_written(self.first, self.first + self.count) or self._outdated():
            self._give_back()
            self.start()
        elif self._unmoved > 1 or self._again == READS_AGAIN:
            self._give_up(error)
        else:
            self._again += 1
            self._give_back()
            sealed.refresh(self._refreshed)

    def _give_up(self, error: IntegrityError) -> None:
        """Fail, unless the server may have lost what was written here: that is told by fsync."""
        sealed, blocks = self._sealed, max(0, error.block_no - self.first)
        self._give_back()
        if sealed.rebooted or not sealed.verifier or len(sealed.file.possible_entries(error.block_no)) < 2:
            self._finish(blocks, error)
        else:
            sealed.ask_boot(lambda rebooted: self.start() if rebooted else self._finish(blocks, error))

    def _refreshed(self, failed: Exception | None) -> None:
        """Read again. Where neither record nor intents have moved around a read, what it found was not another client's doing."""
        self._unmoved = self._unmoved + 1 if self._told == self._sealed.told else 0
        if failed:
            self._finish(0, failed)
        else:
            self.start()

    def _outdated(self) -> bool:
        """Say whether the entries this read began with are no longer those of its blocks."""
        file = self._sealed.file
        if file.changes == self._changes:
            return False
        return (
            bool(file.fetches(self.first, self.count))
            or file.entries(self.first, self.count) != self._entries[: self.count * ENTRY_SIZE]
        )


class SealedWrite(SealedCall):
    """Encrypt and write the blocks of one subrequest."""

    __slots__ = ("_entries", "_intent", "_moves")

    def __init__(self, sealed: SealedFile, subreq: IoSubrequest, probe: Probe) -> None:
        super().__init__(sealed, subreq, probe)
        self._intent = 0
        self._moves = 0

    def start(self) -> None:
        """Begin, when no other write of these blocks is on its way."""
        sealed = self._sealed
        end = self.first + self.count
        if self._abandoned:
            self._finish(0, OSError(errno.ECANCELED, "abandoned"))
            return
        if sealed.is_written(self.first, end):
            sealed.block(self.start)
            return
        file = sealed.file
        if file.block_size <= HEAD_MAX and file.takes_head(self.first, self.count):
            if sealed.writing:
                sealed.block(self.start)  # the file may be larger then
            else:
                sealed.with_tags(0, 1, self._into_head)
            return
        self._send()

    def _send(self) -> None:
        """Write the blocks, encrypted ahead or now."""
        sealed = self._sealed
        if not sealed.has_claim(self.first, self.first + self.count):
            # Begun for a file of one block, or the server was started again: what is around may have been changed.
            self._finish(0, FileChanged())
            return
        sealed.writing.append((self.first, self.first + self.count))
        if self._lease is None:
            try:
                self.seal()
            except OSError as error:  # no nonces
                self._end(0, error)
                return
        sealed.with_tags(self.first, self.count, self._tell_of)

    def _tell_of(self, error: Exception | None) -> None:
        """Put an intent for the blocks that hold data, before they are overwritten in place."""
        sealed, file = self._sealed, self._sealed.file
        if error is not None:
            self._end(0, error)
            return
        rows: list[tuple[int, bytes, bytes]] = []
        for at in range(self.count):
            block, part = self.first + at, slice(at * ENTRY_SIZE, (at + 1) * ENTRY_SIZE)
            to_be = bytes(self._entries[part])
            # Written before and not committed, or being committed: any of these can be what the record says when this is read.
            rows += [(block, entry, to_be) for entry in file.possible_entries(block) if any(entry)]
        if not rows:
            self._write()
            return
        intent = Intent(file.record.generation, tuple(rows))
        try:
            nonce = sealed.env.nonces(XAES_NONCE_SIZE)
        except OSError as failed:
            self._end(0, failed)
            return
        record = seal_intent(sealed.key, file.record.file_id, intent, nonce)
        pos, length = self.first * file.block_size, self.count * file.block_size
        step = Step(StepKind.INTENT_PUT, sealed.handle, pos, length, record)

        def told(outcome: Outcome) -> None:
            body = body_of(outcome, TransactReply)
            sealed.put_ends(body if isinstance(body, Exception) else None)
            if isinstance(body, BlockingIOError) and self._moves < RECORD_MOVES:
                # The record has moved, by a commit from here or of other blocks; or the server was started again.
                self._moves += 1
                sealed.refresh(again)
            elif isinstance(body, Exception):
                self._end(0, body)
            else:
                (self._intent,) = body.intents
                sealed.intents[self._intent] = False
                self._write()

        def again(error: Exception | None) -> None:
            if error is None and not sealed.has_claim(self.first, self.first + self.count):
                error = FileChanged()
            if error is not None:
                self._end(0, error)
            else:
                sealed.with_tags(self.first, self.count, self._tell_of)

        sealed.put_begins()
        sealed.transport.submit(Transact([(sealed.handle, sealed.generation)], 0, [step]), told)

    def _write(self) -> None:
        sealed, file = self._sealed, self._sealed.file
        if self._abandoned:
            self._end(0, OSError(errno.ECANCELED, "abandoned"))
            return
        # What is sent, or sent again, when the server knows of the claim no longer would undo another client's.
        key = self._intent or sealed.key_of_claim(self.first)
        if not key:
            self._end(0, FileChanged())
            return
        assert self._lease is not None
        view = self._lease.view
        request = Write(sealed.handle, self.first * file.block_size, intent=key)
        call = sealed.transport.submit(request, self._sent, source=IovIter.ubuf(Direction.SOURCE, view))
        if self.probe.sink is not None:
            trace_call(self._subreq, "WRITE", call)
        if self._lease is not None:
            self._call = call

    def seal(self) -> None:
        """Encrypt the blocks into a landing area; `start` does it, unless it was done while there was time."""
        file = self._sealed.file
        view = self._area()
        assert self._lease is not None
        self._entries = bytearray(self.count * ENTRY_SIZE)
        if self.probe.sink is not None:
            self._tell("crypto_seal", self.count)
        staged = file.cipher.seal(
            self._subreq.iter.copy(),
            self._lease.view_with_tail(TAG_SIZE),
            self.first,
            self.count,
            self._sealed.env.nonces(self.count * NONCE_SIZE),
            self._entries,
            file.use_key(self.count),
        )
        self.probe.transformed_bytes += len(view)
        if staged:
            self.probe.copied(staged)

    def forgo(self) -> None:
        """Give back what was sealed and will not be written."""
        self._give_back()

    def _into_head(self, error: Exception | None) -> None:
        """Keep the only block of a small file for the commit, unless it is in the data stream already."""
        file = self._sealed.file
        request = self._subreq.request
        if error is None and partial_blocks(request, file.block_size) and request.basis < self._sealed.others:
            error = FileChanged()
        if error is not None:
            self._finish(0, error)
        elif file.head is None and not first_of_other_kind(file.entries(0, 1))[0]:
            self._send()
        else:
            self._give_back()
            block = bytearray(file.block_size)
            self.probe.copied(copy_from_iter(block, self._subreq.iter.copy()))
            self._note_end()
            parts = [(start, min(end, len(block))) for start, end in request.changed or [(0, len(block))] if start < len(block)]
            file.wrote_head(bytes(block).rstrip(b"\0"), parts)  # header: what fits into a small file's only block
            self._finish(1)

    def _sent(self, outcome: Outcome) -> None:
        body = body_of(outcome, WriteReply)
        sealed = self._sealed
        if isinstance(body, Exception):
            if isinstance(outcome, Reply) and outcome.status:
                self._refused()
            if isinstance(body, BlockingIOError):
                sealed.lost_claim(self.first, self.first + self.count, self._intent)
                body = FileChanged()
            self._end(0, body)
            return
        blocks = min(self.count, body.count // sealed.file.block_size)
        if blocks < self.count:
            self._refused()
        if sealed.verifier and body.verifier != sealed.verifier:
            sealed.lost_claims()
            sealed.rebooted = sealed.rebooted or sealed.file.is_uncommitted
        self._subreq.verifier = sealed.verifier = body.verifier
        cookie = self._cookie()
        if cookie is None:
            self._give_back()

        def tagged(error: Exception | None) -> None:
            if error is not None:
                self._end(0, error)
                return
            sealed.file.wrote(self.first, self._entries[: blocks * ENTRY_SIZE])
            self._note_end()
            for intents in (sealed.intents, sealed.doubtful):
                if blocks == self.count and self._intent in intents:
                    intents[self._intent] = True
            if cookie is not None:
                self._keep(cookie, self._entries, blocks)
            self._end(blocks)

        if blocks:
            sealed.with_tags(self.first, blocks, tagged)
        else:
            self._end(0, OSError(errno.EIO, "the server wrote less than a block"))

    def _refused(self) -> None:
        """Have it found out later what the blocks are; where no answer came the write may still happen."""
        if self._intent:
            self._sealed.unsettled.append(self._intent)

    def _note_end(self) -> None:
        """Note how far what was written here goes, as a newer record of another client may end before."""
        changed = self._subreq.request.changed
        end = min((self.first + self.count) * self._sealed.file.block_size, changed[-1][1] if changed else 1 << 62)
        self._sealed.own_end = max(self._sealed.own_end, end)

    def _end(self, blocks: int, error: Exception | None = None) -> None:
        # Told first: what is blocked may be started by it, and must find the request's memory given back.
        self._finish(blocks, error)
        self._sealed.written(self.first, self.first + self.count)
