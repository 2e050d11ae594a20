"""Trio shell. The write-ahead journal of a real folder: what a transaction is going to do, durable before it does it.

One file, written in place and valid or not as a whole:

    header  magic, length of the body, CRC-32 of the body, number of entries
    body    entries: kind, sizes, position, length, generation; handle, path, record ...  then the payload of all of them

A record that is torn by a crash has a wrong CRC and says that nothing had begun. A valid one is applied again at the next
start; an entry says what is to be there, not what is to change, so that applying it twice is applying it once.
Payload is written from the memory it landed in. Owns no memory.
"""

import errno
import os
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from servers.stores.base import fail
from transport.messages import Handle, StepKind

__all__ = ["Entry", "Journal", "write_all"]

MAGIC: Final = b"NETFSJ01"
_HEADER: Final = struct.Struct("<8sQII")
_ENTRY: Final = struct.Struct("<BBHIQQQ")
_IOV_MAX: Final = 1024
_CLEAR: Final = bytes(_HEADER.size)


@dataclass(frozen=True, slots=True)
class Entry:
    """One step, made absolute. generation: the one a record gets; path: where the file of a cut was, from the root."""

    kind: StepKind
    handle: Handle
    pos: int
    payload: Sequence[memoryview]
    record: bytes = b""
    generation: int = 0
    path: bytes = b""


def write_all(fd: int, views: Sequence[memoryview], pos: int) -> int:
    """Write all bytes of some memory at a position. Returns: bytes written, short only when the device gave out after some."""
    written, left = 0, [view for view in views if len(view)]
    while left:
        try:
            count = os.pwritev(fd, left[:_IOV_MAX], pos + written)
        except OSError:
            if written:
                return written
            raise
        written += count
        while left and count >= len(left[0]):
            count -= len(left.pop(0))
        if left and count:
            left[0] = left[0][count:]
    return written


class Journal:
    """The journal in an open file. durable: wait for the disk."""

    def __init__(self, fd: int, *, durable: bool) -> None:
        self._fd = fd
        self._durable = durable

    def write(self, entries: Sequence[Entry]) -> None:
        """Make the intent durable. Raises: ENOSPC and its like, after which nothing has begun."""
        meta = bytearray()
        payload: list[memoryview] = []
        for entry in entries:
            length = sum(len(view) for view in entry.payload)
            meta += _ENTRY.pack(
                entry.kind, len(entry.handle), len(entry.path), len(entry.record), entry.pos, length, entry.generation
            )
            meta += entry.handle + entry.path + entry.record
            payload += entry.payload
        body = [memoryview(meta), *payload]
        crc = 0
        for view in body:
            crc = zlib.crc32(view, crc)
        header = _HEADER.pack(MAGIC, sum(len(view) for view in body), crc, len(entries))
        views = [memoryview(header), *body]
        if write_all(self._fd, views, 0) != sum(len(view) for view in views):
            raise fail(errno.ENOSPC)
        self._sync()

    def clear(self) -> None:
        """Say that what was written has been done."""
        os.pwrite(self._fd, _CLEAR, 0)
        self._sync()

    def read(self) -> list[Entry]:
        """Return what was begun and perhaps not finished."""
        head = os.pread(self._fd, _HEADER.size, 0)
        if len(head) < _HEADER.size:
            return []
        magic, length, crc, count = _HEADER.unpack(head)
        if magic != MAGIC or length > os.fstat(self._fd).st_size:
            return []
        body = memoryview(os.pread(self._fd, length, _HEADER.size))
        if len(body) != length or zlib.crc32(body) != crc:
            return []
        return _parse(body, count)

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)

    def _sync(self) -> None:
        if self._durable:
            os.fdatasync(self._fd)


def _parse(body: memoryview, count: int) -> list[Entry]:
    rows = []
    off = 0
    for _ in range(count):
        kind, nr_handle, nr_path, nr_record, pos, length, generation = _ENTRY.unpack_from(body, off)
        off += _ENTRY.size
        handle, path, record = (bytes(body[start:end]) for start, end in (
            (off, off + nr_handle),
            (off + nr_handle, off + nr_handle + nr_path),
            (off + nr_handle + nr_path, off + nr_handle + nr_path + nr_record),
        ))  # fmt: skip
        off += nr_handle + nr_path + nr_record
        rows.append((StepKind(kind), Handle(handle), pos, length, record, generation, path))
    entries = []
    for kind, handle, pos, length, record, generation, path in rows:
        entries.append(Entry(kind, handle, pos, [body[off : off + length]], record, generation, path))
        off += length
    return entries
