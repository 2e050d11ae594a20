"""Trio shell. `netfs demo`: a real file through every path there is, each byte verified, and a look into the server's store.

For each transport, plain and encrypted, buffered and direct: a fresh server and client, the file written and read back through
the client filesystem, its SHA-256 compared, the counters noted, and the store searched for the file's plaintext. The file is
mapped, so writes are fed from its pages; reads land in one buffer that all rows share.
"""

import errno
import hashlib
import mmap
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import trio

from crypto.keys import VolumeKey
from iov.extract import peek_segments
from iov.iov_iter import Direction, IovIter
from netfs.cli.dialing import read_key
from netfs.cli.host import Exit, Host, describe, failing, root_cause
from netfs.fs.calls import ask
from netfs.fs.client import Client, open_client
from netfs.tracing import TraceFile
from servers.stores.base import Store
from transport.base import FileRange
from transport.env import system_env
from transport.messages import EntryReply, FileType, Handle, Mount, Read, Readdir, ReaddirReply
from transport.rdma.capture import Capture
from trials.demo_cache import CacheRow, cache_row
from trials.demo_table import Row, header, line, title
from trials.pairs import TRANSPORTS, TWO_PROCESSES, Pair, pair
from trials.plaintext import Search, pick_windows
from trials.world import RealWorld

__all__ = ["demo", "run_row"]

NAME = "sample"
CHUNK = 1 << 20
CACHE_TITLE = "[bold cyan]local cache on disk[/], read buffered by one client and then by another"
CACHE_BYTES = 64 << 20
FOLDERS = sys.platform == "linux"
"""Whether a real folder can be served here; the memory store takes its place where not."""


@dataclass(frozen=True, slots=True)
class Sample:
    """The file that travels. content is mapped; windows are pieces of its plaintext to search for."""

    path: Path
    content: memoryview
    sha256: str
    windows: list[bytes]


def default_file() -> Path:
    """Return the running Python's shared library, or its executable where it has none."""
    folder, name = sysconfig.get_config_var("LIBDIR"), sysconfig.get_config_var("INSTSONAME")
    library = Path(str(folder), str(name))
    return library if library.is_file() else Path(sys.executable).resolve()


def load_sample(path: Path) -> Sample:
    """Map a file and take its hash. Raises: CommandError when it cannot be read."""
    with failing(Exit.LOCAL, str(path)), path.open("rb") as stream:
        size = stream.seek(0, 2)
        content = memoryview(mmap.mmap(stream.fileno(), size, access=mmap.ACCESS_READ) if size else b"")
    return Sample(path, content, hashlib.sha256(content).hexdigest(), pick_windows(content))


def plan() -> list[Row]:
    """Return the rows to fill, in the order they are shown."""
    return [
        Row(transport, processes, encrypted, mode)
        for transport in TRANSPORTS
        for processes in ((1, 2) if transport == "rdma-stream" else (2,) if transport in TWO_PROCESSES else (1,))
        for encrypted in (False, True)
        for mode in ("buffered", "direct")
    ]


async def run_row(
    row: Row, sample: Sample, key: VolumeKey, buffer: memoryview, trace: TraceFile | None = None, capture: Capture | None = None
) -> Row:
    """Write the sample, read it back, look into the store. Returns: the row filled; an operating error is told in it."""
    try:
        with tempfile.TemporaryDirectory(prefix="netfs-demo-") as folder:
            store = folder if row.processes == 2 and FOLDERS else "memory"
            keys = key if row.encrypted else None
            label = f"{row.transport}/{row.processes}/{'encrypted' if row.encrypted else 'plain'}/{row.mode}/"
            async with pair(
                row.transport,
                keys=keys,
                store=store,
                cache_bytes=CACHE_BYTES,
                processes=row.processes,
                world=RealWorld(trace, label),
                capture=capture,
            ) as p:
                filled = await write_and_read(row, sample, p, buffer)
                search = Search(sample.windows)
                if p.store is not None:
                    search_store(search, p.store)
                elif FOLDERS:
                    search_folder(search, Path(folder))
                else:
                    await search_as_a_stranger(search, p)
            return replace(filled, plaintext_in_store=search.found > 0 if sample.windows else None)
    except (OSError, BaseExceptionGroup) as error:
        cause = root_cause(error)
        if not isinstance(cause, OSError):
            raise
        return replace(row, error=describe(cause))


