"""Trio shell. The client's end: registers exactly the bytes of a call, sends it, and gives the memory back fenced.

A call ends when its reply was processed, its SEND has completed and every region of it is invalidated, whichever comes last:

    WAITING --post--> SENT --reply--> FENCING --all regions invalid, SEND completed--> DONE
       |                 \\--abandon: CANCEL to the server, which answers at once--/
       \\--abandon: withdrawn

The reply's SEND_WITH_INV ends one region, and a key that is not one of the call's own breaks the connection; LOCAL_INV ends the
others. Sources are readable, destinations writable by the peer, never both, never more than the call's bytes. A server that does
not answer a CANCEL in time has the connection broken under it, which fences everything.
The caller's memory is pinned while it is registered, copy-only memory bounced, that of a peer device registered as it is; what
goes inline is in a SEND of our own, names no region and needs no pin.
Regions and credits are bounded; a call that lacks one waits in order. Ownership: as `transport/base.py` says.
"""

import errno
from collections import deque
from collections.abc import Collection
from dataclasses import replace
from typing import Final

import trio
from trio import lowlevel

from iov.bounce import Bounced, bounce_for_device, must_copy
from iov.copy_iter import copy_to_iter
from iov.extract import peek_segments
from iov.iov_iter import IovIter, IterType
from iov.pin import Pin, PinLedger, extract_will_pin
from iov.pool import BufferPool
from iov.probe import Probe
from transport.base import Done, Limits, Outcome, Reply, Transport
from transport.codec import decode_reply, encode_request
from transport.env import Env
from transport.errors import ProtocolError, TransportError
from transport.framing import FrameKind
from transport.messages import REQUEST_PAYLOAD, Request, is_idempotent, name_of
from transport.rdma.device import Device
from transport.rdma.enums import Access, Opcode, SendFlag
from transport.rdma.mr import MR
from transport.rdma.pump import End, wr_id_of, xid_of
from transport.rdma.rw import dma_sges, dma_views
from transport.rdma.smbd import read_answer, request
from transport.rdma.wire import CANCEL, HEAD_BYTES, INLINE_MAX, Chunk, Message, pack
from transport.rdma.wr import WC, SendWR

__all__ = ["ClientEnd", "RdmaTransport"]

SIGNALED: Final = int(SendFlag.SIGNALED)
READABLE: Final = int(Access.REMOTE_READ)
WRITABLE: Final = int(Access.REMOTE_WRITE | Access.LOCAL_WRITE)
ABANDON_GRACE_S: Final = 5.0
"""How long a server may take to answer a CANCEL, which needs no work."""
SINK_BYTES: Final = 64 << 10
BODY_ROOM: Final = 96
"""What the body of a message with an inline payload may take of the peer's receive; a longer one goes in fragments."""
SENT_ID, FENCE_ID, MEMORY_ID = 0, 1, 2


class _Call:
    """One call; `open` counts what is missing until it is done: its SEND, its reply, its fence."""

    __slots__ = (
        "abandoned", "again", "body", "bounced", "dest", "dest_views", "done", "end", "length", "lent", "mrs", "name", "op",
        "open", "outcome", "pins", "posted", "source", "source_views", "xid",
    )  # fmt: skip

    def __init__(self, end: "ClientEnd", request: Request, done: Done, source: IovIter | None, dest: IovIter | None) -> None:
        self.end = end
        self.op = request.op
        self.name = "" if end.probe.sink is None else name_of(request)
        self.again = is_idempotent(request)
        self.body = encode_request(request)
        self.done = done
        self.source = source if source is not None and source.count else None
        self.dest = dest if dest is not None and dest.count else None
        self.source_views: list[memoryview] = []
        self.dest_views: list[memoryview] = []
        self.lent = False
        self.length = 0
        self.pins: list[Pin] = []
        self.bounced: list[Bounced] = []
        self.mrs: list[MR] = []
        self.xid = 0
        self.open = 0
        self.posted = False
        self.abandoned = False
        self.outcome: Outcome | None = None

    def abandon(self) -> None:
        """See `ClientCall`."""
        self.end.abandon(self)

    def finish(self, outcome: Outcome) -> None:
        """Tell the caller; the memory is the caller's from here on."""
        done, self.done = self.done, _ignore
        for bounced in self.bounced:
            bounced.finish(outcome.received if isinstance(outcome, Reply) else 0)
        for pin in self.pins:
            pin.release()
        self.source = self.dest = None
        self.source_views = self.dest_views = []
        done(outcome)


