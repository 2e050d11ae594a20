"""The transport suite on every transport."""

import errno
from collections.abc import Callable

import pytest
import trio

from iov.iov_iter import Direction, IovIter
from tests.conformance.transport_suite import (
    PATTERN,
    SIZES,
    Deed,
    Opened,
    Opener,
    Outcomes,
    Served,
    Zone,
    read_into,
    still_works,
    until,
    write_from,
)
from tests.conformance.transports import JOINING, SLOW, TRANSPORTS
from transport.base import Limits, Outcome, Reply
from transport.errors import TransportError
from transport.messages import Create, Handle, Lookup, Ping, Read, ReadReply, Write, WriteReply

LIMITS = Limits()
FEW = Limits(credits=4)


@pytest.fixture(params=list(TRANSPORTS))
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def open_(name: str) -> Opener:
    return TRANSPORTS[name]


def sizes_for(name: str) -> list[int]:
    return [size for size in SIZES if name not in SLOW or size <= 4097]


async def with_transport(open_: Opener, limits: Limits, body: Callable[[Opened, Served], object]) -> Served:
    """Run a body on a connection and check that it ended well."""
    served = Served()
    async with open_(lambda _peer, _limits: served, limits) as opened:
        result = body(opened, served)
        assert hasattr(result, "__await__")
        await result
    served.check_over()
    return served


async def test_the_handler_is_told_what_was_agreed(open_: Opener) -> None:
    served, told = Served(), list[Limits]()

    def factory(_peer: str, limits: Limits) -> Served:
        told.append(limits)
        return served

    async with open_(factory, FEW) as opened:
        assert told == [opened.transport.limits]
    assert told[0].credits == FEW.credits


@pytest.mark.parametrize("scattered", [False, True])
async def test_payload_of_every_size_both_ways(open_: Opener, name: str, scattered: bool) -> None:
    deed = Deed.SCATTERED if scattered else Deed.PLAIN

    async def body(opened: Opened, served: Served) -> None:
        for size in sizes_for(name):
            zone = Zone(size)
            reply = await read_into(opened.transport, 3, zone, deed, scattered=scattered)
            assert reply == Reply(0, ReadReply(False), None, None, size)
            assert zone.view == PATTERN[3 : 3 + size] and zone.intact()
            reply = await write_from(opened.transport, 5, size, deed, scattered=scattered)
            assert reply.body == WriteReply(size, 7)
            assert not size or served.written[5] == PATTERN[5 : 5 + size]

    await with_transport(open_, LIMITS, body)


async def test_a_payload_cut_off_a_longer_vector_counts_its_own_segments(open_: Opener) -> None:
    async def body(opened: Opened, served: Served) -> None:
        most = 8
        rest = IovIter.iovec(Direction.SOURCE, [PATTERN[at : at + 1] for at in range(3 * most)])
        for pos in range(0, 3 * most, most):
            reply = await opened.transport.call(Write(Deed.PLAIN, pos), rest.slice(most, most))
            assert reply.body == WriteReply(most, 7)
            assert served.written[pos] == PATTERN[pos : pos + most]

    await with_transport(open_, Limits(max_segs=8), body)


async def test_large_payloads_are_not_copied(open_: Opener, name: str) -> None:
    async def body(opened: Opened, served: Served) -> None:
        for size in (64 << 10, 1 << 20):
            for scattered in (False, True):
                opened.client_probe.reset()
                opened.server_probe.reset()
                await read_into(opened.transport, 0, Zone(size), scattered=scattered)
                assert opened.client_probe.copied_bytes <= size // 16
                await write_from(opened.transport, 0, size, scattered=scattered)
                joined = size + 100 if name in JOINING and scattered and size == 64 << 10 else 0
                assert opened.client_probe.copied_bytes <= joined + size // 16
                assert opened.server_probe.copied_bytes <= joined + size // 16

    if name not in SLOW:
        await with_transport(open_, LIMITS, body)


async def test_small_payloads_are_copied_at_most_once(open_: Opener, name: str) -> None:
    async def body(opened: Opened, served: Served) -> None:
        async with trio.open_nursery() as nursery:
            for pos in range(40):
                nursery.start_soon(read_into, opened.transport, pos, Zone(1000))
                nursery.start_soon(write_from, opened.transport, pos, 1000)
        joined = 40 * 1000 + 80 * 100 if name in JOINING else 0
        assert opened.client_probe.copied_bytes <= joined + 40 * 1000
        assert opened.server_probe.copied_bytes <= joined + 40 * 1000

    await with_transport(open_, LIMITS, body)


