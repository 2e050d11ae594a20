"""The connection manager: states and events, and queue pairs that find each other over streams and sockets."""

import errno
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
import trio
import trio.lowlevel
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.rdma.captured import streams
from tests.rdma.every_opcode import Recorder, Side
from tests.rdma.iwarp_rig import Joined
from tests.rdma.test_iwarp_codec import read_frame, untagged
from transport.env import system_env
from transport.errors import TransportError
from transport.link import LinkShape, MemoryStream, memory_link
from transport.rdma.cm import Connection, ConnectRequest, Rejected, open_cm
from transport.rdma.cm_id import TABLE, CmEvent, CmEventType, CmId, CmParam, CmState, CmStep
from transport.rdma.enums import Access, Opcode, QPState, WcStatus
from transport.rdma.errors import VerbsError
from transport.rdma.iwarp.mpa import MAX_PRIVATE, Rtr, StartFrame
from transport.rdma.iwarp.rdmap import Op
from transport.rdma.iwarp.terminate import Cause, Terminate
from transport.rdma.loopback import ALL_ACCESS
from transport.rdma.memory_fabric import MemoryFabric
from transport.rdma.profiles import CONNECTX, IWARP, DeviceProfile
from transport.rdma.qp import QPCap
from transport.rdma.wr import SendWR

ACCESS = int(ALL_ACCESS)


def make_side(name: str = "a", profile: DeviceProfile = IWARP) -> Side:
    cap = QPCap(16, 16, 4, 4, 0)
    return Side(MemoryFabric().add_device(name, profile), cap, ACCESS, bytearray(1 << 14))


# ---- the states


def ready_to_connect() -> CmId:
    ident = CmId()
    ident.resolve_addr()
    ident.addr_found()
    ident.resolve_route()
    return ident


def give(ident: CmId, data: bytes) -> None:
    """Feed a frame, never more than is wanted."""
    while data and ident.state is not CmState.FAILED:
        count = ident.need
        ident.feed(data[:count])
        data = data[count:]


def told(ident: CmId) -> list[CmEvent]:
    events = list(ident.events)
    ident.events.clear()
    return events


def test_events_of_a_connection_in_order() -> None:
    near, far = ready_to_connect(), CmId()
    assert [event.type for event in told(near)] == [CmEventType.ADDR_RESOLVED, CmEventType.ROUTE_RESOLVED]
    give(far, near.connect(CmParam(b"let me in", ird=3, ord=9)))
    assert told(far) == [CmEvent(CmEventType.CONNECT_REQUEST, 0, b"let me in", ird=9, ord=3)]
    give(near, far.accept(CmParam(b"welcome", ird=4, ord=5)))
    assert told(far) == [CmEvent(CmEventType.ESTABLISHED)]
    # The reply says what was settled: the server's five READs are more than our three.
    assert told(near) == [CmEvent(CmEventType.ESTABLISHED, 0, b"welcome", ird=3, ord=4)]
    assert near.settled is not None and far.settled is not None
    assert (near.settled.ird, near.settled.ord, far.settled.ird, far.settled.ord) == (3, 4, 4, 3)
    near.disconnect()
    far.ended()
    near.disconnect()
    assert [told(end) for end in (near, far)] == [[CmEvent(CmEventType.DISCONNECTED)]] * 2


def test_rejection_brings_its_private_data() -> None:
    near, far = ready_to_connect(), CmId()
    told(near)
    give(far, near.connect(CmParam()))
    give(near, far.reject(b"not you"))
    assert [(event.type, event.status, event.private) for event in told(near)] == [
        (CmEventType.REJECTED, errno.ECONNREFUSED, b"not you")
    ]
    assert (near.state, far.state) == (CmState.REJECTED, CmState.REJECTED)
    near.ended()
    assert near.state is CmState.REJECTED and not near.events


def test_external_queue_pair_is_told_of_the_response() -> None:
    near, far = CmId(external=True), CmId()
    near.resolve_addr()
    near.addr_found()
    near.resolve_route()
    told(near)
    give(far, near.connect(CmParam()))
    give(near, far.accept(CmParam(b"ready")))
    assert [(event.type, event.private) for event in told(near)] == [(CmEventType.CONNECT_RESPONSE, b"ready")]
    near.establish()
    assert near.state is CmState.ESTABLISHED and not near.events


