"""SMB-Direct framing: the bytes, the negotiation, fragments, everything a peer may not send, and signs of life."""

import re
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transport.base import Limits
from transport.errors import HelloMismatch, ProtocolError
from transport.framing import FrameKind
from transport.messages import Op
from transport.rdma.smbd import (
    EMPTY_BYTES,
    HEADER_BYTES,
    IDLE_S,
    RESPONSE_S,
    Offer,
    Smbd,
    Terms,
    answer,
    read_answer,
    read_request,
    request,
)
from transport.rdma.smbd_credits import RESERVE
from transport.rdma.wire import Chunk, pack, unpack

OFFER = Offer(64, max_message=1 << 18)
DOC = Path(__file__).parents[2] / "docs" / "wire-format.md"


def side(granted: int = 64, target: int = 64, max_send: int = 8192, offer: Offer = OFFER) -> Smbd:
    return Smbd(offer, Terms(target, granted, max_send, 1 << 18), target + RESERVE, 0.0)


def fragments(sender: Smbd, message: bytes) -> list[bytearray]:
    """Cut a message as a connection does."""
    out = []
    for start in range(0, len(message), sender.room):
        piece = bytearray(HEADER_BYTES) + message[start : start + sender.room]
        length = len(piece) - HEADER_BYTES
        sender.pack_into(piece, length, len(message) - start - length)
        out.append(piece)
    return out


def blocks() -> dict[str, bytes]:
    found = re.findall(r"```hex smbd ([a-z ]+)\n(.*?)```", DOC.read_text(), re.DOTALL)
    return {name: bytes.fromhex(data) for name, data in found}


def test_documented_bytes() -> None:
    doc = blocks()
    assert request(OFFER) == doc["negotiate request"]
    terms = read_request(memoryview(doc["negotiate request"]), OFFER)
    assert terms == Terms(64, 0, 8192, 1 << 18)
    assert answer(OFFER, terms, 64) == doc["negotiate response"]
    assert read_answer(memoryview(doc["negotiate response"]), OFFER) == Terms(64, 64, 8192, 1 << 18)
    client = side()
    assert client.empty() == doc["empty message"]
    call = pack(FrameKind.REQUEST, Op.READ, 1, 0, bytes.fromhex("93c4010700cd2000"), dest=[Chunk(0x1000, 8192, 0x101)])
    client.pack_into(call, len(call) - HEADER_BYTES, 0)
    assert call == doc["read call"]
    server = side(0)
    server.credits.granted = 2
    assert server.received(memoryview(doc["empty message"])) is None
    assert server.credits.send == 64
    whole = server.received(memoryview(doc["read call"]))
    assert whole is not None
    message = unpack(whole, (FrameKind.REQUEST,), Limits(), 8)
    assert (message.op, message.dest) == (Op.READ, [Chunk(0x1000, 8192, 0x101)])


# ---- the negotiation


@given(st.integers(1, 300), st.integers(1, 300), st.integers(128, 1 << 20), st.integers(128, 1 << 20), st.integers(128, 1 << 20))
def test_both_sides_settle_on_what_fits(mine: int, theirs: int, send: int, receive: int, back: int) -> None:
    client, server = Offer(mine, send, receive), Offer(theirs, back, back)
    settled = read_request(memoryview(request(client)), server)
    assert settled is not None
    assert settled.target == min(mine, theirs)
    assert settled.max_send == min(back, receive)
    end = Smbd(server, settled, theirs + RESERVE, 0.0)
    terms = read_answer(memoryview(answer(server, settled, end.credits.grant())), client)
    assert terms.granted == min(mine, theirs)
    assert terms.max_send == min(send, back)


@pytest.mark.parametrize(
    "said",
    [
        struct.pack("<HHHHIII", 0x100, 0x100, 0, 0, 8192, 8192, 1 << 17),
        struct.pack("<HHHHIII", 0x100, 0x100, 0, 1, 8192, 127, 1 << 17),
        struct.pack("<HHHHIII", 0x100, 0x100, 0, 1, 8192, 8192, (1 << 17) - 1),
        b"",
        b"x" * 19,
        b"x" * 21,
    ],
    ids=["no credits", "tiny receives", "tiny messages", "nothing", "short", "long"],
)
def test_request_nobody_could_work_with(said: bytes) -> None:
    with pytest.raises(HelloMismatch):
        read_request(memoryview(said), OFFER)


