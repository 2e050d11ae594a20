"""Trio shell. The server's end: it alone reads and writes the client's memory, and it offers none of its own.

A request with chunks is fetched by READ into the memory the handler admits before the handler runs; a reply's payload is stored
by WRITE before the reply's SEND on the same queue pair, whose order makes the data visible first. The SEND ends the first
chunk's key.
A handler that answers at once costs no task. A CANCEL is answered at once: ECANCELED, unless the reply is on its way; what the
handler still does is dropped. The queue pair has no remote permission: a stray WRITE of a client is refused by the device.
Ownership: landings and reply sources as `transport/base.py` says.
"""

import errno
import os
from collections import deque
from collections.abc import Awaitable
from functools import partial
from typing import Final

import trio

from iov.copy_iter import copy_to_iter
from iov.extract import peek_segments
from iov.iov_iter import Direction, IovIter, IterType
from iov.pool import BufferPool, Lease
from iov.probe import Probe
from transport.base import FileRange, Handler, Landing, Limits, Reply
from transport.codec import decode_request, encode_reply
from transport.env import Env
from transport.errors import HelloMismatch, ProtocolError, TransportError
from transport.framing import FrameKind
from transport.messages import Request, name_of
from transport.rdma.device import Device
from transport.rdma.enums import Access, Opcode, SendFlag
from transport.rdma.mr import MR
from transport.rdma.pump import End, wr_id_of, xid_of
from transport.rdma.rw import dma_sges, iter_sges, plan
from transport.rdma.sge import SGE, total_length
from transport.rdma.smbd import answer, read_request
from transport.rdma.wire import CANCEL, INLINE_MAX, Message, pack
from transport.rdma.wr import WC, SendWR

__all__ = ["ServerEnd"]

SIGNALED: Final = int(SendFlag.SIGNALED)
SINK: Final = int(Access.LOCAL_WRITE | Access.REMOTE_WRITE)
REPLY_ID, READ_ID, PART_ID = 0, 1, 2
MAX_LEFT_OVER: Final = 64
"""Cancelled calls whose handlers still run; beyond that a CANCEL is answered when one ends."""
NO_WAIT: Final = getattr(os, "RWF_NOWAIT", None)


class _Op:
    """One request being served."""

    __slots__ = (
        "cancelled",
        "dest",
        "fetching",
        "key",
        "landing",
        "lease",
        "mrs",
        "replied",
        "reply",
        "request",
        "source",
        "xid",
    )

    def __init__(self, message: Message, request: Request) -> None:
        self.xid = message.xid
        self.request = request
        self.source = message.source
        self.dest = message.dest
        chunks = message.source or message.dest
        self.key = chunks[0].rkey if chunks else None
        self.landing: Landing | None = None
        self.fetching = False
        self.mrs: list[MR] = []
        self.reply: Reply | None = None
        self.lease: Lease | None = None
        self.replied = False
        self.cancelled = False

    def release(self) -> None:
        """Give back what the reply lent."""
        reply, self.reply = self.reply, None
        if reply is not None and reply.release is not None:
            reply.release()
        lease, self.lease = self.lease, None
        if lease is not None:
            lease.release()

    def drop_landing(self) -> None:
        """Give back memory that was not filled."""
        landing, self.landing = self.landing, None
        if landing is not None and landing.release is not None:
            landing.release()


def _name(wrs: list[SendWR], op: _Op) -> None:
    """Have work requests tell which call they are parts of."""
    for wr in wrs:
        wr.wr_id = wr_id_of(op.xid, PART_ID)


