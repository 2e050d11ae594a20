"""Sans-IO. Ledgers: checkers that watch a device and name the request and the call when its user breaks a rule.

Four books, kept while a `Ledger` is attached: ownership of every byte named by a posted request (two requests that write the same
bytes, a peer that writes to what a posted request has, or a buffer the program changed while the device had it), completions
(each post has one completion or is a reclaimed unsignaled success), keys (a registration under the key of an earlier life, which
a stale peer could still use), leaks (what is still open at `close`). A violation is raised at once as
`LedgerError`, except for what only the end shows. Owns no memory; source bytes are told apart by a checksum.
"""

import zlib
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from transport.rdma.enums import SendFlag
from transport.rdma.operations import READS
from transport.rdma.sge import LOCAL_DMA_LKEY, SGE

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from transport.rdma.device import Device
    from transport.rdma.pd import PD
    from transport.rdma.qp import QP
    from transport.rdma.srq import SRQ
    from transport.rdma.wr import RecvWR, SendWR

__all__ = ["Ledger", "LedgerError"]

INLINE: Final = int(SendFlag.INLINE)
SIGNALED: Final = int(SendFlag.SIGNALED)
LIVES: Final = 255


class LedgerError(AssertionError):
    """A rule of the verbs interface was broken by the program that uses it, or by the device."""


@dataclass(slots=True)
class Entry:
    """One posted request: what it names, and a checksum of what it sends."""

    name: str
    wr_id: int
    ranges: list[tuple[int, int]]
    written: bool
    checksum: int
    views: list[memoryview]


