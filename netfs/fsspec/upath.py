"""Trio shell. `UPath("netfs://host/folder/file")`: paths of an export in the manner of pathlib."""

from fsspec.registry import register_implementation
from upath.core import UPath

from netfs.fs.url import SCHEMES, parse_url
from netfs.fsspec.filesystem import NetFileSystem

__all__ = ["NetPath"]

for scheme in SCHEMES:
    # UPath takes the rules of a path from the classes that are loaded, and warns of one it does not find.
    register_implementation(scheme, NetFileSystem, clobber=True)


class NetPath(UPath):
    """A path of an export."""

    __slots__ = ()

    @property
    def path(self) -> str:
        """The absolute path in the export, without a slash at its end."""
        path = super().path
        return path.removesuffix("/") if len(path) > 1 else path

    def __str__(self) -> str:
        """Return the URL, server included, wherever that was told."""
        endpoint = self.storage_options.get("endpoint")
        if self._relative_base is not None or not isinstance(endpoint, str):
            return super().__str__()
        return parse_url(endpoint).base.removesuffix("/") + self.path
