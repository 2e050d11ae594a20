"""A filesystem below the request library whose every answer is scripted; a request is driven through it without a loop."""

import random
from collections.abc import Callable
from dataclasses import dataclass, field

from iov.copy_iter import copy_from_iter, copy_to_iter
from iov.iov_iter import Direction, IovIter
from iov.pool import BufferPool
from iov.probe import Probe
from netfs.cache.pagecache import PageCache
from netfs.cache.timers import Timers
from netfs.engine.collect import advance
from netfs.engine.inode import NetfsInode
from netfs.engine.ops import NetfsOps
from netfs.engine.read_collect import read_terminated
from netfs.engine.request import IoRequest, IoSubrequest, Origin
from netfs.engine.write_collect import write_terminated


@dataclass(frozen=True)
class Answer:
    """How one issue ends: bytes moved (None: all asked for), then eof, error or retry; `twice` says it a second time."""

    moved: int | None = None
    eof: bool = False
    error: Exception | None = None
    retry: bool = False
    twice: bool = False


FULL = Answer()


class ScriptedOps(NetfsOps):
    """answers: (part, issue of that part) to an answer; parts are counted by position, so that order does not matter.

    apart: a retry does not join the rest of one part with the next.
    """

    def __init__(
        self, part: int, file: bytes, answers: dict[tuple[int, int], Answer], *, in_flight: int = 16, apart: bool = True
    ) -> None:
        self.apart = apart
        self.rsize = self.wsize = part
        self.max_segs = 1 << 20
        self.max_in_flight = in_flight
        self.part = part
        self.file = file
        self.written = bytearray(len(file))
        self.touched = bytearray(len(file))
        self.answers = answers
        self.issues: dict[int, int] = {}
        self.pending: list[tuple[IoSubrequest, Answer]] = []
        self.most_in_flight = 0
        self.on_issue: Callable[[IoSubrequest], None] = lambda _: None

    def prepare_read(self, subreq: IoSubrequest) -> None:
        super().prepare_read(subreq)
        subreq.boundary = self.apart

    def prepare_write(self, subreq: IoSubrequest) -> None:
        super().prepare_write(subreq)
        subreq.boundary = self.apart

    def issue_read(self, subreq: IoSubrequest) -> None:
        part = subreq.start // self.part
        count = self.issues.get(part, 0)
        self.issues[part] = count + 1
        self.pending.append((subreq, self.answers.get((part, count), FULL)))
        self.most_in_flight = max(self.most_in_flight, len(self.pending))
        self.on_issue(subreq)

    issue_write = issue_read

    async def commit(self, verifier: int) -> int:
        return verifier

    async def resize(self, size: int) -> None:
        raise NotImplementedError

    def end(self, index: int, *, write: bool) -> None:
        """End the issue that waits at `index`."""
        subreq, answer = self.pending.pop(index)
        pos = subreq.start + subreq.transferred
        asked = subreq.iter.count
        moved = asked if answer.moved is None else answer.moved
        inside = min(moved, asked)
        if write:
            view = memoryview(self.written)[pos : pos + inside]
            assert copy_from_iter(view, subreq.iter) == inside
            for at in range(pos, pos + inside):
                self.touched[at] += 1
        else:
            copy_to_iter(self.file[pos : pos + inside], subreq.iter)
        for _ in range(2 if answer.twice else 1):
            subreq.terminated(moved, answer.error, eof=answer.eof, retry=answer.retry)


@dataclass
class Run:
    """One request driven to its end."""

    ops: ScriptedOps
    write: bool = False
    parts: int = 1
    memory: bytearray = field(init=False)
    rreq: IoRequest = field(init=False)
    woken: int = 0
    probe: Probe = field(default_factory=Probe)
    timers: Timers | None = None

    def start(self) -> None:
        ops = self.ops
        inode = NetfsInode(PageCache(1 << 20), BufferPool(self.probe, 4096, 1), self.probe)
        inode.set_ops(ops)
        if self.timers is not None:
            inode.cache.timers = self.timers
        inode.sizes.refreshed(len(ops.file))
        length = self.parts * ops.part
        self.memory = bytearray(ops.file[:length]) if self.write else bytearray(length)
        it = IovIter.ubuf(Direction.SOURCE if self.write else Direction.DEST, self.memory)
        origin = Origin.DIO_WRITE if self.write else Origin.DIO_READ
        end = write_terminated if self.write else read_terminated
        self.rreq = IoRequest(origin, inode, 0, length, it, len(ops.file), end, sequential=self.write)
        self.rreq.wake = self.wake
        advance(self.rreq)

    def wake(self) -> None:
        self.woken += 1

    def finish(self, rng: random.Random) -> None:
        """End what is pending in a drawn order until nothing is."""
        steps = 0
        while self.ops.pending:
            steps += 1
            assert steps < 1000, "a request that does not end"
            self.ops.end(rng.randrange(len(self.ops.pending)), write=self.write)
        assert self.woken == 1
        assert self.rreq.done and not self.rreq.in_flight and not self.rreq.subrequests
