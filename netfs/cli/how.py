"""Trio shell. How trees are copied, and what came of it: the terms of the copy commands and the copy engine. Owns no memory."""

from dataclasses import dataclass, field

from netfs.cli.filters import EVERYTHING, Filters
from netfs.cli.host import CommandError
from netfs.cli.journal import Journals
from netfs.cli.pace import Pace

__all__ = ["How", "Totals"]


@dataclass(frozen=True, slots=True)
class How:
    """How trees are copied.

    filters: which names; dry: only say what would be done; verify: read each file back before it gets its name; newer: leave out
    files that have the same size and time there; checksum: leave out those that have the same content there, whatever their time;
    delete: remove what is only in the target. links: copy symlinks, as they are. journals: keep what is unfinished. retries: how
    often what failed is tried again.
    """

    filters: Filters = EVERYTHING
    pace: Pace = field(default_factory=Pace)
    dry: bool = False
    verify: bool = False
    newer: bool = False
    checksum: bool = False
    delete: bool = False
    links: bool = False
    journals: Journals | None = None
    retries: int = 0


@dataclass(slots=True)
class Totals:
    """What a copy did. skipped: places left out with the reason; failed: the errors of files that could not be copied.

    same: files and links that were there already; resumed: bytes that had arrived before; deleted: names; planned: what would be
    done; differing: why, as (missing, different or extra, place).
    """

    files: int = 0
    same: int = 0
    resumed: int = 0
    deleted: int = 0
    planned: list[str] = field(default_factory=list)
    differing: list[tuple[str, str]] = field(default_factory=list)
    directories: int = 0
    links: int = 0
    bytes: int = 0
    skipped: list[str] = field(default_factory=list)
    failed: list[CommandError] = field(default_factory=list)

    def plan(self, line: str, why: str, place: str) -> None:
        """Note what would be done."""
        self.planned.append(line)
        self.differing.append((why, place))

    def add(self, other: "Totals") -> None:
        """Count what `other` did as well."""
        self.files += other.files
        self.same += other.same
        self.resumed += other.resumed
        self.deleted += other.deleted
        self.planned += other.planned
        self.differing += other.differing
        self.directories += other.directories
        self.links += other.links
        self.bytes += other.bytes
        self.skipped += other.skipped
        self.failed += other.failed