@pytest.mark.parametrize(
    ("fail", "kind", "status"),
    [
        (lambda ident: ident.unreached(errno.ETIMEDOUT), CmEventType.UNREACHABLE, errno.ETIMEDOUT),
        (lambda ident: ident.unreached(errno.EHOSTUNREACH), CmEventType.UNREACHABLE, errno.EHOSTUNREACH),
        (lambda ident: ident.broken("gone"), CmEventType.CONNECT_ERROR, errno.ECONNRESET),
        (lambda ident: give(ident, b"HTTP/1.1 400"), CmEventType.CONNECT_ERROR, errno.EPROTONOSUPPORT),
        (lambda ident: give(ident, StartFrame(True, markers=True).pack()), CmEventType.CONNECT_ERROR, errno.EPROTONOSUPPORT),
    ],
    ids=["silence", "no way", "end", "stranger", "markers"],
)
def test_failures_while_connecting(fail: Callable[[CmId], None], kind: CmEventType, status: int) -> None:
    ident = ready_to_connect()
    told(ident)
    ident.connect(CmParam())
    fail(ident)
    assert told(ident) == [CmEvent(kind, status)]
    assert ident.state is CmState.FAILED


def test_refused_is_rejected() -> None:
    """Without private data, for nobody was there to say any."""
    ident = ready_to_connect()
    told(ident)
    ident.connect(CmParam())
    ident.unreached(errno.ECONNREFUSED)
    assert told(ident) == [CmEvent(CmEventType.REJECTED, errno.ECONNREFUSED)]


def test_address_that_is_not_found() -> None:
    ident = CmId()
    ident.resolve_addr()
    ident.addr_lost(errno.EADDRNOTAVAIL)
    assert told(ident) == [CmEvent(CmEventType.ADDR_ERROR, errno.EADDRNOTAVAIL)]


def test_too_much_private_data_changes_nothing() -> None:
    ident = ready_to_connect()
    with pytest.raises(VerbsError) as caught:
        ident.connect(CmParam(bytes(MAX_PRIVATE + 1)))
    assert caught.value.errno == errno.EINVAL
    with pytest.raises(VerbsError):
        ident.connect(CmParam(bytes(MAX_PRIVATE - 7), roce=True))
    assert ident.connect(CmParam(bytes(MAX_PRIVATE - 8), roce=True))


STEPS: dict[CmStep, Callable[[CmId], object]] = {
    CmStep.RESOLVE_ADDR: CmId.resolve_addr,
    CmStep.RESOLVE_ROUTE: CmId.resolve_route,
    CmStep.CONNECT: lambda ident: ident.connect(CmParam()),
    CmStep.ESTABLISH: CmId.establish,
    CmStep.LISTEN: CmId.listen,
    CmStep.ACCEPT: lambda ident: ident.accept(CmParam()),
    CmStep.REJECT: CmId.reject,
    CmStep.DISCONNECT: CmId.disconnect,
    CmStep.ADDR_FOUND: CmId.addr_found,
    CmStep.ADDR_LOST: lambda ident: ident.addr_lost(1),
    CmStep.UNREACHED: lambda ident: ident.unreached(1),
    CmStep.BROKEN: lambda ident: ident.broken(""),
    CmStep.ENDED: CmId.ended,
}


@given(st.lists(st.sampled_from(list(STEPS)), max_size=12), st.booleans())
def test_any_order_of_steps_follows_the_table(steps: list[CmStep], passive: bool) -> None:
    ident = CmId()
    if passive:
        give(ident, StartFrame(False).pack())
        told(ident)
    for step in steps:
        before = ident.state
        row = TABLE.get((before, step))
        if row is None and step <= CmStep.DISCONNECT:
            with pytest.raises(VerbsError) as caught:
                STEPS[step](ident)
            assert caught.value.errno == errno.EINVAL
        else:
            STEPS[step](ident)
        after, kind = row if row is not None else (before, None)
        assert ident.state is after
        assert [event.type for event in told(ident)] == ([] if kind is None else [kind])


def test_every_state_is_reached() -> None:
    assert {state for state, _ in TABLE.values()} | {CmState.IDLE} == set(CmState)
    assert {kind for _, kind in TABLE.values()} - {None} == set(CmEventType)


