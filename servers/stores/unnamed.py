"""Trio shell. Files of a real folder that lost their last name while a client has them open: each gets one in `.netfs/removed`.

    unlink, or a rename onto it ── `keep` links it there first, `kept` notes it ──► read and written by its handle
    the last handle lease goes ── `closed` ──► `reap` removes it, as it does what a crash left there in between

So it outlives the server as well, and is the same object under the same handle. Where the kernel lets it have no second name
(another filesystem is mounted there, the file is somebody else's) it is gone at once. Whoever changes names holds the tree's
lock.
"""

import os
from collections import deque
from collections.abc import Callable
from contextlib import suppress

from servers.stores.handles import Node, Tree
from servers.stores.syscalls import Statx, list_names
from transport.messages import FileType, Handle

__all__ = ["Unnamed"]


class Unnamed:
    """The files of one folder that have no name. fd: of `.netfs/removed`; forget: gives back what is kept beside a file.

    due: those that nobody has open any more.
    """

    def __init__(self, tree: Tree, fd: int, forget: Callable[[Handle], None]) -> None:
        self._tree = tree
        self._fd = fd
        self._forget = forget
        self._folder = tree.hide(fd)
        self._nodes: dict[Handle, Node] = {}
        self.due: deque[Handle] = deque()
        for name, _ in list(list_names(fd, 0)):
            node, seen = tree.look(self._folder, fd, name)
            if seen.nlink > 1:  # a crash came before it had lost its other name, which it is found by
                os.unlink(name, dir_fd=fd)
                tree.forget(node)
            else:
                self._nodes[node.handle] = node

    def __contains__(self, handle: Handle) -> bool:
        return handle in self._nodes

    def handles(self) -> list[Handle]:
        """Return the files there are."""
        return list(self._nodes)

    def keep(self, node: Node, seen: Statx, fd: int, raw: bytes) -> bool:
        """Give a file another name before it loses the last one it has. Returns: whether it has it."""
        if seen.nlink != 1 or node.type is not FileType.FILE:
            return False
        try:
            os.link(raw, _name(node.handle), src_dir_fd=fd, dst_dir_fd=self._fd, follow_symlinks=False)
        except FileExistsError:
            return True  # of a removal that failed
        except OSError:
            return False
        return True

    def undo(self, node: Node) -> None:
        """It has not lost its name after all."""
        os.unlink(_name(node.handle), dir_fd=self._fd)

    def kept(self, node: Node) -> None:
        """Note that a file has no other name any more."""
        self._tree.moved(node, self._folder, _name(node.handle))
        node.changes += 1
        self._nodes[node.handle] = node

    def reap(self) -> None:
        """Remove what nobody has open any more."""
        while self.due:
            with suppress(IndexError), self._tree.names:
                handle = self.due.popleft()
                node = self._nodes.pop(handle, None)
                if node is not None:
                    with suppress(FileNotFoundError):
                        os.unlink(node.name, dir_fd=self._fd)
                    self._tree.forget(node)
                    self._forget(handle)


def _name(handle: Handle) -> bytes:
    return handle.hex().encode()