async def test_a_refused_payload_is_dropped_and_the_errno_is_the_reply(open_: Opener, name: str) -> None:
    async def body(opened: Opened, served: Served) -> None:
        for size in sizes_for(name):
            reply = await write_from(opened.transport, 0, size, Deed.REFUSED)
            assert (reply.status, reply.body) == ((errno.ENOSPC, None) if size else (0, WriteReply(0, 7)))
        await still_works(opened.transport)

    await with_transport(open_, LIMITS, body)


async def test_an_errno_is_a_reply_and_not_an_exception(open_: Opener) -> None:
    async def body(opened: Opened, served: Served) -> None:
        zone = Zone(100)
        assert (await read_into(opened.transport, 0, zone, Deed.FAILED)) == Reply(errno.EIO)
        assert zone.untouched()
        assert (await write_from(opened.transport, 0, 100, Deed.FAILED)).status == errno.EROFS
        assert (await opened.transport.call(Create(Deed.PLAIN, "x"))).status == errno.EEXIST

    await with_transport(open_, LIMITS, body)


async def test_a_short_read_fills_the_front(open_: Opener) -> None:
    async def body(opened: Opened, served: Served) -> None:
        for scattered in (False, True):
            zone = Zone(1000)
            pos = len(PATTERN) - 321
            reply = await read_into(opened.transport, pos, zone, scattered=scattered)
            assert reply == Reply(0, ReadReply(True), None, None, 321)
            assert zone.view[:321] == PATTERN[pos:] and zone.intact()
            assert zone.view[321:] == bytes([zone.fill]) * (1000 - 321)

    await with_transport(open_, LIMITS, body)


async def test_payload_can_be_read_to_nowhere(open_: Opener) -> None:
    async def body(opened: Opened, served: Served) -> None:
        reply = await opened.transport.call(Read(Deed.PLAIN, 0, 5000), None, IovIter.discard(5000))
        assert reply.received == 5000
        assert opened.client_probe.copied_bytes == 0
        await still_works(opened.transport)

    await with_transport(open_, LIMITS, body)


@pytest.mark.parametrize("room", [0, 10, None])
async def test_a_payload_without_room_ends_the_connection(open_: Opener, room: int | None) -> None:
    async def body(opened: Opened, served: Served) -> None:
        zone = Zone(room or 0)
        dest = None if room is None else IovIter.ubuf(Direction.DEST, zone.view)
        with pytest.raises(TransportError) as caught:
            await opened.transport.call(Read(Deed.TOO_LONG, 5, room or 0), None, dest)
        assert caught.value.errno == errno.EPROTO
        assert zone.intact()
        with pytest.raises(TransportError):
            await opened.transport.call(Ping())

    await with_transport(open_, LIMITS, body)


async def test_the_iterators_lent_keep_their_place(open_: Opener) -> None:
    async def body(opened: Opened, served: Served) -> None:
        zone = Zone(3000)
        dest = IovIter.iovec(Direction.DEST, zone.pieces())
        dest.advance(100)
        await opened.transport.call(Read(Deed.PLAIN, 0, 2000), None, dest)
        assert dest.count == 2900 and zone.view[100:2100] == PATTERN[:2000]
        source = IovIter.ubuf(Direction.SOURCE, zone.view)
        source.advance(100)
        await opened.transport.call(Write(Deed.PLAIN, 0), source)
        assert source.count == 2900 and served.written[0][:2000] == PATTERN[:2000]

    await with_transport(open_, LIMITS, body)


async def test_many_calls_share_few_credits(open_: Opener) -> None:
    async def body(opened: Opened, served: Served) -> None:
        zones = [Zone(500) for _ in range(50)]
        async with trio.open_nursery() as nursery:
            for pos, zone in enumerate(zones):
                nursery.start_soon(read_into, opened.transport, pos, zone, Deed.LATER)
        assert all(zone.view == PATTERN[pos : pos + 500] and zone.intact() for pos, zone in enumerate(zones))
        assert served.most_active <= FEW.credits

    await with_transport(open_, FEW, body)


async def test_replies_come_in_the_order_of_the_handler(open_: Opener) -> None:
    async def body(opened: Opened, served: Served) -> None:
        zones = {pos: Zone(200) for pos in range(4)}
        outcomes = Outcomes()
        for pos, zone in zones.items():
            dest = IovIter.ubuf(Direction.DEST, zone.view)
            opened.transport.submit(Read(Deed.GATED, pos, 200), outcomes.of(pos), None, dest)
        for pos in (2, 0, 3, 1):
            await until(lambda pos=pos: pos in served.gates)  # type: ignore[misc]
            served.gates[pos].set()
            await until(lambda pos=pos: pos in outcomes.by_name)  # type: ignore[misc]
        assert list(outcomes.by_name) == [2, 0, 3, 1]
        assert all(zone.view == PATTERN[pos : pos + 200] for pos, zone in zones.items())

    await with_transport(open_, FEW, body)


