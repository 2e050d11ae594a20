"""A hello is understood whole, in pieces, and from later versions; strangers are told apart in one line."""

import dataclasses
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transport.base import Feature, Limits
from transport.errors import HelloMismatch
from transport.hello import HELLO_LENGTH, Hello, HelloReader, agree, encode_hello

LIMITS = Limits(max_body=8192, max_payload=1 << 40, credits=7, max_segs=9, features=Feature.AUX)


def read(data: bytes, step: int = 1 << 20) -> Hello:
    reader = HelloReader("server")
    at = 0
    while reader.need:
        size = min(reader.need, step)
        reader.feed(data[at : at + size])
        at += size
    assert at == len(data)
    return reader.hello()


@pytest.mark.parametrize("step", [1, 3, 1 << 20])
def test_round_trip(step: int) -> None:
    assert read(encode_hello(LIMITS, 1, 4), step) == Hello(1, 4, LIMITS)


def test_a_later_versions_further_fields_are_skipped() -> None:
    data = bytearray(encode_hello(LIMITS, 1, 9) + b"later")
    struct.pack_into("<H", data, 8, len(data))
    struct.pack_into("<I", data, 16, 0xFFFFFFFF)
    assert read(bytes(data)).limits.features == Feature.AUX | Feature.TRANSACT | Feature.SESSION


@pytest.mark.parametrize(
    "raw",
    [
        b"GET / HTTP/1.1\r\n",
        b"SSH-2.0-OpenSSH\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00",
        b"\x00",
        b"NETFSIO2..",
        b"NETFSIO1\x00\x00",
        b"NETFSIO1\xff\xff",
    ],
)
def test_a_stranger_is_told_at_the_first_byte_that_differs(raw: bytes) -> None:
    reader = HelloReader("server")
    with pytest.raises(HelloMismatch, match=r"^not a netfs server: ") as caught:
        for at in range(len(raw)):
            assert reader.need
            reader.feed(raw[at : at + 1])
    assert "\n" not in str(caught.value)


def test_silence_and_an_early_end_are_told() -> None:
    reader = HelloReader("client")
    assert str(reader.ended()) == "not a netfs client: it closed the connection without a word"
    assert str(reader.silent(10)) == "not a netfs client: it said nothing in 10 s"
    reader.feed(b"NET")
    assert str(reader.ended()) == "not a netfs client: it closed the connection after b'NET'"
    assert str(reader.silent(2.5)) == "not a netfs client: it said no more than b'NET' in 2.5 s"


def test_versions_must_meet() -> None:
    with pytest.raises(HelloMismatch, match="the server speaks version 3–4, we speak 1–1"):
        agree(LIMITS, read(encode_hello(LIMITS, 3, 4)), "server")
    assert agree(LIMITS, read(encode_hello(LIMITS, 1, 4)), "server") == LIMITS


@pytest.mark.parametrize("change", [{"credits": 0}, {"max_payload": 0}, {"max_body": 100}, {"max_segs": 0}])
def test_limits_nobody_can_work_with_are_refused(change: dict[str, int]) -> None:
    with pytest.raises(HelloMismatch, match="makes no sense"):
        read(encode_hello(dataclasses.replace(LIMITS, **change)))  # type: ignore[arg-type]


@given(
    *(
        st.builds(
            Limits,
            st.integers(4096, 1 << 20),
            st.integers(1, 1 << 40),
            st.integers(1, 99),
            st.integers(1, 99),
            st.sampled_from(list(Feature)),
        )
        for _ in "ab"
    )
)
def test_both_sides_agree_on_the_same(ours: Limits, theirs: Limits) -> None:
    agreed = agree(ours, read(encode_hello(theirs)), "server")
    assert agreed == agree(theirs, read(encode_hello(ours)), "client")
    assert agreed.credits == min(ours.credits, theirs.credits) and agreed.features == ours.features & theirs.features


@given(st.binary(max_size=HELLO_LENGTH))
def test_any_bytes_are_understood_or_refused(raw: bytes) -> None:
    reader = HelloReader("client")
    try:
        for at in range(len(raw)):
            if not reader.need:
                break
            reader.feed(raw[at : at + 1])
        if not reader.need:
            reader.hello()
    except HelloMismatch:
        pass
