"""Sans-IO. Honest errors: a caller is told only what may come of what went wrong, and each descriptor is told once.

The catalogue says for each fault in which errors it may end (`trials/faults/rows.py`). An error of another kind, or one of a
trial in which nothing took effect, was made up on the way. An fsync or a close that fails tells of what was lost since the last
one; said again, with nothing gone wrong in between, it is an error of the past that is held against the present. Owns no
memory.
"""

import errno
import os
from collections.abc import Collection, Iterator
from typing import Final

from trials.history import Failure, History, Op

__all__ = ["ALWAYS", "check_errors"]

ALWAYS: Final = frozenset({errno.EAGAIN, errno.EEXIST, errno.ENOENT, errno.ENOTSUP, errno.ESTALE})
"""What clients of one file may be told though nothing goes wrong: of each other's claims, of names that are there or not, which
other checkers judge, of removals, and of what an encrypted volume has not.
"""
STORED: Final = frozenset({errno.EIO, errno.ENOSPC, errno.EDQUOT})
TELLING: Final = frozenset({"fsync", "close"})


def check_errors(history: History, allowed: Collection[int]) -> Iterator[Failure]:
    """Yield errors that nothing explains. allowed: what may come of the faults that took effect."""
    lawful = ALWAYS | frozenset(allowed)
    for op in history.ops:
        if op.error and op.error not in lawful:
            yield Failure("U7 unlawful error", f"{op}: {_name(op.error)} is no outcome of what went wrong; {_names(lawful)} are")
    yield from _told_twice(history)


def _told_twice(history: History) -> Iterator[Failure]:
    """Yield what a descriptor was told again."""
    last: dict[int, Op] = {}
    for op in history.ops:
        if op.kind not in TELLING or op.fd < 0:
            continue
        before = last.get(op.fd)
        last[op.fd] = op
        if before is None or not before.error or before.error != op.error or op.error not in STORED:
            continue
        if not any(before.call < tick < op.ret for tick in history.faults):
            yield Failure("U7 told twice", f"{op} says what {before} has said, and nothing has gone wrong since")


def _name(code: int) -> str:
    return f"{errno.errorcode.get(code, code)} ({os.strerror(code)})"


def _names(codes: Collection[int]) -> str:
    return ", ".join(sorted(errno.errorcode.get(code, str(code)) for code in codes))
