"""Trio shell. What a client does by listing directories: entries with their attributes, names, whole trees removed.

Memory: one page of a listing.
"""

from abc import abstractmethod
from collections.abc import AsyncIterator, Sequence

from netfs.errors import translate
from netfs.fs.entry import Entry
from netfs.fs.path import child
from netfs.fs.told import told
from netfs.fs.walk import Walk
from netfs.fs.whole import WholeFiles
from transport.messages import Attr, DirEntry, Handle

__all__ = ["Listings"]


class Listings(WholeFiles):
    """The part of a client that lists."""

    @abstractmethod
    async def stat(self, path: str) -> Attr:
        """See `Client`."""

    @told
    async def exists(self, path: str) -> bool:
        """Say whether a path names something. Raises: OSError when that cannot be learnt. Cancellation: no effect."""
        try:
            await self.stat(path)
        except (FileNotFoundError, NotADirectoryError):
            return False
        return True

    async def scandir(self, path: str = "/") -> AsyncIterator[Entry]:
        """Yield the entries of a directory with their attributes, in the server's order. Cancellation: no effect.

        Raises: OSError, EBADMSG for a listing of an encrypted directory that is not the one that was made.
        """

        async def directory(walk: Walk) -> Handle:
            return await walk.directory(self._names(path))

        handle = await self._translated(directory, path)
        changes, lease, names = self.known.changes, self.leases.holding(handle), set[str]()
        try:
            async for entry in self._volume.entries(handle):
                if lease is not None:
                    names.add(entry.name)
                if not self._volume.hides(entry.name):
                    yield Entry(entry.name, child(path, entry.name), self._as_seen(entry.handle, entry.attr))
        except Exception as error:
            raise translate(error, path, self.probe) from error
        self.known.listed(handle, names, lease, changes)

    async def examine(self, path: str) -> tuple[list[Entry], list[OSError]]:
        """List what verifies in a directory, and say what does not, for `fsck`. Cancellation: no effect."""

        async def looked(walk: Walk) -> tuple[list[DirEntry], Sequence[tuple[str, Exception]]]:
            return await self._volume.examine(await walk.directory(self._names(path)))

        good, bad = await self._translated(looked, path)
        errors = [translate(error, child(path, name) if name else path, self.probe) for name, error in bad]
        entries = [Entry(entry.name, child(path, entry.name), entry.attr) for entry in good]
        return entries, [error for error in errors if isinstance(error, OSError)]

    @told
    async def listdir(self, path: str = "/") -> list[str]:
        """Return the names in a directory, sorted. Cancellation: no effect."""
        return sorted([entry.name async for entry in self.scandir(path)])

    @told
    async def truncate(self, path: str, size: int) -> None:
        """Cut or extend a file to `size` bytes. Cancellation: may have happened."""
        async with await self.open(path, "r+") as file:
            await file.truncate(size)

    @told
    async def rmtree(self, path: str) -> None:
        """Remove a directory and all below it, as far as it gets. Cancellation: some of it may be gone."""
        names = [entry async for entry in self.scandir(path)]
        for entry in names:
            if entry.is_dir:
                await self.rmtree(entry.path)
            else:
                await self.unlink(entry.path)
        await self.rmdir(path)
