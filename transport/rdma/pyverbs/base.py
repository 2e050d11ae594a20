"""Sans-IO. What pyverbs objects share: closing twice is nothing, closing a parent closes what hangs on it; owns no memory."""

from types import TracebackType
from typing import ClassVar, Self

from transport.rdma.mr import inc_key
from transport.rdma.pyverbs.pyverbs_error import PyverbsRDMAError

__all__ = ["PyverbsObject", "PyverbsRDMAErrno", "PyverbsRDMAError", "inc_rkey"]

inc_rkey = inc_key


class PyverbsRDMAErrno(PyverbsRDMAError):
    """A verb failed; pyverbs takes the code from errno, the device's errors carry it themselves."""


class PyverbsObject:
    """An object of the interface. `rank`: the order in which a parent closes its children."""

    rank: ClassVar[int] = 0

    def __init__(self) -> None:
        self.children: list[PyverbsObject] = []
        self.parents: list[PyverbsObject] = []
        self.closed = False

    def hang_on(self, *parents: "PyverbsObject | None") -> None:
        """Be closed when one of the parents is."""
        for parent in parents:
            if parent is not None:
                parent.children.append(self)
                self.parents.append(parent)

    def close(self) -> None:
        """Close the object and, before it, what hangs on it. Idempotent."""
        if self.closed:
            return
        self.closed = True
        for child in sorted(self.children, key=lambda child: child.rank):
            child.close()
        self.destroy()
        for parent in self.parents:
            if self in parent.children:
                parent.children.remove(self)

    def destroy(self) -> None:
        """Destroy the device's object."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.close()
