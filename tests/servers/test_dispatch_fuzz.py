"""Anything a message can say, said to a server: every answer is a reply, none of them a defect of ours, nothing stays lent."""

import errno

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from iov.probe import Probe
from servers.dispatch import Dispatcher
from tests.conformance.store_words import KINDS, opened
from transport.base import Reply
from transport.env import system_env
from transport.messages import (
    Allocate,
    AuxRead,
    AuxWrite,
    Commit,
    Compound,
    CompoundStep,
    CopyRange,
    Create,
    Getattr,
    Handle,
    Link,
    Lookup,
    Mkdir,
    Open,
    Punch,
    Read,
    Readdir,
    Readlink,
    RecordGet,
    Rename,
    RenameFlag,
    Request,
    Rmdir,
    Seek,
    Setattr,
    Statfs,
    Step,
    StepKind,
    Symlink,
    Transact,
    Truncate,
    Unlink,
    Whence,
    Write,
    XattrGet,
    XattrList,
    XattrMode,
    XattrRemove,
    XattrSet,
)  # fmt: skip

SIZE = st.one_of(st.sampled_from([0, 1, 4095, 4096, 1 << 20, 1 << 32, (1 << 63) - 1]), st.integers(0, (1 << 63) - 1))
TIME = st.none() | st.integers(-(1 << 63), (1 << 63) - 1)
U32 = st.one_of(st.sampled_from([0, 1, 0o644, 0o7777, (1 << 32) - 1]), st.integers(0, (1 << 32) - 1))
NAME = st.one_of(
    st.sampled_from(["a", "b", "f", "d", ".netfs", "..", "", "x/y", "\0", "x" * 300]),
    st.binary(max_size=12).map(lambda raw: raw.decode("utf-8", "surrogateescape")),
)
HANDLE = st.one_of(st.integers(0, 3), st.binary(max_size=64))
"""A number stands for one of the handles that exist."""


XATTR = st.sampled_from(["user.a", "user.netfs.id", "user.", "x", "security.x", "user.\0", "", "user." + "y" * 300])


def requests() -> st.SearchStrategy[Request]:
    single = single_requests()
    step = st.builds(CompoundStep, single, st.sampled_from([0, 0, 0, 3]))
    return st.one_of(single, st.builds(Compound, st.lists(step, max_size=6)))


def single_requests() -> st.SearchStrategy[Request]:
    handle = HANDLE.map(lambda value: Handle(value if isinstance(value, bytes) else b"#%d" % value))
    step = st.builds(Step, st.sampled_from(StepKind), handle, SIZE, SIZE | st.just(3), st.binary(max_size=9))
    return st.one_of(
        st.builds(Lookup, handle, NAME),
        st.builds(Getattr, handle),
        st.builds(Setattr, handle, st.none() | U32, st.none() | U32, st.none() | U32, TIME, TIME, st.none() | SIZE),
        st.builds(Create, handle, NAME, U32, st.booleans()),
        st.builds(Open, handle, st.booleans()),
        st.builds(Read, handle, SIZE, SIZE),
        st.builds(Write, handle, SIZE, st.booleans(), st.sampled_from([0, 0, 1]), st.sampled_from([b"", b"record"])),
        st.builds(Commit, handle),
        st.builds(Truncate, handle, SIZE),
        st.builds(Mkdir, handle, NAME, U32),
        st.builds(Readdir, handle, SIZE, U32),
        st.builds(Unlink, handle, NAME),
        st.builds(Rmdir, handle, NAME),
        st.builds(Rename, handle, NAME, handle, NAME, st.sampled_from([RenameFlag(number) for number in range(4)])),
        st.builds(Link, handle, handle, NAME),
        st.builds(Symlink, handle, NAME, st.binary(max_size=9)),
        st.builds(Readlink, handle),
        st.builds(Allocate, handle, st.integers(0, 1 << 20), st.integers(0, 1 << 20) | st.just((1 << 63) - 1), st.booleans()),
        st.builds(Punch, handle, SIZE, SIZE),
        st.builds(Seek, handle, SIZE, st.sampled_from(Whence)),
        st.builds(CopyRange, handle, SIZE, handle, SIZE, SIZE),
        st.builds(XattrGet, handle, XATTR),
        st.builds(XattrSet, handle, XATTR, st.binary(max_size=9), st.sampled_from(XattrMode)),
        st.builds(XattrList, handle),
        st.builds(XattrRemove, handle, XATTR),
        st.builds(Statfs, handle),
        st.builds(AuxRead, handle, SIZE, SIZE),
        st.builds(AuxWrite, handle, SIZE),
        st.builds(RecordGet, handle),
        st.builds(
            Transact,
            st.lists(st.tuples(handle, st.integers(0, 3)), max_size=3),
            st.integers(0, 2),
            st.lists(step, max_size=4),
        ),
    )


def real(request: Request, handles: list[Handle]) -> Request:
    """Put the handles that exist in the place of their numbers."""

    def known(handle: Handle) -> Handle:
        return handles[int(handle[1:])] if handle[:1] == b"#" and handle[1:].isdigit() and int(handle[1:]) < 4 else handle

    if isinstance(request, Compound):
        for part in request.steps:
            real(part.request, handles)
    elif isinstance(request, Transact):
        request.asserts = [(known(handle), generation) for handle, generation in request.asserts]
        for step in request.steps:
            step.handle = known(step.handle)
    else:
        for field in ("handle", "parent", "new_parent", "target"):
            if hasattr(request, field) and not (isinstance(request, Symlink) and field == "target"):
                setattr(request, field, known(getattr(request, field)))
    return request


async def say(dispatcher: Dispatcher, request: Request, payload: int | None) -> None:
    landing = None
    if payload is not None:
        admitted = dispatcher.admit(request, payload)
        if isinstance(admitted, int):
            assert admitted != errno.EIO, request
            return
        landing = admitted
        if payload % 3 == 2 and landing.release is not None:  # the payload never arrives
            landing.release()
            return
    answer = dispatcher.handle(request, landing)
    reply = answer if isinstance(answer, Reply) else await answer
    assert 0 <= reply.status < 4096 and reply.status != errno.EIO, request
    assert (reply.body is None) == (reply.status != 0)
    if reply.release is not None:
        reply.release()


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=100, deadline=None)
@given(script=st.lists(st.tuples(requests(), st.none() | st.sampled_from([0, 1, 2, 3, 5000])), max_size=12))
def test_whatever_a_message_says(kind: str, script: list[tuple[Request, int | None]]) -> None:
    async def talk() -> None:
        dispatcher = Dispatcher(store, system_env(), Probe())
        root = store.root().handle
        handles = [
            root,
            store.create(root, "f", 0o644, exclusive=True).handle,
            store.mkdir(root, "d", 0o755).handle,
            store.create(root, "b", 0o644, exclusive=True).handle,
        ]
        for request, payload in script:
            await say(dispatcher, real(request, handles), payload)
        dispatcher.closed()

    with opened(kind, Probe()) as store:
        trio.run(talk)