async def write_and_read(row: Row, sample: Sample, p: Pair, buffer: memoryview) -> Row:
    probe, length, direct = p.client_probe, len(sample.content), row.mode == "direct"
    started = trio.current_time()
    async with await p.client.open(NAME, "w", direct=direct) as file:
        await file.write(sample.content)
    wrote_s, wrote_copied = trio.current_time() - started, probe.copied_bytes
    p.client.drop_caches()
    started = trio.current_time()
    async with await p.client.open(NAME, "r", direct=direct) as file:
        count = 0
        while part := await file.preadv([buffer[count:length]], count):
            count += part  # short where a later part failed; the next read raises that error
    read_s, read_copied = trio.current_time() - started, probe.copied_bytes - wrote_copied
    theirs = p.server_probe.work_requests if p.server_probe is not None else 0
    return replace(
        row,
        verified=count == length and hashlib.sha256(buffer[:length]).hexdigest() == sample.sha256,
        write_mb_s=round(length / wrote_s / 1e6, 1),
        read_mb_s=round(length / read_s / 1e6, 1),
        requests=probe.requests,
        subrequests=probe.subrequests,
        messages=probe.messages,
        work_requests=probe.work_requests + theirs,
        copies_per_byte_write=round(wrote_copied / max(1, length), 3),
        copies_per_byte_read=round(read_copied / max(1, length), 3),
    )


# ---- what the server keeps


def search_store(search: Search, store: Store) -> None:
    """Search all a store of this process holds: data, aux streams and records."""
    folders = [store.root().handle]
    while folders:
        entries, complete = store.readdir(folders.pop(), 0, 1 << 16)
        assert complete, "the demo writes one file"
        for entry in entries:
            if entry.attr.type is FileType.DIRECTORY:
                folders.append(entry.handle)
                continue
            search.stream(stored(store, entry.handle, aux=False))
            search.stream(stored(store, entry.handle, aux=True))
            search.stream([store.record_get(entry.handle)[0]])


def stored(store: Store, handle: Handle, *, aux: bool) -> Iterator[memoryview]:
    """Yield a stream of a file as the store lends it."""
    pos, eof = 0, False
    while not eof:
        lent = store.read_source(handle, pos, CHUNK, aux=aux)
        try:
            if lent.source is not None:
                assert not isinstance(lent.source, FileRange), "a store in memory lends memory"
                yield from peek_segments(lent.source, lent.length, lent.length)
        finally:
            if lent.release is not None:
                lent.release()
        pos += lent.length
        eof = lent.eof


def search_folder(search: Search, folder: Path) -> None:
    """Search every file below a folder, those the server hides included."""
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            with path.open("rb") as stream:
                search.stream(iter(lambda: stream.read(CHUNK), b""))


async def search_as_a_stranger(search: Search, p: Pair) -> None:
    """Search what a client without the key of the content is given."""
    identity, hosts = (None, None) if p.keyring is None else (p.keyring.client.path, p.keyring.known_hosts)
    async with open_client(str(p.url), identity=identity, known_hosts=hosts) as client:
        search.stream([memoryview(await read_stored(client))])


async def read_stored(client: Client) -> bytearray:
    """Read the file as the server stores it: past the client's file, which refuses one that is encrypted without its key."""
    root = await ask(client.transport, Mount(), EntryReply)
    (found,) = (await ask(client.transport, Readdir(root.handle), ReaddirReply)).entries  # whatever its name is
    content = bytearray(found.attr.size)
    pos = 0
    while pos < len(content):
        target = IovIter.ubuf(Direction.DEST, memoryview(content)[pos : pos + CHUNK])
        reply = await client.transport.call(Read(found.handle, pos, target.count), dest=target)
        if not reply.received:
            raise OSError(reply.status or errno.EIO, "what the server stores cannot be read", NAME)
        pos += reply.received
    return content


