"""A disk below the local cache whose calls fail when a test says so, and an env whose work is done in the same thread."""

import os
from collections.abc import Sequence
from dataclasses import replace

import trio

from netfs.fscache.disk import Disk
from transport.env import Env, system_env


class FaultyDisk(Disk):
    """fails: name of a call to the errno it fails with. counts: how often each was made. free_and_total: what the disk says of
    its space. readonly: nothing can be written. budget: so many changes happen, what follows is lost, as after a crash.
    """

    def __init__(self, root: str | os.PathLike[str]) -> None:
        super().__init__(root)
        self.fails: dict[str, int] = {}
        self.counts: dict[str, int] = {}
        self.free_and_total: tuple[int, int] | None = None
        self.readonly = False
        self.budget: int | None = None

    def _lost(self) -> bool:
        if self.budget is None:
            return False
        self.budget -= 1
        return self.budget < 0

    def _count(self, name: str) -> None:
        self.counts[name] = self.counts.get(name, 0) + 1
        if name in self.fails:
            raise OSError(self.fails[name], os.strerror(self.fails[name]))

    def make_root(self) -> None:
        self._count("make_root")
        super().make_root()

    def writable(self) -> bool:
        return not self.readonly and super().writable()

    def open(self, name: str, *, write: bool, create: bool = False) -> int:
        self._count("create" if create else "open")
        assert not (write and self.readonly), "a file of a read-only directory is opened for writing"
        return super().open(name, write=write, create=create)

    def lock(self, fd: int) -> None:
        self._count("lock")
        super().lock(fd)

    def read(self, fd: int, views: Sequence[memoryview], pos: int) -> int:
        self._count("read")
        return super().read(fd, views, pos)

    def write(self, fd: int, views: Sequence[memoryview | bytes], pos: int) -> None:
        self._count("write")
        if not self._lost():
            super().write(fd, views, pos)

    def sync(self, fd: int) -> None:
        self._count("sync")

    def rename(self, name: str, new_name: str) -> None:
        self._count("rename")
        if not self._lost():
            super().rename(name, new_name)

    def link(self, name: str, new_name: str) -> None:
        self._count("link")
        if not self._lost():
            super().link(name, new_name)

    def space(self) -> tuple[int, int]:
        self._count("space")
        return self.free_and_total or super().space()


def inline_env() -> Env:
    """Return the real world but for threads."""

    async def run_blocking(fn):  # type: ignore[no-untyped-def]
        await trio.lowlevel.checkpoint()
        return fn()

    return replace(system_env(), run_blocking=run_blocking, inline=True)
