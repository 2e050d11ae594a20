"""Sans-IO. The demo's table for people: a header, a title per transport, a line per row, each shown when it is known.

80 columns are enough; from 100 on messages and work requests stand apart and nothing is abbreviated. Owns no memory.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal

from rich.text import Text

__all__ = ["Row", "header", "line", "title"]

TITLES = {
    "stream": "socket pair",
    "rdma-memory": "RDMA verbs",
    "tcp": "TCP",
    "tls": "TLS 1.3",
    "rdma-stream": "RDMA by iWARP",
}
PROCESSES = {1: "one process", 2: "two processes"}


@dataclass(frozen=True, slots=True)
class Row:
    """What one run of the demo showed, under the names of `netfs demo --json`. error: why there is nothing to show, else None."""

    transport: Literal["stream", "rdma-memory", "tcp", "tls", "rdma-stream"]
    processes: int
    encrypted: bool
    mode: str
    verified: bool = False
    plaintext_in_store: bool | None = None
    write_mb_s: float = 0.0
    read_mb_s: float = 0.0
    requests: int = 0
    subrequests: int = 0
    messages: int = 0
    work_requests: int = 0
    copies_per_byte_write: float = 0.0
    copies_per_byte_read: float = 0.0
    error: str | None = None

    @property
    def good(self) -> bool:
        """Every byte came back, and the plaintext is in the store exactly when nothing was encrypted."""
        return self.error is None and self.verified and self.plaintext_in_store is not self.encrypted

    def as_json(self) -> dict[str, object]:
        """Return the row for scripts; `error` is there only when there is one."""
        fields = asdict(self)
        if self.error is None:
            del fields["error"]
        return fields


# Title over two lines, width in a wide and in a narrow terminal (0: not shown), whether it is a number.
COLUMNS: tuple[tuple[str, str, int, int, bool], ...] = (
    ("", "content", 10, 10, False),
    ("", "mode", 8, 9, False),
    ("write", "MB/s", 7, 6, True),
    ("read", "MB/s", 7, 6, True),
    ("", "requests", 9, 0, True),
    ("", "reqs", 0, 5, True),
    ("sub-", "requests", 9, 0, True),
    ("sub-", "reqs", 0, 5, True),
    ("", "messages", 9, 0, True),
    ("msgs", "or WRs", 0, 7, True),
    ("work", "requests", 9, 0, True),
    ("copies/byte", "write  read", 12, 12, True),
    ("SHA-256", "of all", 7, 7, False),
    ("server", "holds", 10, 10, False),
)
WIDE = 100


def header(width: int) -> Text:
    """Return the two lines over the columns."""
    upper, lower = [column[0] for column in COLUMNS], [column[1] for column in COLUMNS]
    return Text.assemble(_laid_out(upper, width), "\n", _laid_out(lower, width), style="bold")


def title(transport: str, processes: int, store: str) -> Text:
    """Return the line over the rows of a transport; `store` says where the server keeps its files."""
    return Text.assemble((f"{TITLES[transport]}, {PROCESSES[processes]}", "bold cyan"), (f", {store}", "cyan"))


def line(row: Row, width: int) -> Text:
    """Return a row, or what went wrong with it."""
    content = " encrypted" if row.encrypted else " plain"
    if row.error is not None:
        return Text.assemble(f"{content:<10} {row.mode:<8}  ", (row.error, "bold red"))
    cells: list[str | Text] = [content, row.mode, _short(row.write_mb_s, 10), _short(row.read_mb_s, 10)]
    cells += [f"{row.requests:,}"] * 2 + [f"{row.subrequests:,}"] * 2
    cells += [f"{row.messages:,}", f"{row.work_requests or row.messages:,}"]
    cells.append(f"{row.work_requests:,}" if row.work_requests else "–")
    cells.append(f"{_short(row.copies_per_byte_write, 100)}  {_short(row.copies_per_byte_read, 100)}")
    cells.append(Text("same", "green") if row.verified else Text("differs", "bold red"))
    cells.append(_holds(row))
    return _laid_out(cells, width)


def _short(value: float, whole_from: int) -> str:
    return f"{value:,.0f}" if value >= whole_from else f"{value:.2f}"


def _holds(row: Row) -> Text:
    if row.plaintext_in_store is None:
        return Text("unknown", "yellow")
    style = "bold red" if row.plaintext_in_store is row.encrypted else "green" if row.encrypted else ""
    return Text("plaintext" if row.plaintext_in_store else "ciphertext", style)


def _laid_out(cells: Sequence[str | Text], width: int) -> Text:
    out = Text()
    for cell, (_, _, wide, narrow, number) in zip(cells, COLUMNS, strict=True):
        room = wide if width >= WIDE else narrow
        if room:
            text = cell if isinstance(cell, Text) else Text(cell)
            padding = " " * (room - len(text))
            if number:
                out.append(padding).append_text(text)
            else:
                out.append(" " if len(out) > 0 else "").append_text(text).append(padding)
    out.rstrip()
    return out
