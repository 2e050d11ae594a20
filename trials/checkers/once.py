"""Sans-IO. Exactly once: each record that was appended is in the log once and whole, in the order of its descriptor.

A record is the cells of one append, numbered from cell 0 wherever it lands. One whose append failed, or that was not yet safe
when the server crashed, may be there or not, or in part, with holes for the rest; one that is known to be safe must be. Owns no
memory; it looks through what it is lent.
"""

from collections.abc import Iterator

from trials.cells import CELL, HOLE, Run, fill, parse
from trials.checkers.segments import settled
from trials.history import Failure, History, Op

__all__ = ["check_log"]


def check_log(
    history: History, file: str, content: bytes | bytearray | memoryview, *, honest: bool = True
) -> Iterator[Failure]:  # fmt: skip
    """Yield what is wrong with the content of a log, as it was read in the end.

    honest: the server did what it said was done; otherwise no record is known to be safe, and what is there is there once.
    """
    safe = settled(history) if honest else {}
    appends = {op.id: op for op in history.of("append") if op.file == file}
    unsafe = [op for op in appends.values() if op.id not in safe]
    found: dict[int, list[Run]] = {}
    for run in parse(content, 0, appends.__contains__):
        if run.op == HOLE:
            continue  # left by an append that failed, or that a crash took; what was safe is looked for below
        if run.op not in appends:
            if run.data and all(_is_edge(run.data[at : at + CELL], unsafe) for at in range(0, len(run.data), CELL)):
                continue  # what such an append put there in parts need not end with a cell
            where = f"{file} at byte {run.first * CELL:#x}"
            yield Failure("U6 no record", f"{where}: {run.count} cells of no record ({run.cause.value}) {run.data.hex()}")
        else:
            found.setdefault(run.op, []).append(run)
    last: dict[int, Op] = {}
    for number, op in sorted(appends.items(), key=lambda item: item[1].call):
        runs = found.get(number, [])
        places = sorted({-run.shift for run in runs})
        if len(places) > 1:
            yield Failure("U6 record twice", f"{file}: {op} is at bytes {', '.join(f'{place * CELL:#x}' for place in places)}")
        elif number in safe:
            cells = sum(run.count for run in runs)
            if cells * CELL != op.length:
                what = "is not there" if not cells else f"has {cells * CELL} of its {op.length} bytes left"
                yield Failure("U6 record lost", f"{file}: {op} was safe and {what}")
                continue
            before = last.get(op.fd)
            if before is not None and before.ret < op.call and places[0] < _place(found[before.id]):
                yield Failure("U6 records out of order", f"{file}: {op} comes before the earlier {before}")
            last[op.fd] = op


def _place(runs: list[Run]) -> int:
    """Return the cell of the log at which a record's first cell is, or would be."""
    return -runs[0].shift


def _is_edge(cell: bytes, unsafe: list[Op]) -> bool:
    """Tell whether a cell is of an append that was not safe on one side of a byte, and a hole on the other."""
    for op in unsafe:
        record = fill(op.id, 0, op.end_cell)
        for at in range(0, len(record), CELL):
            own = record[at : at + CELL]
            if any(cell in (own[:cut] + bytes(CELL - cut), bytes(cut) + own[cut:]) for cut in range(1, CELL)):
                return True
    return False
