"""Trio shell. LocalCache: the cache of one client at work; the disk's work runs in threads, and room is made where it is short.

Work is queued by the cookies and done by a few workers, each in a thread, a few pieces at a time; its end is told in the Trio
thread, always, also when the client is cancelled. No I/O of a file ever fails because of the cache: whatever goes wrong here
makes the file, or the whole cache, go on without. Two mounts may share a directory: an object in use is locked, and whoever comes
second reads that file from the server. Owns no memory but what the work was lent.
"""

import errno
import logging
import os
from collections import deque
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from types import TracebackType
from typing import Final

import trio

from iov.probe import Probe
from netfs.fscache.cookie import DiskCookie
from netfs.fscache.disk import Disk
from netfs.fscache.layout import MIN_GRANULE, volume_name
from netfs.fscache.limits import CacheLimits, victims
from netfs.fscache.object_file import TEMPORARY
from netfs.fscache.states import State
from netfs.fscache.work import Job
from transport.env import Env

__all__ = ["MARK", "CacheStats", "LocalCache", "RunningCache", "disk_granule"]

log = logging.getLogger(__name__)

WORKERS: Final = 2
BATCH: Final = 4
MAX_OBJECTS: Final = 256
"""Objects open at a time, of files that are open or were lately; each takes a file descriptor."""
CHECK_EVERY: Final = 8 << 20
CULL_BATCH: Final = 64
MAX_BACKLOG: Final = 64
"""Work that waits for the disk, beyond which nothing more is taken: a slow disk must not hold memory."""
PLAIN_GRANULE: Final = 1 << 14
STRAY_NS: Final = 60 * 10**9
MARK: Final = "netfs-cache"
README: Final = b"A cache of netfs. It may be removed at any time: netfs cache clear.\n"


@dataclass(frozen=True, slots=True)
class LocalCache:
    """Where to keep what was read from a server, and how much.

    directory: made if it is not there. server: a name for the server, which must tell it apart from any other; needed only for
    a client that is handed a transport instead of a URL. disk: how the directory is reached.
    """

    directory: str | os.PathLike[str]
    limits: CacheLimits = field(default_factory=CacheLimits)
    server: str | None = None
    disk: Disk | None = None

    def run(self, env: Env, probe: Probe) -> AbstractAsyncContextManager["RunningCache"]:
        """Run the cache for the length of a block. Cancellation: what is under way, or queued, is done before the block ends."""
        return _Running(RunningCache(self.disk or Disk(self.directory), self.limits, env, probe))


@dataclass(slots=True)
class CacheStats:
    """What became of it. spoilt: granules that were not what they should be. failed: objects given up."""

    reads: int = 0
    read_bytes: int = 0
    writes: int = 0
    written_bytes: int = 0
    spoilt: int = 0
    failed: int = 0
    culled: int = 0


