"""Trio shell. Results of a campaign in a file: one line of JSON for each trial, behind one that says what was run.

Lines are only added, so that whatever happens to the process or the disk, what was known before is still there: a last line
that is not whole is dropped by who reads or resumes. The first error ends the writing, not the campaign. Owns no memory.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from trials.fingerprint import changed, fingerprint
from trials.seeds import Spec

__all__ = ["Results", "RowsError", "Writer", "merge", "read_results"]

FORMAT: Final = 1
Row = dict[str, Any]


class RowsError(Exception):
    """A file that holds no results, or those of something else; one line."""


@dataclass(slots=True)
class Results:
    """What a file holds. code: fingerprint of what was run. whole: bytes of the lines that are complete."""

    path: Path
    spec: Spec
    code: bytes
    rows: list[Row]
    whole: int

    @property
    def seeds(self) -> set[int]:
        """The seeds that have a row."""
        return {row["seed"] for row in self.rows}


def read_results(path: Path) -> Results:
    """Read a file. Raises: RowsError; OSError."""
    data = path.read_bytes()
    whole = data.rfind(b"\n") + 1
    lines = data[:whole].splitlines()
    try:
        head = json.loads(lines[0])
        if head["trials"] != FORMAT:
            raise RowsError(f"{path}: results in format {head['trials']}; this version reads {FORMAT}")
        found = Results(path, Spec.from_dict(head["spec"]), bytes.fromhex(head["code"]), [], whole)
    except (IndexError, KeyError, TypeError, ValueError):
        raise RowsError(f"{path}: holds no results of trials") from None
    for number, line in enumerate(lines[1:], 2):
        try:
            row = json.loads(line)
            if not isinstance(row["seed"], int):
                raise TypeError
        except (KeyError, TypeError, ValueError):
            raise RowsError(f"{path}:{number}: not a result") from None
        found.rows.append(row)
    return found


class Writer:
    """Adds rows to a file. error: the first one, after which nothing more is written."""

    def __init__(self, path: Path, spec: Spec, resumed: Results | None = None) -> None:
        self.error: OSError | None = None
        self._file = path.open("r+b" if resumed else "xb", buffering=0)
        if resumed is None:
            self.add({"trials": FORMAT, "spec": spec.to_dict(), "code": fingerprint().hex()})
        else:
            self._file.truncate(resumed.whole)
            self._file.seek(resumed.whole)

    def add(self, row: Row) -> None:
        """Add a row; it is in the file, as far as the system is concerned, when this returns."""
        if self.error is not None:
            return
        rest = memoryview(json.dumps(row, separators=(",", ":")).encode() + b"\n")
        try:
            while rest:
                rest = rest[self._file.write(rest) or 0 :]
        except OSError as error:
            self.error = error

    def close(self) -> None:
        """Close the file."""
        try:
            self._file.close()
        except OSError as error:
            self.error = self.error or error


def merge(parts: Iterable[Results]) -> Results:
    """Join results of one specification. Of two rows of one seed the one that fails wins, then the one that came first.

    Raises: RowsError when they are of different things.
    """
    merged: Results | None = None
    kept: dict[int, Row] = {}
    for part in parts:
        if merged is None:
            merged = Results(part.path, part.spec, part.code, [], 0)
        different = changed(part.code, merged.code)
        if part.spec != merged.spec:
            raise RowsError(f"{part.path}: of another specification than {merged.path}: {_difference(part.spec, merged.spec)}")
        if different:
            raise RowsError(f"{part.path}: made with other code in {', '.join(different)} than {merged.path}")
        for row in part.rows:
            before = kept.get(row["seed"])
            if before is None or ("class" in row and "class" not in before):
                kept[row["seed"]] = row
    if merged is None:
        raise RowsError("nothing to merge")
    merged.rows = [kept[seed] for seed in sorted(kept)]
    return merged


def gaps(seeds: Iterable[int]) -> Iterator[range]:
    """Yield the ranges of seeds that are missing between the first and the last."""
    last: int | None = None
    for seed in sorted(seeds):
        if last is not None and seed > last + 1:
            yield range(last + 1, seed)
        last = seed


def _difference(one: Spec, other: Spec) -> str:
    ours, theirs = one.to_dict(), other.to_dict()
    return ", ".join(f"{name} {ours[name]!r} instead of {theirs[name]!r}" for name in ours if ours[name] != theirs[name])
