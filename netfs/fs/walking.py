"""Sans-IO. How a client gets from a path to what it names: names below the volume's top, one walk, and a second without trust.

Owns no memory.
"""

import errno
import os
from abc import ABC
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from iov.probe import Probe
from netfs.errors import translate
from netfs.fs.calls import ask
from netfs.fs.dentry import DentryCache
from netfs.fs.known import KnownAttributes
from netfs.fs.path import names_of, split_last
from netfs.fs.volume import Volume
from netfs.fs.walk import Walk
from transport.base import Transport
from transport.env import Env
from transport.messages import EntryReply, Handle, Lookup, Mount

__all__ = ["Walking"]

T = TypeVar("T")


class Walking(ABC):
    """The part of a client that knows of paths. known: attributes that leases vouch for."""

    transport: Transport
    env: Env
    probe: Probe
    known: KnownAttributes
    _volume: Volume
    _dentries: DentryCache
    _root: Handle | None
    _top: Sequence[str]
    _volume_top: list[str]
    _closed: bool
    names_fresh_s: float

    def _names(self, path: str) -> list[str]:
        """Return the names of a path, from the volume's top.

        Raises: as `names_of`; FileNotFoundError for one the volume keeps to itself, EXDEV for a path outside of it.
        """
        names = names_of(path)
        top = len(self._volume_top)
        if names[:top] != self._volume_top:
            raise OSError(errno.EXDEV, "outside of the volume", path)
        if any(self._volume.hides(name) for name in names[top:]):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        return names[top:]

    def _split(self, path: str) -> tuple[list[str], str]:
        """Return the names of the parent and the last name. Raises: as `split_last` and `_names`."""
        names = self._names(path)
        if not names:
            split_last("/")
        return names[:-1], names[-1]

    def _split_file(self, path: str) -> tuple[list[str], str]:
        """Do as `_split` for what is to be a file. Raises: also IsADirectoryError."""
        if not self._names(path):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
        return self._split(path)

    async def _found(self, walk: Walk, path: str) -> EntryReply:
        """Ask for the object that a path names."""
        names = self._names(path)
        if not names:
            return EntryReply(walk.root, await self._volume.getattr(walk.root))
        return await self._volume.lookup(await walk.directory(names[:-1]), names[-1])

    async def _root_handle(self) -> Handle:
        if self._root is None:
            root = (await ask(self.transport, Mount(), EntryReply)).handle
            for name in (*self._top, *self._volume_top):
                root = (await ask(self.transport, Lookup(root, name), EntryReply)).handle
            await self._volume.root(root)
            self._root = root
        return self._root

    async def _walked(self, action: Callable[[Walk], Awaitable[T]]) -> T:
        """Do something that walks a path; once more, asking for every name, if remembered ones may have misled it."""
        if self._closed:
            raise OSError(errno.EBADF, "the client is closed")
        root = await self._root_handle()
        now = self.env.now()
        walk = Walk(
            self._volume, root, self._dentries, trusting=True, now=now, fresh_s=self.names_fresh_s, sure=self.known.directory,
        )  # fmt: skip
        try:
            return await action(walk)
        except OSError as error:
            misled = walk.trusted and error.errno in {errno.ENOENT, errno.ENOTDIR}
            if not misled and not (walk.believed and error.errno == errno.ESTALE):
                raise
        return await action(Walk(self._volume, root, self._dentries, trusting=False, now=now))

    async def _translated(self, action: Callable[[Walk], Awaitable[T]], path: str) -> T:
        try:
            return await self._walked(action)
        except Exception as error:
            raise translate(error, path, self.probe) from error
