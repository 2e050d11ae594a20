"""netfs for fsspec and UPath: `netfs://` URLs in pandas, pyarrow, zarr, dask and whatever else opens files through fsspec."""

try:
    from netfs.fsspec.filesystem import NetFileSystem
    from netfs.fsspec.upath import NetPath
except ModuleNotFoundError as error:
    if error.name not in {"fsspec", "upath"}:
        raise
    raise ImportError("netfs:// in Python libraries needs fsspec and UPath: pip install 'netfs[fsspec]'") from error

__all__ = ["NetFileSystem", "NetPath"]
