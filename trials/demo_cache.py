"""Trio shell. The demo's look at the local cache: a file read by a client, then by another that shares only the cache.

Owns no payload memory: reads land in the buffer that all rows share.
"""

import hashlib
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

import trio

from crypto.keys import VolumeKey
from netfs.cli.host import describe, root_cause
from netfs.fscache import LocalCache
from servers.stores.memory import MemoryStore
from trials.pairs import pair
from trials.plaintext import Search

__all__ = ["CacheRow", "cache_row"]

NAME = "sample"
CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class CacheRow:
    """What two reads came to. wire_bytes: between client and server. plaintext_in_cache: None where it cannot be searched for."""

    encrypted: bool
    verified: bool
    first_mb_s: float
    first_wire_bytes: int
    again_mb_s: float
    again_wire_bytes: int
    plaintext_in_cache: bool | None
    reason: str

    @property
    def good(self) -> bool:
        """Whether it is as it should be; a disk that is full or cannot be written, told in `reason`, is nobody's fault."""
        saved = self.again_wire_bytes * 4 < self.first_wire_bytes or bool(self.reason)
        return self.verified and saved and self.plaintext_in_cache in {None, not self.encrypted}

    def as_json(self) -> dict[str, object]:
        """Return the row for scripts."""
        return asdict(self)

    def text(self) -> str:
        """Return the row in a line."""
        content = "encrypted" if self.encrypted else "plain"
        holds = {None: "", True: "; it holds plaintext", False: "; it holds ciphertext"}[self.plaintext_in_cache]
        told = f" ({self.reason})" if self.reason else ""
        return (
            f" {content:<9} from the server {self.first_mb_s:,.0f} MB/s, {self.first_wire_bytes:,} bytes on the wire\n"
            f" {'':<9} from the cache  {self.again_mb_s:,.0f} MB/s, {self.again_wire_bytes:,} bytes, "
            f"{'same' if self.verified else 'DIFFERENT'}{holds}{told}"
        )


async def cache_row(
    content: memoryview, sha256: str, windows: list[bytes], key: VolumeKey | None, buffer: memoryview
) -> CacheRow:
    """Write the sample, read it twice with clients that share a cache, look into that. An operating error is told in the row."""
    store = MemoryStore()
    figures: list[tuple[float, int]] = []
    verified, reason = True, ""
    try:
        async with pair("stream", keys=key, store=store) as p, await p.client.open(NAME, "w") as file:
            await file.write(content)
        with tempfile.TemporaryDirectory(prefix="netfs-demo-") as folder:
            for _ in range(2):
                async with pair("stream", keys=key, store=store, cache=LocalCache(folder, server="demo")) as p:
                    before, started = p.client_probe.wire_bytes, trio.current_time()
                    async with await p.client.open(NAME) as file:
                        count = 0
                        while part := await file.preadv([buffer[count : min(count + CHUNK, len(content))]], count):
                            count += part
                    seconds = trio.current_time() - started
                    figures.append((round(count / seconds / 1e6, 1), p.client_probe.wire_bytes - before))
                    verified &= count == len(content) and hashlib.sha256(buffer[:count]).hexdigest() == sha256
                    reason = p.client.local_cache.reason if p.client.local_cache is not None else ""
            found = look(Path(folder), windows)
    except (OSError, BaseExceptionGroup) as error:
        cause = root_cause(error)
        if not isinstance(cause, OSError):
            raise
        return CacheRow(key is not None, False, 0.0, 0, 0.0, 0, None, describe(cause))
    finally:
        store.close()
    (first, first_bytes), (again, again_bytes) = figures
    return CacheRow(key is not None, verified, first, first_bytes, again, again_bytes, found, reason)


def look(folder: Path, windows: list[bytes]) -> bool | None:
    """Say whether the plaintext is in the cache; None for a file that cannot be searched for."""
    if not windows:
        return None
    search = Search(windows)
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            with path.open("rb") as stream:
                search.stream(iter(lambda: stream.read(CHUNK), b""))
    return search.found > 0
