"""Sans-IO. Nodes: what the kernel calls inodes, and where in the export each of them is.

The kernel names objects by number, the client by path. A node knows its places, the (directory node, name) pairs by which it was
found, so that a renamed directory takes everything below it along without being told. A node lives until the kernel has forgotten
it. A number is the server's, so that it stays the same from mount to mount, unless another object has it already. Owns no memory.
"""

import errno
import os
from dataclasses import dataclass, field
from typing import Final

from transport.messages import Attr, FileType, Handle

__all__ = ["ROOT", "Node", "Nodes"]

ROOT: Final = 1
OTHERS: Final = 1 << 62
"""Numbers of nodes whose own number is taken begin here."""


@dataclass(slots=True, eq=False)
class Node:
    """An object of the export as long as the kernel knows it. lookups: how often the kernel was given it. opens: descriptors.

    places: where it was found, the latest last. server_ino: the number the server gave it. change: the change counter of the
    file when it was last opened, so that the kernel may keep what it has of a file that nobody has changed. handle: the
    server's name for a file that was opened. type: what it is. attr: of a directory, as it was last seen.
    """

    number: int
    server_ino: int
    places: "dict[tuple[Node, str], None]" = field(default_factory=dict)
    lookups: int = 0
    opens: int = 0
    change: int = -1
    handle: Handle | None = None
    type: FileType | None = None
    attr: Attr | None = None

    @property
    def gone(self) -> bool:
        """It has no name any more."""
        return not self.places and self.number != ROOT

    @property
    def above(self) -> int:
        """The number of the directory it is in; the root is in itself."""
        return next(reversed(self.places))[0].number if self.places else ROOT

    def path(self) -> str:
        """Return where it is. Raises: OSError(ESTALE) for what has no name any more."""
        names: list[str] = []
        node = self
        while node.number != ROOT:
            if not node.places:
                raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
            node, name = next(reversed(node.places))
            names.append(name)
        return "/" + "/".join(reversed(names))

    def child_path(self, name: str) -> str:
        """Return the path of a name in this directory. Raises: as `path`."""
        return f"{self.path().removesuffix('/')}/{name}"


class Nodes:
    """The nodes the kernel knows."""

    def __init__(self) -> None:
        self.root = Node(ROOT, 0, lookups=1)
        self._by_number: dict[int, Node] = {ROOT: self.root}
        self._by_place: dict[tuple[Node, str], Node] = {}
        self._by_handle: dict[Handle, Node] = {}
        self._others = OTHERS

    def __len__(self) -> int:
        return len(self._by_number)

    def get(self, number: int) -> Node:
        """Return the node with a number. Raises: OSError(ESTALE) for one that was forgotten."""
        node = self._by_number.get(number)
        if node is None:
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        return node

    def opened(self, node: Node, handle: Handle) -> None:
        """Note what the server calls a file."""
        if node.handle != handle:
            self._unnamed(node)
            node.handle = handle
        self._by_handle[handle] = node

    def of(self, handle: Handle) -> Node | None:
        """Return the node of a file that was opened, if the kernel still knows it."""
        return self._by_handle.get(handle)

    def _unnamed(self, node: Node) -> None:
        if node.handle is not None and self._by_handle.get(node.handle) is node:
            del self._by_handle[node.handle]

    def at(self, parent: Node, name: str) -> Node | None:
        """Return the node last found under a name, if the kernel still knows it."""
        return self._by_place.get((parent, name))

    def found(self, parent: Node, name: str, server_ino: int) -> Node:
        """Note that a name in a directory is the object with that number, and count a lookup."""
        place = (parent, name)
        node = self._by_place.get(place)
        if node is not None and node.server_ino != server_ino:
            self.gone(parent, name)  # somebody else has put another object there
            node = None
        if node is None:
            node = self._by_number.get(server_ino) if server_ino > ROOT else None
            # An object without a name may be one whose number the server has given to this one since.
            if node is None or not node.places or node.server_ino != server_ino:
                node = self._new(server_ino)
            self._by_place[place] = node
        node.places.pop(place, None)
        node.places[place] = None
        node.lookups += 1
        return node

    def gone(self, parent: Node, name: str) -> Node | None:
        """Note that a name is nobody's any more. Returns: the node that had it, None for one the kernel does not know."""
        node = self._by_place.pop((parent, name), None)
        if node is not None:
            node.places.pop((parent, name), None)
        return node

    def replaced(self, node: Node, attr: Attr) -> bool:
        """Tell whether what was found at a node's path is another object, one that somebody else has put there."""
        if node.number == ROOT or attr.ino != node.server_ino:
            return node.number != ROOT  # whoever looks for the name finds a new node
        if node.type in {None, attr.type}:
            return False
        self.gone(*next(reversed(node.places)))  # the server has used the number again
        return True

    def moved(self, parent: Node, name: str, new_parent: Node, new_name: str) -> None:
        """Note a rename; what had the new name has lost it."""
        place = (new_parent, new_name)
        if (parent, name) == place:
            return
        node = self.gone(parent, name)
        self.gone(new_parent, new_name)
        if node is not None:
            self._by_place[place] = node
            node.places[place] = None

    def exchanged(self, parent: Node, name: str, new_parent: Node, new_name: str) -> None:
        """Note that two names have changed places."""
        one, other = self.gone(parent, name), self.gone(new_parent, new_name)
        for node, place in ((one, (new_parent, new_name)), (other, (parent, name))):
            if node is not None:
                self._by_place[place] = node
                node.places[place] = None

    def forget(self, number: int, lookups: int) -> None:
        """Take back lookups; a node without any is gone. Nothing below it is left then, as the kernel forgets from the leaves."""
        node = self._by_number.get(number)
        if node is None or number == ROOT:
            return
        node.lookups -= lookups
        assert node.lookups >= 0
        if not node.lookups:
            del self._by_number[number]
            self._unnamed(node)
            for place in node.places:
                del self._by_place[place]
            node.places.clear()

    def _new(self, server_ino: int) -> Node:
        number = server_ino
        if number <= ROOT or number >= OTHERS or number in self._by_number:
            self._others += 1
            number = self._others
        node = self._by_number[number] = Node(number, server_ino)
        return node
