"""Sans-IO. Walking a path: one LOOKUP per directory on the way, except where a remembered name is believed.

Owns no memory.
"""

import errno
import os
from collections.abc import Callable, Sequence

from netfs.fs.dentry import DentryCache
from netfs.fs.volume import Volume
from transport.messages import FileType, Handle

__all__ = ["Walk"]


class Walk:
    """One attempt at an operation on a path.

    trusting: believe remembered names, perhaps wrongly. now: the time; fresh_s: how long ago a name was asked for may be that is
    as good as asking. sure: returns the directory that a name certainly stands for, as leases vouch for it, or None.
    believed: a remembered name was believed; trusted: one that was neither sure nor fresh.
    """

    __slots__ = ("_dentries", "_fresh_s", "_now", "_sure", "_trusting", "_volume", "believed", "root", "trusted")

    def __init__(
        self, volume: Volume, root: Handle, dentries: DentryCache, *, trusting: bool, now: float = 0.0, fresh_s: float = 0.0,
        sure: Callable[[Handle, str], Handle | None] = lambda _, __: None,
    ) -> None:  # fmt: skip
        self.root = root
        self.trusted = self.believed = False
        self._now, self._fresh_s, self._sure = now, fresh_s, sure
        self._volume = volume
        self._dentries = dentries
        self._trusting = trusting

    async def directory(self, names: Sequence[str]) -> Handle:
        """Return the handle of the directory the names lead to from the root.

        Raises: OSError of the server; NotADirectoryError for anything else on the way, a symlink too. Cancellation: no effect.
        """
        handle = self.root
        for name in names:
            certain = self._sure(handle, name) if self._trusting else None
            if certain is not None:
                self.believed = True
                handle = certain
                continue
            known = self._dentries.get(handle, name) if self._trusting else None
            if known is None:
                entry = await self._volume.lookup(handle, name)
                if entry.attr.type is not FileType.DIRECTORY:
                    raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), name)
                self._dentries.put(handle, name, entry.handle, self._now)
                handle = entry.handle
            else:
                handle, asked = known
                self.believed = True
                self.trusted = self.trusted or self._now - asked >= self._fresh_s
        return handle