@dataclass(slots=True)
class Ledger:
    """The books of one device; `attach` switches them on, `close` asks for what is left open."""

    device: "Device"
    sends: "dict[QP, deque[Entry]]" = field(default_factory=dict)
    recvs: "dict[QP | SRQ, deque[Entry]]" = field(default_factory=dict)
    posted: int = 0
    completed: int = 0
    reclaimed: int = 0
    keys: dict[int, list[int]] = field(default_factory=dict)

    @classmethod
    def attach(cls, device: "Device") -> "Ledger":
        """Switch the books on; requests posted before are not in them."""
        device.ledger = cls(device)
        return device.ledger

    def posted_send(self, qp: "QP", wr: "SendWR") -> None:
        """Note a send request (the device's side)."""
        entry = self._entry(_name(qp), "send", wr.wr_id, wr.sges, wr.opcode in READS, bool(wr.flags & INLINE))
        self._check_overlap(entry)
        self.posted += 1
        self.sends.setdefault(qp, deque()).append(entry)

    def posted_recv(self, queue: "QP | SRQ", wr: "RecvWR") -> None:
        """Note a receive of a queue pair or of a shared queue (the device's side)."""
        entry = self._entry(_name(queue), "receive", wr.wr_id, wr.sges, True, False)
        self._check_overlap(entry)
        self.posted += 1
        self.recvs.setdefault(queue, deque()).append(entry)

    def completed_send(self, qp: "QP", wr: "SendWR", status: int) -> None:
        """Note the end of a send request (the device's side)."""
        entry = _take(self.sends.get(qp), qp, wr.wr_id, "send")
        if status or wr.flags & SIGNALED or qp.sig_all:
            self.completed += 1
        else:
            self.reclaimed += 1
        if not entry.written and entry.checksum != _checksum(entry.views):
            raise LedgerError(f"the memory of {entry.name} was changed before its completion")

    def completed_recv(self, qp: "QP", wr: "RecvWR") -> None:
        """Note the end of a receive (the device's side); those of a shared queue end in the order of its queue pairs."""
        self.completed += 1
        if qp.srq is None:
            _take(self.recvs.get(qp), qp, wr.wr_id, "receive")
            return
        entries = self.recvs.get(qp.srq, ())
        entry = next((entry for entry in entries if entry.wr_id == wr.wr_id), None)
        if entry is None:
            raise LedgerError(f"receive {wr.wr_id} of {_name(qp.srq)} completed on QP {qp.qp_num} but was not open")
        self.recvs[qp.srq].remove(entry)

    def registered(self, qp: "QP", wr: "SendWR") -> None:
        """Note a fast registration and the key it has (the device's side)."""
        lives = self.keys.setdefault(wr.key >> 8, [])
        if wr.key in lives:
            raise LedgerError(f"REG_MR {wr.wr_id} on QP {qp.qp_num} uses key {wr.key:#x} of an earlier life")
        lives.append(wr.key)
        del lives[:-LIVES]

    def written_by_peer(self, qp: "QP", wr: "SendWR", length: int) -> None:
        """Note a peer's write through a region's key (the device's side)."""
        mr = self.device.mrs.get(wr.rkey)
        if mr is None:
            return
        span = [(wr.remote_addr, wr.remote_addr + length)]
        for pd, entry in self._open():
            if pd is mr.pd and _overlap(span, entry.ranges):
                raise LedgerError(f"request {wr.wr_id} of the peer of QP {qp.qp_num} writes to memory that {entry.name} has")

    def _entry(self, queue: str, kind: str, wr_id: int, sges: "Sequence[SGE]", written: bool, inline: bool) -> Entry:
        ranges: list[tuple[int, int]] = []
        views: list[memoryview] = []
        for sge in sges if not inline else ():
            mr = self.device.mrs.get(sge.lkey)
            if not sge.length or sge.lkey == LOCAL_DMA_LKEY or mr is None or not mr.covers(sge.addr, sge.length):
                continue
            ranges.append((sge.addr, sge.addr + sge.length))
            mr.append_views(sge.addr, sge.length, views)
        checksum = 0 if written else _checksum(views)
        return Entry(f"{kind} {wr_id} on {queue}", wr_id, ranges, written, checksum, views)

    def _open(self) -> "Iterator[tuple[PD, Entry]]":
        for sender, entries in self.sends.items():
            yield from ((sender.pd, entry) for entry in entries)
        for receiver, entries in self.recvs.items():
            yield from ((receiver.pd, entry) for entry in entries)

    def _check_overlap(self, entry: Entry) -> None:
        for _, other in self._open():
            if (entry.written or other.written) and _overlap(entry.ranges, other.ranges):
                raise LedgerError(f"{entry.name} names memory that {other.name} still has")

    def check_free(self, addr: int, length: int, call: str) -> None:
        """Assert that the program may touch a range; `call` names who asks.

        Raises: LedgerError while a posted request writes to it.
        """
        for _, entry in self._open():
            if entry.written and _overlap([(addr, addr + length)], entry.ranges):
                raise LedgerError(f"{call} touches memory that {entry.name} still has")

    def close(self) -> None:
        """Switch the books off and report what is open.

        Raises: LedgerError for requests without a completion, regions, windows or queue pairs that were not destroyed.
        """
        device = self.device
        device.ledger = None
        left = [entry.name for _, entry in self._open()]
        left += [f"region {key:#x}" for key in device.mrs] + [f"window {key:#x}" for key in device.mws]
        left += [f"QP {qpn}" for qpn in device.qps]
        if left:
            raise LedgerError("still open: " + ", ".join(left))
        if self.posted != self.completed + self.reclaimed:
            raise LedgerError(f"{self.posted} posted, {self.completed} completed, {self.reclaimed} reclaimed")

    def forget(self, qp: "QP") -> None:
        """Drop the entries of a queue pair that was reset or destroyed, which completes nothing (the device's side)."""
        self.posted -= len(self.sends.pop(qp, ()))
        self.forget_recvs(qp)

    def forget_recvs(self, queue: "QP | SRQ") -> None:
        """Drop the receives of a queue that completes nothing any more (the device's side)."""
        self.posted -= len(self.recvs.pop(queue, ()))


def _name(queue: "QP | SRQ") -> str:
    number = getattr(queue, "qp_num", None)
    return "the shared queue" if number is None else f"QP {number}"


def _take(entries: deque[Entry] | None, qp: "QP", wr_id: int, kind: str) -> Entry:
    if not entries:
        raise LedgerError(f"{kind} {wr_id} on QP {qp.qp_num} completed but was not open")
    entry = entries.popleft()
    if entry.wr_id != wr_id:
        raise LedgerError(f"{kind} {wr_id} on QP {qp.qp_num} completed before {entry.name}")
    return entry


def _overlap(left: list[tuple[int, int]], right: list[tuple[int, int]]) -> bool:
    return any(a < d and c < b for a, b in left for c, d in right)


def _checksum(views: list[memoryview]) -> int:
    value = 0
    for view in views:
        value = zlib.crc32(view, value)
    return value