@pytest.mark.parametrize(("low", "high", "fits"), [(0x100, 0x100, True), (0x100, 0x311, True), (0x200, 0x300, False)])
def test_versions(low: int, high: int, fits: bool) -> None:
    terms = read_request(memoryview(struct.pack("<HHHHIII", low, high, 0, 9, 8192, 8192, 1 << 17)), OFFER)
    assert (terms is not None) == fits
    if terms is None:
        with pytest.raises(HelloMismatch, match="speaks SMB-Direct"):
            read_answer(memoryview(answer(OFFER, None)), OFFER)


@pytest.mark.parametrize("at", [4, 8, 10, 12, 24, 28])
def test_answer_nobody_could_work_with(at: int) -> None:
    """No version chosen, no credits wanted, none granted, a status, receives or messages of no size."""
    good = bytearray(answer(OFFER, Terms(4, 0, 8192, 1 << 17), 4))
    good[at : at + 2] = b"\1\0" if at == 12 else b"\0\0"
    good[at + 2 : at + 4] = bytes(2) if at >= 24 else good[at + 2 : at + 4]
    with pytest.raises(HelloMismatch):
        read_answer(memoryview(good), OFFER)


# ---- messages


@given(st.binary(min_size=1, max_size=3000), st.integers(128, 1000))
def test_fragments_make_the_message(message: bytes, max_send: int) -> None:
    sender, receiver = side(max_send=max_send), side()
    receiver.credits.granted = 64
    cut = fragments(sender, message)
    assert all(len(piece) <= max_send for piece in cut)
    got = [receiver.received(memoryview(piece)) for piece in cut]
    assert got[:-1] == [None] * (len(cut) - 1)
    assert bytes(got[-1] or b"") == message
    assert not receiver.midway


def header(
    wanted: int = 1, granted: int = 0, flags: int = 0, reserved: int = 0, remaining: int = 0, off: int = 24, length: int = 8
) -> bytes:
    return struct.pack("<HHHHIIII", wanted, granted, flags, reserved, remaining, off, length, 0) + bytes(8)


@pytest.mark.parametrize(
    "said",
    [
        b"",
        bytes(EMPTY_BYTES - 1),
        header(wanted=0),
        header(flags=2),
        header(reserved=1),
        header(off=20),
        header(off=28),
        header(off=16),
        header(length=9),
        header(off=1 << 31),
        header(length=(1 << 32) - 1),
        header(length=0, remaining=1),
        header(remaining=(1 << 18) - 7),
        header(remaining=(1 << 32) - 1),
        header(granted=0xFFFF),
    ],
)
def test_what_a_peer_may_not_send(said: bytes) -> None:
    receiver = side()
    receiver.credits.granted = 4
    with pytest.raises(ProtocolError):
        receiver.received(memoryview(said))


@pytest.mark.parametrize("second", [header(remaining=9), header(remaining=7), header(remaining=0, length=7)])
def test_fragments_that_are_not_one_message(second: bytes) -> None:
    receiver = side()
    receiver.credits.granted = 4
    assert receiver.received(memoryview(header(remaining=16))) is None
    with pytest.raises(ProtocolError, match="fragments"):
        receiver.received(memoryview(second))


def test_a_message_without_a_credit() -> None:
    receiver = side()
    receiver.credits.granted = 1
    assert receiver.received(memoryview(header())) is not None
    with pytest.raises(ProtocolError, match="credit"):
        receiver.received(memoryview(header()))


@given(st.binary(max_size=64))
def test_nonsense_is_refused_or_taken(said: bytes) -> None:
    receiver = side()
    receiver.credits.granted = 4
    try:
        whole = receiver.received(memoryview(said))
    except ProtocolError:
        return
    assert whole is None or len(whole) <= len(said) - HEADER_BYTES


def test_a_peer_that_wants_fewer_credits_gets_fewer() -> None:
    receiver = side(granted=4)
    receiver.credits.granted = 64
    receiver.received(memoryview(header(wanted=2)))
    assert receiver.credits.target == 2
    assert receiver.credits.take() == 0


# ---- signs of life


def test_a_silent_peer_is_asked_then_given_up() -> None:
    ours = side()
    assert ours.due == IDLE_S
    assert not ours.overdue(IDLE_S)
    assert ours.due == IDLE_S + RESPONSE_S
    theirs = side()
    theirs.credits.granted = 1
    assert theirs.received(memoryview(ours.empty())) is None
    assert theirs.asked and theirs.empty_due
    theirs.empty()
    assert not theirs.asked
    assert ours.overdue(IDLE_S + RESPONSE_S)


def test_any_message_is_a_sign_of_life() -> None:
    ours = side()
    assert not ours.overdue(IDLE_S)
    ours.heard(IDLE_S + 1)
    assert ours.due == 2 * IDLE_S + 1
    assert not ours.overdue(2 * IDLE_S + 1)