@given(*(st.integers(0, 300) for _ in range(4)))
def test_read_depths_are_told_as_they_concern_us(ird: int, ord_: int, peer_ird: int, peer_ord: int) -> None:
    near, far = ready_to_connect(), CmId()
    told(near)
    give(far, near.connect(CmParam(ird=ird, ord=ord_)))
    (request,) = told(far)
    assert (request.ird, request.ord) == (ord_, ird)
    give(near, far.accept(CmParam(ird=peer_ird, ord=peer_ord)))
    assert near.settled is not None and far.settled is not None
    assert near.settled.ord <= far.settled.ird and far.settled.ord <= near.settled.ird


@pytest.mark.parametrize(
    ("reply", "cause"),
    [
        (StartFrame(True, ird=2, ord=9), Cause.LLP_IRD),
        (StartFrame(True, ird=9, ord=9, rtr=Rtr(write=True)), Cause.LLP_RTR),
        (StartFrame(True, markers=True), Cause.LLP_STARTUP),
    ],
    ids=["IRD", "RTR", "start-up"],
)
def test_reply_that_is_of_no_use_is_answered_by_a_terminate(reply: StartFrame, cause: Cause) -> None:
    ident = ready_to_connect()
    ident.connect(CmParam(ord=8, least_ord=3))
    give(ident, reply.pack())
    assert ident.state is CmState.FAILED
    assert ident.parting == untagged(Op.TERMINATE, 0, 1, Terminate(cause).pack(), crc=False)
    # A peer of ours understands it.
    joined = Joined()
    joined.b.recv(1)
    joined.feed(joined.far, ident.parting)
    assert joined.far.terminated == Terminate(cause) and joined.b.qp.state is QPState.ERR


async def test_terminate_is_sent_before_the_stream_is_closed() -> None:
    near, far = memory_link()
    async with open_cm(system_env()) as cm, trio.open_nursery() as nursery:
        nursery.start_soon(answer_by_hand, far, StartFrame(True, ird=1, ord=1).pack(), 0)
        with pytest.raises(TransportError, match="answers 1 READs at a time, 2 are needed"):
            await cm.connect_over(near, make_side().qp, ACCESS, CmParam(ord=4, least_ord=2))
    buffer = memoryview(bytearray(100))
    count = far.recv_nowait([buffer])
    assert bytes(buffer[:count]) == untagged(Op.TERMINATE, 0, 1, Terminate(Cause.LLP_IRD).pack(), crc=False)
    assert far.recv_nowait([buffer]) == 0


# ---- queue pairs


async def send(near: Side, far: Side, text: bytes) -> None:
    """Move a message and look at both completions."""
    far.recv(21)
    near.memory[: len(text)] = text
    near.qp.post_send(SendWR(22, Opcode.SEND, [near.sge(0, len(text))]))
    done: list[tuple[int, int]] = []
    with trio.fail_after(60):
        while len(done) < 2:
            done += [(wc.wr_id, wc.status) for side in (near, far) for wc in side.poll()]
            await trio.lowlevel.checkpoint()
    assert sorted(done) == [(21, 0), (22, 0)]
    assert bytes(far.memory[: len(text)]) == text


@asynccontextmanager
async def connected(near: Side, far: Side, *, crc: bool = False) -> AsyncIterator[tuple[Connection, Connection]]:
    """Connect two sides over TCP."""
    made: list[Connection] = []
    async with open_cm(system_env()) as cm, cm.listen("127.0.0.1") as listener:

        async def serve() -> None:
            request = await listener.get_request()
            assert request.private == b"hello" and (request.ird, request.ord) == (2, 3)
            made.append(await request.accept(far.qp, ACCESS, CmParam(b"welcome", ird=8, ord=8)))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve)
            route = await cm.resolve(listener.host, listener.port)
            mine = await cm.connect(route, near.qp, ACCESS, CmParam(b"hello", ird=3, ord=2, crc=crc))
        yield mine, made[0]


