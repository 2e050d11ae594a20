"""Sans-IO. Job: a piece of blocking work of the local cache, and who is told of its end. Owns no memory but what it was lent."""

import errno
from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["Job"]


@dataclass(slots=True, eq=False)
class Job:
    """`run` is called in a worker thread, then `ended`, once, in the Trio thread, with its result or its error."""

    run: Callable[[], object]
    ended: Callable[[object, Exception | None], None]
    withdrawn: bool = False

    def abandon(self) -> None:
        """Ask that it not be begun; its end is told all the same."""
        self.withdrawn = True

    def outcome(self) -> tuple[object, Exception | None]:
        """Do the work. Returns: what `ended` is to be told."""
        if self.withdrawn:
            return None, OSError(errno.ECANCELED, "abandoned")
        try:
            return self.run(), None
        except Exception as error:  # noqa: BLE001 (told to the one whose work it was)
            return None, error
