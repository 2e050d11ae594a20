"""Trio shell. NetFileSystem: an export as an fsspec filesystem, synchronous, over the client in the portal's thread.

Paths are absolute in the export ("/folder/file"). Several ranges are read at the same time, whole files by one call and one copy;
what is random-access on the server stays so here. Listings are not kept: the client asks, and what it caches it revalidates.
`ukey` and `checksum` are the server's change counter, so that caches of fsspec's own notice a changed file.
"""

import datetime as dt
import io
import os
import posixpath
import shutil
from collections.abc import Awaitable, Callable, Mapping, Sequence
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar

import trio

try:
    from fsspec.callbacks import DEFAULT_CALLBACK, Callback
    from fsspec.spec import AbstractFileSystem
except ModuleNotFoundError as error:
    raise ImportError("netfs:// in Python libraries needs fsspec: pip install 'netfs[fsspec]'") from error

from netfs.fs.client import DEFAULT_CACHE_BYTES, Client
from netfs.fs.url import SCHEMES, parse_url
from netfs.fsspec.file import BUFFER_SIZE, NetFile, NetReader, NetUpdater, NetWriter, RawFile
from netfs.fsspec.opening import Opening, split_url
from netfs.fsspec.portal import Held, Portal, close_at_exit, portal
from transport.messages import Attr, FileType

if TYPE_CHECKING:
    from netfs.fs.file import File

__all__ = ["NetFileSystem"]

T = TypeVar("T")
Info = dict[str, Any]  # fsspec's own record of a file
CHUNK: Final = 8 << 20
"""Bytes that `get` and `put` move at a time."""
MAX_TOGETHER: Final = 16
"""Files that `cat_ranges` has open at a time."""
OPTIONS: Final = (
    "endpoint", "volume", "key_file", "passphrase", "fingerprint", "identity", "known_hosts", "cache_bytes", "cache_dir",
    "auto_mkdir",
)  # fmt: skip
_TYPES: Final = {FileType.FILE: "file", FileType.DIRECTORY: "directory", FileType.SYMLINK: "link"}


