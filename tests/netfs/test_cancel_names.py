"""Cancel everywhere: each call of a client, cancelled at its first, second, third … wait; afterwards all works."""

import os
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
import trio

import netfs
from iov.probe import Probe
from netfs.fs.client import Client
from servers.server import serve
from servers.stores.directory import DirectoryStore
from tests.conformance.store_words import MEMORY

Call = Callable[[Client, str], Awaitable[object]]


async def in_file(client: Client, d: str, name: str, *arguments: object) -> object:
    async with await client.open(f"{d}/f", "r+") as file:
        return await getattr(file, name)(*arguments)


CALLS: dict[str, Call] = {
    "stat": lambda c, d: c.stat(f"{d}/f"),
    "listdir": lambda c, d: c.listdir(d),
    "mkdir": lambda c, d: c.mkdir(f"{d}/new"),
    "symlink": lambda c, d: c.symlink("f", f"{d}/l"),
    "link": lambda c, d: c.link(f"{d}/f", f"{d}/g"),
    "rename": lambda c, d: c.rename(f"{d}/f", f"{d}/h"),
    "unlink": lambda c, d: c.unlink(f"{d}/f"),
    "chmod": lambda c, d: c.chmod(f"{d}/f", 0o600),
    "utime": lambda c, d: c.utime(f"{d}/f"),
    "setxattr": lambda c, d: c.setxattr(f"{d}/f", "user.a", b"x"),
    "listxattr": lambda c, d: c.listxattr(f"{d}/f"),
    "statfs": lambda c, d: c.statfs("/"),
    "write_bytes": lambda c, d: c.write_bytes(f"{d}/w", b"x" * 5000),
    "read_bytes": lambda c, d: c.read_bytes(f"{d}/f"),
    "open": lambda c, d: in_file(c, d, "stat"),
    "lock": lambda c, d: in_file(c, d, "lock", 0, 5),
    "allocate": lambda c, d: in_file(c, d, "allocate", 0, 9000),
    "punch": lambda c, d: in_file(c, d, "punch", 10, 100),
    "seek_hole": lambda c, d: in_file(c, d, "seek_hole", 0),
}
WAITS = 14


@asynccontextmanager
async def a_client() -> AsyncIterator[Client]:
    with tempfile.TemporaryDirectory(dir=MEMORY if os.access(MEMORY, os.W_OK) else None) as home:
        store = DirectoryStore(home, Probe())
        try:
            async with serve(store) as server, netfs.open_client(server.url) as client:
                yield client
        finally:
            store.close()  # asserts that nothing is lent and no descriptor is in use


class CancelAt(trio.abc.Instrument):
    """Cancel a scope when one task waits for the n-th time."""

    def __init__(self, task: trio.lowlevel.Task, scope: trio.CancelScope, left: int) -> None:
        self.task, self.scope, self.left = task, scope, left

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        if task is self.task:
            self.left -= 1
            if not self.left:
                self.scope.cancel()


@pytest.mark.slow
@pytest.mark.parametrize("name", CALLS)
async def test_cancelled_at_each_wait(name: str) -> None:
    async with a_client() as client:
        for number in range(1, WAITS):
            d = f"/d{number}"
            await client.mkdir(d)
            await client.write_bytes(f"{d}/f", b"data" * 2000)
            with trio.CancelScope() as scope:
                instrument = CancelAt(trio.lowlevel.current_task(), scope, number)
                trio.lowlevel.add_instrument(instrument)
                try:
                    await CALLS[name](client, d)
                finally:
                    trio.lowlevel.remove_instrument(instrument)
            with trio.fail_after(20):
                await client.write_bytes(f"{d}/after", b"works")
                assert await client.read_bytes(f"{d}/after") == b"works"
                async with await client.open(f"{d}/after", "r+") as file:
                    await file.lock()
            if not scope.cancelled_caught and number > 1:
                return
