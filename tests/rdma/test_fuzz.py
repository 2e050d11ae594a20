"""Random programs of verbs calls on two queue pairs, against a small model of two flat memories and four queues.

The model knows nothing of the device: it says for each call which completions each queue gets and what the memories hold. After
each call the clock is moved far enough for every retry to be over, so that there is one legal outcome.
"""

from dataclasses import dataclass, field, replace

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.rdma.rig import SIZE, Rig, make_rig
from transport.rdma.enums import Opcode, SendFlag, WcStatus
from transport.rdma.profiles import RXE
from transport.rdma.sge import SGE
from transport.rdma.wr import RecvWR, SendWR

W = WcStatus
END = 256
"""Programs play in the first bytes of the regions, and beyond them where they are to fail."""
BAD = 0xBADBAD


@dataclass
class ModelSide:
    memory: bytearray
    dead: bool = False
    recvs: list[tuple[int, int, int]] = field(default_factory=list)
    sq: list[tuple[int, int]] = field(default_factory=list)
    rq: list[tuple[int, int, int]] = field(default_factory=list)

    def die(self) -> None:
        """Go to ERR: receives are flushed in order."""
        if not self.dead:
            self.dead = True
            self.rq += [(wr_id, W.WR_FLUSH_ERR, 0) for wr_id, _, _ in self.recvs]
            self.recvs.clear()


@dataclass(frozen=True)
class Call:
    """One call: who, what, where."""

    side: int
    kind: str
    off: int
    length: int
    remote: int
    good: bool
    bad_local: bool
    signaled: bool


class Model:
    """What should happen."""

    def __init__(self) -> None:
        self.sides = [ModelSide(bytearray(SIZE)), ModelSide(bytearray(SIZE))]

    def do(self, wr_id: int, call: Call) -> None:
        me, peer = self.sides[call.side], self.sides[1 - call.side]
        if call.kind == "recv":
            if me.dead:
                me.rq.append((wr_id, W.WR_FLUSH_ERR, 0))
            else:
                me.recvs.append((wr_id, call.off, call.length))
            return
        status = W.WR_FLUSH_ERR if me.dead else self._request(call, me, peer)
        if status or call.signaled:
            me.sq.append((wr_id, status))
        if status:
            me.die()

    def _request(self, call: Call, me: ModelSide, peer: ModelSide) -> int:
        length = 8 if call.kind == "add" else call.length
        if call.bad_local and length:
            return W.LOC_PROT_ERR
        if peer.dead:
            return W.RETRY_EXC_ERR
        data = bytes(me.memory[call.off : call.off + length])
        if call.kind == "send":
            return self._send(data, peer)
        addressed = not length or (call.good and call.remote + length <= SIZE)
        if not addressed:
            peer.die()
            return W.REM_ACCESS_ERR
        span = slice(call.remote, call.remote + length)
        if call.kind == "write":
            peer.memory[span] = data
        elif call.kind == "read":
            me.memory[call.off : call.off + length] = peer.memory[span]
        else:
            old = peer.memory[span]
            peer.memory[span] = ((int.from_bytes(old, "little") + 3) % (1 << 64)).to_bytes(8, "little")
            me.memory[call.off : call.off + 8] = old
        return 0

    def _send(self, data: bytes, peer: ModelSide) -> int:
        if not peer.recvs:
            return W.RNR_RETRY_EXC_ERR
        wr_id, off, room = peer.recvs.pop(0)
        if room < len(data):
            peer.rq.append((wr_id, W.LOC_LEN_ERR, 0))
            peer.die()
            return W.REM_INV_REQ_ERR
        peer.memory[off : off + len(data)] = data
        peer.rq.append((wr_id, 0, len(data)))
        return 0


def do(rig: Rig, wr_id: int, call: Call) -> None:
    """Make the call for real."""
    me, peer = (rig.a, rig.b) if call.side == 0 else (rig.b, rig.a)
    lkey = BAD if call.bad_local else me.mr.lkey
    if call.kind == "recv":
        me.qp.post_recv(RecvWR(wr_id, [me.sge(call.off, call.length)]))
    else:
        opcode = {"send": Opcode.SEND, "write": Opcode.WRITE, "read": Opcode.READ, "add": Opcode.FETCH_AND_ADD}[call.kind]
        length = 8 if call.kind == "add" else call.length
        flags = int(SendFlag.SIGNALED) if call.signaled else 0
        wr = SendWR(wr_id, opcode, [SGE(me.mr.iova + call.off, length, lkey)], flags)
        wr.remote_addr, wr.rkey, wr.compare_add = peer.mr.iova + call.remote, peer.mr.rkey if call.good else BAD, 3
        me.qp.post_send(wr)
    rig.fabric.advance(rig.fabric.now + 100)


calls = st.builds(
    Call,
    side=st.integers(0, 1),
    kind=st.sampled_from(["recv", "recv", "send", "write", "read", "add"]),
    off=st.integers(0, END),
    length=st.integers(0, 96),
    remote=st.one_of(st.integers(0, END).map(lambda n: n & ~7), st.just(SIZE - 40)),
    good=st.sampled_from([True] * 9 + [False]),
    bad_local=st.sampled_from([False] * 15 + [True]),
    signaled=st.booleans(),
)


@given(program=st.lists(calls, max_size=30), seed=st.binary(min_size=16, max_size=16))
@settings(max_examples=200)
def test_program_does_what_the_model_says(program: list[Call], seed: bytes) -> None:
    rig = make_rig(replace(RXE, max_qp_wr=64))
    model = Model()
    for side, memory in zip(model.sides, (rig.a.memory, rig.b.memory), strict=True):
        side.memory[: END + 96] = memory[: END + 96] = (seed * 23)[: END + 96]
    for wr_id, call in enumerate(program):
        if call.kind == "add" and call.bad_local:
            call = replace(call, bad_local=False)
        do(rig, wr_id, call)
        model.do(wr_id, call)
    for real, expected in zip((rig.a, rig.b), model.sides, strict=True):
        wcs = real.poll()
        assert [(wc.wr_id, wc.status) for wc in wcs if wc.opcode < 128] == expected.sq
        assert [(wc.wr_id, wc.status, 0 if wc.status else wc.byte_len) for wc in wcs if wc.opcode >= 128] == expected.rq
        assert real.memory == expected.memory
        assert (real.qp.state.name == "ERR") == expected.dead
