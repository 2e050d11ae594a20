"""Trio shell. Blocks of an encrypted file by themselves, where a commit or a cut needs them: read and opened, or sealed anew.

The landing areas are leases of the volume's pool; what held plaintext is wiped before it goes back.
"""

from collections.abc import Sequence

from crypto.aead import NONCE_SIZE, TAG_SIZE, wipe
from crypto.errors import IntegrityError
from crypto.file import first_of_other_kind
from crypto.layout import ENTRY_SIZE
from iov.iov_iter import Direction, IovIter
from iov.pool import Lease
from iov.probe import Probe
from netfs.fs.calls import body_of
from netfs.fs.sealed_file import SealedFile
from transport.messages import Read, ReadReply

__all__ = ["entries_that_fit", "open_block", "seal_block"]


async def open_block(sealed: SealedFile, probe: Probe, block: int, out: memoryview) -> None:
    """Read and decrypt one block whose tag is there. Raises: IntegrityError."""
    file = sealed.file
    size = file.block_size
    lease = sealed.pool.get(size)
    try:
        dest = IovIter.ubuf(Direction.DEST, out)
        if first_of_other_kind(file.entries(block, 1))[0]:
            wipe(out)
            return
        got = 0
        while got < size:  # a short read is lawful, and no end
            request = Read(sealed.handle, block * size + got, size - got)
            reply = await sealed.transport.call(request, dest=IovIter.ubuf(Direction.DEST, lease.view[got:size]))
            body = body_of(reply, ReadReply)
            if isinstance(body, Exception):
                raise body
            if not reply.received:
                raise IntegrityError("the server's file is cut off", file_id=file.record.file_id, block_no=block)
            got += reply.received
        file.cipher.open(lease.view_with_tail(TAG_SIZE), file.entries(block, 1), block, 1, dest)
        probe.transformed_bytes += size
    finally:
        lease.release()


async def entries_that_fit(
    sealed: SealedFile, probe: Probe, first: int, possible: Sequence[Sequence[bytes]]
) -> list[bytes | None]:  # fmt: skip
    """Read consecutive blocks in one go, and find out under which of its possible entries each of them is. None: none of them.

    A hole is under its entry whatever the server has there. They fit into one READ.
    """
    size = sealed.file.block_size
    length, got = len(possible) * size, 0
    lease, stage = sealed.pool.get(length), sealed.pool.get(size)
    try:
        area = lease.view_with_tail(TAG_SIZE)
        while got < length:  # a short read is lawful, and no end
            request = Read(sealed.handle, first * size + got, length - got)
            reply = await sealed.transport.call(request, dest=IovIter.ubuf(Direction.DEST, area[got:length]))
            body = body_of(reply, ReadReply)
            if isinstance(body, Exception):
                raise body
            if not reply.received:
                break
            got += reply.received

        def fits(block: int, entry: bytes) -> bool:
            if first_of_other_kind(entry)[0]:
                return True
            at, dest = (block - first) * size, IovIter.ubuf(Direction.DEST, stage.view)
            try:
                sealed.file.cipher.open(area[at : at + size + TAG_SIZE], entry, block, 1, dest)
            except IntegrityError:
                return False
            return at + size <= got

        blocks = enumerate(possible, first)
        return [next((entry for entry in entries if fits(block, entry)), None) for block, entries in blocks]
    finally:
        probe.transformed_bytes += got
        wipe(stage.view)
        stage.release()
        lease.release()


def seal_block(sealed: SealedFile, probe: Probe, block: int, plain: bytes | memoryview) -> Lease:
    """Seal a block for the next transaction, zeros behind `plain`, and stage its entry."""
    file = sealed.file
    size = file.block_size
    lease, stage = sealed.pool.get(size), sealed.pool.get(size)
    try:
        stage.view[: len(plain)] = plain
        wipe(stage.view[len(plain) :])
        entry = bytearray(ENTRY_SIZE)
        source = IovIter.ubuf(Direction.SOURCE, stage.view)
        nonce = sealed.env.nonces(NONCE_SIZE)
        file.cipher.seal(source, lease.view_with_tail(TAG_SIZE), block, 1, nonce, entry, file.use_key(1))
        probe.transformed_bytes += size
        probe.copied(len(plain))
        file.stage(block, entry)
    except BaseException:
        lease.release()
        raise
    finally:
        wipe(stage.view)
        stage.release()
    return lease
