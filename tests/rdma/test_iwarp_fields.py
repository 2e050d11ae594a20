"""Every field of every message of iWARP set to what it should not be; every Terminate sent and understood."""

import struct
from dataclasses import dataclass

import pytest

from tests.rdma.iwarp_rig import Joined, statuses
from transport.rdma.enums import Opcode, QPState, WcStatus
from transport.rdma.iwarp.mpa import find_crc
from transport.rdma.iwarp.rdmap import ATOMIC_REQUEST, ATOMIC_RESPONSE, IMMEDIATE, READ_REQUEST, Op
from transport.rdma.iwarp.receive import Place
from transport.rdma.iwarp.terminate import Cause, Refused, Terminate

TAGGED_HEAD = struct.Struct(">HBBIQ")
UNTAGGED_HEAD = struct.Struct(">HBBIIII")
TAGGED_FIELDS = ("length", "ddp", "rdmap", "stag", "to")
UNTAGGED_FIELDS = ("length", "ddp", "rdmap", "ulp", "qn", "msn", "mo")
READ_FIELDS = ("sink_stag", "sink_to", "size", "source_stag", "source_to")
ATOMIC_FIELDS = ("kind", "id", "stag", "to", "add", "mask", "compare", "compare_mask")


@dataclass(frozen=True)
class Message:
    """A message to the server: its header, and a body with fields of its own or payload."""

    head: struct.Struct
    names: tuple[str, ...]
    values: tuple[int, ...]
    body: bytes
    body_struct: struct.Struct | None = None
    body_names: tuple[str, ...] = ()

    def packed(self, values: tuple[int, ...], body: bytes) -> bytes:
        data = self.head.pack(*values) + body
        return data + bytes(-len(data) % 4 + 4)


def messages(j: Joined) -> dict[str, Message]:
    """Return good messages from the client, each the first on its queue."""
    va, stag = j.b.mr.iova, j.b.mr.rkey
    payload = b"12345678"

    def tagged(op: Op) -> Message:
        return Message(TAGGED_HEAD, TAGGED_FIELDS, (14 + len(payload), 0xC1, 0x40 | op, stag, va + 64), payload)

    def untagged(op: Op, queue: int, body: bytes, form: struct.Struct | None = None, names: tuple[str, ...] = ()) -> Message:
        values = (18 + len(body), 0x41, 0x40 | op, 0, queue, 1, 0)
        return Message(UNTAGGED_HEAD, UNTAGGED_FIELDS, values, body, form, names)

    atomic = ATOMIC_REQUEST.pack(2, 1, stag, va + 64, 5, (1 << 64) - 1, 0, (1 << 64) - 1)
    return {
        "WRITE": tagged(Op.WRITE),
        "READ_RESPONSE": tagged(Op.READ_RESPONSE),
        "SEND": untagged(Op.SEND, 0, payload),
        "SEND_INV": untagged(Op.SEND_INV, 0, payload),
        "SEND_SE": untagged(Op.SEND_SE, 0, payload),
        "SEND_SE_INV": untagged(Op.SEND_SE_INV, 0, payload),
        "IMMEDIATE": untagged(Op.IMMEDIATE, 0, IMMEDIATE.pack(0, 7), IMMEDIATE, ("high", "low")),
        "IMMEDIATE_SE": untagged(Op.IMMEDIATE_SE, 0, IMMEDIATE.pack(0, 7), IMMEDIATE, ("high", "low")),
        "READ_REQUEST": untagged(Op.READ_REQUEST, 1, READ_REQUEST.pack(1, 0, 8, stag, va), READ_REQUEST, READ_FIELDS),
        "ATOMIC_REQUEST": untagged(Op.ATOMIC_REQUEST, 1, atomic, ATOMIC_REQUEST, ATOMIC_FIELDS),
        "ATOMIC_RESPONSE": untagged(Op.ATOMIC_RESPONSE, 3, ATOMIC_RESPONSE.pack(1, 2), ATOMIC_RESPONSE, ("id", "value")),
        "TERMINATE": untagged(Op.TERMINATE, 2, Terminate(Cause.LLP_CRC).pack()),
    }


WIDTHS = {"H": 16, "B": 8, "I": 32, "Q": 64}


def others(value: int, code: str) -> list[int]:
    """Return the values of a field worth trying: the edges, the neighbours, each bit turned."""
    bits = WIDTHS[code]
    top = (1 << bits) - 1
    found = {0, 1, top, top >> 1, 1 << bits - 1, value ^ 1, *(value + step & top for step in (-1, 1, 4, -4, 1 << 16))}
    found |= {value ^ 1 << bit for bit in range(bits)}
    return sorted(found - {value})


