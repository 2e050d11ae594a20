"""Trio shell. A trial in one line: `nt1.` and a case, written so that it can be pasted into a terminal, a mail or a test.

    nt1. | base64url of: | check, 3 bytes | fingerprint of the code, 14 bytes | deflated JSON of the case |

Deflate starts with a dictionary of what cases consist of, so that the token of a shrunk case is about as long as a line. The
fingerprint names the packages whose code is no longer the one the case was made with. Owns no memory.
"""

import base64
import binascii
import hashlib
import json
import zlib
from collections.abc import Sequence
from typing import Any, Final

from trials.case import Case
from trials.faults.plan import Plan
from trials.fingerprint import DIGEST, PARTS, changed, fingerprint

__all__ = ["TokenError", "decode", "encode", "outdated"]

VERSION: Final = 1
PREFIX: Final = f"nt{VERSION}."
CHECK: Final = 3
LONGEST: Final = 1 << 20
FIELDS: Final = ("scenario", "seed", "transport", "encrypt", "clients", "operations", "policy", "bug", "plan", "keep", "schedule")
DEFAULTS: Final[tuple[object, ...]] = ("", 0, "stream", 0, 2, 60, "uniform", "", None, None, None)
# Part of the format: whoever changes it makes another VERSION.
DICTIONARY: Final = (
    b"rdma-memory rdma-stream at(0. after_bytes( every(read, 1 p(send, 0.0 nth(send, nth(read, nth(write, nth(commit, "
    b'before(commit, after(commit, fifo pct:3 starve:8 uniform {"side":" "before" "after" "during" "client1" "client0" '
    b'"server" {"ms": [["T1 [["S1 null,[],[]] ["mixed",1 ,"stream",1,2,60,"fifo","",[[["S","nth(write, 1)"]]],[0,1,2,1],[]]'
)


class TokenError(ValueError):
    """A token that cannot be read, in one line that says why."""


def encode(case: Case) -> str:
    """Return the token of a case, in the code of this process."""
    plan = None if case.plan is None else json.loads(case.plan.to_json())
    keep = None if case.keep is None else _steps(case.keep)
    schedule = None if case.schedule is None else [number for pair in _paced(case.schedule) for number in pair]
    row: list[Any] = [
        case.scenario, case.seed, case.transport, int(case.encrypt), case.clients, case.operations, case.policy, case.bug,
        plan, keep, schedule,
    ]  # fmt: skip
    while row[-1] == DEFAULTS[len(row) - 1]:
        row.pop()
    packer = zlib.compressobj(9, wbits=-15, zdict=DICTIONARY)
    packed = packer.compress(json.dumps(row, separators=(",", ":")).encode()) + packer.flush()
    body = fingerprint() + packed
    return PREFIX + base64.urlsafe_b64encode(_check(body) + body).rstrip(b"=").decode()


def decode(token: str) -> tuple[Case, bytes]:
    """Read a token. Returns: the case, and the fingerprint of the code it was made with. Raises: TokenError."""
    body = _body("".join(token.split()))
    code, packed = body[: DIGEST * len(PARTS)], body[DIGEST * len(PARTS) :]
    unpacker = zlib.decompressobj(wbits=-15, zdict=DICTIONARY)
    try:
        row = json.loads(unpacker.decompress(packed, LONGEST))
        if not isinstance(row, list) or len(row) > len(FIELDS):
            raise TypeError("no list of fields")
        values = dict(zip(FIELDS, [*row, *DEFAULTS[len(row) :]], strict=True))
        for name in ("plan", "keep", "schedule"):
            if values[name] is not None:
                values[name] = _READ[name](values[name])
        case = Case(**{**values, "encrypt": bool(values["encrypt"])})
    except (zlib.error, ValueError, TypeError) as error:
        raise TokenError(f"the token names a trial that this version does not know: {error}{_since(code)}") from None
    return case, code


def outdated(code: bytes) -> str | None:
    """Say in one line how the code has changed since a token was made; None when it has not."""
    parts = changed(code, fingerprint())
    if not parts:
        return None
    return f"the token was made with other code in {', '.join(parts)}: the trial may not do the same again"


def _since(code: bytes) -> str:
    parts = changed(code, fingerprint())
    return f" (since then the code has changed in {', '.join(parts)})" if parts else ""


def _body(text: str) -> bytes:
    head, dot, rest = text.partition(".")
    if not dot or not head.startswith("nt") or not head[2:].isdecimal():
        raise TokenError(f"not the token of a trial: {text[:40]!r}; one begins with {PREFIX}")
    if head != PREFIX[:-1]:
        raise TokenError(f"a token of version {head[2:]}; this version of netfs reads version {VERSION}")
    try:
        data = base64.b64decode(rest.encode("ascii") + b"=" * (-len(rest) % 4), b"-_", validate=True)
    except (binascii.Error, ValueError):
        raise TokenError("the token is damaged: it holds characters that no token has, or ends too early") from None
    body = data[CHECK:]
    if len(body) <= DIGEST * len(PARTS) or _check(body) != data[:CHECK]:
        raise TokenError("the token is damaged: its check does not fit; was it copied as a whole?")
    return body


def _check(body: bytes) -> bytes:
    return hashlib.blake2b(body, digest_size=CHECK).digest()


def _steps(numbers: Sequence[int]) -> list[int]:
    """Return ascending numbers as steps from one to the next, which are short."""
    return [number - before for before, number in zip([0, *numbers], numbers, strict=False)]


def _paced(schedule: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    return list(zip(_steps([number for number, _ in schedule]), [choice for _, choice in schedule], strict=True))


def _summed(steps: Sequence[int]) -> tuple[int, ...]:
    total, numbers = 0, []
    for step in steps:
        total += step
        numbers.append(total)
    return tuple(numbers)


def _plan_of(value: object) -> Plan:
    return Plan.from_json(json.dumps(value))


def _schedule_of(value: list[int]) -> tuple[tuple[int, int], ...]:
    return tuple(zip(_summed(value[::2]), value[1::2], strict=True))


_READ: Final[dict[str, Any]] = {"plan": _plan_of, "keep": _summed, "schedule": _schedule_of}
