"""Random operations on a store against the same calls on a folder: every result and errno is the kernel's."""

import errno
import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iov.probe import Probe
from servers.stores.base import Store
from tests.conformance.store_words import KINDS, get, opened, put
from transport.messages import FileType, Handle, Setattr

PATHS = st.lists(st.sampled_from("abc"), min_size=1, max_size=3).map("/".join)
SIZES = st.sampled_from([0, 1, 5, 4096, 10_000, (1 << 20) - 1, 1 << 20, (1 << 20) + 3, 3 << 20])
Row = tuple[object, ...]


def rows() -> st.SearchStrategy[Row]:
    return st.one_of(
        st.tuples(st.just("create"), PATHS, st.booleans()),
        st.tuples(st.just("mkdir"), PATHS),
        st.tuples(st.sampled_from(["unlink", "rmdir", "size", "list"]), PATHS),
        st.tuples(st.just("rename"), PATHS, PATHS),
        st.tuples(st.just("write"), PATHS, SIZES, st.binary(max_size=40)),
        st.tuples(st.just("truncate"), PATHS, SIZES),
        st.tuples(st.just("read"), PATHS, SIZES, st.integers(0, 100)),
        st.tuples(st.just("chmod"), PATHS, st.integers(0, 0o777)),
    )


class OnStore:
    """Paths on a store, one component at a time as a client walks them."""

    def __init__(self, store: Store) -> None:
        self.store = store

    def parent(self, path: str) -> tuple[Handle, str]:
        *parts, name = path.split("/")
        handle = self.store.root().handle
        for part in parts:
            handle = self.store.lookup(handle, part).handle
        if self.store.getattr(handle).type is not FileType.DIRECTORY:
            raise OSError(errno.ENOTDIR, path)
        return handle, name

    def find(self, path: str) -> Handle:
        return self.store.lookup(*self.parent(path)).handle

    def create(self, path: str, exclusive: bool) -> None:
        self.store.create(*self.parent(path), 0o644, exclusive=exclusive)

    def mkdir(self, path: str) -> None:
        self.store.mkdir(*self.parent(path), 0o755)

    def unlink(self, path: str) -> None:
        self.store.unlink(*self.parent(path))

    def rmdir(self, path: str) -> None:
        self.store.rmdir(*self.parent(path))

    def rename(self, path: str, new: str) -> None:
        self.store.rename(*self.parent(path), *self.parent(new))

    def write(self, path: str, pos: int, data: bytes) -> int:
        return put(self.store, self.find(path), pos, data)

    def read(self, path: str, pos: int, length: int) -> bytes:
        return get(self.store, self.find(path), pos, length)

    def truncate(self, path: str, size: int) -> None:
        self.store.truncate(self.find(path), size)

    def chmod(self, path: str, mode: int) -> int:
        return self.store.setattr(Setattr(self.find(path), mode=mode)).mode

    def size(self, path: str) -> tuple[bool, int]:
        attr = self.store.getattr(self.find(path))
        is_file = attr.type is FileType.FILE
        return is_file, attr.size if is_file else attr.mode

    def list(self, path: str) -> list[str]:
        entries, eof = self.store.readdir(self.find(path), 0, 100)
        assert eof
        return sorted(entry.name for entry in entries)


class OnKernel:
    """The same with the calls of this machine, run as somebody whom modes do not stop."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def fd(self, path: str, flags: int) -> int:
        return os.open(self.root / path, flags | os.O_NOFOLLOW, 0o644)

    def create(self, path: str, exclusive: bool) -> None:
        os.close(self.fd(path, os.O_RDWR | os.O_CREAT | (os.O_EXCL if exclusive else 0)))

    def mkdir(self, path: str) -> None:
        (self.root / path).mkdir(0o755)

    def unlink(self, path: str) -> None:
        (self.root / path).unlink()

    def rmdir(self, path: str) -> None:
        (self.root / path).rmdir()

    def rename(self, path: str, new: str) -> None:
        (self.root / path).rename(self.root / new)

    def write(self, path: str, pos: int, data: bytes) -> int:
        fd = self.fd(path, os.O_RDWR)
        try:
            return os.pwrite(fd, data, pos)
        finally:
            os.close(fd)

    def read(self, path: str, pos: int, length: int) -> bytes:
        fd = self.fd(path, os.O_RDONLY)
        try:
            return os.pread(fd, length, pos)
        finally:
            os.close(fd)

    def truncate(self, path: str, size: int) -> None:
        os.truncate(self.root / path, size)

    def chmod(self, path: str, mode: int) -> int:
        (self.root / path).chmod(mode)
        return (self.root / path).stat().st_mode & 0o7777

    def size(self, path: str) -> tuple[bool, int]:
        found = (self.root / path).lstat()
        is_file = (self.root / path).is_file()
        return is_file, found.st_size if is_file else found.st_mode & 0o7777

    def list(self, path: str) -> list[str]:
        return sorted(entry.name for entry in (self.root / path).iterdir())


def outcome(side: OnStore | OnKernel, row: Row) -> object:
    name, *arguments = row
    try:
        return getattr(side, str(name))(*arguments)
    except OSError as error:
        return errno.errorcode[error.errno or 0]


def tree(side: OnStore | OnKernel, paths: list[str]) -> object:
    return {
        path: (outcome(side, ("size", path)), outcome(side, ("list", path)), outcome(side, ("read", path, 0, 1 << 22)))
        for path in paths
    }


@pytest.mark.skipif(os.geteuid() != 0, reason="a mode must not stop the comparison")
@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=60, deadline=None)
@given(script=st.lists(rows(), min_size=1, max_size=25))
def test_results_are_the_kernels(kind: str, script: list[Row]) -> None:
    with opened(kind, Probe()) as store, tempfile.TemporaryDirectory() as kernels:
        ours, theirs = OnStore(store), OnKernel(Path(kernels))
        for row in [("mkdir", "a"), ("create", "b", True), *script]:
            assert outcome(ours, row) == outcome(theirs, row), row
        every = [f"{x}{y}{z}" for x in "abc" for y in ("", "/a", "/b", "/c") for z in ("", "/a", "/b", "/c")]
        assert tree(ours, every) == tree(theirs, every)
