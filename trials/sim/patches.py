"""Trio shell. Attributes set for the length of a block and put back in reverse order, whatever happens. Owns no memory."""

from contextlib import ExitStack
from types import TracebackType
from typing import Final, Self

__all__ = ["Patches"]

MISSING: Final = object()


class Patches:
    """A context manager that remembers what each attribute was."""

    __slots__ = ("_undo",)

    def __init__(self) -> None:
        self._undo = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._undo.close()

    def set(self, owner: object, name: str, value: object) -> None:
        """Set an attribute of a module, class or instance until the block ends; one it only inherits is deleted again."""
        old = vars(owner).get(name, MISSING)
        setattr(owner, name, value)
        if old is MISSING:
            self._undo.callback(delattr, owner, name)
        else:
            self._undo.callback(setattr, owner, name, old)
