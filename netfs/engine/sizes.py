"""Sans-IO. The three sizes of a file as one triple: i_size, remote_i_size and zero_point.

They are only changed together, by the methods here, so that no reader sees a mixture. Invariants: `zero_point` is never below a
byte that is not zero on the server; `i_size` is what the user sees and may be ahead of `remote_i_size` while data is dirty.
After netfs_resize_file and the zero point rules of Linux netfslib. Owns no memory.
"""

from dataclasses import dataclass

__all__ = ["FileSizes"]


@dataclass(slots=True)
class FileSizes:
    """Sizes of one file in bytes.

    i_size: what the user sees. remote_i_size: what the server has. zero_point: from there on the server holds no data, so that
    reads need not ask it.
    """

    i_size: int = 0
    remote_i_size: int = 0
    zero_point: int = 0

    def refreshed(self, remote: int) -> None:
        """Take over what the server says while nothing local is ahead of it."""
        self.i_size = self.remote_i_size = self.zero_point = remote

    def refreshed_behind(self, remote: int) -> None:
        """Take over what the server says while local changes are ahead of it: nothing shrinks."""
        self.remote_i_size = remote
        self.i_size = max(self.i_size, remote)
        self.zero_point = max(self.zero_point, remote)

    def moved(self, remote: int, ours: int, dirty: int) -> None:
        """Another client has changed the file, which has `remote` bytes now.

        What was written from here since ends at `ours` on the server, and at `dirty` in the page cache; 0 for nothing.
        """
        self.remote_i_size = max(remote, min(ours, self.remote_i_size))
        self.i_size = max(self.remote_i_size, min(dirty, self.i_size))
        self.zero_point = max(self.zero_point, self.remote_i_size)

    def wrote_cache(self, end: int) -> None:
        """Data up to `end` is in the page cache."""
        if end > self.i_size:
            self.i_size = end

    def wrote_server(self, end: int) -> None:
        """Data up to `end` reached the server."""
        if end > self.remote_i_size:
            self.remote_i_size = end
        if end > self.zero_point:
            self.zero_point = end
        if end > self.i_size:
            self.i_size = end

    def resized(self, size: int) -> None:
        """The file was cut or extended to `size` here and on the server; the zero point is lowered, never raised."""
        self.i_size = self.remote_i_size = size
        if size < self.zero_point:
            self.zero_point = size