async def test_done_may_submit_the_next_call(open_: Opener) -> None:
    async def body(opened: Opened, served: Served) -> None:
        count = 0

        def done(outcome: Outcome) -> None:
            nonlocal count
            assert isinstance(outcome, Reply)
            count += 1
            if count < 100:
                opened.transport.submit(Ping(), done)

        opened.transport.submit(Ping(), done)
        await until(lambda: count == 100)

    await with_transport(open_, FEW, body)


async def test_abandoned_in_the_queue_it_never_happens(open_: Opener) -> None:
    async def body(opened: Opened, served: Served) -> None:
        outcomes = Outcomes()
        for pos in range(FEW.credits):
            opened.transport.submit(Read(Deed.GATED, pos, 0), outcomes.of(pos))
        source = IovIter.ubuf(Direction.SOURCE, PATTERN[:100])
        queued = opened.transport.submit(Write(Deed.PLAIN, 999), outcomes.of("queued"), source)
        await until(lambda: len(served.gates) == FEW.credits)
        queued.abandon()
        await until(lambda: "queued" in outcomes.by_name)
        assert outcomes.error("queued") == errno.ECANCELED
        queued.abandon()
        for gate in served.gates.values():
            gate.set()
        await until(lambda: len(outcomes.by_name) == FEW.credits + 1)
        await still_works(opened.transport)
        assert 999 not in served.written

    await with_transport(open_, FEW, body)


async def test_abandoned_while_the_reply_is_due_the_memory_is_left_alone(open_: Opener) -> None:
    async def body(opened: Opened, served: Served) -> None:
        outcomes = Outcomes()
        zones = [Zone(4000) for _ in range(FEW.credits)]
        calls = []
        for pos, zone in enumerate(zones):
            dest = IovIter.ubuf(Direction.DEST, zone.view)
            calls.append(opened.transport.submit(Read(Deed.GATED, pos, 4000), outcomes.of(pos), None, dest))
        await until(lambda: len(served.gates) == FEW.credits)
        for call in calls:
            call.abandon()
        await until(lambda: len(outcomes.by_name) == FEW.credits)
        assert {outcomes.error(pos) for pos in range(FEW.credits)} == {errno.ECANCELED}
        for gate in served.gates.values():
            gate.set()
        for _ in range(2 * FEW.credits):
            await still_works(opened.transport)
        assert all(zone.untouched() for zone in zones)

    await with_transport(open_, FEW, body)


async def test_abandoned_at_any_step(open_: Opener, name: str) -> None:
    """Submit reads and writes, abandon all at the k-th step: each is done once, what is given back is not touched afterwards."""
    size = 200 if name in SLOW else 70_000
    for k in range(40):

        async def body(opened: Opened, served: Served, k: int = k) -> None:
            outcomes = Outcomes()
            zone = Zone(size)
            data = Zone(size)
            data.view[:] = PATTERN[:size]
            read = opened.transport.submit(
                Read(Deed.PLAIN, 0, size), outcomes.of("read"), None, IovIter.ubuf(Direction.DEST, zone.view)
            )
            write = opened.transport.submit(Write(Deed.PLAIN, 1), outcomes.of("write"), IovIter.ubuf(Direction.SOURCE, data.view))
            for _ in range(k):
                await trio.lowlevel.checkpoint()
            read.abandon()
            write.abandon()
            await until(lambda: len(outcomes.by_name) == 2)
            data.view[:] = bytes(size)
            before = bytes(zone.memory)
            await still_works(opened.transport)
            assert bytes(zone.memory) == before and zone.intact()
            assert 1 not in served.written or served.written[1] == PATTERN[:size]

        await with_transport(open_, LIMITS, body)


async def test_cancelled_at_any_step(open_: Opener, name: str) -> None:
    size = 200 if name in SLOW else 70_000

    async def body(opened: Opened, served: Served) -> None:
        for k in range(PATIENT_STEPS):
            finished = 0
            for act in ("read", "write"):
                zone = Zone(size)
                scope = trio.CancelScope()

                async def run(act: str = act, zone: Zone = zone, scope: trio.CancelScope = scope) -> None:
                    with scope:
                        if act == "read":
                            await read_into(opened.transport, 0, zone)
                        else:
                            await write_from(opened.transport, 0, size)

                async with trio.open_nursery() as nursery:
                    nursery.start_soon(run)
                    for _ in range(k):
                        await trio.lowlevel.checkpoint()
                    scope.cancel()
                before = bytes(zone.memory)
                await still_works(opened.transport)
                assert bytes(zone.memory) == before and zone.intact()
                if not scope.cancelled_caught:
                    finished += 1
                    assert act == "write" or zone.view == PATTERN[:size]
            if finished == 2:
                return

    await with_transport(open_, LIMITS, body)


