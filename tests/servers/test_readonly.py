"""What a client may do that may only read: every operation there is, one by one."""

import errno
from collections.abc import Awaitable
from typing import get_args

import pytest

from servers.readonly import ReadOnly
from transport.base import Landing, Reply
from transport.messages import (
    AuxRead,
    Commit,
    Getattr,
    Handle,
    Lookup,
    Mount,
    Open,
    Ping,
    Read,
    Readdir,
    RecordGet,
    Request,
)

H = Handle(b"h")
READS: tuple[Request, ...] = (
    Ping(), Mount(), Lookup(H, "n"), Getattr(H), Open(H), Read(H, 0, 1), Readdir(H), AuxRead(H, 0, 1), RecordGet(H), Commit(H),
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


@pytest.mark.parametrize("kind", [kind for kind in get_args(Request) if kind not in {type(request) for request in READS}])
def test_everything_else_is_refused(kind: type[Request]) -> None:
    behind = Behind()
    request = kind.__new__(kind)  # its fields are none of a refusal's business
    assert ReadOnly(behind).handle(request, None) == Reply(errno.EROFS)
    assert ReadOnly(behind).admit(request, 10) == errno.EROFS
    assert not behind.asked


def test_opening_to_write_is_refused() -> None:
    behind = Behind()
    assert ReadOnly(behind).handle(Open(H, write=True), None) == Reply(errno.EROFS)
    assert not behind.asked
