"""Sans-IO. `UPath("netfs://host/folder/file")`: paths of an export in the manner of pathlib."""

from upath.core import UPath

__all__ = ["NetPath"]


class NetPath(UPath):
    """A path of an export."""

    __slots__ = ()

    @property
    def path(self) -> str:
        """The absolute path in the export, without a slash at its end."""
        path = super().path
        return path.removesuffix("/") if len(path) > 1 else path
