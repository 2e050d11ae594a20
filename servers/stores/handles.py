"""Trio shell. Handles of a real folder: who an object is, where it was seen last, and how it is opened again.

A handle is (device, inode, birth time), so an inode that is used again is another object. A node remembers the parent and the
name under which the object was seen; to open it, its path is walked down from the nearest open ancestor, one component at a
time, and what is found must be who it was: a change behind our back is ESTALE, never another file. Where objects were seen is
kept (`Places`) before a reply that tells of them leaves, so that handles outlive the server.

    Node(root) ◄── Node("a") ◄── Node("b")        descriptors, least recently used closed first:
       fd, kept      O_PATH fd      O_RDONLY or O_RDWR fd

A directory somebody renames between our look and our note of it would leave a wrong place behind: `moves` counts our own
renames, and a look that saw it change is repeated. `names` is held by whoever changes names; a walk that fails is tried again
under it before the handle is called stale.
"""

import errno
import os
import struct
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Final, Protocol, TypeVar

from servers.stores.base import fail
from servers.stores.descriptors import Descriptor, Descriptors
from servers.stores.syscalls import Statx, open_beneath, open_cached, statx
from transport.messages import FileType, Handle

__all__ = ["Node", "Places", "Tree", "anchor", "raw_name"]

ID_ATTRIBUTE: Final = "user.netfs.id"
MAX_NODES: Final = 65536
"""Objects known at a time, where their places are remembered elsewhere."""
EVICT_MORE: Final = 1024
_MAX_PLACES: Final = 8
_HANDLE: Final = struct.Struct("<QQq")
_ID: Final = struct.Struct("<q")
_GONE: Final = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP})
_NOT_A_FILE: Final = {
    FileType.DIRECTORY: errno.EISDIR,
    FileType.SYMLINK: errno.ELOOP,
    FileType.OTHER: errno.EINVAL,
}
T = TypeVar("T")


def raw_name(name: str) -> bytes:
    """Return a name as the kernel wants it."""
    return name.encode("utf-8", "surrogateescape")


def anchor(fd: int) -> str:
    """Return a path of what a descriptor stands for, for calls that take none; it leads on when that is a symlink."""
    return f"/proc/self/fd/{fd}"


@dataclass(slots=True, eq=False)
class Node:
    """An object that has a handle. changes: made through this server."""

    handle: Handle
    type: FileType
    parent: "Node | None"
    name: bytes
    changes: int = 0
    others: "list[tuple[Node, bytes]] | None" = None
    """More names of a file that has several, the one seen last at the end."""

    def remember(self, parent: "Node", name: bytes) -> None:
        """Keep a place where the object was seen, for when it loses the one it is known by."""
        kept = [place for place in self.others or () if place[0] is not parent or place[1] != name]
        self.others = [*kept[1 - _MAX_PLACES :], (parent, name)]

    def path(self) -> bytes:
        """Return the path from the root, for messages and the journal."""
        parts: list[bytes] = []
        node = self
        while node.parent is not None:
            parts.append(node.name)
            node = node.parent
        return b"/".join(reversed(parts))


class Places(Protocol):
    """What remembers, over a restart, where objects were seen."""

    def remember_places(self, places: Sequence[tuple[Handle, Handle, bytes]]) -> None:
        """Keep handle, parent and name of objects."""

    def forget_places(self, handles: Sequence[Handle]) -> None:
        """Forget objects that are gone."""

    def place(self, handle: Handle) -> tuple[Handle, bytes] | None:
        """Return parent and name of an object."""


