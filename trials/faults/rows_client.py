"""Trio shell. The catalogue's rows of layers P, N and E: a client's memory and requests, and its environment. Owns no memory."""

import errno
from typing import Final

from trials.faults.rows import NONE_YET, Row

__all__ = ["CLIENT"]

SOON: Final = ("at(0.0:0.006)",)
READS: Final = ("nth(read, 1:40)",)

CLIENT: Final = (
    Row("P1", "allocation failure", NONE_YET, (), ("E(ENOMEM)",), "the pools of client and server take what they need when made"),
    Row("P2", "page fault in the middle of a copy", NONE_YET, (), ("E(EFAULT)",), "a buffer of Python's cannot fault"),
    Row("P3", "clean page evicted", "world", ("at(0)",), ("OK",), "a page cache of a few pages", knobs={"cache_bytes": 65536}),
    Row("P4", "page made dirty again while written back", "client", SOON, ("OK",), "a write while an fsync is under way"),
    Row("P5", "truncation races read-ahead and writeback", "client", SOON, ("OK",), "a cut while a read is under way"),
    Row("P6", "lease asked back with dirty pages", "world", ("at(0)",), ("OK",), "several clients of one file, all with leases",
        knobs={"leases": 1}),
    Row("P7", "memory changes during a direct write", "client", SOON, ("OK",), "the caller writes into it", {"steps": (1, 40)}),
    Row("P8", "caller cancelled", "client", SOON, ("OK", "?"), "a write and a read are cancelled after some steps",
        {"steps": (0, 60), "direct": (0, 1)}),
    Row("P9", "client dies", "client", SOON, ("OK", "?"), "one more client writes, and is gone: others go on with the file",
        {"steps": (0, 60)}),
    Row("P10", "writeback error", "store", ("nth(commit, 1:10)", "nth(apply, 1:20)"), ("E(EIO)", "?"),
        "a flush fails: told once to each descriptor", {"errno": errno.EIO}),
    Row("P11", "dirty limit reached", "world", ("at(0)",), ("OK",), "a page cache of very few pages",
        knobs={"cache_bytes": 16384}),
    Row("P12", "bit flipped in the page cache", NONE_YET, (), ("DET",), "pages have no checksum of their own"),
    Row("N1", "short read that is not at the end", "store", (*READS, "p(read, 0.1:0.5)"), ("OK",), "the rest is asked for again"),
    Row("N2", "short write", "store", ("nth(written, 1:40)", "p(written, 0.1:0.5)"), ("OK", "E(EIO)", "E(EBADMSG)"),
        "the rest is sent again; an encrypted block, which is sent whole, may come to nothing too often, and is torn until then"),
    Row("N3", "one part of a read fails", "store", READS, ("E(EIO)", "OK"), "what came before it is returned",
        {"errno": errno.EIO}, knobs={"rsize": 4096}),
    Row("N4", "one part of a writeback fails", "store", ("nth(write, 1:40)",), ("E(EIO)", "?"), "the others are kept",
        {"errno": errno.EIO}, knobs={"wsize": 4096}),
    Row("N5", "parts end in any order", "handler", ("p(request, 0.2:0.6)",), ("OK",), "requests take times of their own",
        {"for_s": (0.0001, 0.005)}, knobs={"rsize": 4096, "wsize": 4096}),
    Row("N6", "completion told twice", NONE_YET, (), ("OK",), "a transport's contract: `done` is called once, and asserts it"),
    Row("N7", "completion lost", "handler", ("nth(request, 1:60)",), ("OK", "RECONN"),
        "an answer is not sent; the connection ends a while later", {"after_s": (0.0, 1.0)}, needs="link"),
    Row("N8", "limits change with the next connection", "crash", ("at(0.0002:0.012)",), ("OK", "RECONN", "E(EIO)", "E(EMSGSIZE)",
        "?"),
        "the next server takes less at once", {"payload": [16384, 65536], "restart_s": (0.001, 0.1), "unsynced": "all"},
        side="server"),
    Row("N9", "local cache cannot be read", NONE_YET, (), ("OK",), "files of the machine are outside; see tests/fscache"),
    Row("N10", "local cache cannot be written", NONE_YET, (), ("OK",), "as N9"),
    Row("N11", "file shrinks between question and answer", "client", SOON, ("OK",), "another client cuts it"),
    Row("N12", "retry storm", "store", ("p(read, 0.3:0.9)",), ("OK", "E(EAGAIN)"),
        "reads are refused with EAGAIN again and again",
        {"errno": errno.EAGAIN}),
    Row("N13", "nothing, odd places, no places", "client", SOON, ("OK",),
        "lengths of 0, positions behind the end and beyond 2^62",
        {"direct": (0, 1)}),
    Row("N14", "part cancelled while the others run", "client", SOON, ("OK", "?"), "as P8, with requests of many parts",
        {"steps": (0, 60), "direct": 1}, knobs={"rsize": 4096, "wsize": 4096}),
    Row("E1", "scheduler", "world", ("at(0)",), ("OK",), "the trial's policy: uniform, pct, starve, exhaustive"),
    Row("E2", "wall clocks differ", "clock", SOON, ("OK",), "a node's clock on the wall jumps", {"skew_s": (-100.0, 100.0)}),
    Row("E3", "no randomness", "nonces", ("nth(nonces, 2:20)",), ("E(EIO)", "E(EBADMSG)"),
        "the source of nonces fails once; a truncation that it hits leaves the file unreadable", needs="encrypt", swarm=False),
    Row("E4", "KeyboardInterrupt", NONE_YET, (), ("?",), "it would end the trial itself; see tests/fuse and tests/netfs"),
    Row("E5", "timers late and tied", "clock", SOON, ("OK", "RECONN", "E(ETIMEDOUT)"),
        "nothing runs for a while, and then all that was due is due at once", {"for_s": (0.001, 20.0)}),
    Row("E6", "trace fails", NONE_YET, (), ("OK",), "the sink is the trial's own"),
    Row("E7", "smallest settings", "world", ("at(0)",), ("OK",), "knobs: tiny buffers, one credit, short timeouts",
        knobs={"credits": 1, "capacity": 4096}),
    Row("E8", "settings change while it runs", NONE_YET, (), ("OK",), "see tests/servers/test_operation.py"),
)  # fmt: skip
