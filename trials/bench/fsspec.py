"""Trio shell. `fsspec.cat_file_64m`: what reading a file through fsspec costs beside the client's own `read`, bytes to bytes.

The server is `netfs serve` on a folder of a memory filesystem. The fsspec side is called from a thread, as people call it, and
its client lives in the portal's thread. Without `netfs[fsspec]` there is no such figure.
"""

import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from importlib.util import find_spec
from typing import Final

import trio

from netfs.fs.client import open_client
from trials.bench.figure import Figure, Pairing
from trials.bench.wire import memory_folder
from trials.pairs import server_process

__all__ = ["FIGURES"]

SIZE: Final = 64 << 20
TIMES: Final = 4


@asynccontextmanager
async def _cat_file() -> AsyncIterator[Pairing]:
    from netfs.fsspec import NetFileSystem  # noqa: PLC0415 - an extra

    folder = memory_folder()
    try:
        (folder / "file").write_bytes(bytes(range(256)) * (SIZE // 256))
        async with server_process(folder) as server, open_client(server.url) as client:
            fs = NetFileSystem(server.url, skip_instance_cache=True)

            async def through_fsspec() -> float:
                began = trio.current_time()
                for _ in range(TIMES):
                    assert len(await trio.to_thread.run_sync(fs.cat_file, "/file")) == SIZE
                return TIMES * SIZE / (trio.current_time() - began) / 1e6

            async def native() -> float:
                began = trio.current_time()
                for _ in range(TIMES):
                    async with await client.open("/file", direct=True) as file:
                        assert len(await file.read()) == SIZE
                return TIMES * SIZE / (trio.current_time() - began) / 1e6

            yield Pairing(through_fsspec, native)
            await trio.to_thread.run_sync(fs.close)
    finally:
        await trio.to_thread.run_sync(partial(shutil.rmtree, folder))


FIGURES: Final = (
    (Figure("fsspec.cat_file_64m", "MB/s", "the client's own read", 0.8, _cat_file),) if find_spec("fsspec") is not None else ()
)
