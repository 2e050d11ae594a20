"""Trio shell. What a descriptor can lend: bytes in the page cache's own memory, for who takes them before anybody has a turn.

The memory is the cache's and good until the next checkpoint. Owns none.
"""

from iov.probe import Probe
from netfs.engine.buffered_read import cached_view, lent_view
from netfs.engine.readahead import Readahead
from netfs.errors import translate
from netfs.fs.inode import Inode
from netfs.fs.told import told

__all__ = ["FileLent"]


class FileLent:
    """The part of `File` that lends."""

    __slots__ = ()
    path: str
    direct: bool
    _inode: Inode
    _ahead: Readahead | None

    @property
    def probe(self) -> Probe:
        """See `File`."""
        raise NotImplementedError

    def _check_read(self, pos: int) -> None:
        raise NotImplementedError

    def _read_ahead(self) -> Readahead:
        raise NotImplementedError

    async def read(self, n: int = -1, pos: int | None = None) -> bytes:
        """See `File`."""
        raise NotImplementedError

    def cached(self, n: int, pos: int) -> memoryview | None:
        """Return up to `n` bytes at `pos` without waiting if the page cache has them in one piece, clipped to the file.

        Ownership: the memory is the cache's, good until the next checkpoint. Raises: OSError.
        """
        self._check_read(pos)
        view = None if self.direct else cached_view(self._inode, pos, n, self._ahead or self._read_ahead())
        return None if view is None else view.toreadonly()

    @told
    async def lent(self, n: int, pos: int) -> memoryview | bytes:
        """Read as `read` does, without a copy where the page cache has the bytes in one piece.

        Ownership: the memory may be the cache's, good until the next checkpoint. Cancellation: no effect.
        """
        view = None if self.direct else await self._lent(n, pos)
        return await self.read(n, pos) if view is None else view.toreadonly()

    async def _lent(self, n: int, pos: int) -> memoryview | None:
        self._check_read(pos)
        try:
            return await lent_view(self._inode, pos, n, self._ahead or self._read_ahead())
        except Exception as error:
            raise translate(error, self.path, self._inode.probe) from error
