"""An encrypted file, seen by a client with the key, by one without, and by one with another key."""

import os

import trio

import netfs
import servers
from crypto.keys import VolumeKey

SECRET = b"what only the two of us know"


async def main() -> None:
    mine, other = VolumeKey(os.urandom(32)), VolumeKey(os.urandom(32))
    async with servers.serve(servers.MemoryStore()) as server:
        async with netfs.open_client(server.url, keys=mine) as fs:
            async with await fs.open("/secret", "w") as file:
                await file.write(SECRET)
            async with await fs.open("/secret") as file:
                assert await file.read() == SECRET
        for name, keys in (("without a key", None), ("with another key", other)):
            async with netfs.open_client(server.url, keys=keys) as fs:
                try:
                    await fs.open("/secret")
                except OSError as error:
                    print(f"{name}: {error.strerror}")  # noqa: T201


trio.run(main)