@dataclass(eq=False)
class RunningCache:
    """The cache of one client.

    reason: why it does less than it should, in a line, empty while it does all. usable: objects can be looked up. writable: they
    can be made and changed. may_write: there is room for more. stats: counts.
    """

    disk: Disk
    limits: CacheLimits
    env: Env
    probe: Probe
    reason: str = ""
    stats: CacheStats = field(default_factory=CacheStats)
    usable: bool = False
    writable: bool = False
    may_write: bool = False
    cookies: dict[tuple[str, bytes], DiskCookie] = field(default_factory=dict)
    _queue: deque[Job] = field(default_factory=deque)
    _idle: deque[Callable[[], None]] = field(default_factory=deque)
    _drained: list[Callable[[], None]] = field(default_factory=list)
    _running: int = 0
    _workers: int = WORKERS
    _unchecked: int = 0
    _culling: bool = False
    _closed: bool = False

    async def start(self) -> None:
        """Look at the directory and make room if there is little."""

        def look() -> bool:
            self.disk.make_root()
            if not self.disk.ours(MARK):
                raise OSError(errno.EEXIST, "holds other things than a cache")
            writable = self.disk.writable()
            if writable:
                try:
                    fd = self.disk.open(MARK, write=True, create=True)
                except FileExistsError:
                    return writable
                try:
                    self.disk.write(fd, [README], 0)
                finally:
                    self.disk.close(fd)
            return writable

        try:
            self.writable = self.may_write = await self.env.run_blocking(look)
        except OSError as error:
            self.reason = f"{self.disk.root}: {error.strerror or error}: no local cache"
            log.warning("%s", self.reason)
            return
        self.usable = True
        if self.writable:
            self.check_space()
        else:
            self.reason = f"{self.disk.root}: {os.strerror(errno.EACCES)}: the local cache is used as it is, nothing is added"
            log.warning("%s", self.reason)

    # ---- cookies

    def cookie(self, volume: str, key: bytes, granule: int, *, sealed: bool) -> DiskCookie:
        """Return the cookie of a file: the same one for the same file. volume: from `volume_name`."""
        place = (volume, key)
        found = self.cookies.get(place)
        if found is None or found.granularity != granule or found.state is State.DROPPED:
            found = self.cookies[place] = DiskCookie(self, volume, key, granule, sealed=sealed)
        return found

    def relinquish(self, cookie: DiskCookie) -> None:
        """Forget a cookie that nobody uses; what it has cached stays."""
        for place in [place for place, found in self.cookies.items() if found is cookie]:
            del self.cookies[place]
        cookie.relinquish()

    def volume(self, server: str) -> str:
        """Return the volume of a server, or of an encrypted volume, and leave its name in its folder for people to see."""
        name = volume_name(server)

        def note() -> None:
            path = f"{name}/name"
            try:
                fd = self.disk.open(path, write=True, create=True)
            except FileExistsError:
                return
            try:
                self.disk.write(fd, [server.encode()], 0)
            finally:
                self.disk.close(fd)

        if self.writable:
            self.submit(Job(note, _ignored))
        return name

    def tag(self) -> str:
        """Return a name that no other mount uses."""
        return self.env.nonces(8).hex()

    def make_way(self) -> bool:
        """Close the object that has been idle for longest if too many are open. Returns: false when none can be."""
        if sum(cookie.is_open for cookie in self.cookies.values()) < MAX_OBJECTS:
            return True
        idle = [cookie for cookie in self.cookies.values() if cookie.is_open and not cookie.users]
        if not idle:
            return False
        idle[0].discard()
        return True

    # ---- work

    @property
    def takes_writes(self) -> bool:
        """There is room on the disk, and the disk keeps up."""
        return self.may_write and len(self._queue) < MAX_BACKLOG

    async def drain(self) -> None:
        """Wait until nothing is queued or under way, so that no memory is lent any more. Cancellation: no effect."""
        while (self._queue or self._running) and self._workers:
            drained = trio.Event()
            self._drained.append(drained.set)
            await drained.wait()

    def submit(self, job: Job) -> Job:
        """Have work done; its end is told later, or at once when no worker lives any more."""
        if not self._workers:
            job.ended(None, _gone())
            return job
        self._queue.append(job)
        if self._idle:
            self._idle.popleft()()
        return job

    async def work(self) -> None:
        """Do what is queued, until the cache is closed."""
        with trio.CancelScope(shield=True):
            while self._queue or not self._closed:
                if self._queue:
                    await self._run([self._queue.popleft() for _ in range(min(BATCH, len(self._queue)))])
                else:
                    woken = trio.Event()
                    self._idle.append(woken.set)
                    await woken.wait()
        self._workers -= 1

    async def _run(self, batch: list[Job]) -> None:
        self._running += 1
        outcomes = await self.env.run_blocking(lambda: [job.outcome() for job in batch])
        for job, (result, error) in zip(batch, outcomes, strict=True):
            job.ended(result, error)
        self._running -= 1
        if not (self._running or self._queue):
            self._wake_drained()

    def _wake_drained(self) -> None:
        drained, self._drained = self._drained, []
        for wake in drained:
            wake()

    def close(self) -> None:
        """Close every object; what is queued is done before the workers go."""
        self.usable = self.may_write = False
        for cookie in list(self.cookies.values()):
            cookie.withdraw()
        self._closed = True
        while self._idle:
            self._idle.popleft()()

    # ---- room

    def wrote(self, count: int) -> None:
        """Note bytes added; now and then the disk is looked at."""
        self.stats.writes += 1
        self.stats.written_bytes += count
        self._unchecked += count
        if self._unchecked >= CHECK_EVERY:
            self.check_space()

    def no_space(self) -> None:
        """A write found the disk full: nothing more is added until there is room."""
        self.may_write = False
        self.check_space()

    def check_space(self) -> None:
        """See how full the disk is, and cull while it is too full."""
        if self._culling or self._closed:
            return
        self._culling = True
        self._unchecked = 0
        now_ns = self.env.wall_ns()

        def checked(result: object, error: Exception | None) -> None:
            self._culling = False
            if error is not None or not isinstance(result, tuple):
                self.may_write = False
                return
            may_write, culled, more = result
            self.may_write = may_write and not self._closed
            self.stats.culled += culled
            if more and culled:
                self.check_space()  # the next batch, after whoever is waiting

        self.submit(Job(lambda: cull(self.disk, self.limits, now_ns), checked))


