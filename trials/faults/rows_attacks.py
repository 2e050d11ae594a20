"""Trio shell. The catalogue's rows of layers K and X: damaged ciphertext, a server that lies (`tamper.py`). Owns no memory."""

from typing import Final

from crypto.errors import EKEYREJECTED
from trials.faults.rows import NONE_YET, Row, errnos_of

__all__ = ["ATTACKED", "LIED_TO"]

WHEN: Final = ("nth(request, 1:60)",)
DET: Final = (
    "DET", "E(EBADMSG)", "E(ESTALE)", "E(EIO)", "E(ENOENT)", "E(EAGAIN)", "E(ENOSPC)", "E(EINVAL)", "E(EPROTO)", "?",
)  # fmt: skip
"""EPROTO: the answer is none to the question. EINVAL: the server refuses what was built on a lie of its own."""
LIED_TO: Final = errnos_of(DET) | {EKEYREJECTED}
"""What a client of a lying server may be told, also of the volume itself."""
FOR: Final = {"for_s": (0.001, 0.02)}


def _attack(name: str, text: str, attacks: list[str], how: str, *, stale: bool = False) -> Row:
    """Return the row of an attack. stale: who has not seen what is newer may be shown the old, a limit that is documented."""
    allowed = (*DET, "STALE") if stale else DET
    return Row(
        name, text, "tamper", WHEN, allowed, how, FOR | {"attack": attacks}, needs="encrypt", side="server", swarm=not stale
    )  # fmt: skip


ATTACKED: Final = (
    _attack("K1", "bit of ciphertext flipped", ["A01:block"], "in a block that is read"),
    _attack("K2", "bit of a tag flipped", ["A01:tag", "A01:page"], "in a tag, or its page"),
    _attack("K3", "block cut short", ["A08:middle"], "a read ends inside a block"),
    Row("K4", "wrong key", "client", ("at(0.0:0.006)",), ("DET", "E(EBADMSG)", "E(EACCES)", "E(ENOENT)"),
        "a client with another key looks at the volume", needs="encrypt"),
    Row("K5", "nonces repeat", NONE_YET, (), ("E(EIO)",), "the ledger of nonces would see it; the client takes what it is given"),
    _attack("K6", "block moved within a file", ["A02:block", "A02:block+entry"], "two blocks are exchanged"),
    _attack("K7", "block of another file", ["A03:block", "A03:block+entry"], "with or without its tag"),
    _attack("K8", "old version of a block", ["A04:block", "A04:block+entry", "A04:block+page"], "with or without its tags"),
    Row("K9", "cipher fails", NONE_YET, (), ("E(EIO)",), "OpenSSL is outside"),
    Row("K10", "offloaded blocks end in any order", "world", ("at(0)",), ("OK",), "encryption by simulated workers",
        needs="encrypt", knobs={"offload": 1}),
    Row("K11", "crash inside a read-modify-write", "crash", ("nth(write, 1:30)", "after(write, 1:30)", "nth(apply, 1:20)"),
        ("OK", "RECONN", "E(ETIMEDOUT)", "E(EIO)", "E(ESTALE)", "E(EAGAIN)", "E(EBADMSG)", "?"),
        "an encrypted block is old or new; one that the disk itself has torn is EBADMSG until it is written again",
        {"restart_s": (0.001, 1.0), "unsynced": ["all", "none", "any", "prefix"]}, needs="encrypt", side="server"),
    _attack("K12", "holes, zeros, the last block", ["A06:zeros", "A07:"], "zeros for a block, or a block for a hole"),
    _attack("K13", "bad tag of a block that is opened in place", ["A01:entry-state", "A01:nonce"], "no plaintext is given out"),
    Row("K14", "key rotated during writeback", NONE_YET, (), ("OK",), "a volume's key does not change while it is mounted"),
    _attack("X1", "blocks and files exchanged", ["A13:", "A02:block+entry", "A12:one-directory"], "under the names of others"),
    _attack("X2", "old file, old directory", ["A10:", "A11:", "A48:record"], "as they were at one moment", stale=True),
    _attack("X3", "cut, extended", ["A08:boundary", "A08:size", "A09:data", "A09:size"], "the end is elsewhere"),
    _attack("X4", "two histories", ["A37:"], "every second client is kept in the past", stale=True),
    Row("X5", "acknowledged and dropped", "store", ("nth(write, 1:30)",), DET, "a write that is said to be done is not",
        needs="encrypt"),
    _attack("X6", "answer to another question", ["A34:crossed", "A34:older", "A34:record"], "of the same connection"),
    Row("X7", "lengths that lie", "store", ("p(read, 0.1:0.6)",), (*DET, "RECONN"), "more bytes than were asked for, or fewer",
        {"by": (1, 5000)}, needs="encrypt"),
    Row("X8", "RDMA outside of what was offered", "device", ("nth(write, 1:6)", "nth(read, 1:6)"),
        ("RECONN", "E(EIO)", "E(ETIMEDOUT)", "?"), "the address of a request is moved", needs="rdma-memory"),
    Row("X9", "slow loris", "handler", ("p(request, 0.05:0.3)",), ("OK", "RECONN", "E(ETIMEDOUT)"), "answers come after seconds",
        {"for_s": (0.5, 5.0)}),
    Row("X10", "downgrade", NONE_YET, (), ("DET",), "see A26 and A46 in tests/attacks: volumes are opened before a trial begins"),
    _attack("X11", "ciphertext of another volume", ["A44:data", "A44:tags", "A44:record"],
        "something else in the place of a file"),
    Row("X12", "completions reordered to show bytes early", "handler", ("p(read, 0.1:0.5)", "p(write, 0.1:0.5)"), ("OK",),
        "reads and writes are done in another order than they came", {"for_s": (0.0002, 0.01)}),
)  # fmt: skip
