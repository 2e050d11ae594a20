"""Trio shell. A byte stream that shows a capture what passes: iWARP in segments of one frame each, anything else as it comes.

Bytes are put together until a start-up frame or FPDU is whole, and written with the id of the work request that they belong to,
as far as this side knows it: its own requests, answers to them, and the receives that messages of the peer fill. The engine says
which those are (`posted`, `took`). It learns of incoming bytes only after they were received, so an incoming frame is written at
the next call. Ownership: as `ByteStream`; what is kept is copied.
"""

import ipaddress
import os
import socket
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from transport.link import ByteStream
from transport.rdma.capture import Capture, TcpFlow
from transport.rdma.enums import Opcode
from transport.rdma.iwarp.ddp import LAST, pad_of
from transport.rdma.iwarp.mpa import HEAD, REPLY_KEY, REQUEST_KEY
from transport.rdma.iwarp.rdmap import SENDS, Op
from transport.rdma.packets import Place

if TYPE_CHECKING:
    from transport.rdma.wr import RecvWR, SendWR

__all__ = ["CapturedStream"]

FIRST_PORT: Final = 49152
OUT, IN = 0, 1
CRC_BYTES: Final = 4
LENGTH_BYTES: Final = 2
OFFSET_END: Final = 20
"""Bytes of an untagged FPDU up to the end of the offset in its message."""
NAMES: Final = {int(op): op.name.replace("_", " ") for op in Op}
STARTS: Final[dict[int, frozenset[int]]] = {
    **dict.fromkeys(SENDS, frozenset({int(Opcode.SEND), int(Opcode.SEND_WITH_INV), int(Opcode.SEND_WITH_IMM)})),
    int(Op.WRITE): frozenset({int(Opcode.WRITE), int(Opcode.WRITE_WITH_IMM), int(Opcode.ATOMIC_WRITE)}),
    int(Op.IMMEDIATE): frozenset({int(Opcode.WRITE_WITH_IMM)}),
    int(Op.IMMEDIATE_SE): frozenset({int(Opcode.WRITE_WITH_IMM)}),
    int(Op.READ_REQUEST): frozenset({int(Opcode.READ)}),
    int(Op.CONTROL): frozenset({int(Opcode.FLUSH)}),
    int(Op.ATOMIC_REQUEST): frozenset({int(Opcode.CMP_AND_SWP), int(Opcode.FETCH_AND_ADD)}),
}
"""What requests a message of ours may come from."""
ANSWERED: Final = frozenset({int(Op.READ_REQUEST), int(Op.ATOMIC_REQUEST)})
ANSWERS: Final = frozenset({int(Op.READ_RESPONSE), int(Op.ATOMIC_RESPONSE)})
IMMEDIATES: Final = frozenset({int(Op.IMMEDIATE), int(Op.IMMEDIATE_SE)})


class _Cutter:
    """One direction: bytes in, whole frames out. Until the key of an MPA frame has passed they are a stream of who knows what."""

    def __init__(self) -> None:
        self.kept = bytearray()
        self.started = False
        self.opaque = False

    def feed(self, view: memoryview) -> list[bytearray]:
        """Take bytes; return the frames that are whole, or what there is when it is no iWARP."""
        out: list[bytearray] = []
        kept = self.kept
        while view:
            need = self._need()
            if need is None:
                kept += view
                break
            kept += view[:need]
            view = view[need:]
            if self._need() == 0:
                self.started = True
                out.append(kept)
                kept = self.kept = bytearray()
        if self.opaque and kept:
            out.append(kept)
            self.kept = bytearray()
        return out

    def _need(self) -> int | None:
        """Return the bytes missing from the frame at hand as far as is known, or None for a stream without frames."""
        kept = self.kept
        if self.opaque:
            return None
        if self.started:
            if len(kept) < LENGTH_BYTES:
                return LENGTH_BYTES - len(kept)
            length = int.from_bytes(kept[:LENGTH_BYTES], "big")
            return LENGTH_BYTES + length + pad_of(length) + CRC_BYTES - len(kept)
        key = kept[:16]
        if not (REQUEST_KEY.startswith(key) or REPLY_KEY.startswith(key)):
            self.opaque = True
            return None
        if len(kept) < HEAD.size:
            return HEAD.size - len(kept)
        length = int(HEAD.unpack_from(kept)[2])
        return HEAD.size + length - len(kept)