class ServerEnd(End):
    """The server's end of one connection; `serve` runs it."""

    kinds = (FrameKind.REQUEST, CANCEL)

    def __init__(self, device: Device, env: Env, probe: Probe, limits: Limits, handler: Handler) -> None:
        profile = device.profile
        nr_mrs = min(profile.max_mr, max(limits.credits, -(-limits.max_segs // profile.max_fast_reg_segs)))
        super().__init__(device, env, probe, limits, 8 * limits.credits, nr_mrs)
        self.iwarp = profile.iwarp
        self.handler = handler
        self.handlers: trio.Nursery | None = None
        self.pool = BufferPool(probe, limits.max_payload, 8)
        self.ops: dict[int, _Op] = {}
        self.active = 0
        self.starved: deque[_Op] = deque()
        self.left_over = 0
        self.refusal: HelloMismatch | None = None
        self.late: deque[_Op] = deque()

    async def serve(self) -> None:
        """Serve the connection until it ends. Cancellation: the connection is broken, handlers are cancelled."""
        try:
            async with trio.open_nursery() as handlers:
                self.handlers = handlers
                await self.run()
                handlers.cancel_scope.cancel()
        finally:
            self.handler.closed()
            self.pool.close()

    # ---- in

    def on_negotiate(self, view: memoryview) -> None:
        """See `End`."""
        if self.refusal is not None:
            raise self.refusal
        terms = read_request(view, self.offer)
        if terms is None:
            self.refusal = HelloMismatch("the client speaks another version of SMB-Direct")
            said = answer(self.offer, None)
        else:
            said = answer(self.offer, terms, self.settle(terms).credits.grant())
        self.post([SendWR(0, Opcode.SEND, dma_sges([memoryview(said)]), SIGNALED)])

    def on_message(self, message: Message, invalidated: int | None) -> None:
        """See `End`."""
        if invalidated is not None:
            raise ProtocolError("the client invalidated memory of the server, which lends none")
        if message.kind == CANCEL:
            self._cancel(message.xid)
            return
        if message.xid in self.ops:
            raise ProtocolError(f"bad message: call {message.xid} again")
        if self.active >= self.limits.credits:
            raise ProtocolError("the client uses more credits than it has")
        length = message.payload_length
        if length and not message.source and len(message.inline) != length:
            raise ProtocolError("bad message: a payload that is neither inline nor in chunks")
        op = _Op(message, decode_request(message.op, message.body, self.limits))
        self.ops[op.xid] = op
        self.active += 1
        if self.probe.sink is not None:
            self.probe.sink("call_received", (op.xid, name_of(op.request), length))
        if length:
            landing = self.handler.admit(op.request, length)
            if isinstance(landing, int):
                self._reply(op, Reply(landing))
                return
            if landing.iter.count < length:
                raise ValueError(f"a landing of {landing.iter.count} bytes for {length} bytes of payload")
            op.landing = landing
            if landing.iter.iter_type is IterType.DISCARD:
                self._handle(op)
                return
            if op.source:
                op.fetching = True
                self.starved.append(op)
                self._fetch_starved()
                return
            copy_to_iter(message.inline, landing.iter.copy())
            self.probe.copied(length)
        self._handle(op)

    def _fetch_starved(self) -> None:
        """Start what waits for regions, in order, as far as there are any."""
        while self.starved:
            op = self.starved.popleft()
            self._fetch(op)
            if self.starved and self.starved[0] is op:
                return

    def _fetch(self, op: _Op) -> None:
        """Start the READs of a request's payload; without a free region (iWARP needs one) it waits for one."""
        assert op.landing is not None
        length = sum(chunk.length for chunk in op.source)
        if self.iwarp:
            wrs = self._registered_reads(op, peek_segments(op.landing.iter, length), length)
            if wrs is None:
                self.starved.appendleft(op)
                return
        else:
            wrs = plan(Opcode.READ, iter_sges(op.landing.iter, length), op.source, self.max_sge)
        _name(wrs, op)
        wrs[-1].flags = SIGNALED
        wrs[-1].wr_id = wr_id_of(op.xid, READ_ID)
        self.post(wrs)

    def _registered_reads(self, op: _Op, views: list[memoryview], length: int) -> list[SendWR] | None:
        """Return REG_MR and READ requests: an iWARP READ names its sink on the wire.

        The regions are deregistered when the READs are done: a LOCAL_INV would wait for all before it, and hold up all behind it.
        """
        most = self.mrs.max_segs
        if not self.mrs.has_room(-(-len(views) // most), length):
            return None
        registrations: list[SendWR] = []
        local: list[SGE] = []
        for start in range(0, len(views), most):
            mr, key = self.mrs.take(views[start : start + most])
            self.probe.map_calls += 1
            op.mrs.append(mr)
            registrations.append(SendWR(0, Opcode.REG_MR, (), 0, mr=mr, key=key, access=SINK))
            local.append(SGE(mr.iova, mr.length, key))
        return [*registrations, *plan(Opcode.READ, local, op.source, 1)]

    def on_sent(self, wc: WC) -> None:
        """See `End`."""
        if self.refusal is not None:
            raise self.refusal
        xid, kind = xid_of(wc.wr_id)
        op = self.ops.get(xid)
        if op is None or kind == PART_ID:  # signaled as the last of what the send queue had room for
            return
        if kind == REPLY_ID:
            del self.ops[op.xid]
            op.release()
            return
        op.fetching = False
        for mr in op.mrs:
            self.mrs.retire(mr)
        op.mrs.clear()
        self._fetch_starved()
        if op.cancelled:
            op.drop_landing()
            self._reply(op, Reply(errno.ECANCELED))
        else:
            self._handle(op)

    def _cancel(self, xid: int) -> None:
        """Answer a call that the client takes back, unless its answer is on the way."""
        op = self.ops.get(xid)
        if op is None or op.replied or op.cancelled:
            return
        op.cancelled = True
        if op in self.starved:
            self.starved.remove(op)
            op.drop_landing()
            self._reply(op, Reply(errno.ECANCELED))
        elif op.fetching:
            pass  # the READs in flight come first
        elif self.left_over >= MAX_LEFT_OVER:
            self.late.append(op)
        else:
            self._leave(op)

    def _leave(self, op: _Op) -> None:
        """Answer a cancelled call whose handler still runs; the handler's own answer will be dropped."""
        self.left_over += 1
        self._reply(op, Reply(errno.ECANCELED))

    # ---- the handler

    def _handle(self, op: _Op) -> None:
        landing, op.landing = op.landing, None
        result = self.handler.handle(op.request, landing)
        if (isinstance(result, Reply) and not isinstance(result.source, FileRange)) or (
            isinstance(result, Reply) and self._load_at_once(op, result)
        ):
            self._reply(op, result)
        else:
            assert self.handlers is not None
            self.handlers.start_soon(self._finish_later, op, result)

    async def _finish_later(self, op: _Op, pending: Reply | Awaitable[Reply]) -> None:
        """Wait for a handler, and for the file range of its reply, then answer."""
        reply = pending if isinstance(pending, Reply) else await pending
        lease: Lease | None = None
        if isinstance(reply.source, FileRange):
            release = reply.release
            try:
                lease = await self._load(reply)
            except OSError as error:
                reply = Reply(error.errno or errno.EIO)
            finally:
                if lease is None and release is not None:
                    release()
        if self.error is None and not op.replied:
            op.lease = lease
            if op.cancelled:
                self.late.remove(op)
                reply = Reply(errno.ECANCELED, release=reply.release)
            self._reply(op, reply)
            return
        if reply.release is not None:
            reply.release()
        if lease is not None:
            lease.release()
        if self.error is None:
            self.left_over -= 1
            if self.late:
                self._leave(self.late.popleft())

    def _load_at_once(self, op: _Op, reply: Reply) -> bool:
        """Read the reply's file range if the page cache holds it; return whether it did."""
        source = reply.source
        assert isinstance(source, FileRange)
        if NO_WAIT is None:
            return False
        lease = self.pool.get(source.length)
        try:
            done = os.preadv(source.fd, [lease.view], source.pos, NO_WAIT)
        except OSError as error:
            # A filesystem in memory does not know the flag, and never waits.
            done = os.preadv(source.fd, [lease.view], source.pos) if error.errno == errno.EOPNOTSUPP else -1
        if done < source.length:
            lease.release()
            return False
        op.lease = lease
        reply.source = IovIter.kvec(Direction.SOURCE, [lease.view])
        return True

    async def _load(self, reply: Reply) -> Lease:
        """Read the reply's file range in a worker thread; at the end of the file it is shorter."""
        source = reply.source
        assert isinstance(source, FileRange)
        lease = self.pool.get(source.length)
        try:
            done = await self.env.run_blocking(partial(os.preadv, source.fd, [lease.view], source.pos))
        except BaseException:
            lease.release()
            raise
        reply.source = IovIter.kvec(Direction.SOURCE, [lease.view[:done]])
        return lease

    # ---- out

    def _reply(self, op: _Op, reply: Reply) -> None:
        """Post a reply, the WRITEs of its payload in front of it."""
        source = reply.source
        payload = iter_sges(source, source.count) if isinstance(source, IovIter) and source.count else []
        op.reply = reply
        op.replied = True
        self.active -= 1
        length = total_length(payload)
        inline = length if not op.dest and length <= INLINE_MAX else 0
        wrs: list[SendWR] = []
        if length and not inline and length <= sum(chunk.length for chunk in op.dest):
            wrs = plan(Opcode.WRITE, payload, op.dest, self.max_sge)
            _name(wrs, op)
        body = b"" if reply.status or reply.body is None else encode_reply(reply.body)
        status = reply.status
        if len(body) > self.limits.max_body:
            status, body, length, inline, wrs = errno.EMSGSIZE, b"", 0, 0, []
        head = pack(FrameKind.REPLY, op.request.op, op.xid, status, body, length, inline)
        message = self.gather(head, source if isinstance(source, IovIter) else None, inline)
        send = SendWR(wr_id_of(op.xid, REPLY_ID), Opcode.SEND, message, SIGNALED)
        if op.key is not None:
            send.opcode = Opcode.SEND_WITH_INV
            send.invalidate_rkey = op.key
        if self.probe.sink is not None:
            self.probe.sink("reply_sent", (op.xid, name_of(op.request), status, length))
        # The WRITEs are in the send queue before the SEND, which may have to wait for a credit.
        self.outbox.extend(wrs)
        self.send(send)

    def deadline(self) -> float | None:
        """See `End`."""
        return None

    def on_deadline(self) -> None:
        """See `End`."""

    def on_failed(self, error: TransportError) -> None:
        """See `End`."""
        for op in self.ops.values():
            op.drop_landing()
            op.release()
        self.ops.clear()
        if self.handlers is not None:
            self.handlers.cancel_scope.cancel()
