"""Sans-IO. Addresses on the fabric: the address vector of a connection and the address handle of a datagram; owns no memory."""

import errno
from dataclasses import dataclass
from typing import TYPE_CHECKING

from transport.rdma.errors import VerbsError

if TYPE_CHECKING:
    from transport.rdma.pd import PD

__all__ = ["AH", "AddressVector"]


@dataclass(frozen=True, slots=True)
class AddressVector:
    """Where a peer is: by GID when `dgid` is set, else by LID."""

    dlid: int = 0
    dgid: bytes | None = None
    port: int = 1
    sgid_index: int = 0
    hop_limit: int = 64
    traffic_class: int = 0
    flow_label: int = 0
    sl: int = 0
    src_path_bits: int = 0
    static_rate: int = 0


class AH:
    """An address handle: an address vector checked once, for datagrams."""

    __slots__ = ("alive", "av", "pd")

    def __init__(self, pd: "PD", av: AddressVector) -> None:
        """Check the vector.

        Raises: VerbsError EINVAL without a GID (Ethernet has no LIDs), on a port the device lacks; EOPNOTSUPP on iWARP.
        """
        device = pd.device
        if not device.profile.ud:
            raise VerbsError(errno.EOPNOTSUPP, "the device has no datagrams")
        if av.dgid is None or not 1 <= av.port <= 1:
            raise VerbsError(errno.EINVAL, "an address handle needs a GID and a port of the device")
        pd.count_child("ah", device.profile.max_ah)
        self.pd = pd
        self.av = av
        self.alive = True

    def destroy(self) -> None:
        """Give the handle up. Idempotent."""
        if self.alive:
            self.alive = False
            self.pd.drop_child("ah")
