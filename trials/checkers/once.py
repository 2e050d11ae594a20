"""Sans-IO. Exactly once: each record that was appended is in the log once and whole, in the order of its descriptor.

A record is the cells of one append, numbered from cell 0 wherever it lands. One whose append failed may be there or not,
and only a front part of it may; one that is known to be safe must be. Owns no memory; it looks through what it is lent.
"""

from collections.abc import Iterator

from trials.cells import CELL, HOLE, fill
from trials.checkers.segments import settled
from trials.history import Failure, History, Op

__all__ = ["check_log"]


def check_log(history: History, file: str, content: bytes | bytearray | memoryview) -> Iterator[Failure]:
    """Yield what is wrong with the content of a log, as it was read in the end."""
    safe = settled(history)
    appends = {op.id: op for op in history.of("append") if op.file == file}
    found: dict[int, int] = {}
    last: dict[int, Op] = {}
    at = 0
    while at < len(content):
        op = _starting(appends, content, at)
        if op is None:
            yield Failure(
                "U6 torn record", f"{file} at byte {at:#x}: no record begins here: {bytes(content[at : at + CELL]).hex()}"
            )
            return
        whole = fill(op.id, 0, op.length // CELL)
        length = _agreeing(content[at : at + op.length], whole)
        if length < op.length and op.ok:
            yield Failure("U6 torn record", f"{file} at byte {at:#x}: {length} of {op.length} bytes of {op}")
            return
        if op.id in found:
            yield Failure("U6 record twice", f"{file}: {op} is at bytes {found[op.id]:#x} and {at:#x}")
            return
        found[op.id] = at
        before = last.get(op.fd)
        if before is not None and before.ok and op.ok and op.ret < before.call:
            yield Failure("U6 records out of order", f"{file}: {op} comes behind the later {before}")
        last[op.fd] = op
        at += length
    for number, op in appends.items():
        if number in safe and number not in found:
            yield Failure("U6 record lost", f"{file}: {op} was safe and is not there")


def _starting(appends: dict[int, Op], content: bytes | bytearray | memoryview, at: int) -> Op | None:
    """Return the append whose first cell is here."""
    number = int.from_bytes(content[at : at + 6], "little")
    op = appends.get(number)
    if number == HOLE or op is None or bytes(content[at : at + CELL]) != bytes(fill(number, 0, 1)):
        return None
    return op


def _agreeing(have: bytes | bytearray | memoryview, want: bytes | bytearray) -> int:
    """Return how many bytes at the front, in whole cells, are as wanted."""
    length = 0
    while length < min(len(have), len(want)) and have[length : length + CELL] == want[length : length + CELL]:
        length += CELL
    return min(length, len(have))