def variants(message: Message) -> list[tuple[str, bytes]]:
    """Return the message with each field of header and body in turn set to each other value."""
    out = []
    codes = message.head.format.removeprefix(">")
    for index, name in enumerate(message.names):
        for value in others(message.values[index], codes[index]):
            values = (*message.values[:index], value, *message.values[index + 1 :])
            out.append((f"{name}={value:#x}", message.packed(values, message.body)))
    if message.body_struct is not None:
        fields = message.body_struct.unpack(message.body)
        for index, name in enumerate(message.body_names):
            for value in others(fields[index], message.body_struct.format.removeprefix(">")[index]):
                body = message.body_struct.pack(*fields[:index], value, *fields[index + 1 :])
                out.append((f"{name}={value:#x}", message.packed(message.values, body)))
    return out


@pytest.mark.parametrize("name", messages(Joined()))
def test_any_value_of_any_field(name: str) -> None:
    """Whatever a field says: no byte outside the region moves, each receive completes once, a refusal ends in one Terminate."""
    tried = 0
    for what, data in variants(messages(Joined())[name]):
        j = Joined()
        j.b.recv(1, 0, 64)
        j.b.recv(2, 64, 64)
        j.feed(j.far, data)
        j.carry()
        assert j.guards_intact(), what
        if j.far.refused or j.near.refused:  # the client refuses answers it did not ask for
            assert j.b.qp.state is j.a.qp.state is QPState.ERR, what
            assert j.terminate() is not None, what
        j.far.received(0)
        done = statuses(j.b)
        assert sorted(wr_id for wr_id, _ in done) == [1, 2], what
        tried += 1
    assert tried > 100


UNASKED = {"READ_RESPONSE", "ATOMIC_RESPONSE", "SEND_INV", "SEND_SE_INV"}
"""Answers nobody asked for, and invalidations of nothing: refused as they are."""


@pytest.mark.parametrize("name", sorted(set(messages(Joined())) - UNASKED))
def test_the_messages_themselves_are_good(name: str) -> None:
    """So that what the test above sees is due to the field it changed."""
    j = Joined()
    j.b.recv(1, 0, 64)
    message = messages(j)[name]
    j.feed(j.far, message.packed(message.values, message.body))
    assert not j.far.refused


class Refuser:
    """Who takes nothing."""

    def __init__(self, cause: Cause) -> None:
        self.cause = cause

    def tagged(self, op: int, last: bool, stag: int, to: int, length: int) -> Place:
        raise Refused(self.cause)

    def send(self, op: int, last: bool, ulp: int, msn: int, mo: int, length: int) -> Place:
        raise Refused(self.cause)

    def control(self, op: int, msn: int, body: bytes) -> None:
        raise Refused(self.cause)

    def empty(self) -> None:
        raise Refused(self.cause)


@pytest.mark.parametrize("crc", [False, True], ids=["plain", "crc"])
@pytest.mark.parametrize("cause", list(Cause))
def test_every_terminate_is_produced_and_understood(cause: Cause, crc: bool) -> None:
    """A READ is open when the server refuses what it gets, for whatever cause: it fails, all behind it is flushed, once."""
    j = Joined(find_crc() if crc else None)
    j.a.recv(9)
    j.b.recv(8)
    j.a.qp.post_send([j.to_peer(Opcode.READ, wr_id=1), j.to_peer(Opcode.READ, wr_id=2), j.to_peer(Opcode.WRITE, wr_id=3)])
    data = b"".join(j.near.batch() or [])
    j.near.sender.sent(len(data))
    j.far.receiver.taker = Refuser(cause)
    j.feed(j.far, data)
    j.carry()
    header, asked = data[2:20], data[20:48]  # of the READ request, which was the first
    assert j.far.terminated == j.near.terminated == Terminate(cause, 46, header, asked)
    assert j.far.refused and not j.near.refused
    flushed = WcStatus.WR_FLUSH_ERR
    assert sorted(statuses(j.a)) == [(1, WcStatus.GENERAL_ERR), (2, flushed), (3, flushed), (9, flushed)]
    assert statuses(j.b) == [(8, flushed)]
    words = str(j.near.terminated)
    assert "type" not in words and all(words in reason for reason in j.reasons)
