"""Trio shell. The catalogue's rows of layer S: what a server and its disk do to data. Owns no memory."""

import errno
from typing import Final

from trials.faults.rows import NONE_YET, Row

__all__ = ["STORAGE"]

READS: Final = ("nth(read, 1:40)", "p(read, 0.02:0.3)")
WRITES: Final = ("nth(write, 1:40)", "p(write, 0.02:0.3)")
CRASH: Final = ("OK", "RECONN", "E(ETIMEDOUT)", "E(EIO)", "E(ESTALE)", "E(EAGAIN)", "E(EBADMSG)", "?")
"""EBADMSG: an encrypted block that the disk has torn, until it is written again."""
DAMAGE: Final = ("DET", "E(EBADMSG)", "E(EIO)")
LIED: Final = (*DAMAGE, "E(ESTALE)", "E(ENOENT)", "E(EAGAIN)", "E(EINVAL)", "E(EPROTO)", "?")
DOWN: Final = {"restart_s": (0.001, 2.0), "unsynced": ["all", "none", "any", "prefix"]}

STORAGE: Final = (
    Row("S1", "short read or write at the server", "store", (*READS, "nth(written, 1:40)"), ("OK", "E(EBADMSG)"),
        "the store moves fewer bytes than it was asked for; an encrypted block that another fault keeps from being sent again "
        "is torn"),
    Row("S2", "slow", "handler", ("p(request, 0.05:0.4)",), ("OK",), "requests take longer", {"for_s": (0.0005, 0.05)}),
    Row("S3", "stall", "handler", ("nth(request, 1:60)",), ("OK", "RECONN"), "one request takes long", {"for_s": (0.5, 20.0)}),
    Row("S4", "ENOSPC", "store", (*WRITES, "nth(apply, 1:20)", "nth(commit, 1:10)"), ("E(ENOSPC)", "?"),
        "a write or a flush fails", {"errno": errno.ENOSPC}),
    Row("S5", "EDQUOT", "store", (*WRITES, "nth(commit, 1:10)"), ("E(EDQUOT)", "?"), "a write or a flush fails",
        {"errno": errno.EDQUOT}),
    Row("S6", "EIO", "store", (*READS, *WRITES, "nth(commit, 1:10)"), ("E(EIO)", "?"), "a read, a write or a flush fails",
        {"errno": errno.EIO}),
    Row("S7", "ESTALE", "store", (*READS, "nth(getattr, 1:20)", "nth(open, 1:5)"), ("E(ESTALE)", "?"), "a handle is not known",
        {"errno": errno.ESTALE}),
    Row("S8", "EACCES, EROFS, EAGAIN in mid-stream", "store", (*WRITES, "nth(read, 1:40)"),
        ("E(EACCES)", "E(EROFS)", "E(EAGAIN)", "E(EIO)", "?"), "a read or a write is refused",
        {"errno": [errno.EACCES, errno.EROFS, errno.EAGAIN]}),
    Row("S9", "crash before the answer to an fsync", "crash", ("nth(commit, 1:10)",), CRASH, "the server dies, and comes back",
        DOWN, side="server"),
    Row("S10", "crash after an fsync", "crash", ("after(commit, 1:10)",), CRASH, "the server dies when it has answered", DOWN,
        side="server"),
    Row("S11", "crash between write and commit", "crash", ("after(write, 1:30)",), CRASH,
        "the server dies when it has taken unstable bytes: its write verifier is another one then", DOWN, side="server"),
    Row("S12", "crash during recovery", "crash", ("nth(request, 1:40)",), CRASH, "the server dies again as soon as it is back",
        DOWN | {"times": (2, 3)}, side="server"),
    Row("S13", "torn write", "crash", ("after(write, 1:30)",), CRASH, "of what was under way a first part survives the crash",
        DOWN | {"unsynced": "prefix"}, side="server"),
    Row("S14", "lost write", "store", ("nth(write, 1:30)",), DAMAGE, "a write is said to be done, and was not",
        needs="encrypt"),
    Row("S15", "lost fsync", "tamper", ("nth(request, 1:60)",), LIED,
        "a commit is said to be done, and was not, or half; the next one, which builds on it, is refused",
        {"attack": ["A35:dropped", "A35:record-only", "A35:tags-only"], "for_s": (0.001, 0.02)}, needs="encrypt", side="server"),
    Row("S16", "misdirected write", "store", ("nth(written, 1:30)",), DAMAGE, "bytes go to another place of the file",
        needs="encrypt"),
    Row("S17", "misdirected read", "store", ("p(read, 0.2:0.8)",), DAMAGE, "bytes come from another place of the file",
        {"by": [4096, 16384]}, needs="encrypt"),
    Row("S18", "bit rot", "store", ("nth(read, 1:30)",), DAMAGE, "a bit is wrong until it is written over", needs="encrypt"),
    Row("S19", "latent sector error", "store", ("nth(read, 1:30)",), ("E(EIO)", "?"), "a byte cannot be read until written over"),
    Row("S20", "any subset of what was not synced survives", "crash",
        ("after(write, 1:30)", "at(0.0002:0.012)", "when(unsafe, 1:100000)"), CRASH,
        "page by page, the size apart", DOWN | {"unsynced": "any"}, side="server"),
    Row("S21", "restart without the notes of sessions", "crash", ("nth(request, 1:60)",), (*CRASH, "E(ESTALE)"),
        "what was answered is forgotten: a call that may have happened ends with ESTALE",
        DOWN | {"notes": "lost", "unsynced": "all"}, side="server"),
    Row("S22", "restart without leases and locks", "crash", ("at(0.0002:0.012)", "when(unsafe, 1:100000)"), CRASH,
        "clients have leases, which the next server does not know", DOWN, side="server", knobs={"leases": 1}),
    Row("S23", "credit starvation", "handler", ("p(request, 0.3:0.8)",), ("OK", "RECONN"),
        "all credits are out with slow requests",
        {"for_s": (0.01, 0.1)}, knobs={"credits": 1}),
    Row("S24", "credits revoked", NONE_YET, (), ("OK",), "credits of a stream are settled once, by the hello"),
    Row("S25", "credits granted beyond the limit", NONE_YET, (), ("RECONN",), "as S24"),
    Row("S26", "lease break late", "handler", ("p(await, 0.3:1.0)",), ("OK", "STALE"),
        "what a client is told of others comes late",
        {"for_s": (0.01, 2.0)}, knobs={"leases": 1}),
    Row("S27", "clock skew, jump, drift", "clock", ("at(0.0:0.01)",), ("OK",), "a node's clocks run ahead, behind or away",
        {"skew_s": (-5.0, 60.0), "drift": [0.0, 0.0, 0.01, -0.01]}),
    Row("S28", "ordered shutdown", "crash", ("at(0.0002:0.012)", "nth(request, 1:60)"), CRASH,
        "the server is drained and another one takes over", {"restart_s": (0.001, 1.0)}, side="server"),
    Row("S29", "metadata and data reordered over a crash", "crash", ("after(truncate, 1:10)", "after(write, 1:30)"), CRASH,
        "size and pages survive a crash each for itself", DOWN | {"unsynced": "any"}, side="server"),
    Row("S30", "handle of a reused inode", NONE_YET, (), ("E(ESTALE)",), "the memory store uses no number twice"),
)  # fmt: skip
