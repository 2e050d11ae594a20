"""Words of the store suite and of the tests of single stores: put, get, names, refused."""

import errno
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from iov.copy_iter import copy_to_iter
from iov.extract import extract_segments
from iov.iov_iter import Direction, IovIter
from iov.probe import Probe
from servers.stores.base import Lent, Store
from servers.stores.directory import DirectoryStore
from servers.stores.memory import MemoryStore
from transport.base import FileRange
from transport.messages import Handle

MIB = 1 << 20
MEMORY = "/dev/shm"
KINDS = ("memory", "folder", "sleeping")
"""A folder's store comes as one that never sleeps, without a disk to wait for, and as one that says it does, on memory."""


@contextmanager
def refused(code: int) -> Iterator[None]:
    with pytest.raises(OSError) as caught:
        yield
    got = caught.value.errno or 0
    assert got == code, f"{errno.errorcode[got]}, not {errno.errorcode[code]}"


def taken(lent: Lent) -> bytes:
    """Copy out what was lent, and give it back."""
    if lent.source is None:
        assert lent.length == 0
        return b""
    if isinstance(lent.source, FileRange):
        # As transports do: zeros take the place of what was cut since.
        data = os.pread(lent.source.fd, lent.source.length, lent.source.pos).ljust(lent.source.length, b"\0")
    else:
        assert lent.source.count == lent.length
        data = b"".join(bytes(view) for view in extract_segments(lent.source, lent.length))
    assert len(data) == lent.length
    assert lent.release is not None
    lent.release()
    return data


def get(store: Store, handle: Handle, pos: int = 0, length: int = MIB, *, aux: bool = False) -> bytes:
    return taken(store.read_source(handle, pos, length, aux=aux))


def put(store: Store, handle: Handle, pos: int, data: bytes, *, aux: bool = False, stable: bool = False) -> int:
    landing = store.write_landing(handle, pos, len(data), aux=aux)
    assert copy_to_iter(data, landing.iter.copy()) == len(data)
    return store.write(handle, pos, landing, stable=stable, aux=aux)


def top(store: Store) -> Handle:
    return store.root().handle


def new(store: Store, name: str = "f", data: bytes = b"", parent: Handle | None = None) -> Handle:
    handle = store.create(top(store) if parent is None else parent, name, 0o644, exclusive=True).handle
    if data:
        put(store, handle, 0, data)
    return handle


def folder(store: Store, name: str = "d", parent: Handle | None = None) -> Handle:
    return store.mkdir(top(store) if parent is None else parent, name, 0o755).handle


def names(store: Store, handle: Handle, step: int = 1000) -> list[str]:
    found: list[str] = []
    cookie, eof = 0, False
    while not eof:
        entries, eof = store.readdir(handle, cookie, step)
        assert len(entries) <= step and (entries or eof)
        found += [entry.name for entry in entries]
        cookie = entries[-1].cookie if entries else cookie
    return found


def source(data: bytes) -> IovIter:
    return IovIter.ubuf(Direction.SOURCE, data)


@contextmanager
def opened(kind: str, probe: Probe) -> Iterator[Store]:
    """Open a store of a kind over nothing; at the end it is closed, which asserts that nothing is lent."""
    if kind in ("memory", "crashable"):
        store: Store = MemoryStore(probe, crashable=kind == "crashable")
        yield store
        store.close()
        return
    if sys.platform != "linux":
        pytest.skip("the directory store needs Linux")
    in_memory = kind == "sleeping" and os.access(MEMORY, os.W_OK)
    with tempfile.TemporaryDirectory(dir=MEMORY if in_memory else None) as folder_name:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("servers.stores.directory_files.is_memory", lambda _: kind == "folder")
            store = DirectoryStore(folder_name, probe)
        yield store
        store.close()