@pytest.mark.parametrize("profile", [IWARP, CONNECTX])
@pytest.mark.parametrize("crc", [False, True])
async def test_connect_move_and_disconnect(profile: DeviceProfile, crc: bool) -> None:
    near, far = make_side("a", profile), make_side("b", profile)
    async with connected(near, far, crc=crc) as (mine, theirs):
        assert (mine.private, mine.ird, mine.ord, theirs.ird, theirs.ord) == (b"welcome", 3, 2, 2, 3)
        await send(near, far, b"ping")
        await send(far, near, b"pong")
        far.recv(5)
        await mine.disconnect()
        with trio.fail_after(60):
            assert await theirs.disconnected() == "the peer closed the connection"
        assert await mine.disconnected() == "disconnected here"
        await theirs.disconnect()
        await mine.disconnect()
    assert near.qp.state is far.qp.state is QPState.ERR
    assert [(wc.wr_id, wc.status) for wc in far.poll()] == [(5, WcStatus.WR_FLUSH_ERR)]


@pytest.mark.parametrize(
    ("near_profile", "far_profile"), [(CONNECTX, CONNECTX), (CONNECTX, IWARP), (IWARP, CONNECTX), (IWARP, IWARP)]
)
async def test_rules_are_roces_where_both_devices_have_them(near_profile: DeviceProfile, far_profile: DeviceProfile) -> None:
    near, far = make_side("a", near_profile), make_side("b", far_profile)
    async with connected(near, far) as (mine, theirs):
        both = near_profile is far_profile is CONNECTX
        assert all(connection.ident.settled is not None for connection in (mine, theirs))
        assert [connection.ident.settled.roce for connection in (mine, theirs) if connection.ident.settled] == [both, both]
        await send(near, far, b"either way")


async def test_reject_with_private_data() -> None:
    side = make_side()
    async with open_cm(system_env()) as cm, cm.listen("localhost") as listener:
        async with trio.open_nursery() as nursery:

            async def refuse() -> None:
                request = await listener.get_request()
                await request.reject(b"come back later")
                with pytest.raises(VerbsError):
                    await request.accept(side.qp, ACCESS)

            nursery.start_soon(refuse)
            with pytest.raises(Rejected) as caught:
                await cm.connect(await cm.resolve(listener.host, listener.port), side.qp, ACCESS)
        assert caught.value.private == b"come back later" and caught.value.errno == errno.ECONNREFUSED
        assert side.qp.state is QPState.INIT


async def test_nobody_there() -> None:
    side = make_side()
    with socket.create_server(("127.0.0.1", 0)) as placeholder:
        port = placeholder.getsockname()[1]
    async with open_cm(system_env()) as cm:
        with pytest.raises(TransportError) as caught:
            await cm.connect(await cm.resolve("127.0.0.1", port), side.qp, ACCESS)
        assert caught.value.errno == errno.ECONNREFUSED and caught.value.retryable
        with pytest.raises(TransportError) as caught:
            await cm.resolve("no-such-host.invalid", 1)
        assert caught.value.errno == errno.EADDRNOTAVAIL


async def test_address_in_use() -> None:
    async with open_cm(system_env()) as cm, cm.listen("127.0.0.1") as listener:
        with pytest.raises(TransportError) as caught:
            async with cm.listen("127.0.0.1", listener.port):
                pass
        assert caught.value.errno == errno.EADDRINUSE


async def test_silent_peer_is_given_up(autojump_clock: MockClock) -> None:
    side = make_side()
    near, far = memory_link()
    async with open_cm(system_env()) as cm:
        with pytest.raises(TransportError) as caught:
            await cm.connect_over(near, side.qp, ACCESS, timeout_s=3)
    assert caught.value.errno == errno.ETIMEDOUT and "no answer in 3 s" in str(caught.value)
    assert trio.current_time() < 4
    assert side.qp.state is QPState.INIT
    far.close()


@pytest.mark.parametrize("said", [b"", b"MPA ID Req", b"GET / HTTP/1.1\r\n\r\n" + bytes(30)])
async def test_strangers_do_not_become_requests(said: bytes, autojump_clock: MockClock) -> None:
    near, far = memory_link()
    sender, receiver = trio.open_memory_channel[ConnectRequest](1)
    async with open_cm(system_env()) as cm:
        near.send_nowait([said]) if said else near.close()
        await cm.offer(far, sender)
        with pytest.raises(trio.WouldBlock):
            receiver.receive_nowait()


