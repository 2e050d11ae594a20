"""Trio shell. Client: a mounted export. Paths are walked one LOOKUP per component; files are opened, listed, renamed and removed.

The client owns the page cache, the pool of staging memory and the inodes its descriptors share. When its context ends it sends
what is still dirty, waits for everything in flight and insists that nothing is lent any more.
"""

import errno
import os
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import TYPE_CHECKING, Final, TypeVar

import trio

from iov.pool import BufferPool
from iov.probe import Probe
from netfs.cache.pagecache import PageCache
from netfs.engine.background import run_background, run_timers
from netfs.engine.writeback import END_OF_TIME, drop_idle, drop_range, fsync
from netfs.errors import translate
from netfs.fs.connect import Credentials, connect, recovery_of
from netfs.fs.dentry import DentryCache
from netfs.fs.entry import Entry
from netfs.fs.file import File, OpenMode, parse_mode
from netfs.fs.inode import Inode
from netfs.fs.kind import DEFAULT_BLOCK_SIZE, Level, StateFolder, volume_of
from netfs.fs.known import KnownAttributes
from netfs.fs.leases import Leases
from netfs.fs.own import own, with_held
from netfs.fs.path import names_of
from netfs.fs.reopening import Reopening
from netfs.fs.settling import settle
from netfs.fs.told import told
from netfs.fs.url import parse_url
from netfs.fs.volume import Volume
from netfs.fs.walk import Walk
from netfs.tracing.live import LiveRequest, live_requests
from transport.base import Transport
from transport.env import Env, system_env
from transport.messages import NO_HANDLE, Attr, EntryReply, Handle

if TYPE_CHECKING:
    from crypto.keys import VolumeKey
    from netfs.fs.caching import FileCaching
    from netfs.fscache import LocalCache
    from transport.rdma.capture import Capture

__all__ = ["DEFAULT_BLOCK_SIZE", "Client", "Entry", "Level", "StateFolder", "open_client"]

T = TypeVar("T")
MAX_IDLE_INODES: Final = 1024
MAX_DENTRIES: Final = 4096
STAGE_SLOT: Final = 1 << 18
MAX_STAGES: Final = 8
CLOSE_TIMEOUT_S: Final = 30
DEFAULT_CACHE_BYTES: Final = 64 << 20


