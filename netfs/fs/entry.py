"""Sans-IO. Entry: a name in a directory as a listing gives it. Owns no memory."""

from dataclasses import dataclass

from transport.messages import Attr, FileType

__all__ = ["Entry"]


@dataclass(frozen=True, slots=True)
class Entry:
    """A name in a directory, with the attributes of what it names; `path` is the whole path."""

    name: str
    path: str
    attr: Attr

    @property
    def is_dir(self) -> bool:
        """True for a directory."""
        return self.attr.type is FileType.DIRECTORY