class NetFileSystem(AbstractFileSystem):
    """An export, or a volume in one.

    Args: endpoint: URL of the export, `netfs://host:port`, `netfs+unix:///socket:/`; comes from the URL where there is one.
    volume: path of an encrypted volume in the export, which is opened by key_file (a file with its key, or an identity that is a
    recipient) or passphrase, and must have the fingerprint that is given, or else the one that the netfs command remembers of
    it. identity, known_hosts: files for TLS, by default those of the netfs command, where there are any.
    cache_bytes: budget of the page cache. cache_dir: a folder that keeps what is read for the next time, also in another process.
    auto_mkdir: the directories above a new file are made where they are missing. Others: fsspec's.
    Raises: OSError when the server cannot be reached or the volume not be opened, at the first use.
    """

    protocol = SCHEMES
    root_marker = "/"
    cachable = True

    def __init__(
        self,
        endpoint: str | None = None,
        *,
        volume: str | None = None,
        key_file: str | None = None,
        passphrase: str | None = None,
        fingerprint: str | None = None,
        identity: str | None = None,
        known_hosts: str | None = None,
        cache_bytes: int = DEFAULT_CACHE_BYTES,
        cache_dir: str | None = None,
        auto_mkdir: bool = True,
        **others: Any,
    ) -> None:
        super().__init__(**others)
        for name in others:  # fsspec's own, or what it makes of a misspelt key, which must not end in plaintext
            if meant := get_close_matches(name, OPTIONS, 1, 0.8):
                raise ValueError(f"no option {name}=; is {meant[0]}= meant?")
        if endpoint is None:
            raise ValueError("no server: open a URL such as netfs://host:port/path, or give endpoint=")
        parse_url(endpoint)
        if (volume is None) != (key_file is None and passphrase is None):
            raise ValueError("an encrypted volume takes volume= and what opens it, key_file= or passphrase=")
        self.endpoint = endpoint
        self.volume = None if volume is None else str(self._strip_protocol(volume))
        self._opening = Opening(
            endpoint, self.volume, key_file, passphrase, fingerprint, identity, known_hosts, cache_bytes, cache_dir
        )
        self._auto_mkdir = auto_mkdir
        self._opened: tuple[Portal, Held, Client] | None = None

    # ---- URLs and paths

    @classmethod
    def _strip_protocol(cls, path: Any) -> Any:
        if isinstance(path, (list, tuple)):
            return [cls._strip_protocol(each) for each in path]
        text = os.fspath(path)
        scheme, mark, _ = text.partition("://")
        if mark and scheme in SCHEMES:
            text = split_url(text)[1]
        return "/" + posixpath.normpath("/" + text).strip("/")

    @staticmethod
    def _get_kwargs_from_urls(path: str) -> dict[str, str]:
        scheme, mark, _ = path.partition("://")
        return {"endpoint": split_url(path)[0]} if mark and scheme in SCHEMES else {}

    @property
    def fsid(self) -> str:
        """The export's URL."""
        return f"netfs:{self.endpoint}"

    def unstrip_protocol(self, name: str) -> str:
        """Return the URL of a path."""
        return parse_url(self.endpoint).base.removesuffix("/") + str(self._strip_protocol(name))

    def _inside(self, path: str) -> str:
        """Return a path as the client knows it. Raises: FileNotFoundError for one outside of the volume."""
        path = str(self._strip_protocol(path))
        if self.volume is None or self.volume == "/":
            return path
        if path != self.volume and not path.startswith(self.volume + "/"):
            raise FileNotFoundError(2, f"outside of the volume {self.volume}", path)
        return path.removeprefix(self.volume) or "/"

    # ---- the client

    def run(self, run: Callable[[], Awaitable[T]]) -> T:
        """Run an async function where the client lives, and wait for it."""
        return portal().call(run)

    def _with(self, action: Callable[[Client], Awaitable[T]]) -> T:
        async def ask() -> T:
            return await action(await self._client())

        return self.run(ask)

    async def _client(self) -> Client:
        here = portal()
        if self._opened is not None and self._opened[0] is here:
            return self._opened[2]
        held = Held(here)
        client = await held.open(self._opening.client())
        if self._opened is not None and self._opened[0] is here:  # somebody was faster
            await held.aclose()
            return self._opened[2]
        self._opened = (here, held, client)
        return client

    def close(self) -> None:
        """End the connection; the next use opens another. Raises: OSError for data that did not reach the server."""
        opened, self._opened = self._opened, None
        if opened is not None and opened[0] is portal():
            self.run(opened[1].aclose)

    def invalidate_cache(self, path: str | None = None) -> None:
        """Forget what the client has cached and could ask for again."""
        opened = self._opened
        if opened is not None and opened[0] is portal():
            self.run(partial(_dropped, opened[2]))

    # ---- what is there

    def info(self, path: str, **_: Any) -> Info:
        """Return name, size, type, times, mode and change counter. Raises: OSError."""
        path = str(self._strip_protocol(path))
        inside = self._inside(path)
        return _info(path, self._with(lambda client: client.stat(inside)))

    def ls(self, path: str, detail: bool = True, **_: Any) -> list[Any]:
        """List a directory; a file lists itself. Raises: OSError."""
        path = str(self._strip_protocol(path))
        inside = self._inside(path)

        async def listed(client: Client) -> list[Info]:
            try:
                return [_info(posixpath.join(path, entry.name), entry.attr) async for entry in client.scandir(inside)]
            except NotADirectoryError:
                return [_info(path, await client.stat(inside))]

        infos = sorted(self._with(listed), key=lambda info: str(info["name"]))
        return infos if detail else [info["name"] for info in infos]

    def created(self, path: str) -> dt.datetime:
        """Return when the attributes changed last; no store keeps the time of creation."""
        return _moment(self.info(path)["ctime_ns"])

    def modified(self, path: str) -> dt.datetime:
        """Return when the content changed last."""
        return _moment(self.info(path)["mtime_ns"])

    def checksum(self, path: str) -> int:
        """Return the server's change counter of the file: another one when content or attributes have changed."""
        return int(self.info(path)["change"])

    def ukey(self, path: str) -> str:
        """Return what tells this version of the file from others."""
        info = self.info(path)
        return f"{self.fsid}#{info['ino']}.{info['change']}"

    async def _created(self, client: Client, path: str, mode: str, *, direct: bool = False) -> "File":
        """Open a file for writing, after its directories have been made if they are missing and may be."""
        try:
            return await client.open(path, mode, direct=direct)
        except FileNotFoundError:
            if not self._auto_mkdir or mode[0] == "r":
                raise
        await client.mkdir(posixpath.dirname(path), parents=True, exist_ok=True)
        return await client.open(path, mode, direct=direct)

    # ---- directories and names

    def mkdir(self, path: str, create_parents: bool = True, **_: Any) -> None:
        """Make a directory. Raises: FileExistsError, OSError."""
        inside = self._inside(path)
        self._with(lambda client: client.mkdir(inside, parents=create_parents))

    def makedirs(self, path: str, exist_ok: bool = False) -> None:
        """Make a directory and those above it. Raises: FileExistsError unless exist_ok, OSError."""
        inside = self._inside(path)
        if inside == "/":
            if not exist_ok:
                raise FileExistsError(17, os.strerror(17), path)
            return
        self._with(lambda client: client.mkdir(inside, parents=True, exist_ok=exist_ok))

    def rmdir(self, path: str) -> None:
        """Remove an empty directory. Raises: OSError."""
        inside = self._inside(path)
        self._with(lambda client: client.rmdir(inside))

    def _rm(self, path: str) -> None:
        inside = self._inside(path)

        async def removed(client: Client) -> None:
            if (await client.stat(inside)).type is FileType.DIRECTORY:
                await client.rmdir(inside)
            else:
                await client.unlink(inside)

        self._with(removed)

    def cp_file(self, path1: str, path2: str, **_: Any) -> None:
        """Copy a file, or make the directory that path1 is one of. Raises: OSError."""
        source, target = self._inside(path1), self._inside(path2)

        async def copied(client: Client) -> None:
            attr = await client.stat(source)
            if attr.type is FileType.DIRECTORY:
                await client.mkdir(target, parents=True, exist_ok=True)
            elif not await client.exists(target) or (await client.stat(target)).ino != attr.ino:  # not onto itself
                await self._copied(client, source, target)

        if self._intrans and not self.isdir(path1):
            with self.open(path1, "rb") as old, self.open(path2, "wb") as new:
                shutil.copyfileobj(old, new, CHUNK)
            return
        self._with(copied)

    async def _copied(self, client: Client, source: str, target: str) -> None:
        """Copy a file's content."""
        async with (
            await client.open(source, direct=past_caches(client)) as old,
            await self._created(client, target, "w", direct=True) as new,
        ):
            buffer, pos = memoryview(bytearray(min(CHUNK, max(old.size, 1)))), 0
            while count := await old.preadv([buffer], pos):
                await new.write(buffer[:count], pos)
                pos += count

    def mv(self, path1: Any, path2: Any, recursive: bool = False, maxdepth: int | None = None, **others: Any) -> None:
        """Rename a file or a whole directory; into path2 if that is a directory. Patterns and lists: copied, then removed."""
        if not isinstance(path1, (str, os.PathLike)) or "*" in str(path1) or not isinstance(path2, (str, os.PathLike)):
            super().mv(path1, path2, recursive=recursive, maxdepth=maxdepth, **others)
            return
        source, target = str(self._strip_protocol(path1)), str(self._strip_protocol(path2))
        if self.isdir(target):
            target = posixpath.join(target, posixpath.basename(source))
        old, new = self._inside(source), self._inside(target)

        async def moved(client: Client) -> None:
            try:
                await client.rename(old, new)
                return
            except FileNotFoundError:
                if not self._auto_mkdir or not await client.exists(old):
                    raise
            await client.mkdir(posixpath.dirname(new), parents=True, exist_ok=True)
            await client.rename(old, new)

        self._with(moved)

    def touch(self, path: str, truncate: bool = True, **_: Any) -> None:
        """Make an empty file, or leave one alone unless it is to be truncated. Raises: OSError."""
        self._open(path, "wb" if truncate else "ab").close()

    # ---- content

    def open(self, path: str, mode: str = "rb", *args: Any, **kwargs: Any) -> Any:
        """Open a file: bytes, or text where the mode has no b. Raises: OSError."""
        file = super().open(path, mode, *args, **kwargs)
        if isinstance(file, io.TextIOBase):
            close_at_exit(file)
        return file

    def _open(self, path: str, mode: str = "rb", block_size: int | None = None, autocommit: bool = True, **_: Any) -> Any:
        path = str(self._strip_protocol(path))
        inside = self._inside(path)
        writes = mode[0] in "wax" or "+" in mode
        apart = writes and not autocommit

        async def opened(client: Client) -> "tuple[File, str]":
            if not apart:
                return await self._created(client, inside, mode), inside
            if "x" in mode and await client.exists(inside):
                raise FileExistsError(17, os.strerror(17), path)
            target = f"{inside}.{client.env.nonces(6).hex()}.part"
            if mode[0] in "ar" and (mode[0] == "r" or await client.exists(inside)):  # to be changed: in a copy
                await self._copied(client, inside, target)
            return await self._created(client, target, mode.replace("x", "w")), target

        opened_file, target = self._with(opened)
        raw = RawFile(self, opened_file, path, mode, block_size or BUFFER_SIZE)
        kind: type[NetReader | NetWriter | NetUpdater] = NetUpdater if "+" in mode else NetWriter if writes else NetReader
        file: NetFile = kind(raw, block_size or BUFFER_SIZE)
        if apart:
            file.in_transaction(partial(self._finish, file, target, inside))
            if "r" in mode:  # fsspec takes it for one that is only read
                self.transaction.files.append(file)
        elif writes:
            assert isinstance(file, io.BufferedIOBase)
            close_at_exit(file)
        return file

    def _finish(self, file: NetFile, target: str, inside: str, kept: bool) -> None:
        assert isinstance(file, io.BufferedIOBase)
        file.close()
        if kept:
            self._with(lambda client: client.rename(target, inside))
        else:
            self._with(lambda client: client.unlink(target))

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **_: Any) -> bytes:
        """Read a file or a range of it; negative positions count from the end. Raises: OSError."""
        inside = self._inside(path)
        return self._with(lambda client: _range_of(client, inside, start, end))

    def cat_ranges(
        self,
        paths: Sequence[str],
        starts: "Sequence[int | None] | int | None",
        ends: "Sequence[int | None] | int | None",
        max_gap: int | None = None,
        on_error: Literal["return", "raise"] = "return",
        **_: Any,
    ) -> list[Any]:
        """Read many ranges at the same time. Returns: bytes each, or the error in its place unless on_error is "raise"."""
        if max_gap is not None:
            raise NotImplementedError("ranges are read as they are given")
        insides = [self._inside(path) for path in paths]
        firsts = list(starts) if isinstance(starts, Sequence) else [starts] * len(insides)
        lasts = list(ends) if isinstance(ends, Sequence) else [ends] * len(insides)
        if not len(insides) == len(firsts) == len(lasts):
            raise ValueError("as many starts and ends as paths")
        results: list[bytes | Exception] = [b""] * len(insides)

        async def all_of(client: Client) -> None:
            limit = trio.CapacityLimiter(MAX_TOGETHER)

            async def one(index: int) -> None:
                async with limit:
                    try:
                        results[index] = await _range_of(client, insides[index], firsts[index], lasts[index])
                    except OSError as error:
                        results[index] = error

            async with trio.open_nursery() as nursery:
                for index in range(len(insides)):
                    nursery.start_soon(one, index)

        self._with(all_of)
        if on_error == "raise":
            for result in results:
                if isinstance(result, Exception):
                    raise result
        return results

    def pipe_file(self, path: str, value: Any, mode: str = "overwrite", **_: Any) -> None:
        """Write a file whole. mode: overwrite or create. Raises: FileExistsError for create where there is one, OSError."""
        if self._intrans:
            with self.open(path, "xb" if mode == "create" else "wb") as file:
                file.write(value)
            return
        inside = self._inside(path)

        async def written(client: Client) -> None:
            async with await self._created(client, inside, "x" if mode == "create" else "w", direct=True) as file:
                await file.write(value)

        self._with(written)

    def get_file(self, rpath: str, lpath: Any, callback: Callback = DEFAULT_CALLBACK, outfile: Any = None, **_: Any) -> None:
        """Copy a file to this machine. lpath: a path, or a file that is open for writing. Raises: OSError."""
        if outfile is None and not hasattr(lpath, "write"):
            if self.isdir(rpath):
                Path(lpath).mkdir(parents=True, exist_ok=True)
                return
            Path(lpath).parent.mkdir(parents=True, exist_ok=True)
            with Path(lpath).open("wb") as local:
                self.get_file(rpath, lpath, callback, local)
            return
        local = lpath if outfile is None else outfile
        inside = self._inside(rpath)
        file = self._with(lambda client: client.open(inside, direct=past_caches(client)))
        try:
            callback.set_size(file.size)
            buffer, pos = memoryview(bytearray(min(CHUNK, max(file.size, 1)))), 0
            while count := self.run(partial(file.preadv, [buffer], pos)):
                local.write(buffer[:count])
                pos += count
                callback.relative_update(count)
        finally:
            self.run(file.aclose)

    def put_file(self, lpath: Any, rpath: str, callback: Callback = DEFAULT_CALLBACK, mode: str = "overwrite", **_: Any) -> None:
        """Copy a file of this machine there. mode: as of `pipe_file`. Raises: OSError."""
        if Path(lpath).is_dir():
            self.makedirs(rpath, exist_ok=True)
            return
        if self._intrans:
            super().put_file(lpath, rpath, callback=callback, mode=mode)
            return
        inside = self._inside(rpath)
        with Path(lpath).open("rb") as local:
            callback.set_size(os.fstat(local.fileno()).st_size)
            file = self._with(lambda client: self._created(client, inside, "x" if mode == "create" else "w", direct=True))
            try:
                buffer = memoryview(bytearray(min(CHUNK, max(os.fstat(local.fileno()).st_size, 1))))
                while count := local.readinto(buffer):
                    self.run(partial(file.write, buffer[:count]))
                    callback.relative_update(count)
            finally:
                self.run(file.aclose)


