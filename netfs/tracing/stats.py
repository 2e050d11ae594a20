"""Sans-IO. Statistics of the request library, computed from its events: the rows of the kernel's /proc/fs/netfs/stats.

    Reads    DR direct, RA readahead, RF single folios and gaps, RS small files as a whole, WB blocks read for a partial write,
             WBZ writes that needed none because the server has nothing there; UR unbuffered, counted within DR too
    Writes   BW buffered calls, WT write-through, DW direct, WP requests of writeback, 2C copies to a cache
    ZeroOps  ZR zero-filled subrequests, never asked of the server; sh short reads that went on; sk copies to a cache left out
    DownOps  DL issued, ds ended without an error, df with one, di asked for again because a cache failed; UpldOps UL us uf
    CaRdOps  RD rs rf, CaWrOps WR ws wf: the same for a local cache
    Retries  rq, wq requests that retried; rs, ws subrequests issued again
    Objs     rr requests and sr subrequests alive now; foq folios queued in requests now;
             wsc parts of cache streams that were stopped
    WbLock   skip: a writer left writeback to the task that has the lock; wait: one waited for it

Owns no memory.
"""

from typing import Final

from iov.probe import EventSink, Field

__all__ = ["ROWS", "Stats"]

ROWS: Final[tuple[tuple[str, tuple[str, ...]], ...]] = (
    ("Reads", ("DR", "RA", "RF", "RS", "WB", "WBZ", "UR")),
    ("Writes", ("BW", "WT", "DW", "WP", "2C")),
    ("ZeroOps", ("ZR", "sh", "sk")),
    ("DownOps", ("DL", "ds", "df", "di")),
    ("CaRdOps", ("RD", "rs", "rf")),
    ("UpldOps", ("UL", "us", "uf")),
    ("CaWrOps", ("WR", "ws", "wf")),
    ("Retries", ("rq", "rs", "wq", "ws")),
    ("Objs", ("rr", "sr", "foq", "wsc")),
    ("WbLock", ("skip", "wait")),
)
BEGUN: Final = {
    "DIO-READ": ("Reads.DR",),
    "UNBUFFERED-READ": ("Reads.DR", "Reads.UR"),
    "READAHEAD": ("Reads.RA",),
    "READPAGE": ("Reads.RF",),
    "READ-GAPS": ("Reads.RF",),
    "READ-SINGLE": ("Reads.RS",),
    "READ-FOR-WRITE": ("Reads.WB",),
    "DIO-WRITE": ("Writes.DW",),
    "UNBUFFERED-WRITE": ("Writes.DW",),
    "WRITEBACK": ("Writes.WP",),
    "WRITETHROUGH": ("Writes.WT",),
    "COPY-TO-CACHE": ("Writes.2C",),
}
SOURCES: Final = {
    # source: the row, and its columns for issued, ended well, ended with an error
    "DOWN": ("DownOps.DL", "DownOps.ds", "DownOps.df"),
    "READ": ("CaRdOps.RD", "CaRdOps.rs", "CaRdOps.rf"),
    "UPLD": ("UpldOps.UL", "UpldOps.us", "UpldOps.uf"),
    "WRIT": ("CaWrOps.WR", "CaWrOps.ws", "CaWrOps.wf"),
}
FOLIOS: Final = {
    # what happens to a folio: the count, and by how much
    "mod-n-clear": ("Reads.WBZ", 1),
    "copy-skip": ("ZeroOps.sk", 1),
    **dict.fromkeys(("read", "store", "store+", "store-copy"), ("Objs.foq", 1)),
    **dict.fromkeys(
        ("read-unlock", "abandon", "clear", "clear-cc", "kill", "store-again", "cancel-store", "cancel-copy"), ("Objs.foq", -1)
    ),
}
WRITE_ORIGINS: Final = frozenset({"DW", "UW", "WB", "WT"})


class Stats:
    """Count events: `Probe(Stats().sink)`. counts: by row and column, as "DownOps.DL". then: a sink that gets every event too."""

    def __init__(self, then: EventSink | None = None) -> None:
        self.counts = {f"{row}.{name}": 0 for row, names in ROWS for name in names}
        self._then = then

    def sink(self, event: str, fields: tuple[Field, ...]) -> None:
        """Take an event."""
        counts = self.counts
        match event, fields:
            case ("netfs_read" | "netfs_write", (_, str(what), *_)):
                for name in BEGUN[what]:
                    counts[name] += 1
                counts["Objs.rr"] += 1
            case "netfs_write_iter", _:
                counts["Writes.BW"] += 1
            case "netfs_rreq", (_, origin, "RESUBMT", *_):
                counts["Retries.wq" if origin in WRITE_ORIGINS else "Retries.rq"] += 1
            case "netfs_rreq", (_, _, "COMPLET", *_):
                counts["Objs.rr"] -= 1
            case "netfs_sreq", (_, _, str(source), str(what), *_, error):
                self._subrequest(source, what, good=error == 0)
            case "netfs_folio", (_, _, str(what), _):
                if what in FOLIOS:
                    name, by = FOLIOS[what]
                    counts[name] += by
            case "netfs_wb_lock", (_, str(what)):
                counts[f"WbLock.{what}"] += 1
            case _:
                pass  # of another layer, or nothing that is counted
        if self._then is not None:
            self._then(event, fields)

    def _subrequest(self, source: str, what: str, *, good: bool) -> None:
        counts = self.counts
        match what:
            case "PREP" | "SPLIT":
                counts["Objs.sr"] += 1
            case "CONSM" | "DSCRD" | "SPRFL" | "CANCL":
                counts["Objs.sr"] -= 1
                if what == "CANCL":
                    counts["Objs.wsc"] += 1
            case "SUBMT" if source == "ZERO":
                counts["ZeroOps.ZR"] += 1
            case "SUBMT":
                counts[SOURCES[source][0]] += 1
            case "RETRY":
                counts["Retries.ws" if source == "UPLD" else "Retries.rs"] += 1
            case "SHORT" if source == "DOWN":
                counts["ZeroOps.sh"] += 1
            case "RDOWN":
                counts["DownOps.di"] += 1
            case "TERM" if source != "ZERO":
                counts[SOURCES[source][1 if good else 2]] += 1

    def __str__(self) -> str:
        """Return the rows as the kernel prints them."""
        rows = ((row, " ".join(f"{name}={self.counts[f'{row}.{name}']}" for name in names)) for row, names in ROWS)
        return "\n".join(f"{row:<7}: {columns}" for row, columns in rows)