class Client(Reopening):
    """A mounted export; made by `open_client`. page_cache: what its files have in memory."""

    def __init__(
        self, transport: Transport, volume: Volume, env: Env, probe: Probe, cache: PageCache, top: Sequence[str] = (),
        caching: "FileCaching | None" = None, leasing: bool = False,
    ) -> None:  # fmt: skip
        self.transport = transport
        self.env = env
        self.probe = probe
        self._volume = volume
        self.page_cache = cache
        self._caching = caching
        self._pool = BufferPool(probe, STAGE_SLOT, MAX_STAGES)
        self._dentries = DentryCache(MAX_DENTRIES)
        self._inodes: dict[Handle, Inode] = {}
        self._singles: dict[int, int] = {}
        self._opened = 0
        self._idle: OrderedDict[Handle, Inode] = OrderedDict()
        self._root: Handle | None = None
        self._volume_top: list[str] = []
        self._top = top
        self._closed = False
        self._owners = 0
        self._settling: dict[Handle, tuple[Inode, float]] = {}
        self._settle_soon = trio.Event()
        self.names_fresh_s = 0.0
        """For how long a directory's name is believed so much that what is not found there is not looked for again."""
        self.on_recall: Callable[[Handle], Awaitable[None]] | None = None
        """Called when another client is at a file, before what is dirty of it is sent and what is cached forgotten."""
        self.leases = Leases(transport, self._forget, self._same, self._is_open)
        self.owning: Callable[[Handle], object | None] = self.leases.owning
        self._leasing = leasing and self.leases.possible
        self.known = KnownAttributes(MAX_DENTRIES, self.leases.holding, env.now)
        self.local_cache = None if caching is None else caching.cache
        """The cache on disk at work for buffered reads and writes, with counts in `stats` and what ails it in `reason`."""

    @told
    async def open(
        self, path: str, mode: str = "r", *, direct: bool = False, sync: bool = False, create_mode: int = 0o644
    ) -> File:
        """Open a regular file. mode: r, w, a or x, perhaps with +, as Python's open; bytes always. direct: past the page cache.

        sync: each write is durable when it returns (O_SYNC, and O_DSYNC, which a COMMIT does not tell apart).

        Raises: OSError (FileNotFoundError, IsADirectoryError, FileExistsError, …); ValueError for a mode that is none.
        Cancellation: not open; a file may have been created.
        """
        how = parse_mode(mode)
        leasing = self._leasing and self._volume.compounds

        async def found(walk: Walk) -> tuple[EntryReply, Attr | None]:
            names, name = self._split_file(path)
            parent = await walk.directory(names)
            if how.create:
                with self.known.changing(names=((parent, name),)) as change:
                    if how.exclusive and leasing:
                        with suppress(BlockingIOError):  # another client is to give the directory back first
                            entry, above = await self.leases.create(parent, name, create_mode)
                            change.noted(parent, above)
                            return entry, entry.attr
                    return await self._volume.create(parent, name, create_mode, exclusive=how.exclusive), None
            known = self._inodes.get(self.known.handle(parent, name) or NO_HANDLE)
            if leasing and (known is None or not self._covered(known, write=how.write)):
                entry, sent = await self.leases.find(parent, name, write=how.write)
                self.known.put(parent, name, entry, None)
                return entry, sent
            return await self._volume.lookup(parent, name), None

        try:
            try:
                inode, attr = await self._opened_as(path, how, found)
            except OSError as error:
                if error.errno != errno.ESTALE or how.create:  # what was made once, and is removed, is not made again
                    raise
                inode, attr = await self._opened_as(path, how, found)  # another file has taken the name in between
        except Exception as error:
            raise translate(error, path, self.probe) from error
        return File(self, inode, path, how, attr, direct=direct, sync=sync, buffers=self.page_cache.wanted)

    async def _opened_as(
        self, path: str, how: OpenMode, found: Callable[[Walk], Awaitable[tuple[EntryReply, Attr | None]]]
    ) -> tuple[Inode, Attr]:  # fmt: skip
        opened = self._opened
        entry, sent = await self._walked(found)
        inode = self._inodes.get(entry.handle)
        if inode is not None and (inode.opens or opened != self._opened):
            sent = None  # another descriptor may have changed it since
        inode = self._get_inode(entry.handle, path)
        try:
            attr = await self._revalidate(inode, entry, sent, write=how.write)
            if how.exclusive and sent is not None:
                own(self, inode, attr)
            await self._cut(inode, how)
        except BaseException:
            self.put_inode(inode)
            raise
        return inode, attr

    @told
    async def stat(self, path: str) -> Attr:
        """Return the attributes of what a path names; the size is the one a reader sees. Cancellation: no effect."""

        async def found(walk: Walk) -> Attr:
            names = self._names(path)
            if not names:
                return await self._volume.getattr(walk.root)
            parent, name = await walk.directory(names[:-1]), names[-1]
            entry = self.known.get(parent, name)
            if entry is not None:
                await trio.lowlevel.checkpoint()
                return entry.attr
            if self.known.absent(parent, name):
                await trio.lowlevel.checkpoint()
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
            return await self._looked(parent, name)

        return await self._translated(found, path)

    async def _looked(self, parent: Handle, name: str) -> Attr:
        """Ask what a name stands for, the second time with leases, so that the third time nobody need be asked."""
        changes = self.known.changes
        if self._leasing and self._volume.compounds and self.known.handle(parent, name) is not None:
            entry = await self.leases.look(parent, name)
        else:
            entry = await self._volume.lookup(parent, name)
        inode = self._inodes.get(entry.handle)
        if self._leasing and (inode is None or not (inode.opens or inode.uncommitted or inode.mapping.dirty)):
            self.known.put(parent, name, entry, changes)
        return self._as_seen(entry.handle, entry.attr)

    def _as_seen(self, handle: Handle, attr: Attr) -> Attr:
        """Put the size that a reader of an open file sees into its attributes."""
        inode = self._inodes.get(handle)
        if inode is not None and inode.opens:
            if inode.own is not None:
                with_held(inode.own, attr)
            attr.size = inode.sizes.i_size
        return attr

    def requests(self) -> list[LiveRequest]:
        """Return the reads and writes under way; `netfs.tracing.live_table` makes a table of them."""
        return live_requests(self._inodes.values(), self._singles.items())

    def use_keys(
        self,
        keys: "VolumeKey",
        block_size: int = DEFAULT_BLOCK_SIZE,
        *,
        top: str = "/",
        freshness: Level = "local",
        state: StateFolder = None,
    ) -> None:
        """Take a directory for the top of an encrypted volume from now on, when the key could only be had from the server.

        Args: top: the directory's path; no other than paths below it can be used any more. The rest as of `open_client`.
        Raises: ValueError while a file is open or has data that is not yet safe; OSError as `open_client`.
        """
        if any(inode.opens or inode.uncommitted for inode in self._inodes.values()):
            raise ValueError("files are in use as plain ones")
        self.drop_caches()
        for inode in self._inodes.values():
            self._forgotten(inode)
        self._inodes.clear()
        self._idle.clear()
        self._volume_top, self._root = names_of(top), None
        plain = self._volume
        self._volume = volume_of(
            self.transport, keys, self.env, self.probe, plain.rsize, plain.wsize, block_size, freshness, state
        )  # fmt: skip
        plain.close()

    def drop_caches(self) -> None:
        """Forget every clean folio and every name, as far as nobody is at work on them."""
        self._dentries.clear()
        self.known.clear()
        for inode in self._inodes.values():
            for folio in inode.mapping.every():
                if folio.evictable:
                    self.page_cache.drop(folio)

    async def aclose(self) -> None:
        """Send what is dirty, wait for what is in flight and close the connection. Idempotent.

        Raises: OSError when data that no descriptor is left to tell of did not reach the server.
        Cancellation: dirty data is lost; everything is given back all the same.
        """
        if self._closed:
            await trio.lowlevel.checkpoint()
            return
        self._closed = True
        failed: Exception | None = None
        try:
            for inode in tuple(self._inodes.values()):
                mark = inode.wb_error.sample()
                try:
                    await settle(self, inode)
                    await fsync(inode)
                except Exception as error:  # noqa: BLE001 (the other files are still to be sent)
                    inode.wb_error.record(error)
                late, _ = inode.wb_error.check(mark)
                failed = failed or (late and translate(late, inode.path, self.probe))
        finally:
            with trio.move_on_after(CLOSE_TIMEOUT_S, shield=True):
                await self.transport.aclose()
                if self._caching is not None:
                    await self._caching.cache.drain()
            # With the connection every call has ended, so that nothing may be lent any more, also after a cancellation.
            self._pool.close()
            self._volume.close()
        if failed is not None:
            raise failed

    async def keep_written(self, inode: Inode) -> None:
        """Have the local cache keep what was written to a file, when its last descriptor is closed and all of it is durable."""
        if self._caching is not None and inode.opens == 1:
            await self._caching.written(inode, self.leases)

    def put_inode(self, inode: Inode) -> None:
        """Give back a descriptor's share of an inode; idle ones are kept with their folios, up to a bound."""
        inode.opens -= 1
        self.known.forget(inode.handle)
        if inode.opens:
            return
        if inode.own is not None and inode.own.held is None:
            inode.own = None
        self.leases.closed(inode.handle)
        if self._caching is not None:
            self._caching.closed(inode)
        self._idle[inode.handle] = inode
        inode.file_ops.idle()
        if len(self._idle) > MAX_IDLE_INODES:
            handle, oldest = next(iter(self._idle.items()))
            if oldest.uncommitted or not all(folio.evictable for folio in oldest.mapping.every()):
                self._idle.move_to_end(handle)  # busy still: its turn comes again
                return
            for folio in oldest.mapping.every():
                self.page_cache.drop(folio)
            del self._idle[handle], self._inodes[handle]
            self._forgotten(oldest)

    def _forgotten(self, inode: Inode) -> None:
        if self._caching is not None:
            self._caching.forgotten(inode)

    def _get_inode(self, handle: Handle, path: str) -> Inode:
        self._opened += 1
        self.known.forget(handle)
        inode = self._inodes.get(handle)
        if inode is None:
            inode = self._inodes[handle] = Inode(handle, path, self.page_cache, self._pool, self.probe)
            inode.plug(self._volume.file_ops(inode))
        self._idle.pop(handle, None)
        inode.path = path
        inode.opens += 1
        return inode

    def _covered(self, inode: Inode, *, write: bool) -> bool:
        """Tell whether a lease makes true what is known of a file."""
        return inode.change >= 0 and self.leases.covers(inode.handle, write=write)

    async def _revalidate(self, inode: Inode, entry: EntryReply, sent: Attr | None, *, write: bool) -> Attr:
        """Believe what is true of a file that is opened. sent: what OPEN was answered, if it has been sent."""
        # A lease that came with this very open says nothing of what is cached from before.
        covered = sent is None and self._covered(inode, write=write)
        if inode.own is not None:
            await settle(self, inode)
        if inode.mapping.dirty or inode.mapping.unstable:
            # Another descriptor is at work. What is only here has to be safe before the folios may be dropped as outdated.
            sent = None
            try:
                await fsync(inode)
            except Exception as error:  # noqa: BLE001 (it is the other descriptor's)
                inode.wb_error.record(error)
        if covered and self._covered(inode, write=write):
            await trio.lowlevel.checkpoint()
            return entry.attr
        modified = inode.modified
        if sent is None and self._leasing:
            sent = await self.leases.open(inode.handle, write=write)
        attr, size = await inode.file_ops.opened(entry, sent, write=write)
        if inode.opened(attr, size, modified):
            await drop_range(inode, 0, END_OF_TIME)
        if self._caching is not None:
            await self._caching.opened(inode, attr, size, modified)
        return attr

    async def _forget(self, handle: Handle, wait: bool = True) -> None:
        """Send what is dirty of a file and forget what is cached: somebody else is at it. wait: also for what is in use."""
        inode = self._inodes.get(handle)
        if inode is None:
            return
        if self.on_recall is not None:
            await self.on_recall(handle)
        if not wait:
            drop_idle(inode)
            inode.outdated()
            return
        await inode.file_ops.written()
        await settle(self, inode)
        inode.own = None
        if inode.mapping.dirty or inode.mapping.unstable or inode.uncommitted:
            await fsync(inode)
        await drop_range(inode, 0, END_OF_TIME)
        inode.outdated()

    def settle_later(self, inode: Inode, delay_s: float) -> None:
        """Send what is held back of a file after a while, whether anybody asks for it or not."""
        self._settling.setdefault(inode.handle, (inode, self.env.now() + delay_s))
        self._settle_soon.set()

    async def _settled(self, handle: Handle) -> None:
        inode = self._inodes.get(handle)
        if inode is not None and inode.own is not None:
            await settle(self, inode)

    async def settling(self) -> None:
        """Send what is held back when its time has come, until cancelled."""
        while True:
            await self._settle_soon.wait()
            while self._settling:
                handle, (inode, due) = next(iter(self._settling.items()))
                await trio.sleep(max(0.0, due - self.env.now()))
                del self._settling[handle]
                await settle(self, inode)
            self._settle_soon = trio.Event()

    def _same(self, handle: Handle, change: int) -> bool:
        """Tell whether a file is as it is known here."""
        inode = self._inodes.get(handle)
        return inode is None or inode.change == change

    def _is_open(self, handle: Handle) -> bool:
        inode = self._inodes.get(handle)
        return inode is not None and inode.opens > 0

    def _known(self, handle: Handle) -> bool:
        return handle in self._inodes

    def new_owner(self) -> int:
        """Return the number of one more owner of locks."""
        self._owners += 1
        return self._owners