async def _dropped(client: Client) -> None:
    client.drop_caches()


def past_caches(client: Client) -> bool:
    """Say whether files that are read once, from end to end, are read past the page cache: unless there is a cache on disk."""
    return client.local_cache is None


async def _range_of(client: Client, path: str, start: int | None, end: int | None) -> bytes:
    async with await client.open(path, direct=past_caches(client)) as file:
        first = 0 if start is None else start if start >= 0 else max(0, file.size + start)
        last = None if end is None else end if end >= 0 else file.size + end
        return await file.read(-1 if last is None else max(0, last - first), first)


def _info(path: str, attr: Attr) -> Info:
    found: Mapping[str, Any] = {
        "name": path,
        "size": attr.size if attr.type is FileType.FILE else 0,
        "type": _TYPES.get(attr.type, "other"),
        "mode": attr.mode,
        "uid": attr.uid,
        "gid": attr.gid,
        "nlink": attr.nlink,
        "ino": attr.ino,
        "mtime": attr.mtime_ns / 1e9,
        "mtime_ns": attr.mtime_ns,
        "ctime_ns": attr.ctime_ns,
        "change": attr.change,
        "islink": attr.type is FileType.SYMLINK,
    }
    return dict(found)


def _moment(ns: int) -> dt.datetime:
    return dt.datetime.fromtimestamp(ns / 1e9, tz=dt.UTC)
