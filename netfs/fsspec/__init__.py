"""netfs for fsspec and UPath: `netfs://` URLs in pandas, pyarrow, zarr, dask and whatever else opens files through fsspec."""

from netfs.fsspec.filesystem import NetFileSystem
from netfs.fsspec.upath import NetPath

__all__ = ["NetFileSystem", "NetPath"]