@asynccontextmanager
async def open_client(
    target: str | Transport,
    *,
    keys: "VolumeKey | None" = None,
    identity: str | os.PathLike[str] | None = None,
    known_hosts: str | os.PathLike[str] | None = None,
    ca: str | os.PathLike[str] | None = None,
    env: Env | None = None,
    probe: Probe | None = None,
    cache_bytes: int = DEFAULT_CACHE_BYTES,
    cache: "LocalCache | str | os.PathLike[str] | None" = None,
    rsize: int = 1 << 20,
    wsize: int = 1 << 20,
    block_size: int = DEFAULT_BLOCK_SIZE,
    freshness: Level = "local",
    state: StateFolder = None,
    capture: "Capture | None" = None,
    leases: bool | None = None,
    hard: bool = False,
    timeout: float = 60.0,
    channels: int = 1,
) -> AsyncIterator[Client]:
    """Mount an export.

    Args: target: a URL (`netfs://host:port/path`, `netfs+unix:///socket:/path`), whose path becomes the client's root, or a
    connected transport; either is closed in the end. keys: of an encrypted volume, None for plain files. identity: a file;
    with it `netfs://` is TLS, without it a plain connection, to this machine only. known_hosts: the file with the keys of
    servers, None for the one in `~/.config/netfs`. ca: certificates of an authority that vouches for servers instead.
    cache_bytes: budget of the page cache; 0: files are used past it. cache: a directory that keeps what buffered reads and
    writes have moved for the next time, or a `LocalCache` with its limits; ciphertext where the volume is encrypted. rsize,
    wsize: most bytes of one read or write. block_size: of encrypted files created here, in bytes: 16 KiB, or 64 KiB for files
    that are mostly read and written in order. freshness: `local` remembers what was seen of an encrypted volume from one
    mount to the next, in the folder `state` (by default ~/.local/state/netfs/volumes), so that a server cannot go back behind
    it; `session` does so for this mount only, `inspect` also after it has. capture: takes what passes over the connection to
    a URL, as `open_capture` of transport/rdma/capture_file.py makes them. hard, timeout, channels: of a URL, if it does not
    say so itself (`?hard&timeout=30&channels=2`). A lost connection is made anew and what was under way goes on; a call that
    has had none for `timeout` seconds fails with ETIMEDOUT, with `hard` it waits for ever. channels: connections side by
    side.
    Raises: OSError when the server cannot be reached or is none; ESTALE when it has gone back before and nobody accepted that.
    Cancellation: not mounted; inside the block, dirty data of files that were not closed is lost.
    """
    env = env or system_env()
    probe = probe or Probe()
    top: list[str] = []
    server: str | None = None
    async with AsyncExitStack() as stack:
        if isinstance(target, str):
            url = parse_url(target)
            top = names_of(url.path)
            server = url.base
            credentials = None if identity is None else Credentials(identity, known_hosts, ca)
            recovery = recovery_of(url, hard, timeout, channels)
            transport = await stack.enter_async_context(connect(url, env, probe, credentials, recovery, capture))
        else:
            transport = target
        caching: FileCaching | None = None
        if cache is not None:
            # The local cache is only loaded by those who have one.
            from netfs.fs.caching import run_caching  # noqa: PLC0415

            caching = await stack.enter_async_context(run_caching(cache, server, env, probe))
        volume = volume_of(transport, keys, env, probe, rsize, wsize, block_size, freshness, state)
        # Waiting to be told of others takes a credit for as long as the mount lasts; a server that gives one has none to spare.
        leasing = (server is not None if leases is None else leases) and transport.limits.credits > 1
        client = Client(transport, volume, env, probe, PageCache(cache_bytes), top, caching, leasing)
        failure: BaseException | None = None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run_timers, client.page_cache.timers, env.now)
            nursery.start_soon(run_background, client.page_cache, env.now)
            nursery.start_soon(client.leases.run)
            nursery.start_soon(client.settling)
            nursery.start_soon(volume.tend)
            try:
                yield client
            except BaseException as error:  # noqa: BLE001 (raised below, outside the nursery, which would make a group of it)
                failure = error
            try:
                await client.aclose()
            except BaseException as late:  # noqa: BLE001 (as above)
                if failure is not None:
                    # The block's own error is the one to hear of; what closing fails with is most often the same again.
                    failure.add_note(f"and when the client was closed: {late}")
                failure = failure or late
            nursery.cancel_scope.cancel()
        if failure is not None:
            raise failure
