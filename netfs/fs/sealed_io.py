"""Sans-IO. One read subrequest of an encrypted file: ciphertext into a landing area, blocks from there to the iterator.

    read     tags there? ─▶ READ into the area ─▶ open ─▶ done          bad tag: read again if a block was written here meanwhile,
                ▲                                  │                   else read the record again, once, and then again
                └──────────────────────────────────┘

What it has in common with its twin for writing, sealed_write.py, is here too. With a local cache a read may take the ciphertext
from there, block by block as its tags say; what does not fit is downloaded. What came from the server, or went to it, is kept
there on the way out, and the area as long. A block is decrypted only after the transport has given the area back, when no peer
can write it any more. Memory: the area is a lease of the volume's pool, lent to the transport from issue to reply; the iterator
is the request's.
"""

import errno

from crypto.aead import TAG_SIZE
from crypto.errors import IntegrityError
from crypto.file import first_of_other_kind
from crypto.layout import ENTRY_SIZE
from iov.copy_iter import copy_to_iter, zero_iter
from iov.iov_iter import Direction, IovIter
from iov.pool import Lease
from iov.probe import Probe
from netfs.cache.base import BlockCookie
from netfs.engine.events import trace_call
from netfs.engine.request import IoSubrequest, Origin, Source
from netfs.fs.calls import body_of
from netfs.fs.sealed_file import SealedFile
from transport.base import Abandonable, Outcome, Reply
from transport.errors import SmallerLimits
from transport.messages import Read, ReadReply

__all__ = ["SealedCall", "SealedRead"]

PAST_CACHES = frozenset({Origin.DIO_READ, Origin.UNBUFFERED_READ, Origin.DIO_WRITE, Origin.UNBUFFERED_WRITE})
READS_AGAIN = 64
"""How often a block is read again because others went on writing to the file meanwhile."""


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
        sealed, block = self._sealed, error.block_no
        blocks = max(0, block - self.first)
        self._give_back()
        if sealed.risk.covers(block, sealed.others) or not sealed.verifier or len(sealed.file.possible_entries(block)) < 2:
            self._finish(blocks, error)
        else:
            sealed.ask_boot(block, lambda lost: self.start() if lost else self._finish(blocks, error))

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
