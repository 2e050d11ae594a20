"""Fingerprints and the lines of known_hosts and authorized_keys."""

import pytest

from transport.trust import (
    Fingerprint,
    Grant,
    fingerprint_of,
    known_host_line,
    parse_authorized_keys,
    parse_fingerprint,
    parse_known_hosts,
)

ONE, TWO = fingerprint_of(b"one"), fingerprint_of(b"two")


def test_a_fingerprint_is_printed_as_ssh_prints_one() -> None:
    # echo -n "" | openssl dgst -sha256 -binary | base64
    assert fingerprint_of(b"") == "SHA256:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU"
    assert parse_fingerprint(ONE) == ONE


@pytest.mark.parametrize("text", ["", "SHA256:", ONE[:-1], ONE + "A", ONE.lower(), ONE + "=", "MD5:" + ONE[7:], " " + ONE])
def test_no_fingerprints(text: str) -> None:
    with pytest.raises(ValueError, match="not a fingerprint"):
        parse_fingerprint(text)


def test_authorized_keys() -> None:
    text = f"# who\n\n{ONE} alice\n  {TWO}\tbob ro # reads\n"
    assert parse_authorized_keys(text) == {ONE: Grant("alice"), TWO: Grant("bob", read_only=True)}
    assert parse_authorized_keys(f"{ONE} alice@laptop rw") == {ONE: Grant("alice@laptop")}
    assert parse_authorized_keys("") == {}


BAD_KEYS = {
    "no name": f"{ONE}\n",
    "rights that are none": f"{ONE} alice r\n",
    "rights in capitals": f"{ONE} alice RO\n",
    "too much": f"{ONE} alice ro photos now\n",
    "no export": f"{ONE} alice ro /photos\n",
    "a name that could forge a log line": f"{ONE} alice=bob\n",
    "no fingerprint": "alice ro\n",
    "half a fingerprint": f"{ONE[:20]} alice\n",
    "twice, with other rights": f"{ONE} alice ro\n{ONE} alice rw\n",
}


@pytest.mark.parametrize("text", BAD_KEYS.values(), ids=BAD_KEYS)
def test_one_bad_line_spoils_authorized_keys(text: str) -> None:
    with pytest.raises(ValueError, match=r"^line [23]: ") as caught:
        parse_authorized_keys(f"{TWO} carol\n{text}")
    assert "\n" not in str(caught.value)


def test_known_hosts() -> None:
    text = known_host_line("Host:2050", ONE) + "# moved\n" + known_host_line("host:2050", TWO) + known_host_line("[::1]:5", ONE)
    assert parse_known_hosts(text) == {"host:2050": [ONE, TWO], "[::1]:5": [ONE]}


@pytest.mark.parametrize("text", ["host:1", f"host:1 {ONE} more", f"{ONE} host:1", f"host:1 {Fingerprint(ONE[:-2])}"])
def test_one_bad_line_spoils_known_hosts(text: str) -> None:
    with pytest.raises(ValueError, match=r"^line 1: "):
        parse_known_hosts(text)
