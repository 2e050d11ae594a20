"""Sans-IO. A capture: packets as Wireshark would have seen them, written as pcapng where there was no network to listen to.

`Capture` takes whole packets; `TcpFlow` is one connection in it, with numbers, acknowledgements and ends as TCP has them.
`capture_stream.py` feeds it the bytes of a stream, `capture_fabric.py` the requests of a memory fabric, `capture_file.py` puts it
into a file. The payload is lent for the call.
"""

from collections.abc import Callable, Sequence
from typing import Final

from transport.rdma.packets import (
    ACK,
    FIN,
    INBOUND,
    MAX_SEGMENT,
    OUTBOUND,
    PSH,
    SYN,
    TCP,
    Place,
    View,
    file_header,
    ip_header,
    packet_block,
    tcp_header,
)

__all__ = ["Capture", "TcpFlow"]

ACK_EVERY: Final = 1 << 20
"""Bytes one side may send before the other is shown to acknowledge them."""
APPLICATION: Final = "netfs"


class Capture:
    """A pcapng file as it grows. write: takes its bytes in order; wall_ns: the time of a packet, in nanoseconds since 1970.

    flush: called where somebody who reads along should see what there is: when a connection has ended.
    """

    def __init__(
        self, write: Callable[[View], object], wall_ns: Callable[[], int], flush: Callable[[], object] = lambda: None
    ) -> None:
        self._write = write
        self.flush = flush
        self._wall_ns = wall_ns
        self.packets = 0
        self.flows = 0
        self._ends: set[tuple[Place, Place]] = set()
        write(file_header(APPLICATION, "netfs"))

    def now(self) -> int:
        """Return the time that a packet of this moment has."""
        return self._wall_ns()

    def claim(self, near: Place, far: Place) -> bool:
        """Take a connection as seen from `near`; False when it is seen from its other end, in the same process, already."""
        if (far, near) in self._ends:
            return False
        self._ends.add((near, far))
        return True

    def release(self, near: Place, far: Place) -> None:
        """Give a connection back that has ended: its ports may be used again."""
        self._ends.discard((near, far))

    def next_flow(self) -> int:
        """Return a number no other flow of this capture has."""
        self.flows += 1
        return self.flows

    def packet(self, views: Sequence[View], comment: str = "", direction: int = 0, time_ns: int | None = None) -> None:
        """Add an IP packet that lies in `views`."""
        self.packets += 1
        length = sum(map(len, views))
        head, tail = packet_block(self.now() if time_ns is None else time_ns, length, comment, direction)
        write = self._write
        write(head)
        for view in views:
            write(view)
        write(tail)


class TcpFlow:
    """One connection. near: our end; far: the other; active: ours connected, which the handshake shows."""

    def __init__(self, capture: Capture, near: Place, far: Place, *, active: bool) -> None:
        self.capture = capture
        number = capture.next_flow()
        self.places = (near, far)
        # Two numbers a reader can tell apart; what really went over a network, if anything did, had others.
        self.seqs = [number << 16, (number << 16) + 0x8000]
        self.acked = list(self.seqs)
        self.ended = [False, False]
        first = 0 if active else 1
        self._segment(first, SYN)
        self._segment(1 - first, SYN | ACK)
        self._segment(first, ACK)

    def _segment(self, side: int, flags: int, views: Sequence[View] = (), comment: str = "", time_ns: int | None = None) -> None:
        """Add a segment of one side, 0 ours."""
        length = sum(map(len, views))
        source, target = self.places[side], self.places[1 - side]
        seq = self.seqs[side]
        ack = self.seqs[1 - side] if flags & ACK else 0
        tcp = tcp_header(source, target, seq, ack, flags, views, length)
        ip = ip_header(source[0], target[0], TCP, len(tcp) + length, self.capture.packets)
        self.capture.packet([ip, tcp, *views], comment, INBOUND if side else OUTBOUND, time_ns)
        self.seqs[side] = seq + length + bool(flags & (SYN | FIN))
        if flags & ACK:
            self.acked[1 - side] = self.seqs[1 - side]

    def data(self, side: int, view: View, comment: str = "", time_ns: int | None = None) -> None:
        """Add bytes that one side, 0 ours, sent; in one segment if they fit."""
        rest = memoryview(view)
        while rest:
            piece, rest = rest[:MAX_SEGMENT], rest[MAX_SEGMENT:]
            self._segment(side, ACK if rest else ACK | PSH, [piece], comment, time_ns)
            if self.seqs[side] - self.acked[side] >= ACK_EVERY:
                self._segment(1 - side, ACK, time_ns=time_ns)

    def end(self, side: int) -> None:
        """Have one side close its direction; the other acknowledges it. Idempotent."""
        if not self.ended[side]:
            self.ended[side] = True
            self._segment(side, FIN | ACK)
            self._segment(1 - side, ACK)
            self.capture.flush()
