"""Tokens: read back whole, short when the case is, and clear about what is wrong with them."""

import base64
import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trials import fingerprint as code_of
from trials.case import Case
from trials.faults.plan import Fault, Plan, Trigger
from trials.fingerprint import DIGEST, PARTS, changed, fingerprint
from trials.token import TokenError, decode, encode, outdated
from trials.workloads import SCENARIOS

RESET = Fault("T14", Trigger("nth", 9, "send"), "client1", (("side", "during"),))
SMALL = Case("own-files", 1234567, "rdma-stream", True, 2, 60, Plan((RESET, RESET)), (3, 7, 8, 40), ((56, 1), (190, -2)), "fifo")
CASES = st.builds(
    Case,
    scenario=st.just("own-files"),
    seed=st.integers(0, 1 << 64),
    transport=st.sampled_from(["stream", "rdma-memory", "rdma-stream"]),
    encrypt=st.booleans(),
    clients=st.integers(1, 16),
    operations=st.integers(0, 100_000),
    plan=st.none() | st.builds(Plan, st.lists(st.just(RESET), max_size=3).map(tuple), st.sampled_from([(), (("credits", 1),)])),
    keep=st.none() | st.lists(st.integers(0, 5000), unique=True, max_size=20).map(sorted).map(tuple),
    schedule=st.none()
    | st.dictionaries(st.integers(0, 99999), st.integers(-9, 9).filter(bool), max_size=9).map(lambda d: tuple(sorted(d.items()))),
    policy=st.sampled_from(["uniform", "fifo", "pct:3"]),
)


@given(CASES)
def test_a_token_is_read_back(case: Case) -> None:
    token = encode(case)
    assert decode(token) == (case, fingerprint())
    assert re.fullmatch(r"nt1\.[\w-]+", token)


def test_the_token_of_a_small_case_fits_on_a_line() -> None:
    assert len(encode(SMALL)) <= 150
    assert len(encode(Case("own-files", 17))) < 80


def test_spaces_and_line_ends_of_a_mail_do_no_harm() -> None:
    token = encode(SMALL)
    assert decode(f"  {token[:30]}\n  {token[30:]}\n")[0] == SMALL


def relabelled(token: str, at: int, value: int) -> str:
    """Return the token with one byte of its body changed, and no new check."""
    head, _, rest = token.partition(".")
    data = bytearray(base64.urlsafe_b64decode(rest + "=" * (-len(rest) % 4)))
    data[at] ^= value
    return f"{head}.{base64.urlsafe_b64encode(data).rstrip(b'=').decode()}"


@pytest.mark.parametrize(
    ("token", "said"),
    [
        ("", "not the token of a trial"),
        ("hello", "not the token of a trial: 'hello'; one begins with nt1."),
        ("nt2.abcd", "a token of version 2; this version of netfs reads version 1"),
        ("nt1.", "damaged"),
        ("nt1.a*b", "characters that no token has"),
        ("nt1.häßlich", "characters that no token has"),
        (encode(SMALL)[:-3], "was it copied as a whole?"),
        (relabelled(encode(SMALL), -1, 1), "was it copied as a whole?"),
        (relabelled(encode(SMALL), 0, 1), "was it copied as a whole?"),
    ],
)
def test_what_is_wrong_is_said(token: str, said: str) -> None:
    with pytest.raises(TokenError, match=re.escape(said)):
        decode(token)


def test_what_has_changed_since_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    token = encode(SMALL)
    then = bytearray(fingerprint())
    then[PARTS.index("netfs") * DIGEST] ^= 1
    then[PARTS.index("trio") * DIGEST] ^= 1
    assert changed(bytes(then), fingerprint()) == ["netfs", "trio"]
    assert outdated(fingerprint()) is None
    monkeypatch.setattr("trials.token.fingerprint", lambda: bytes(then))
    case, code = decode(token)
    assert case == SMALL
    assert outdated(code) == "the token was made with other code in netfs, trio: the trial may not do the same again"


def test_a_case_that_is_none_any_more_names_what_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    token = encode(SMALL)
    monkeypatch.delitem(SCENARIOS, "own-files")
    monkeypatch.setattr("trials.token.fingerprint", lambda: bytes(len(fingerprint())))
    with pytest.raises(TokenError, match=r"no scenario own-files.*since then the code has changed in iov, transport"):
        decode(token)


def test_the_fingerprint_follows_the_source(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    real = code_of._package
    monkeypatch.setattr(code_of, "_package", lambda name: b"other" if name == "iov" else real(name))
    code_of.fingerprint.cache_clear()
    other = code_of.fingerprint()
    monkeypatch.undo()
    code_of.fingerprint.cache_clear()
    assert changed(other, code_of.fingerprint()) == ["iov"]


def test_fields_that_are_as_always_take_no_room() -> None:
    assert len(encode(replace(SMALL, keep=None, schedule=None, plan=None))) < len(encode(SMALL)) - 20
