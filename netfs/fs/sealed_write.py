"""Sans-IO. One write subrequest of an encrypted file: blocks from the iterator into a landing area, ciphertext to the server.

    seal into the area ─▶ tags there? ─▶ WRITE, with an intent where blocks hold data ─▶ note the tags ─▶ done

Whoever merged what was read around the caller's bytes writes only while that is still what the file has: else the request is made
anew. Memory: the area is a lease of the volume's pool, lent to the transport from issue to reply; the iterator is the request's.
"""

import errno

from crypto.aead import NONCE_SIZE, TAG_SIZE, XAES_NONCE_SIZE
from crypto.file import first_of_other_kind
from crypto.intent import Intent, seal_intent
from crypto.layout import ENTRY_SIZE
from iov.copy_iter import copy_from_iter
from iov.iov_iter import Direction, IovIter
from iov.probe import Probe
from netfs.engine.events import trace_call
from netfs.engine.request import FileChanged, IoRequest, IoSubrequest
from netfs.fs.calls import body_of
from netfs.fs.sealed_file import SealedFile
from netfs.fs.sealed_io import SealedCall
from transport.base import Outcome, Reply
from transport.messages import Write, WriteReply

__all__ = ["HEAD_MAX", "SealedWrite", "partial_blocks"]

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


class SealedWrite(SealedCall):
    """Encrypt and write the blocks of one subrequest."""

    __slots__ = ("_entries", "_intent")

    def __init__(self, sealed: SealedFile, subreq: IoSubrequest, probe: Probe) -> None:
        super().__init__(sealed, subreq, probe)
        self._intent = b""

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
        sealed.with_tags(self.first, self.count, self._tagged)

    def _tagged(self, error: Exception | None) -> None:
        if error is not None:
            self._end(0, error)
            return
        try:
            self._intent = self._seal_intent()
        except OSError as failed:  # no nonces
            self._end(0, failed)
            return
        self._write()

    def _seal_intent(self) -> bytes:
        """Return the intent for those blocks that hold data and are overwritten in place; empty where none does."""
        sealed, file = self._sealed, self._sealed.file
        rows: list[tuple[int, bytes, bytes]] = []
        for at in range(self.count):
            block, part = self.first + at, slice(at * ENTRY_SIZE, (at + 1) * ENTRY_SIZE)
            to_be = bytes(self._entries[part])
            # Written before and not committed, or being committed: any of these can be what the record says when this is read.
            rows += [(block, entry, to_be) for entry in file.possible_entries(block) if any(entry)]
        if not rows:
            return b""
        intent = Intent(file.record.generation, tuple(rows))
        return seal_intent(sealed.key, file.record.file_id, intent, sealed.env.nonces(XAES_NONCE_SIZE))

    def _write(self) -> None:
        """Send the blocks, and with them the intent, which the server puts first."""
        sealed, file = self._sealed, self._sealed.file
        # What is sent, or sent again, when the server knows of the claim no longer would undo another client's.
        key = sealed.key_of_claim(self.first)
        if self._abandoned or not key or self._is_outdated():
            self._end(0, OSError(errno.ECANCELED, "abandoned") if self._abandoned else FileChanged())
            return
        assert self._lease is not None
        view = self._lease.view
        if self._intent:
            sealed.telling[self._intent] = False
        request = Write(sealed.handle, self.first * file.block_size, intent=key, record=self._intent)
        call = sealed.transport.submit(request, self._sent, source=IovIter.ubuf(Direction.SOURCE, view))
        if self.probe.sink is not None:
            trace_call(self._subreq, "WRITE", call)
        if self._lease is not None:
            self._call = call

    def _is_outdated(self) -> bool:
        """Say whether what was read around the caller's bytes may have been changed by another client since.

        As when the claim under which it was read is gone with a start of the server, and another one was taken.
        """
        sealed, request = self._sealed, self._subreq.request
        if request.basis >= sealed.others:
            return False
        blocks = [block - self.first for block in partial_blocks(request, sealed.file.block_size)]
        return any(
            sealed.is_outdated(self.first + at, self.first + at + 1, request.basis) for at in blocks if 0 <= at < self.count
        )

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
        if isinstance(body, BlockingIOError):
            sealed.telling.pop(self._intent, None)  # nothing was put
            sealed.lost_claim(self.first, self.first + self.count)
            self._end(0, FileChanged())
            return
        if isinstance(body, Exception):
            # Where no answer came the write may still happen; where it was refused it is found out later what the blocks are.
            if self._intent and isinstance(outcome, Reply) and outcome.status:
                sealed.telling[self._intent] = True
            self._end(0, body)
            return
        blocks = min(self.count, body.count // sealed.file.block_size)
        if sealed.verifier and body.verifier != sealed.verifier:
            sealed.lost_claims()
            sealed.started_again(body.verifier)
        if sealed.telling.pop(self._intent, None) is not None:
            sealed.intents[body.intent] = False
            if blocks < self.count:
                sealed.unsettled.append(body.intent)
        self._subreq.verifier = sealed.verifier = body.verifier
        cookie = self._cookie()
        if cookie is None:
            self._give_back()

        def tagged(error: Exception | None) -> None:
            if error is not None:
                self._end(0, error)
                return
            sealed.file.wrote(self.first, self._entries[: blocks * ENTRY_SIZE])
            sealed.risk.written(self.first, blocks, is_over=body.verifier != sealed.verifier)
            self._note_end()
            for intents in (sealed.intents, sealed.doubtful):
                if blocks == self.count and body.intent in intents:
                    intents[body.intent] = True  # it ends with the next commit: what its blocks are is known
            if cookie is not None:
                self._keep(cookie, self._entries, blocks)
            self._end(blocks)

        if blocks:
            sealed.with_tags(self.first, blocks, tagged)
        else:
            self._end(0, OSError(errno.EIO, "the server wrote less than a block"))

    def _note_end(self) -> None:
        """Note how far what was written here goes, as a newer record of another client may end before."""
        changed = self._subreq.request.changed
        end = min((self.first + self.count) * self._sealed.file.block_size, changed[-1][1] if changed else 1 << 62)
        self._sealed.own_end = max(self._sealed.own_end, end)

    def _end(self, blocks: int, error: Exception | None = None) -> None:
        # Told first: what is blocked may be started by it, and must find the request's memory given back.
        self._finish(blocks, error)
        self._sealed.written(self.first, self.first + self.count)
