"""Trio shell. Small files as a whole: read or written in one round trip, a compound of all the steps there are.

Only what is small and plain goes so; the rest opens the file. Memory: the caller's data is lent for the call; what is read lands
in a buffer of its own and is copied out once, as `read` does it.
"""

import errno
from abc import abstractmethod
from collections.abc import Mapping
from typing import Final

from iov.bvec import Buffer, byte_view
from iov.iov_iter import Direction, IovIter
from netfs.cache.pagecache import PageCache
from netfs.engine.events import errno_of, trace_caller
from netfs.engine.request import Origin
from netfs.errors import translate
from netfs.fs.calls import body_of, result_of
from netfs.fs.file import File
from netfs.fs.posix import PosixCalls
from netfs.fs.told import told
from netfs.fs.walk import Walk
from transport.messages import (
    Commit,
    Compound,
    CompoundReply,
    CompoundStep,
    Create,
    EntryReply,
    FileType,
    Handle,
    Lookup,
    Open,
    Read,
    ReadReply,
    Truncate,
    Write,
    WriteReply,
)

__all__ = ["WholeFiles"]

WHOLE_MAX: Final = 64 << 10
"""Bytes read at once before it is known how many there are, and most that are written so."""
_FIRST, _SECOND = Handle(b"\0"), Handle(b"\1")


class WholeFiles(PosixCalls):
    """The part of a client that reads and writes whole files.

    _singles: number and length of the reads under way. _settling: files with attributes that are held back.
    """

    page_cache: PageCache
    _singles: dict[int, int]
    _settling: Mapping[Handle, object]

    @abstractmethod
    async def open(self, path: str, mode: str = "r", *, direct: bool = False, create_mode: int = 0o644) -> File:
        """See `Client`."""

    @abstractmethod
    def _known(self, handle: Handle) -> bool: ...

    @abstractmethod
    async def _forget(self, handle: Handle, wait: bool = True) -> None: ...

    @told
    async def write_bytes(self, path: str, data: Buffer, *, mode: int = 0o644, exclusive: bool = False) -> int:
        """Make a file of these bytes, durable when this returns. exclusive: it must not be there yet.

        Returns: the bytes written. Raises: OSError. Cancellation: the file may have been created, and some of it written.
        """
        view = byte_view(data)
        if len(view) <= WHOLE_MAX and self._volume.compounds:
            done = await self._write_whole(path, view, mode, exclusive)
            if done:
                return len(view)
        async with await self.open(path, "x" if exclusive else "w", create_mode=mode) as file:
            return await file.write(view)

    async def _write_whole(self, path: str, view: memoryview, mode: int, exclusive: bool) -> bool:
        """Write a file in one round trip. Returns: false when another client's lease was in the way, or what is only here."""
        length = len(view)

        async def written(walk: Walk) -> CompoundReply | None:
            names, name = self._split_file(path)
            parent = await walk.directory(names)
            if not exclusive and await self._is_kept(parent, name):
                return None
            steps = [CompoundStep(Create(parent, name, mode, exclusive))]
            if not exclusive:
                steps.append(CompoundStep(Truncate(_FIRST, 0)))
            if length:
                steps.append(CompoundStep(Write(_FIRST, 0), length))
            steps.append(CompoundStep(Commit(_FIRST)))
            source = IovIter.ubuf(Direction.SOURCE, view) if length else None
            with self.known.changing(names=((parent, name),)):
                body = body_of(await self.transport.call(Compound(steps), source=source), CompoundReply)
            if isinstance(body, Exception):
                raise body
            if body.results and body.results[0].status != errno.EAGAIN:
                result_of(body.results, 0, EntryReply)  # a name that is not there may have been one wrongly remembered
            return body

        reply = await self._translated(written, path)
        if reply is None or (reply.results and reply.results[-1].status == errno.EAGAIN):
            return False
        results = reply.results
        handle = result_of(results, 0, EntryReply).handle
        self.known.forget(handle)
        try:
            result_of(results, 2 + bool(length) - exclusive, WriteReply)
            if length and result_of(results, 2 - exclusive, WriteReply).count < length:
                raise OSError(errno.EIO, "the server wrote less than it was given")
        except Exception as error:
            raise translate(error, path) from error
        if self._known(handle):
            await self._forget(handle)
        return True

    async def _is_kept(self, parent: Handle, name: str) -> bool:
        """Say whether a file may have something here that was written or changed, and not sent: that comes before the rest."""
        if not (self.page_cache.holders or self._settling):
            return False
        try:
            return self._known((await self._volume.lookup(parent, name)).handle)
        except FileNotFoundError:
            return False

    @told
    async def read_bytes(self, path: str) -> bytes:
        """Return all bytes of a file. Raises: OSError. Cancellation: no effect."""
        if self._volume.compounds:
            data = await self._read_whole(path)
            if data is not None:
                return data
        async with await self.open(path) as file:
            return await file.read()

    async def _read_whole(self, path: str) -> bytes | None:
        """Read a file in one round trip, as a request of a single part; None as `_read_at_once`."""
        probe = self.probe
        number = probe.request_ids = probe.request_ids + 1
        self._singles[number] = WHOLE_MAX
        probe.emit("netfs_read", number, "READ-SINGLE", 0, 0, WHOLE_MAX, 0)
        trace_caller(probe, number)
        data, code = None, 0
        try:
            data = await self._read_at_once(path)
        except Exception as error:
            code = errno_of(error)
            raise
        finally:
            del self._singles[number]
            count = 0 if data is None else len(data)
            probe.emit("netfs_rreq", number, Origin.READ_SINGLE.value, "COMPLET", 0, count, WHOLE_MAX, code)
        return data

    async def _read_at_once(self, path: str) -> bytes | None:
        """Send LOOKUP, OPEN and READ as one. Returns: None where it is larger, or here already, or somebody's secret."""
        buffer = memoryview(bytearray(WHOLE_MAX))

        async def read(walk: Walk) -> CompoundReply:
            names, name = self._split_file(path)
            parent = await walk.directory(names)
            steps = [CompoundStep(Lookup(parent, name)), CompoundStep(Open(_FIRST)), CompoundStep(Read(_SECOND, 0, WHOLE_MAX))]
            reply = await self.transport.call(Compound(steps), dest=IovIter.ubuf(Direction.DEST, buffer))
            body = body_of(reply, CompoundReply)
            if isinstance(body, Exception):
                raise body
            result_of(body.results, 0, EntryReply)
            return body

        results = (await self._translated(read, path)).results
        entry = result_of(results, 0, EntryReply)
        if entry.attr.type is not FileType.FILE or entry.attr.sealed or self._known(entry.handle):
            return None
        try:
            ended = result_of(results, 2, ReadReply).eof
        except Exception as error:
            raise translate(error, path) from error
        count = results[2].payload_length
        if not ended or count > WHOLE_MAX:
            return None
        return bytes(buffer[:count])  # door: as File.read