class _Running(AbstractAsyncContextManager[RunningCache]):
    """The block in which a cache works; its workers end with it, and not before.

    They are shielded so that a block that is cancelled still gets back what it has lent; leaving it lets them do what is queued,
    which is bounded, and go, so that the shields need no deadline.
    """

    def __init__(self, cache: RunningCache) -> None:
        self._cache = cache
        self._manager = trio.open_nursery()

    async def __aenter__(self) -> RunningCache:
        nursery = await self._manager.__aenter__()
        for _ in range(WORKERS):
            nursery.start_soon(self._cache.work)
        try:
            await self._cache.start()
        except BaseException:
            await self.__aexit__(None, None, None)
            raise
        return self._cache

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._cache.close()
        # The block's own exception passes by the nursery, which would wrap it in a group.
        await self._manager.__aexit__(None, None, None)


def cull(disk: Disk, limits: CacheLimits, now_ns: int, most: int = CULL_BATCH) -> tuple[bool, int, bool]:
    """Remove objects that are not in use, least recently used first, while the limits ask for it, `most` at a time.

    Returns: whether there is room to write, how many objects went, whether there is more to do.
    """
    free, total = disk.space()
    if limits.max_bytes is None and not limits.excess(free, total, 0):
        return limits.may_write(free, total, 0), 0, False
    objects = list(disk.objects())
    used = sum(stored.size for stored in objects)
    excess = limits.excess(free, total, used)
    gone = freed = 0
    for stored in victims(objects):
        if freed >= excess or gone >= most:
            break
        name = stored.path.rpartition("/")[2]
        if name.startswith(TEMPORARY) and now_ns - stored.used_ns < STRAY_NS:
            continue
        if disk.discard(stored.path):
            gone += 1
            freed += stored.size
    free, total = disk.space()
    used -= freed
    return limits.may_write(free, total, used), gone, limits.excess(free, total, used) > 0


def disk_granule(folio_size: int, block_size: int) -> int:
    """Return the granule of a file: its block, or what suits the page cache's folios."""
    if block_size > 1:
        return block_size
    return min(max(folio_size, MIN_GRANULE), PLAIN_GRANULE)


def _gone() -> OSError:
    return OSError(errno.ECANCELED, "the cache was closed")


def _ignored(_: object, __: Exception | None) -> None:
    """Nobody needs to know."""