class Tree:
    """The nodes of an export and their open descriptors. mint: gives numbers for objects whose filesystem keeps no birth time."""

    def __init__(self, root_fd: int, capacity: int, mint: Callable[[], int] | None) -> None:
        self.names = threading.RLock()
        self._table = threading.Lock()
        self._keeping = threading.Lock()
        self._mint = mint
        self._directories: Descriptors[Handle] = Descriptors(max(8, capacity // 4))
        self._files: Descriptors[Handle] = Descriptors(max(8, capacity - capacity // 4))
        self._root_descriptor = Descriptor(root_fd, writable=False)
        self._moves = 0
        self.root = Node(self._identify(root_fd, statx(root_fd)), FileType.DIRECTORY, None, b"")
        self._nodes: dict[Handle, Node] = {self.root.handle: self.root}
        self.places: Places | None = None
        self._hidden: tuple[Node, Descriptor] | None = None
        self._news: dict[Handle, tuple[Handle, bytes] | None] = {}

    # ---- nodes

    def node(self, handle: Handle) -> Node:
        """Raises: ESTALE."""
        node = self._nodes.get(handle)
        return self._recall(handle) if node is None else node

    def _recall(self, handle: Handle) -> Node:
        """Look where an earlier server saw an object. Raises: ESTALE."""
        place = None if self.places is None else self.places.place(handle)
        if place is None:
            raise fail(errno.ESTALE)
        hidden = self._hidden
        parent = hidden[0] if hidden is not None and hidden[0].handle == place[0] else self.directory_node(place[0])
        held = self._settled(lambda: self._pin_directory(parent))
        try:
            node, _ = self.look(parent, held.fd, place[1])
        except FileNotFoundError:
            raise fail(errno.ESTALE) from None
        finally:
            self._directories.unpin(held)
        if node.handle != handle:
            raise fail(errno.ESTALE)
        return node

    def keep(self) -> None:
        """Have everything that was seen since the last time outlive the server."""
        places = self.places
        if places is None:
            return
        with self._keeping:  # what this thread saw may be in the hands of another, which has not written it yet
            if not self._news:
                return
            with self._table:
                news, self._news = self._news, {}
            seen = [(handle, *place) for handle, place in news.items() if place is not None]
            gone = [handle for handle, place in news.items() if place is None]
            try:
                if seen:
                    places.remember_places(seen)
                if gone:
                    places.forget_places(gone)
            except OSError:
                with self._table:
                    self._news = news | self._news
                raise
            self._evict()

    def _evict(self) -> None:
        """Forget files of which no descriptor is open, the longest known first; what remembers their places finds them again."""
        if len(self._nodes) <= MAX_NODES:
            return
        with self._table:
            for handle, node in list(islice(self._nodes.items(), len(self._nodes) - MAX_NODES + EVICT_MORE)):
                del self._nodes[handle]
                if node.type is FileType.DIRECTORY or handle in self._news or self._files.has(handle):
                    self._nodes[handle] = node  # once more round

    def knows(self, handle: Handle) -> bool:
        """Tell whether an object has been looked at."""
        return handle in self._nodes

    def file_node(self, handle: Handle) -> Node:
        """Return the node of a regular file. Raises: ESTALE, EISDIR, ELOOP for a symlink, EINVAL for a device or pipe."""
        node = self.node(handle)
        if node.type is not FileType.FILE:
            raise fail(_NOT_A_FILE[node.type])
        return node

    def directory_node(self, handle: Handle) -> Node:
        """Return the node of a directory. Raises: ESTALE, ENOTDIR."""
        node = self.node(handle)
        if node.type is not FileType.DIRECTORY:
            raise fail(errno.ENOTDIR)
        return node

    def look(self, parent: Node, parent_fd: int, name: bytes) -> tuple[Node, Statx]:
        """Find a name in an open directory and remember where it is. Raises: ENOENT."""
        while True:
            moves = self._moves
            found = statx(parent_fd, name)
            handle = self._handle(found) if found.birth_ns is not None else self._identify_name(parent_fd, name, found)
            with self._table:
                if moves != self._moves:
                    continue
                node = self._nodes.get(handle)
                if node is None:
                    node = self._nodes[handle] = Node(handle, found.type, parent, name)
                    self._news[handle] = (parent.handle, name)
                elif (node.parent is not parent or node.name != name) and not _is_within(parent, node):
                    if found.nlink > 1 and node.parent is not None and node.type is not FileType.DIRECTORY:
                        node.remember(node.parent, node.name)
                    node.parent, node.name = parent, name
                    self._news[handle] = (parent.handle, name)
                return node, found

    def who(self, parent: Node, name: bytes) -> Handle | None:
        """Say who has a name in a directory, None for nobody. Raises: ESTALE for a directory that is gone."""
        held = self._settled(lambda: self._pin_directory(parent))
        try:
            found = statx(held.fd, name)
            return self._handle(found) if found.birth_ns is not None else self._identify_name(held.fd, name, found)
        except FileNotFoundError:
            return None
        finally:
            self._directories.unpin(held)

    def peek(self, parent: Handle, name: bytes) -> tuple[Node, Statx] | None:
        """Find a name without sleeping: one that was looked at before and that the kernel has in its cache; else None."""
        node = self._nodes.get(parent)
        held = None if node is None or node.type is not FileType.DIRECTORY else self._pin_open_directory(node)
        if held is None:
            return None
        try:
            fd = open_cached(held.fd, name)
            if fd is None:
                return None
            try:
                found = statx(fd)
            finally:
                os.close(fd)
        finally:
            self._directories.unpin(held)
        child = None if found.birth_ns is None else self._nodes.get(self._handle(found))
        if child is None or child.parent is not node or child.name != name:
            return None
        unkept = self.places is not None and child.handle in self._news
        return None if unkept else (child, found)

    def moved(self, node: Node, parent: Node, name: bytes) -> None:
        """Note that a rename took a node elsewhere."""
        with self._table:
            self._moves += 1
            node.parent, node.name = parent, name
            self._news[node.handle] = (parent.handle, name)

    def lost_name(self, node: Node, parent: Node, name: bytes) -> None:
        """Note that an object lost one of its names and has others left, of which we may know some."""
        with self._table:
            self._moves += 1
            node.others = [place for place in node.others or () if place[0] is not parent or place[1] != name]
            if node.parent is parent and node.name == name and node.others:
                node.parent, node.name = node.others.pop()
                self._news[node.handle] = (node.parent.handle, node.name)

    def forget(self, node: Node) -> None:
        """Note that an object is gone."""
        with self._table:
            self._moves += 1
            self._nodes.pop(node.handle, None)
            self._news[node.handle] = None
        self._files.drop(node.handle)
        self._directories.drop(node.handle)

    def hide(self, fd: int) -> Node:
        """Take in a directory that no handle of a client names; files may be moved there. Ownership: `fd` stays the caller's."""
        node = Node(self._identify(fd, statx(fd)), FileType.DIRECTORY, None, b"")
        self._hidden = node, Descriptor(fd, writable=False)
        return node

    # ---- descriptors

    @property
    def root_fd(self) -> int:
        """The export's root, as O_PATH."""
        return self._root_descriptor.fd

    @contextmanager
    def directory(self, handle: Handle) -> Iterator[tuple[Node, int]]:
        """Open a directory for the length of a block. Raises: ESTALE, ENOTDIR."""
        node = self.directory_node(handle)
        held = self._settled(lambda: self._pin_directory(node))
        try:
            yield node, held.fd
        except FileNotFoundError:
            if not statx(held.fd).nlink:  # not the name is gone but the whole directory
                raise fail(errno.ESTALE) from None
            raise
        finally:
            self._directories.unpin(held)

    def opened(self, handle: Handle) -> Descriptor | None:
        """Pin a file that is open already; never sleeps."""
        return self._files.pin(handle)

    def file(self, handle: Handle, *, write: bool) -> Descriptor:
        """Pin a regular file, opening it if need be. Raises: as `file_node`, EACCES, EROFS."""
        held = self._files.pin(handle)
        if held is not None:
            if held.writable or not write:
                return held
            self._files.unpin(held)
        node = self.file_node(handle)
        flags = (os.O_RDWR if write else os.O_RDONLY) | os.O_NONBLOCK | os.O_NOCTTY
        fd = self._settled(lambda: self._open(node, flags))
        return self._files.add(handle, fd, writable=write)

    def adopt(self, node: Node, fd: int) -> None:
        """Keep the descriptor a file was created with."""
        self._files.unpin(self._files.add(node.handle, fd, writable=True))

    def let_go(self, descriptor: Descriptor) -> None:
        """Unpin what `file` or `opened` gave."""
        self._files.unpin(descriptor)

    @contextmanager
    def held(self, node: Node) -> Iterator[int]:
        """Open an object of any kind, without rights to its content, for the length of a block. Raises: ESTALE."""
        fd = os.dup(self._root_descriptor.fd) if node.parent is None else self._settled(lambda: self._open(node, os.O_PATH))
        try:
            yield fd
        finally:
            os.close(fd)

    def statx(self, node: Node) -> Statx:
        """Look at an object where it was seen last. Raises: ESTALE."""
        if node.parent is None:
            return statx(self._root_descriptor.fd)
        held = self._files.pin(node.handle)
        if held is None:
            return self._settled(lambda: self._statx_by_name(node))
        try:
            found = statx(held.fd)
        finally:
            self._files.unpin(held)
        if not found.nlink:
            raise fail(errno.ESTALE)
        return found

    def close(self) -> None:
        """Close every descriptor. Asserts that none is in use."""
        self._files.close()
        self._directories.close()
        os.close(self._root_descriptor.fd)

    # ---- inside

    def _settled(self, walk: Callable[[], T]) -> T:
        try:
            return walk()
        except OSError as error:
            if error.errno != errno.ESTALE:
                raise
        with self.names:
            return walk()

    def _pin_directory(self, node: Node) -> Descriptor:
        missing: list[Node] = []
        at = node
        while (held := self._pin_open_directory(at)) is None:
            missing.append(at)
            assert at.parent is not None
            at = at.parent
        for step in reversed(missing):
            try:
                fd = self._open_under(held.fd, step, os.O_PATH | os.O_DIRECTORY)
            finally:
                self._directories.unpin(held)
            held = self._directories.add(step.handle, fd, writable=False)
        return held

    def _pin_open_directory(self, node: Node) -> Descriptor | None:
        if node.parent is None:
            hidden = self._hidden
            return self._directories.hold(hidden[1] if hidden is not None and hidden[0] is node else self._root_descriptor)
        return self._directories.pin(node.handle)

    def _open(self, node: Node, flags: int) -> int:
        assert node.parent is not None
        held = self._pin_directory(node.parent)
        try:
            return self._open_under(held.fd, node, flags)
        finally:
            self._directories.unpin(held)

    def _open_under(self, parent_fd: int, node: Node, flags: int) -> int:
        try:
            fd = open_beneath(parent_fd, node.name, flags)
        except OSError as error:
            if error.errno in _GONE:
                raise fail(errno.ESTALE) from None
            raise
        if self._identify(fd, statx(fd)) != node.handle:
            os.close(fd)
            raise fail(errno.ESTALE)
        return fd

    def _statx_by_name(self, node: Node) -> Statx:
        assert node.parent is not None
        held = self._pin_directory(node.parent)
        try:
            found = statx(held.fd, node.name)
            same = self._handle(found) if found.birth_ns is not None else self._identify_name(held.fd, node.name, found)
        except OSError as error:
            if error.errno in _GONE:
                raise fail(errno.ESTALE) from None
            raise
        finally:
            self._directories.unpin(held)
        if same != node.handle:
            raise fail(errno.ESTALE)
        return found

    # ---- identity

    def identify(self, fd: int) -> Handle:
        """Return the handle of an open object that is in no node yet."""
        return self._identify(fd, statx(fd))

    @staticmethod
    def _handle(found: Statx) -> Handle:
        return Handle(_HANDLE.pack(found.dev, found.ino, found.birth_ns or 0))

    def _identify_name(self, parent_fd: int, name: bytes, found: Statx) -> Handle:
        fd = open_beneath(parent_fd, name, os.O_PATH)
        try:
            return self._identify(fd, found)
        finally:
            os.close(fd)

    def _identify(self, fd: int, found: Statx) -> Handle:
        if found.birth_ns is None:
            found.birth_ns = self._stamp(anchor(fd), found.type)
        return self._handle(found)

    def _stamp(self, path: str, kind: FileType) -> int:
        """Return the number that stands in for a birth time, giving one on first sight; 0 where none can be kept."""
        if kind not in (FileType.FILE, FileType.DIRECTORY):
            return 0
        try:
            value = os.getxattr(path, ID_ATTRIBUTE)
            return int(_ID.unpack(value)[0]) if len(value) == _ID.size else 0
        except OSError:
            if self._mint is None:
                return 0
        number = self._mint()
        try:
            os.setxattr(path, ID_ATTRIBUTE, _ID.pack(number), os.XATTR_CREATE)
        except FileExistsError:
            return self._stamp(path, kind)
        except OSError:
            return 0
        return number


def _is_within(node: Node | None, ancestor: Node) -> bool:
    """A folder mounted inside itself must not become its own ancestor."""
    while node is not None:
        if node is ancestor:
            return True
        node = node.parent
    return False
