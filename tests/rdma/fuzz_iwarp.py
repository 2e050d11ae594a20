"""A target for atheris, which follows what bytes reach: `python -m tests.rdma.fuzz_iwarp -max_total_time=60`.

An input is a server's incoming stream behind the start-up, or a start-up frame, a message of netfs or a Terminate to be read;
what it finds is an exception that is none of those promised, a byte outside registered memory, or a receive that completes twice.
"""

import contextlib
import sys

import atheris

with atheris.instrument_imports(include=["transport.rdma"]):
    from tests.rdma.iwarp_rig import Joined, statuses
    from transport.rdma.cm_id import CmId, CmParam, CmState
    from transport.rdma.enums import Opcode, QPState
    from transport.rdma.iwarp.mpa import MpaError, StartReader, find_crc
    from transport.rdma.iwarp.terminate import Terminate

__all__ = ["feed"]


def feed(data: bytes) -> None:
    """Try one input. The first byte says what it is of, the second in what pieces it comes."""
    if len(data) < 2:
        return
    kind, step, data = data[0] & 7, (data[1] & 63) + 1, data[2:]
    if kind == 0:
        terminate = Terminate.unpack(data)
        assert terminate is None or str(terminate)
    elif kind == 1:
        reader = StartReader(reply=bool(step & 1))
        with contextlib.suppress(MpaError):
            while reader.need and data:
                count = min(step, reader.need)
                reader.feed(data[:count])
                data = data[count:]
            if not reader.need:
                reader.frame()
    elif kind == 2:
        ident = CmId()
        ident.resolve_addr()
        ident.addr_found()
        ident.resolve_route()
        ident.connect(CmParam(ord=step))
        while ident.need and data and ident.state is CmState.CONNECTING:
            count = min(step, ident.need)
            ident.feed(data[:count])
            data = data[count:]
    else:
        _stream(data, step, crc=kind == 7, asked=kind >= 5)


def _stream(data: bytes, step: int, *, crc: bool, asked: bool) -> None:
    j = Joined(find_crc() if crc else None, step=step)
    j.b.recv(1, 0, 64)
    j.b.recv(2, 64, 64)
    if asked:  # answers are due as well
        j.far.sender.blocked = False
        j.b.qp.post_send(j.to_peer(Opcode.READ, 16, wr_id=3))
    j.feed(j.far, data)
    j.carry()
    j.far.received(0)
    assert j.guards_intact()
    done = [wr_id for wr_id, _ in statuses(j.b)]
    assert j.b.qp.state is QPState.ERR and len(done) == len(set(done)) and {1, 2} <= set(done)


if __name__ == "__main__":
    atheris.Setup(sys.argv, feed)
    atheris.Fuzz()
