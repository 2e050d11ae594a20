"""Sans-IO. Memory windows: a second key over a part of a region, type 1 (scope: domain) and type 2B (scope: the QP that bound).

Type 1 is valid when allocated and takes a new key with each bind; length 0 unbinds it; INV operations do not touch it. Type 2 is
allocated free, is bound by a BIND_MW request that chooses the low 8 bits of its key, and is freed by LOCAL_INV or a peer's
SEND_WITH_INV on the same queue pair. The memory is the region's. Follows IBA 10.6.7 and Linux rxe_mw.
"""

from typing import TYPE_CHECKING

from transport.rdma.enums import Access, MrState, MwType

if TYPE_CHECKING:
    from transport.rdma.mr import MR
    from transport.rdma.pd import PD
    from transport.rdma.qp import QP
    from transport.rdma.wr import MwBind

__all__ = ["MW"]

WRITABLE = int(Access.REMOTE_WRITE | Access.REMOTE_ATOMIC)


class MW:
    """A memory window; made by `PD.alloc_mw`. `addr` is what peers use, `start` the address inside the region."""

    __slots__ = ("access", "addr", "alive", "device", "length", "mr", "pd", "qp", "rkey", "start", "state", "type")

    def __init__(self, pd: "PD", mw_type: MwType) -> None:
        pd.count_child("mw", pd.device.profile.max_mw)
        self.pd = pd
        self.device = pd.device
        self.type = mw_type
        self.rkey = pd.device.new_window_key(self)
        self.state = MrState.VALID if mw_type is MwType.TYPE_1 else MrState.FREE
        self.mr: MR | None = None
        self.qp: QP | None = None
        self.addr = 0
        self.start = 0
        self.length = 0
        self.access = 0
        self.alive = True

    def refusal(self, qp: "QP", bind: "MwBind", key: int) -> str | None:
        """Return the rule a bind breaks, or None."""
        mr = bind.mr
        if not self.alive or self.pd is not qp.pd:
            return "a window of another protection domain"
        if self.type is MwType.TYPE_2:
            if self.state is not MrState.FREE:
                return "a type 2 window must be free to be bound"
            if not bind.length:
                return "a type 2 window cannot be bound to nothing"
        if (self.rkey ^ key) >> 8:
            return "a bind chooses the low 8 bits of the key only"
        if not bind.length:
            return None
        if mr.pd is not self.pd or mr.state is not MrState.VALID:
            return "no valid region of the domain"
        if not mr.access & Access.MW_BIND or mr.access & Access.ZERO_BASED:
            return "the region does not allow windows"
        if bind.access & WRITABLE and not mr.access & Access.LOCAL_WRITE:
            return "a writable window needs a region with local write"
        if not mr.covers(bind.addr, bind.length):
            return "the window leaves the region"
        return None

    def bind(self, qp: "QP", bind: "MwBind", key: int) -> None:
        """Bind after `refusal` found nothing; the key of the bind before dies."""
        self._unbind()
        mws = self.device.mws
        del mws[self.rkey]
        self.rkey = key
        mws[key] = self
        self.state = MrState.VALID
        if bind.length:
            self.mr = bind.mr
            self.mr.nr_windows += 1
            self.qp = qp
            self.start = bind.addr
            self.addr = 0 if bind.access & Access.ZERO_BASED else bind.addr
            self.length = bind.length
            self.access = int(bind.access)

    def _unbind(self) -> None:
        if self.mr is not None:
            self.mr.nr_windows -= 1
        self.mr = None
        self.qp = None
        self.length = 0
        self.access = 0

    def allows(self, qp: "QP", addr: int, length: int, access: int) -> bool:
        """Whether a peer may use the range through the window: state, scope, permission, bounds."""
        if self.state is not MrState.VALID or (self.type is MwType.TYPE_2 and self.qp is not qp) or access & ~self.access:
            return False
        return self.addr <= addr and addr + length <= self.addr + self.length

    def invalidate(self, qp: "QP") -> bool:
        """End a type 2 binding by the queue pair that made it; return whether that was legal."""
        if self.type is not MwType.TYPE_2 or self.state is not MrState.VALID or self.qp is not qp:
            return False
        self._unbind()
        self.state = MrState.FREE
        return True

    def dealloc(self) -> None:
        """Free the window; a binding ends with it. Idempotent."""
        if self.alive:
            self.alive = False
            self._unbind()
            del self.device.mws[self.rkey]
            self.pd.drop_child("mw")
