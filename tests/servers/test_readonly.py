"""What a client may do that may only read: every operation there is, one by one."""

import errno
from collections.abc import Awaitable
from typing import get_args

import pytest

from servers.readonly import ReadOnly
from transport.base import Landing, Reply
from transport.messages import (
    AuxRead,
    Await,
    Bind,
    Commit,
    Compound,
    CompoundStep,
    EndSession,
    Fence,
    Getattr,
    Handle,
    Lease,
    LeaseKind,
    LeaseReturn,
    Lock,
    LockKind,
    LockTest,
    Lookup,
    Mount,
    Open,
    Ping,
    Read,
    Readdir,
    Readlink,
    RecordGet,
    Request,
    Seek,
    Sequenced,
    Statfs,
    Unlink,
    Unlock,
    Whence,
    XattrGet,
    XattrList,
)  # fmt: skip

H = Handle(b"h")
READS: tuple[Request, ...] = (
    Ping(), Mount(), Lookup(H, "n"), Getattr(H), Open(H), Read(H, 0, 1), Readdir(H), AuxRead(H, 0, 1), RecordGet(H), Commit(H),
    Readlink(H), Seek(H, 0, Whence.DATA), XattrGet(H, "user.a"), XattrList(H), Statfs(H), LockTest(H, 1, LockKind.WRITE, 0, 0),
    Lock(H, 1, LockKind.READ, 0, 0), Unlock(H, 1, 0, 0), Lease(H, LeaseKind.READ | LeaseKind.HANDLE),
    LeaseReturn(H, LeaseKind.NONE, 1), Await(),
    Compound([CompoundStep(Lookup(H, "n")), CompoundStep(Getattr(H))]),
)  # fmt: skip


class Behind:
    """A handler that does all it is asked."""

    def __init__(self) -> None:
        self.asked: list[Request] = []
        self.over = False

    def admit(self, request: Request, length: int) -> Landing | int:
        raise AssertionError((request, length))

    def handle(self, request: Request, landing: Landing | None) -> Reply | Awaitable[Reply]:
        assert landing is None
        self.asked.append(request)
        return Reply(0)

    def closed(self) -> None:
        self.over = True


def test_reading_goes_through() -> None:
    behind = Behind()
    handler = ReadOnly(behind)
    for request in READS:
        assert handler.handle(request, None) == Reply(0)
    assert behind.asked == list(READS)
    handler.closed()
    assert behind.over


@pytest.mark.parametrize("request_", [Bind(b"", 1, [], 1), Fence([1]), EndSession()])
def test_sessions_are_for_readers_too(request_: Request) -> None:
    behind = Behind()
    assert ReadOnly(behind).handle(request_, None) == Reply(0)
    assert behind.asked == [request_]


def test_a_number_does_not_get_a_change_through() -> None:
    behind = Behind()
    assert ReadOnly(behind).handle(Sequenced(0, 1, Unlink(H, "a")), None) == Reply(errno.EROFS)
    assert not behind.asked


ALLOWED = {type(request) for request in READS} | {Bind, Fence, EndSession}


@pytest.mark.parametrize("kind", [kind for kind in get_args(Request) if kind not in ALLOWED])
def test_everything_else_is_refused(kind: type[Request]) -> None:
    behind = Behind()
    request = kind.__new__(kind)  # its fields are none of a refusal's business
    assert ReadOnly(behind).handle(request, None) == Reply(errno.EROFS)
    assert ReadOnly(behind).admit(request, 10) == errno.EROFS
    assert not behind.asked


@pytest.mark.parametrize(
    "request_",
    [
        Open(H, write=True),
        Lock(H, 1, LockKind.WRITE, 0, 0),
        Lease(H, LeaseKind.READ | LeaseKind.WRITE),
        Compound([CompoundStep(Getattr(H)), CompoundStep(Unlink(H, "n"))]),
        Compound([CompoundStep(Open(H, write=True))]),
    ],
)
def test_reading_that_is_to_write_is_refused(request_: Request) -> None:
    behind = Behind()
    assert ReadOnly(behind).handle(request_, None) == Reply(errno.EROFS)
    assert not behind.asked