async def test_connecting_can_be_cancelled() -> None:
    side = make_side()
    near, far = memory_link()
    async with open_cm(system_env()) as cm:
        with trio.move_on_after(0.01):
            await cm.connect_over(near, side.qp, ACCESS)
    buffer = memoryview(bytearray(100))
    assert far.recv_nowait([buffer]) == 24 and far.recv_nowait([buffer]) == 0
    assert side.qp.state is QPState.INIT


async def test_end_of_the_block_ends_connections() -> None:
    near, far = make_side("a"), make_side("b")
    async with connected(near, far):
        far.recv(1)
    assert near.qp.state is far.qp.state is QPState.ERR
    assert [wc.status for wc in far.poll()] == [WcStatus.WR_FLUSH_ERR]


# ---- data glued to the start-up


async def answer_by_hand(stream: MemoryStream, data: bytes, at: int) -> None:
    """Take a request and answer with bytes in two pieces."""
    buffer = memoryview(bytearray(24))
    while stream.recv_nowait([buffer]) is None:
        await stream.wait_readable()
    for piece in (data[:at], data[at:]):
        if piece:
            stream.send_nowait([piece])
            await wait_all_tasks_blocked()


REPLY = StartFrame(True, ird=1, ord=1, private=b"ok").pack()
GLUED = untagged(Op.SEND, 0, 1, b"hello", crc=False) + untagged(Op.SEND, 0, 2, b"again", crc=False)


@pytest.mark.parametrize("at", range(len(REPLY + GLUED) + 1))
async def test_messages_glued_to_the_reply(at: int) -> None:
    """Wherever the bytes are split, the receives posted before are filled, in order."""
    side = make_side()
    side.recv(1, 0, 8)
    side.recv(2, 8, 8)
    near, far = memory_link()
    async with open_cm(system_env()) as cm:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(answer_by_hand, far, REPLY + GLUED, at)
            connection = await cm.connect_over(near, side.qp, ACCESS)
            assert connection.private == b"ok"
        await wait_all_tasks_blocked()
        assert [(wc.wr_id, wc.status, wc.byte_len) for wc in side.poll()] == [(1, 0, 5), (2, 0, 5)]
    assert bytes(side.memory[:16]) == b"hello\0\0\0again\0\0\0"


REQUEST = StartFrame(False, ird=1, ord=1, private=b"me").pack()


@pytest.mark.parametrize("at", range(len(REQUEST + GLUED) + 1))
async def test_messages_glued_to_the_request(at: int) -> None:
    """A client that does not wait for the reply is none the worse for it: what it sent waits for `accept`."""
    side = make_side()
    side.recv(1, 0, 8)
    side.recv(2, 8, 8)
    near, far = memory_link()
    sender, receiver = trio.open_memory_channel[ConnectRequest](1)
    async with open_cm(system_env()) as cm, trio.open_nursery() as nursery:
        nursery.start_soon(cm.offer, far, sender)
        for piece in ((REQUEST + GLUED)[:at], (REQUEST + GLUED)[at:]):
            if piece:
                near.send_nowait([piece])
            await wait_all_tasks_blocked()
        request = await receiver.receive()
        assert request.private == b"me" and not side.poll()
        await request.accept(side.qp, ACCESS)
        await wait_all_tasks_blocked()
        assert [(wc.wr_id, wc.status) for wc in side.poll()] == [(1, 0), (2, 0)]
        near.close()


async def test_what_passes_is_captured() -> None:
    recorder = Recorder()
    near, far = memory_link(LinkShape(slice_length=7), LinkShape(slice_length=5))
    side, other = make_side("a"), make_side("b")
    sender, receiver = trio.open_memory_channel[ConnectRequest](1)
    async with open_cm(system_env(), capture=recorder.capture) as mine, open_cm(system_env()) as theirs:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(theirs.offer, far, sender)

            async def serve() -> None:
                await (await receiver.receive()).accept(other.qp, int(Access.REMOTE_WRITE), CmParam(b"here"))

            nursery.start_soon(serve)
            await mine.connect_over(near, side.qp, 0, CmParam(b"there"))
        await send(side, other, b"seen")
    there, back = streams(recorder.packets()).values()
    assert there.endswith(untagged(Op.SEND, 0, 1, b"seen", crc=False)) and read_frame(back, True).private == b"here"
    assert "wr_id 22 SEND" in [packet.comment for packet in recorder.packets()]