# ---- the command


class Show:
    """The demo as people see it: a line as soon as it is known. Silent under --json."""

    def __init__(self, host: Host, sample: Sample) -> None:
        self._console = None if host.json else host.console()
        self._sample = sample
        self._section: tuple[str, int] | None = None

    def begin(self) -> None:
        """Say what travels, and head the columns."""
        if self._console is not None:
            self._console.print(f"{self._sample.path}, {len(self._sample.content):,} bytes", soft_wrap=True, markup=False)
            self._console.print("written and read back through the client filesystem, over every path\n")
            self._console.print(header(self._console.width))

    @contextmanager
    def running(self, row: Row) -> Iterator[None]:
        """Head the transport's section, and turn a wheel while a row runs."""
        if self._console is None:
            yield
            return
        section = (row.transport, row.processes)
        if section != self._section:
            self._section = section
            folder = row.processes == 2 and FOLDERS
            self._console.print(
                title(row.transport, row.processes, "server with a folder" if folder else "server with a store in memory")
            )
        with self._console.status(f"{'encrypted' if row.encrypted else 'plain'} {row.mode}"):
            yield

    def row(self, row: Row) -> None:
        """Show a row."""
        if self._console is not None:
            self._console.print(line(row, self._console.width))

    def cached(self, rows: list[CacheRow]) -> None:
        """Show what the local cache did."""
        if self._console is not None:
            self._console.print(CACHE_TITLE)
            for row in rows:
                self._console.print(row.text(), soft_wrap=True, highlight=False, style="" if row.good else "bold red")

    def summary(self, rows: list[Row]) -> None:
        """Say what the rows prove."""
        if self._console is None:
            return
        same = sum(row.verified for row in rows)
        self._console.print(f"\n{same} of {len(rows)} rows: every byte came back, SHA-256 {self._sample.sha256[:16]}…")
        if not self._sample.windows:
            self._console.print("The file is too short or too uniform to be searched for in what the server stores.")
            return
        found = {}
        for encrypted in (False, True):
            searched = [row for row in rows if row.encrypted is encrypted and row.plaintext_in_store is not None]
            found[encrypted] = f"{sum(bool(row.plaintext_in_store) for row in searched)} of {len(searched)}"
        self._console.print(f"{len(self._sample.windows)} pieces of it, searched for in all that the servers stored: ", end="")
        self._console.print(f"found in\n{found[False]} plain rows and in {found[True]} encrypted ones")


async def demo(
    host: Host, file: str | None, key_file: str | None, trace: TraceFile | None = None, capture: Capture | None = None
) -> int:
    """Run all rows and show them as they come. Returns: the exit code, 1 when a row is not as it should be."""
    sample = load_sample(Path(file) if file is not None else default_file())
    key = read_key(key_file) if key_file is not None else VolumeKey(system_env().nonces(32))
    # One destination for all rows, touched beforehand: what is measured is the path, not the first use of memory.
    buffer = memoryview(bytearray(len(sample.content)))
    show = Show(host, sample)
    show.begin()
    rows: list[Row] = []
    for row in plan():
        with show.running(row):
            rows.append(await run_row(row, sample, key, buffer, trace, capture))
        show.row(rows[-1])
    cached = [await cache_row(sample.content, sample.sha256, sample.windows, keys, buffer) for keys in (None, key)]
    show.cached(cached)
    show.summary(rows)
    value = {"file": str(sample.path), "bytes": len(sample.content), "rows": [row.as_json() for row in rows]}
    host.emit({**value, "cache": [row.as_json() for row in cached]})
    return Exit.DONE if all(row.good for row in rows) and all(row.good for row in cached) else Exit.NO
