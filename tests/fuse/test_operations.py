"""No exception ends a mount: whatever fails below, each operation answers with an errno, and a defect with EIO."""

import errno
import os
import stat
from types import SimpleNamespace
from typing import Any, cast

import pytest
import trio

from transport.messages import Attr, FileType

pyfuse3 = pytest.importorskip("pyfuse3", reason="not installed: pip install 'netfs[fuse]'")
pytestmark = pytest.mark.slow
"""They take no time, but only `make check` has pyfuse3."""
CTX = SimpleNamespace(uid=0, gid=0, pid=1, umask=0o022)
ALL = SimpleNamespace(
    update_size=True, update_mode=True, update_uid=True, update_gid=True, update_atime=True, update_mtime=True
)  # fmt: skip
CALLS: dict[str, tuple[Any, ...]] = {
    "lookup": (1, b"a", CTX),
    "readlink": (10, CTX),
    "mkdir": (1, b"d", 0o755, CTX),
    "mknod": (1, b"f", stat.S_IFREG | 0o644, 0, CTX),
    "symlink": (1, b"s", b"target", CTX),
    "link": (10, 1, b"l", CTX),
    "unlink": (1, b"a", CTX),
    "rmdir": (1, b"a", CTX),
    "rename": (1, b"a", 1, b"b", 0, CTX),
    "getattr": (10, CTX),
    "setattr": (10, pyfuse3.EntryAttributes(), ALL, None, CTX),
    "statfs": (CTX,),
    "getxattr": (10, b"user.a", CTX),
    "setxattr": (10, b"user.a", b"1", CTX),
    "removexattr": (10, b"user.a", CTX),
    "listxattr": (10, CTX),
    "open": (10, os.O_RDWR | os.O_TRUNC, CTX),
    "create": (1, b"n", 0o644, os.O_RDWR, CTX),
    "read": (1, 0, 10),
    "write": (1, 0, b"x"),
    "flush": (1,),
    "fsync": (1, False),
    "release": (1,),
    "readdir": (2, 0, None),
}
NEVER_FAIL = {"forget", "opendir", "releasedir", "fsyncdir"}
"""They ask nobody."""


class Broken:
    """A client, or an open file, of which everything fails."""

    def __init__(self, error: Exception) -> None:
        self.__dict__["error"] = error

    def __getattr__(self, name: str) -> Any:
        raise self.__dict__["error"]


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (OSError(errno.ENOSPC, "full"), errno.ENOSPC),
        (OSError("without a number"), errno.EIO),
        (RuntimeError("a defect"), errno.EIO),
        (ExceptionGroup("several", [ValueError("one"), OSError(errno.ENOSPC, "full")]), errno.EIO),
    ],
    ids=["errno", "none", "defect", "group"],
)
@pytest.mark.parametrize("name", CALLS)
async def test_each_operation_answers(name: str, error: Exception, code: int) -> None:
    from netfs.fuse.attributes import MountOptions
    from netfs.fuse.operations import Listing, MountOps, Opened

    broken = cast("Any", Broken(error))
    ops = MountOps(broken, "", MountOptions())
    node = ops._nodes.found(ops._nodes.root, "a", 10)
    ops._files[1] = Opened(node, broken)
    ops._listings[2] = Listing(ops._nodes.root)
    with pytest.raises(pyfuse3.FUSEError) as answer:
        await getattr(ops, name)(*CALLS[name])
    assert answer.value.errno == code


def test_every_operation_is_asked() -> None:
    from netfs.fuse.operations import MountOps

    handlers = {name for name in vars(MountOps) if hasattr(pyfuse3.Operations, name) and callable(getattr(MountOps, name))}
    assert {name for name in handlers if not name.startswith("_")} == CALLS.keys() | NEVER_FAIL


class Halfway:
    """A client whose files open, and then fail; the one that is made is there already if `exists`. closed: how many were."""

    def __init__(self, *, exists: bool) -> None:
        self.exists = exists
        self.closed = self.size = 0
        self.attr = Attr(10, FileType.FILE, 0o644, 1, 0, 0, 0, 0, 0, 0, 0)

    async def open(self, path: str, mode: str, **_: Any) -> "Halfway":
        await trio.lowlevel.checkpoint()
        if mode == "x+" and self.exists:
            raise FileExistsError(errno.EEXIST, "there", path)
        return self

    async def setattr(self, **_: Any) -> Attr:
        await trio.lowlevel.checkpoint()
        raise OSError(errno.ENOSPC, "full")

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()
        self.closed += 1


@pytest.mark.parametrize(("name", "exists"), [("open", True), ("create", True), ("create", False)])
async def test_what_nobody_has_a_descriptor_of_is_closed(name: str, exists: bool) -> None:
    from netfs.fuse.attributes import MountOptions
    from netfs.fuse.operations import MountOps

    client = Halfway(exists=exists)
    ops = MountOps(cast("Any", client), "", MountOptions(shared=True))
    node = ops._nodes.found(ops._nodes.root, "a", 10)
    flags, user = os.O_RDWR | os.O_TRUNC, SimpleNamespace(uid=1, gid=1, pid=1, umask=0)
    with pytest.raises(pyfuse3.FUSEError) as answer:
        await getattr(ops, name)(*((node.number, flags, user) if name == "open" else (1, b"a", 0o644, flags, user)))
    assert answer.value.errno == errno.ENOSPC
    assert client.closed == 1 and not ops._files
