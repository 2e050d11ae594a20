"""Trio shell. pyverbs.addr: GIDs, routes, address attributes and address handles. Owns no memory."""

from typing import TYPE_CHECKING

from transport.rdma.ah import AddressVector
from transport.rdma.pyverbs.base import PyverbsObject
from transport.rdma.pyverbs.pyverbs_error import PyverbsUserError, translated

if TYPE_CHECKING:
    from transport.rdma.pyverbs.cq import WC
    from transport.rdma.pyverbs.pd import PD

__all__ = ["AH", "GID", "GRH", "AHAttr", "GlobalRoute"]


class GID:
    """A GID; `gid` is its text, eight groups of four digits."""

    def __init__(self, val: str | None = None) -> None:
        groups = [int(group, 16) for group in val.split(":")] if val else [0] * 8
        if len(groups) != 8:
            raise PyverbsUserError(f"a GID has eight groups, not {val!r}")
        self.raw = b"".join(group.to_bytes(2, "big") for group in groups)  # header: sixteen bytes of address

    @classmethod
    def of(cls, raw: bytes) -> "GID":
        """Return the GID of sixteen bytes."""
        gid = cls()
        gid.raw = raw
        return gid

    @property
    def gid(self) -> str:
        """The text."""
        return ":".join(self.raw[index : index + 2].hex() for index in range(0, 16, 2))

    def __str__(self) -> str:
        return self.gid


class GlobalRoute:
    """Where a packet with a global header goes."""

    def __init__(
        self, flow_label: int = 0, sgid_index: int = 0, hop_limit: int = 1, dgid: GID | None = None, traffic_class: int = 0
    ) -> None:
        self.flow_label = flow_label
        self.sgid_index = sgid_index
        self.hop_limit = hop_limit
        self.dgid = dgid if dgid is not None else GID()
        self.traffic_class = traffic_class


class AHAttr:
    """Attributes of an address; without `gr` or with `is_global` 0 it has no GID."""

    def __init__(
        self,
        dlid: int = 0,
        sl: int = 0,
        src_path_bits: int = 0,
        static_rate: int = 0,
        is_global: int = 0,
        port_num: int = 1,
        gr: GlobalRoute | None = None,
    ) -> None:
        self.dlid = dlid
        self.sl = sl
        self.src_path_bits = src_path_bits
        self.static_rate = static_rate
        self.is_global = is_global
        self.port_num = port_num
        self.gr = gr if gr is not None else GlobalRoute()

    @property
    def dgid(self) -> str:
        """Text of the destination GID."""
        return self.gr.dgid.gid

    @property
    def sgid_index(self) -> int:
        """Index of the source GID."""
        return self.gr.sgid_index

    def vector(self) -> AddressVector:
        """Return the device's form."""
        gr = self.gr
        return AddressVector(
            self.dlid, gr.dgid.raw if self.is_global else None, self.port_num, gr.sgid_index, gr.hop_limit, gr.traffic_class,
            gr.flow_label, self.sl, self.src_path_bits, self.static_rate,
        )  # fmt: skip

    @classmethod
    def of(cls, av: AddressVector) -> "AHAttr":
        """Return the attributes of a device's vector."""
        gid = GID.of(av.dgid if av.dgid is not None else bytes(16))
        gr = GlobalRoute(av.flow_label, av.sgid_index, av.hop_limit, gid, av.traffic_class)
        return cls(av.dlid, av.sl, av.src_path_bits, av.static_rate, int(av.dgid is not None), av.port, gr)


class AH(PyverbsObject):
    """An address handle, from attributes or as the way back of a received datagram."""

    rank = 2

    def __init__(
        self, pd: "PD", attr: AHAttr | None = None, wc: "WC | None" = None, grh: "GRH | None" = None, port_num: int = 1
    ) -> None:
        super().__init__()
        if attr is None:
            if wc is None or grh is None:
                raise PyverbsUserError("an AH needs attributes, or a completion and its GRH")
            attr = AHAttr(is_global=1, port_num=port_num, gr=GlobalRoute(dgid=grh.sgid, hop_limit=64))
        with translated("Failed to create AH"):
            self.ah = pd.pd.create_ah(attr.vector())
        self.hang_on(pd)

    def destroy(self) -> None:
        """Destroy the handle."""
        self.ah.destroy()


class GRH:
    """The header in front of a received datagram."""

    def __init__(self, sgid: GID, dgid: GID) -> None:
        self.sgid = sgid
        self.dgid = dgid