def _segments(it: IovIter, most: int) -> int:
    """Return in how many segments the bytes left are, at most `most`; an iterator that was cut off another counts that one's."""
    return len(peek_segments(it, it.count, most))


def _ignore(_: Outcome) -> None:
    """Stand in for a callback that was called."""


class ClientEnd(End):
    """The client's end of one connection; `peers` are the devices whose memory its adapter may address."""

    kinds = (FrameKind.REPLY,)

    def __init__(self, device: Device, env: Env, probe: Probe, limits: Limits, peers: Collection[str] = ()) -> None:
        profile = device.profile
        # A call may need two regions, and of requests REG_MR and LOCAL_INV for each, a SEND and a CANCEL; two empty messages.
        self.credits = max(1, min(limits.credits, profile.max_qp_wr // 6, profile.max_cqe // 6 - 1))
        nr_mrs = min(profile.max_mr, max(2 * self.credits, -(-limits.max_segs // profile.max_fast_reg_segs)))
        super().__init__(device, env, probe, limits, 2 * self.credits + 2 * nr_mrs + 2, nr_mrs)
        self.inline_max = 0
        self.waiting: deque[_Call] = deque()
        self.calls: dict[int, _Call] = {}
        self.deadlines: deque[tuple[float, _Call]] = deque()
        self.next_xid = 1
        self.sink: memoryview | None = None
        self.peers = frozenset(peers)
        self.pins = PinLedger()
        self.pool = BufferPool(probe, limits.max_payload, 2)

    # ---- the negotiation

    def start(self) -> None:
        """See `End`; the client speaks first."""
        super().start()
        self.post([SendWR(0, Opcode.SEND, dma_sges([memoryview(request(self.offer))]), SIGNALED)])

    def on_negotiate(self, view: memoryview) -> None:
        """See `End`."""
        smbd = self.settle(read_answer(view, self.offer))
        self.inline_max = max(0, min(INLINE_MAX, smbd.room - HEAD_BYTES - BODY_ROOM))
        self._start()

    # ---- out

    def submit(self, call: _Call) -> None:
        """Post a call, or queue it behind those that wait.

        Raises: ValueError for a payload the limits or the operation do not allow; OSError(EFAULT) for the memory of a device that
        is no peer of the adapter.
        """
        limits = self.limits
        for it in (call.source, call.dest):
            if it is not None:
                it.refuse_device_memory(self.peers)
        if call.source is not None:
            if call.op not in REQUEST_PAYLOAD or call.source.count > limits.max_payload:
                raise ValueError(f"{call.op.name} with {call.source.count} bytes of payload")
            if call.source.nr_segs > limits.max_segs and _segments(call.source, limits.max_segs + 1) > limits.max_segs:
                raise ValueError(f"a payload of more segments than the {limits.max_segs} that were agreed")
        if self.error is not None:
            call.finish(TransportError(self.error.errno, str(self.error), retryable=True))
            return
        if len(call.body) > limits.max_body:
            call.finish(TransportError(errno.EMSGSIZE, f"{call.op.name} is too long for one message"))
            return
        call.xid = self.next_xid
        self.next_xid += 1
        self.waiting.append(call)
        self._start()

    def _start(self) -> None:
        waiting = self.waiting
        while waiting and self.smbd is not None and len(self.calls) < self.credits:
            call = waiting[0]
            try:
                self._lend(call)
            except OSError as error:
                waiting.popleft()
                call.finish(TransportError(errno.EFAULT, str(error)))
                continue
            need = self._regions(call.source_views) + self._regions(call.dest_views)
            if need > min(self.mrs.size, self.max_chunks):
                waiting.popleft()
                call.finish(TransportError(errno.EMSGSIZE, "the payload has more segments than the device can register"))
                continue
            if not self.mrs.has_room(need, call.length):
                return
            waiting.popleft()
            self._post_call(call)

    def _lend(self, call: _Call) -> None:
        """Find the memory a call has to register, once. Raises: OSError(EFAULT) for a page that cannot be brought in."""
        if not call.lent:
            call.lent = True
            call.source_views = self._pieces(call, call.source)
            call.dest_views = self._pieces(call, call.dest)
            call.length = sum(map(len, call.source_views)) + sum(map(len, call.dest_views))

    def _pieces(self, call: _Call, it: IovIter | None) -> list[memoryview]:
        """Return the memory to register, pinned or bounced for as long as the call lasts; none for what goes inline."""
        if it is None or (it.count <= self.inline_max and not it.on_device):
            return []
        length = min(it.count, self.limits.max_payload)
        if extract_will_pin(it):
            pin = self.pins.pin(it.copy(), length)
            call.pins.append(pin)
            if pin.iter.count < length:
                raise OSError(errno.EFAULT, "a page of the caller's memory cannot be brought in")
            return pin.views
        if it.iter_type is IterType.DISCARD:
            return self._sinks(length)
        if must_copy(it):
            bounced = bounce_for_device(it.copy().slice(length), self.pool)
            call.bounced.append(bounced)
            it = bounced.iter
        return dma_views(it, length) if it.on_device else peek_segments(it, length)

    def _sinks(self, length: int) -> list[memoryview]:
        """Return a place for what is to be discarded: one block, again and again."""
        if self.sink is None:
            self.sink = memoryview(bytearray(SINK_BYTES))
        whole, rest = divmod(length, SINK_BYTES)
        return [self.sink] * whole + ([self.sink[:rest]] if rest else [])

    def _regions(self, views: list[memoryview]) -> int:
        return -(-len(views) // self.mrs.max_segs)

    def _register(self, call: _Call, views: list[memoryview], access: int, wrs: list[SendWR]) -> list[Chunk]:
        chunks = []
        most = self.mrs.max_segs
        for start in range(0, len(views), most):
            mr, key = self.mrs.take(views[start : start + most])
            self.probe.map_calls += 1
            call.mrs.append(mr)
            wrs.append(SendWR(wr_id_of(call.xid, MEMORY_ID), Opcode.REG_MR, (), 0, mr=mr, key=key, access=access))
            chunks.append(Chunk(mr.iova, mr.length, key))
        return chunks

    def _post_call(self, call: _Call) -> None:
        xid = call.xid
        self.calls[xid] = call
        call.open = 2
        call.posted = True
        wrs: list[SendWR] = []
        payload = call.source.count if call.source is not None else 0
        source_chunks = self._register(call, call.source_views, READABLE, wrs)
        dest_chunks = self._register(call, call.dest_views, WRITABLE, wrs)
        inline = 0 if source_chunks else payload
        head = pack(FrameKind.REQUEST, call.op, xid, 0, call.body, payload, inline, source_chunks, dest_chunks)
        join = inline > 0 and call.source is not None and must_copy(call.source)
        message = self.gather(head, call.source, inline, join=join)
        if self.probe.sink is not None:
            self.probe.sink("call_sent", (xid, call.name, len(call.body), payload))
        self.outbox.extend(wrs)
        self.send(SendWR(wr_id_of(xid, SENT_ID), Opcode.SEND, message, SIGNALED))

    def abandon(self, call: _Call) -> None:
        """See `ClientCall.abandon`."""
        if call.done is _ignore or call.abandoned:
            return
        call.abandoned = True
        if not call.posted:
            self.waiting.remove(call)
            call.finish(TransportError(errno.ECANCELED, "the call was withdrawn"))
        elif call.outcome is None:
            self.deadlines.append((self.env.now() + ABANDON_GRACE_S, call))
            head = pack(CANCEL, call.op, call.xid, 0, b"")
            self.send(SendWR(0, Opcode.SEND, dma_sges([memoryview(head)]), SIGNALED))
            self.wake.set()

    # ---- in

    def on_sent(self, wc: WC) -> None:
        """See `End`."""
        xid, kind = xid_of(wc.wr_id)
        call = self.calls.get(xid)
        if call is None or kind == MEMORY_ID:  # signaled as the last of what the send queue had room for
            return
        if kind == FENCE_ID:
            self._release(call)
        self._step(call)

    def on_message(self, message: Message, invalidated: int | None) -> None:
        """See `End`."""
        call = self.calls.get(message.xid)
        if call is None or call.outcome is not None or message.op is not call.op:
            raise ProtocolError(f"bad message: a reply to call {message.xid}, which waits for none")
        fenced: MR | None = None
        if invalidated is not None:
            fenced = next((mr for mr in call.mrs if mr.lkey == invalidated), None)
            if fenced is None:
                raise ProtocolError("bogus remote invalidation: the key is not the call's")
        call.outcome = self._outcome(call, message)
        if self.probe.sink is not None:
            self.probe.sink("reply_received", (call.xid, call.name, message.status, message.payload_length))
        if fenced is not None:
            call.mrs.remove(fenced)
            self.mrs.give_back(fenced)
        if call.mrs:
            call.open += 1
            memory = wr_id_of(call.xid, MEMORY_ID)
            wrs = [SendWR(memory, Opcode.LOCAL_INV, (), 0, invalidate_rkey=mr.lkey) for mr in call.mrs]
            wrs[-1].wr_id = wr_id_of(call.xid, FENCE_ID)
            wrs[-1].flags = SIGNALED
            self.post(wrs)
        self._step(call)

    def _outcome(self, call: _Call, message: Message) -> Outcome:
        if message.status:
            if call.abandoned and message.status == errno.ECANCELED:
                return TransportError(errno.ECANCELED, "the call was abandoned")
            return Reply(message.status)
        length = message.payload_length
        if length > (call.dest.count if call.dest is not None else 0):
            raise ProtocolError(f"bad message: a payload of {length} bytes for less memory")
        body = decode_reply(call.op, message.body, self.limits)
        if len(message.inline):
            if call.dest is None or call.dest_views or len(message.inline) != length:
                raise ProtocolError("bad message: inline bytes that are not the payload")
            if call.dest.iter_type is not IterType.DISCARD:
                copy_to_iter(message.inline, call.dest.copy())
                self.probe.copied(length)
        return Reply(0, body, received=length)

    def _release(self, call: _Call) -> None:
        for mr in call.mrs:
            self.mrs.give_back(mr)
        call.mrs.clear()

    def _step(self, call: _Call) -> None:
        call.open -= 1
        if call.open == 0:
            del self.calls[call.xid]
            assert call.outcome is not None and not call.mrs
            call.finish(call.outcome)
            self._start()

    def on_failed(self, error: TransportError) -> None:
        """See `End`."""
        calls = [*self.calls.values(), *self.waiting]
        self.calls.clear()
        self.waiting.clear()
        for call in calls:
            if call.abandoned:
                call.finish(TransportError(errno.ECANCELED, "the call was abandoned"))
            else:
                call.finish(TransportError(error.errno, str(error), retryable=not call.posted or call.again))

    def deadline(self) -> float | None:
        """See `End`."""
        while self.deadlines and self.deadlines[0][1].done is _ignore:
            self.deadlines.popleft()
        return self.deadlines[0][0] if self.deadlines else None

    def on_deadline(self) -> None:
        """See `End`."""
        self.fail(TransportError(errno.ETIMEDOUT, "the server did not answer a cancelled call"))

    def destroy(self) -> None:
        """See `End`; insists that no pin and no stand-in is left."""
        super().destroy()
        self.pins.close()
        self.pool.close()


class RdmaTransport(Transport):
    """The client's side of an RDMA connection."""

    def __init__(self, end: ClientEnd) -> None:
        self.end = end
        max_segs = min(end.limits.max_segs, end.mrs.size * end.mrs.max_segs)
        self.limits = replace(end.limits, credits=end.credits, max_segs=max_segs)

    def submit(self, request: Request, done: Done, source: IovIter | None = None, dest: IovIter | None = None) -> _Call:
        """See `Transport`."""
        call = _Call(self.end, request, done, source, dest)
        self.end.submit(call)
        return call

    async def call(self, request: Request, source: IovIter | None = None, dest: IovIter | None = None) -> Reply:
        """See `Transport`."""
        await lowlevel.checkpoint_if_cancelled()
        task = lowlevel.current_task()
        outcome: Outcome | None = None
        parked = False

        def done(result: Outcome) -> None:
            nonlocal outcome
            outcome = result
            if parked:
                lowlevel.reschedule(task)

        call = self.submit(request, done, source, dest)
        if outcome is None:
            parked = True

            def abort(_: object) -> lowlevel.Abort:
                # The memory is lent until `done`, which a CANCEL makes soon: the wait goes on until then.
                nonlocal parked
                parked = False
                call.abandon()
                parked = outcome is None
                return lowlevel.Abort.FAILED if parked else lowlevel.Abort.SUCCEEDED

            await lowlevel.wait_task_rescheduled(abort)
        else:
            await lowlevel.cancel_shielded_checkpoint()
        result: Outcome | None = outcome
        assert result is not None
        if isinstance(result, TransportError):
            if result.errno == errno.ECANCELED:
                await trio.lowlevel.checkpoint_if_cancelled()
            raise result
        return result

    async def aclose(self) -> None:
        """See `Transport`."""
        self.end.fail(TransportError(errno.ECONNABORTED, "the connection was closed"))
        await lowlevel.checkpoint()
