"""Trio shell. The journals of copies that can be resumed: which pieces of a file have arrived, and what each of them was.

    ~/.local/state/netfs/copies/<digest of origin and target>
        {"origin": …, "target": …, "size": …, "mtime_ns": …, "temporary": …, "piece": …}
        0 <sha256 of piece 0>
        7 <sha256 of piece 7>

A line is added when its piece has been written. What it says is not believed: who resumes reads the piece back from the
unfinished file and copies it again when it is another. A journal of a source that has changed since is of no use, and its
unfinished file is to be removed. Owns no memory.
"""

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from netfs.cli.local_side import whole_path
from netfs.cli.place import Place
from netfs.cli.sides import Item

__all__ = ["Journal", "Journals"]


@dataclass(slots=True)
class Journal:
    """The journal of one file.

    temporary: name of the unfinished file; pieces: SHA-256 by number; outdated: one to remove; fresh: nothing was begun before.
    """

    path: Path
    temporary: str
    pieces: dict[int, str] = field(default_factory=dict)
    outdated: str | None = None
    fresh: bool = False
    _file: IO[str] | None = None

    def add(self, number: int, digest: str) -> None:
        """Note that a piece has arrived."""
        if self._file is None:
            self._file = self.path.open("a", encoding="utf-8")
        self._file.write(f"{number} {digest}\n")
        self._file.flush()

    def close(self) -> None:
        """Close the journal and keep it."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def remove(self) -> None:
        """The file is whole: nothing is left to resume."""
        self.close()
        self.path.unlink(missing_ok=True)


class Journals:
    """The folder of journals. piece: bytes of a piece."""

    def __init__(self, folder: Path, piece: int) -> None:
        self.folder = folder
        self.piece = piece

    def open(self, origin: Place, item: Item, target: Place, fresh_name: str) -> Journal:
        """Return the journal of a copy, with what was noted before. Raises: OSError."""
        self.folder.mkdir(parents=True, exist_ok=True)
        ends = [str(place) if place.remote else whole_path(place) for place in (origin, target)]
        path = self.folder / hashlib.sha256("\0".join(ends).encode("utf-8", "surrogateescape")).hexdigest()[:32]
        head = {"origin": ends[0], "target": ends[1], "size": item.size, "mtime_ns": item.mtime_ns, "piece": self.piece}
        found, pieces = self._read(path)
        temporary = found.pop("temporary", None)
        if isinstance(temporary, str) and found == head:
            return Journal(path, temporary, pieces)
        path.write_text(json.dumps({**head, "temporary": fresh_name}) + "\n", encoding="utf-8")
        return Journal(path, fresh_name, outdated=temporary if isinstance(temporary, str) else None, fresh=True)

    @staticmethod
    def _read(path: Path) -> tuple[dict[str, object], dict[int, str]]:
        """Return head and pieces of a journal, as far as they can be read: the last line may have been cut off."""
        try:
            first, *lines = path.read_text(encoding="utf-8").split("\n")
            head = json.loads(first)
        except (OSError, ValueError):
            return {}, {}
        pieces = {}
        for line in lines:
            number, _, digest = line.partition(" ")
            if number.isdecimal() and len(digest) == hashlib.sha256().digest_size * 2:
                pieces[int(number)] = digest
        return (head, pieces) if isinstance(head, dict) else ({}, {})
