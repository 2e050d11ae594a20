"""Sans-IO. Statistics of the request library, computed from its events: the rows of the kernel's /proc/fs/netfs/stats.

Only what exists here has a row or a column: no cache on disk, no write-through, no copy to a cache.

    Reads    DR direct, RA readahead, RG gaps of a folio, RW read for a partial write
    Writes   BW buffered calls, DW direct, WP requests of writeback
    ZeroOps  ZR zero-filled subrequests, never asked of the server
    DownOps  DL issued, ds ended without an error, df with one; UpldOps the same for uploads
    Retries  rq, wq requests that retried; rs, ws subrequests issued again
    Objs     rr requests and sr subrequests alive now
    WbLock   skip: a writer left writeback to the task that has the lock; wait: one waited for it

Owns no memory.
"""

from typing import Final

from iov.probe import EventSink, Field

__all__ = ["ROWS", "Stats"]

ROWS: Final[tuple[tuple[str, tuple[str, ...]], ...]] = (
    ("Reads", ("DR", "RA", "RG", "RW")),
    ("Writes", ("BW", "DW", "WP")),
    ("ZeroOps", ("ZR",)),
    ("DownOps", ("DL", "ds", "df")),
    ("UpldOps", ("UL", "us", "uf")),
    ("Retries", ("rq", "rs", "wq", "ws")),
    ("Objs", ("rr", "sr")),
    ("WbLock", ("skip", "wait")),
)
BEGUN: Final = {
    "DIO-READ": "DR", "READAHEAD": "RA", "READ-GAPS": "RG", "READ-FOR-WRITE": "RW", "DIO-WRITE": "DW", "WRITEBACK": "WP",
}  # fmt: skip
ISSUED: Final = {"ZERO": "ZR", "DOWN": "DL", "UPLD": "UL"}
ENDED: Final = {("DOWN", True): "ds", ("DOWN", False): "df", ("UPLD", True): "us", ("UPLD", False): "uf"}
WRITE_ORIGINS: Final = frozenset({"DW", "WB"})


class Stats:
    """Count events: `Probe(Stats().sink)`. then: a sink that gets every event too, as that of a trace."""

    def __init__(self, then: EventSink | None = None) -> None:
        self.counts = {name: 0 for _, names in ROWS for name in names}
        self._then = then

    def sink(self, event: str, fields: tuple[Field, ...]) -> None:
        """Take an event."""
        counts = self.counts
        match event, fields:
            case ("netfs_read" | "netfs_write", (_, str(what), *_)):
                counts[BEGUN[what]] += 1
                counts["rr"] += 1
            case "netfs_write_iter", _:
                counts["BW"] += 1
            case "netfs_rreq", (_, origin, "RESUBMT", *_):
                counts["wq" if origin in WRITE_ORIGINS else "rq"] += 1
            case "netfs_rreq", (_, _, "COMPLET", *_):
                counts["rr"] -= 1
            case "netfs_sreq", (_, _, str(source), str(what), *_, error):
                self._subrequest(source, what, good=error == 0)
            case "netfs_wb_lock", (_, str(what)):
                counts[what] += 1
            case _:
                pass  # of another layer, or nothing that is counted
        if self._then is not None:
            self._then(event, fields)

    def _subrequest(self, source: str, what: str, *, good: bool) -> None:
        counts = self.counts
        match what:
            case "PREP" | "SPLIT":
                counts["sr"] += 1
            case "CONSM" | "DSCRD":
                counts["sr"] -= 1
            case "SUBMT":
                counts[ISSUED[source]] += 1
            case "RETRY":
                counts["ws" if source == "UPLD" else "rs"] += 1
            case "TERM" if source != "ZERO":
                counts[ENDED[source, good]] += 1

    def __str__(self) -> str:
        """Return the rows as the kernel prints them."""
        return "\n".join(f"{row:<7}: " + " ".join(f"{name}={self.counts[name]}" for name in names) for row, names in ROWS)
