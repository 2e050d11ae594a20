"""Sans-IO. Walking a path: one LOOKUP per directory on the way, except where a remembered name is believed.

Owns no memory.
"""

import errno
import os
from collections.abc import Sequence

from netfs.fs.dentry import DentryCache
from netfs.fs.volume import Volume
from transport.messages import FileType, Handle

__all__ = ["Walk"]


class Walk:
    """One attempt at an operation on a path. trusting: believe remembered names; trusted: one was believed, perhaps wrongly."""

    __slots__ = ("_dentries", "_trusting", "_volume", "root", "trusted")

    def __init__(self, volume: Volume, root: Handle, dentries: DentryCache, *, trusting: bool) -> None:
        self.root = root
        self.trusted = False
        self._volume = volume
        self._dentries = dentries
        self._trusting = trusting

    async def directory(self, names: Sequence[str]) -> Handle:
        """Return the handle of the directory the names lead to from the root.

        Raises: OSError of the server; NotADirectoryError for anything else on the way, a symlink too. Cancellation: no effect.
        """
        handle = self.root
        for name in names:
            known = self._dentries.get(handle, name) if self._trusting else None
            if known is None:
                entry = await self._volume.lookup(handle, name)
                if entry.attr.type is not FileType.DIRECTORY:
                    raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), name)
                known = entry.handle
                self._dentries.put(handle, name, known)
            else:
                self.trusted = True
            handle = known
        return handle
