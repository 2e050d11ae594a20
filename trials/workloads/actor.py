"""Trio shell. An actor: one client at work, every call of it noted in the history, every read into memory between red zones.

An OSError is an outcome like others: methods say whether the call succeeded and never raise one. "Not there" and "there
already" are answers, not errors. Reads are parsed into cells on the spot. Ownership: the memory of reads is the red zones' and
is lent to one call.
"""

import errno
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from itertools import pairwise

from netfs.fs.client import Client
from netfs.fs.file import File
from transport.base import Transport
from transport.reconnect import SessionTransport
from trials.cells import CELL, Run, content, parse
from trials.checkers.isolation import RedZones
from trials.checkers.namespace import ABSENT, EXISTS
from trials.history import Failure, History, Op

__all__ = ["Actor", "Fd"]


@dataclass
class Fd:
    """An open descriptor. number: in the history; sync: each write is durable when it returns."""

    actor: "Actor"
    file: File
    path: str
    number: int
    direct: bool
    sync: bool = False

    def _begin(self, kind: str, pos: int = 0, length: int = 0) -> Op:
        args = ("sync",) if self.sync and kind in {"write", "append"} else ()
        actor = self.actor
        return actor.history.begin(
            actor.name, kind, self.path, fd=self.number, pos=pos, length=length, direct=self.direct, args=args
        )

    async def write(self, pos: int, length: int, rng: random.Random) -> Op:
        """Write cells that name this write, in up to three segments."""
        op = self._begin("write", pos, length)
        data = content(op.id, pos, length)
        await self.actor.noted(op, lambda: self._put(op, data, pos, rng))
        return op

    async def append(self, length: int, rng: random.Random) -> Op:
        """Append a record of whole cells, numbered from 0."""
        op = self._begin("append", 0, length)
        data = content(op.id, 0, length)
        await self.actor.noted(op, lambda: self._put(op, data, 0, rng))
        return op

    async def _put(self, op: Op, data: memoryview, pos: int, rng: random.Random) -> None:
        done = 0
        while done < len(data):
            views = [data[start:end] for start, end in cut(done, len(data), rng)]
            count = await self.file.pwritev(views, pos + done)
            assert 0 < count <= len(data) - done, f"{op} says that it wrote {count} bytes of {len(data) - done}"
            done += count
        self.actor.history.end(op, done)

    async def read(self, pos: int, length: int, rng: random.Random, *, named: bool = True) -> tuple[Op, bytearray | None]:
        """Read into segments of drawn sizes between red zones. Returns: also a copy of what came, None for an error.

        named: the history notes whose cells they are, which takes a while; not needed where an oracle compares plain bytes.
        A short count is followed up: it is the end of the file, or there is an error behind it. Memory behind the count is as
        before, except that a direct read whose connection was lost has been asked twice: the first answer, which did not count,
        may have reached anywhere into the memory that was lent, and the second may be shorter.
        """
        op = self._begin("read", pos, length)
        lent = self.actor.zones.lend(f"read #{op.id} of {self.path}", [end - start for start, end in cut(0, length, rng)])
        got: list[bytearray] = []
        channels = self.actor.channels()

        async def call() -> None:
            count = done = await self.file.preadv(lent.views, pos)
            while done and count < length:
                # Where a part in the middle has failed, those behind it may have come all the same.
                self.actor.wrong(lent.returned(length))
                done = await self.file.preadv(lent.behind(count), pos + count)
                count += done
            twice = self.direct and self.actor.channels() != channels
            self.actor.wrong(lent.returned(length if twice else count))
            data = lent.content(count)
            got.append(data)
            self.actor.history.end(op, count, seen=self._parsed(data, pos) if named else ())

        await self.actor.noted(op, call)
        if not got:
            # What a failed read leaves in the segments is nobody's business, but nothing outside of them may be touched.
            self.actor.wrong(lent.returned(length))
        return op, got[0] if got else None

    def _parsed(self, data: bytearray, pos: int) -> list[Run]:
        if pos % CELL:
            return []
        return parse(data, pos // CELL, self.actor.is_of.get(self.path) or self.actor.history.is_of(self.path))

    async def call(self, kind: str, act: Callable[[], Awaitable[object]], pos: int = 0, length: int = 0) -> Op:
        """Do anything else to the file. kind: its name in the history."""
        op = self._begin(kind, pos, length)

        async def done() -> None:
            result = await act()
            self.actor.history.end(op, length, result=result if isinstance(result, int) else None)

        await self.actor.noted(op, done)
        return op

    async def fsync(self) -> Op:
        """Make it safe."""
        return await self.call("fsync", self.file.fsync)

    async def close(self) -> Op:
        """Close it; also after an error it is closed."""
        return await self.call("close", self.file.aclose)


def cut(start: int, end: int, rng: random.Random) -> list[tuple[int, int]]:
    """Part a range at up to two drawn places."""
    if rng.random() < 0.5 or end - start < 2:
        return [(start, end)]
    edges = sorted({start, end, rng.randrange(start, end), rng.randrange(start, end)})
    return list(pairwise(edges))


class Actor:
    """A client by name. is_of: for files whose cells are of another file's writes, what tells them."""

    def __init__(self, name: str, client: Client, history: History, zones: RedZones) -> None:
        self.name = name
        self.client = client
        self.history = history
        self.zones = zones
        self.is_of: dict[str, Callable[[int], bool]] = {}

    def channels(self) -> list[Transport]:
        """Return the connections that the client has now."""
        transport = self.client.transport
        return list(transport._session.live) if isinstance(transport, SessionTransport) else []

    def wrong(self, failure: Failure | None) -> None:
        """Keep a failure that was seen on the spot, if there is one."""
        if failure is not None:
            self.history.failures.append(failure)

    async def noted(self, op: Op, act: Callable[[], Awaitable[None]]) -> None:
        """Do an operation that ends itself in the history, or fails."""
        try:
            await act()
        except OSError as error:
            self.history.fail(op, error.errno or errno.EIO)

    async def open(self, path: str, mode: str = "r+", *, direct: bool = False, sync: bool = False) -> Fd | None:
        """Open a file. Returns: None when it could not be opened."""
        number = self.history.new_fd()
        op = self.history.begin(self.name, "open", path, fd=number, direct=direct, args=(mode,))
        found: list[Fd] = []

        async def call() -> None:
            file = await self.client.open(path, mode, direct=direct, sync=sync)
            self.history.end(op, result=file.size)
            found.append(Fd(self, file, path, number, direct, sync))

        await self.noted(op, call)
        return found[0] if found else None

    # ---- names

    async def names(self, kind: str, folder: str, *names: str) -> Op:
        """Do a namespace operation on names in a folder."""
        op = self.history.begin(self.name, kind, folder, args=names)
        paths = [f"{folder.rstrip('/')}/{name}" for name in names]
        try:
            result = await getattr(self, f"_{kind}")(folder, *paths)
        except FileNotFoundError as error:
            if kind == "create":  # it was made, and removed by another before it was open here
                self.history.fail(op, error.errno or errno.ENOENT)
            else:
                self.history.end(op, result=ABSENT)
        except FileExistsError:
            self.history.end(op, result=EXISTS)
        except OSError as error:
            self.history.fail(op, error.errno or errno.EIO)
        else:
            self.history.end(op, result=result)
        return op

    async def _create(self, folder: str, path: str) -> str:
        del folder
        file = await self.client.open(path, "x")
        try:
            return str((await file.stat()).ino)
        finally:
            await file.aclose()

    async def _unlink(self, folder: str, path: str) -> str:
        del folder
        await self.client.unlink(path)
        return ""

    async def _rename(self, folder: str, path: str, new: str) -> str:
        del folder
        await self.client.rename(path, new)
        return ""

    async def _link(self, folder: str, path: str, new: str) -> str:
        del folder
        await self.client.link(path, new)
        return ""

    async def _stat(self, folder: str, path: str) -> str:
        del folder
        return str((await self.client.stat(path)).ino)

    async def _readdir(self, folder: str) -> str:
        return "/".join(await self.client.listdir(folder))