PATIENT_STEPS = 60


async def test_a_connection_lost_at_any_step_ends_every_call_once(open_: Opener, name: str) -> None:
    size = 600 if name in SLOW else 66_000
    for k in range(24):

        async def body(opened: Opened, served: Served, k: int = k) -> None:
            outcomes = Outcomes()
            zones = [Zone(size) for _ in range(6)]
            for pos, zone in enumerate(zones):
                dest = IovIter.ubuf(Direction.DEST, zone.view)
                opened.transport.submit(Read(Deed.PLAIN, pos, size), outcomes.of(pos), None, dest)
                source = IovIter.ubuf(Direction.SOURCE, PATTERN[:size])
                opened.transport.submit(Write(Deed.PLAIN, pos), outcomes.of(-1 - pos), source)
            for _ in range(k):
                await trio.lowlevel.checkpoint()
            opened.cut()
            await until(lambda: len(outcomes.by_name) == 12)
            before = [bytes(zone.memory) for zone in zones]
            with pytest.raises(TransportError):
                await opened.transport.call(Ping())
            assert before == [bytes(zone.memory) for zone in zones]
            for pos, zone in enumerate(zones):
                assert zone.intact()
                outcome = outcomes.by_name[pos]
                assert isinstance(outcome, TransportError) or zone.view == PATTERN[pos : pos + size]

        await with_transport(open_, FEW, body)


async def test_closing_ends_the_calls_in_flight(open_: Opener) -> None:
    async def body(opened: Opened, served: Served) -> None:
        outcomes = Outcomes()
        for pos in range(2 * FEW.credits):
            opened.transport.submit(Read(Deed.GATED, pos, 0), outcomes.of(pos))
        opened.transport.submit(Create(Deed.PLAIN, "queued"), outcomes.of("queued"))
        await until(lambda: len(served.gates) == FEW.credits)
        await opened.transport.aclose()
        await opened.transport.aclose()
        assert {outcomes.error(key) for key in outcomes.by_name} == {errno.ECONNABORTED}
        assert len(outcomes.by_name) == 2 * FEW.credits + 1
        assert all(isinstance(outcome, TransportError) and outcome.retryable for outcome in outcomes.by_name.values())
        opened.transport.submit(Ping(), outcomes.of("late"))
        assert outcomes.error("late") == errno.ECONNABORTED

    await with_transport(open_, FEW, body)


async def test_what_may_have_happened_is_not_retryable_unless_it_may_happen_twice(open_: Opener) -> None:
    async def body(opened: Opened, served: Served) -> None:
        outcomes = Outcomes()
        opened.transport.submit(Read(Deed.GATED, 0, 0), outcomes.of("read"))
        await until(lambda: bool(served.gates))
        opened.transport.submit(Create(Deed.PLAIN, "x"), outcomes.of("create"))
        await until(lambda: len(served.seen) == 2)
        opened.cut()
        await until(lambda: len(outcomes.by_name) == 2)
        read, create = outcomes.by_name["read"], outcomes.by_name["create"]
        assert isinstance(read, TransportError) and read.retryable
        assert isinstance(create, Reply) or not create.retryable

    await with_transport(open_, FEW, body)


async def test_an_exception_of_the_block_comes_out_plain(open_: Opener) -> None:
    class Oops(Exception):
        pass

    async def body(opened: Opened, served: Served) -> None:
        await still_works(opened.transport)
        raise Oops

    served = Served()
    with pytest.RaisesGroup(Oops, allow_unwrapped=True, flatten_subgroups=True):
        async with open_(lambda _peer, _limits: served, LIMITS) as opened:
            await body(opened, served)
    served.check_over()


async def test_what_the_limits_do_not_allow_is_refused_at_once(open_: Opener) -> None:
    limits = Limits(max_payload=10_000, max_body=4096, max_segs=8)

    async def body(opened: Opened, served: Served) -> None:
        transport = opened.transport
        assert transport.limits.max_payload == 10_000
        with pytest.raises(ValueError):
            await write_from(transport, 0, 10_001)
        with pytest.raises(ValueError):
            await write_from(transport, 0, 9_000, scattered=True)
        with pytest.raises(ValueError):
            await transport.call(Read(Deed.PLAIN, 0, 0), IovIter.ubuf(Direction.SOURCE, PATTERN[:1]))
        with pytest.raises(TransportError) as caught:
            await transport.call(Lookup(Handle(b"d"), "n" * 5000))
        assert caught.value.errno == errno.EMSGSIZE
        await still_works(transport)

    await with_transport(open_, limits, body)
