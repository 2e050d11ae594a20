"""Sans-IO. IoLock: who may change an inode's content at the same time.

Direct reads and writes share; buffered writes and truncation exclude each other and the direct ones; buffered reads take nothing,
because a copy out of a folio is one step. One who wants it exclusively keeps later sharers out, so that neither starves. After
the locking classes of Linux netfslib (`netfs_start_io_direct` and its kin). Owns no memory.
"""

from netfs.cache.waiters import WakeList

__all__ = ["IoLock"]


class IoLock:
    """A lock shared by direct I/O, exclusive for the rest. Waiting is `netfs.engine.park`'s."""

    __slots__ = ("exclusive", "shared", "waiters", "wanted")

    def __init__(self) -> None:
        self.shared = 0
        self.exclusive = False
        self.wanted = 0
        self.waiters = WakeList()

    @property
    def busy(self) -> bool:
        """Somebody has it."""
        return self.exclusive or self.shared > 0

    def try_shared(self) -> bool:
        """Take a share if nobody has or wants it exclusively."""
        if self.exclusive or self.wanted:
            return False
        self.shared += 1
        return True

    def try_exclusive(self) -> bool:
        """Take it whole if nobody has any of it."""
        if self.exclusive or self.shared:
            return False
        self.exclusive = True
        return True

    def release_shared(self) -> None:
        """Give a share back."""
        self.shared -= 1
        if not self.shared:
            self.waiters.wake_all()

    def release_exclusive(self) -> None:
        """Give the whole back."""
        assert self.exclusive
        self.exclusive = False
        self.waiters.wake_all()
