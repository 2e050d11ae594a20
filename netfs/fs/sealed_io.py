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

from crypto.aead import NONCE_SIZE, TAG_SIZE
from crypto.errors import IntegrityError
from crypto.file import first_of_other_kind
from crypto.layout import ENTRY_SIZE
from iov.copy_iter import copy_from_iter, copy_to_iter, zero_iter
from iov.iov_iter import Direction, IovIter
from iov.pool import Lease
from iov.probe import Probe
from netfs.cache.base import BlockCookie
from netfs.engine.events import trace_call
from netfs.engine.request import IoSubrequest, Origin, Source
from netfs.fs.calls import body_of
from netfs.fs.sealed_file import SealedFile
from transport.base import Abandonable, Outcome, Reply
from transport.messages import Read, ReadReply, Write, WriteReply

__all__ = ["SealedRead", "SealedWrite"]

PAST_CACHES = frozenset({Origin.DIO_READ, Origin.UNBUFFERED_READ, Origin.DIO_WRITE, Origin.UNBUFFERED_WRITE})
HEAD_MAX = 1 << 16
"""Blocks of so many bytes at most are kept for the commit of a file that has only one."""


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
        self._subreq.terminated(blocks * self._sealed.file.block_size, error)


class SealedRead(SealedCall):
    """Read, verify and decrypt the blocks of one subrequest."""

    __slots__ = ("_changes", "_entries", "_refreshed")

    def __init__(self, sealed: SealedFile, subreq: IoSubrequest, probe: Probe) -> None:
        super().__init__(sealed, subreq, probe)
        self._changes = 0
        self._entries = bytearray()
        self._refreshed = False

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
        self._changes = sealed.file.changes
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
        staged = file.cipher.open(lease.view_with_tail(TAG_SIZE), self._entries, self.first, blocks, dest)
        self.probe.transformed_bytes += blocks * file.block_size
        if staged:
            self.probe.copied(staged)

    def _bad(self, error: IntegrityError) -> None:
        """Decide whether what does not fit is our own doing, another client's, or the server's."""
        sealed = self._sealed
        if sealed.is_written(self.first, self.first + self.count) or self._outdated():
            self._give_back()
            self.start()
        elif self._refreshed:
            self._finish(max(0, error.block_no - self.first), error)
        else:
            self._refreshed = True
            self._give_back()
            sealed.refresh(lambda failed: self._finish(0, failed) if failed else self.start())

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

    __slots__ = ("_entries",)

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
        if file.block_size <= HEAD_MAX and file.takes_head(self.first, self.count) and not sealed.writing:
            sealed.with_tags(0, 1, self._into_head)
            return
        self._send()

    def _send(self) -> None:
        """Write the blocks, encrypted ahead or now."""
        sealed, file = self._sealed, self._sealed.file
        sealed.writing.append((self.first, self.first + self.count))
        if self._lease is None:
            self.seal()
        assert self._lease is not None
        view = self._lease.view
        request = Write(sealed.handle, self.first * file.block_size)
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
        if error is not None:
            self._finish(0, error)
        elif file.head is None and not first_of_other_kind(file.entries(0, 1))[0]:
            self._send()
        else:
            self._give_back()
            block = bytearray(file.block_size)
            self.probe.copied(copy_from_iter(block, self._subreq.iter.copy()))
            file.wrote_head(bytes(block).rstrip(b"\0"))  # header: what fits into a small file's only block
            self._finish(1)

    def _sent(self, outcome: Outcome) -> None:
        body = body_of(outcome, WriteReply)
        if isinstance(body, Exception):
            self._end(0, body)
            return
        sealed = self._sealed
        blocks = min(self.count, body.count // sealed.file.block_size)
        self._subreq.verifier = sealed.verifier = body.verifier
        cookie = self._cookie()
        if cookie is None:
            self._give_back()

        def tagged(error: Exception | None) -> None:
            if error is not None:
                self._end(0, error)
                return
            sealed.file.wrote(self.first, self._entries[: blocks * ENTRY_SIZE])
            if cookie is not None:
                self._keep(cookie, self._entries, blocks)
            self._end(blocks)

        if blocks:
            sealed.with_tags(self.first, blocks, tagged)
        else:
            self._end(0, OSError(errno.EIO, "the server wrote less than a block"))

    def _end(self, blocks: int, error: Exception | None = None) -> None:
        # Told first: what is blocked may be started by it, and must find the request's memory given back.
        self._finish(blocks, error)
        self._sealed.written(self.first, self.first + self.count)