class CapturedStream:
    """A stream whose bytes go into a capture too; it is also the `watch` of an engine over it. active: our side connected.

    Of a connection whose both ends are here, with one capture, the end that came first is shown.
    """

    def __init__(self, stream: ByteStream, capture: Capture, *, active: bool) -> None:
        self.peer = stream.peer
        self._stream = stream
        self._places = _places(stream, capture, active)
        claimed = capture.claim(*self._places)
        self._flow = TcpFlow(capture, *self._places, active=active) if claimed else None
        self._cutters = (_Cutter(), _Cutter())
        self._held: list[tuple[int, bytearray]] = []
        self._posted: deque[tuple[int, int]] = deque()
        self._open: deque[tuple[int, int]] = deque()
        self._taken: deque[int] = deque()
        self._recv: int | None = None

    # ---- the engine's side

    def posted(self, wr: "SendWR") -> None:
        """Take note of a request whose message goes to the peer behind those before it."""
        if self._flow is not None:
            self._posted.append((wr.wr_id, int(wr.opcode)))

    def took(self, recv: "RecvWR") -> None:
        """Take note of the receive that the next message of the peer fills."""
        if self._flow is not None:
            self._taken.append(recv.wr_id)

    # ---- what passes

    def _passed(self, side: int, views: Sequence[bytes | memoryview], count: int) -> None:
        if self._flow is None:
            return
        now = self._flow.capture.now()
        for view in views:
            piece = memoryview(view)[:count]
            for frame in self._cutters[side].feed(piece):
                if side == IN:
                    self._held.append((now, frame))
                else:
                    self._flow.data(OUT, frame, self._comment(OUT, frame), now)
            count -= len(piece)
            if not count:
                break

    def _settle(self) -> None:
        """Write the frames that came in before the engine had seen them."""
        if self._held and self._flow is not None:
            held, self._held = self._held, []
            for then, frame in held:
                self._flow.data(IN, frame, self._comment(IN, frame), then)

    def _comment(self, side: int, frame: bytearray) -> str:
        """Say which work request a frame belongs to."""
        if frame.startswith((REQUEST_KEY, REPLY_KEY)):
            return "MPA start-up"
        if self._cutters[side].opaque:
            return ""
        if not any(frame[:LENGTH_BYTES]):
            return "ready to receive"
        op, last = frame[3] & 0x0F, bool(frame[2] & LAST)
        name = NAMES.get(op, f"opcode {op}")
        if op in STARTS:
            wr_id = self._our_request(op, last) if side == OUT else self._our_receive(op, frame)
            what = "wr_id" if side == OUT else "receive wr_id"
        else:
            wr_id = self._our_answer(last) if side == IN and op in ANSWERS else None
            what = "wr_id"
        return f"{name}, {'of the peer' if side == IN else 'for the peer'}" if wr_id is None else f"{what} {wr_id} {name}"

    def _our_request(self, op: int, last: bool) -> int | None:
        posted = self._posted
        while posted and posted[0][1] not in STARTS[op]:
            posted.popleft()
        if not posted:
            return None
        entry = posted[0]
        if last and not (op == Op.WRITE and entry[1] == Opcode.WRITE_WITH_IMM):
            posted.popleft()
            if op in ANSWERED:
                self._open.append(entry)
        return entry[0]

    def _our_answer(self, last: bool) -> int | None:
        if not self._open:
            return None
        return (self._open.popleft() if last else self._open[0])[0]

    def _our_receive(self, op: int, frame: bytearray) -> int | None:
        if op in IMMEDIATES or (op in SENDS and not any(frame[OFFSET_END - 4 : OFFSET_END])):
            self._recv = self._taken.popleft() if self._taken else None
        return self._recv if op in IMMEDIATES or op in SENDS else None

    # ---- the stream

    def send_nowait(self, views: Sequence[bytes | memoryview], more: bool = False) -> int:
        """See `ByteStream`."""
        self._settle()
        count = self._stream.send_nowait(views, more)
        self._passed(OUT, views, count)
        return count

    def recv_nowait(self, views: Sequence[memoryview]) -> int | None:
        """See `ByteStream`."""
        self._settle()
        count = self._stream.recv_nowait(views)
        if count:
            self._passed(IN, views, count)
        elif count == 0 and self._flow is not None:
            self._flow.end(IN)
        return count

    async def wait_readable(self) -> None:
        """See `ByteStream`."""
        self._settle()
        await self._stream.wait_readable()

    async def wait_writable(self) -> None:
        """See `ByteStream`."""
        await self._stream.wait_writable()

    def fileno(self) -> int | None:
        """Return None: what the kernel would send by itself, nobody would see."""
        return None

    def close(self) -> None:
        """See `ByteStream`."""
        flow = self._flow
        if flow is not None and not flow.ended[OUT]:
            self._settle()
            for side, cutter in enumerate(self._cutters):
                if cutter.kept:
                    flow.data(side, cutter.kept)
            flow.end(OUT)
            flow.capture.release(*self._places)
        self._stream.close()

    async def aclose(self) -> None:
        """See `ByteStream`."""
        self.close()
        await self._stream.aclose()


def _places(stream: ByteStream, capture: Capture, active: bool) -> tuple[Place, Place]:
    """Return where the two ends are: the socket's addresses, or made up where it has none."""
    fd = stream.fileno()
    if fd is not None:
        with socket.socket(fileno=os.dup(fd)) as sock:
            if sock.family in (socket.AF_INET, socket.AF_INET6):
                near, far = sock.getsockname(), sock.getpeername()
                return _place(near), _place(far)
    number = capture.flows + 1
    here = ipaddress.IPv4Address("127.0.0.1")
    client, server = (here, FIRST_PORT + number % (1 << 14)), (here, FIRST_PORT - 1 - number % (1 << 14))
    return (client, server) if active else (server, client)


def _place(name: tuple[str, int]) -> Place:
    return ipaddress.ip_address(name[0].partition("%")[0]), name[1]
