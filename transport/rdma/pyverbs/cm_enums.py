"""Sans-IO. The names of librdmacm's enumerations with their numbers, as pyverbs shows them; owns no memory."""

from typing import Final

from transport.rdma.pyverbs.enums import make_enum

__all__ = ["ENUMS", "NAMES"]

ENUMS: Final[dict[str, dict[str, int]]] = {
    "rdma_cm_event_type": {
        "RDMA_CM_EVENT_ADDR_RESOLVED": 0, "RDMA_CM_EVENT_ADDR_ERROR": 1, "RDMA_CM_EVENT_ROUTE_RESOLVED": 2,
        "RDMA_CM_EVENT_ROUTE_ERROR": 3, "RDMA_CM_EVENT_CONNECT_REQUEST": 4, "RDMA_CM_EVENT_CONNECT_RESPONSE": 5,
        "RDMA_CM_EVENT_CONNECT_ERROR": 6, "RDMA_CM_EVENT_UNREACHABLE": 7, "RDMA_CM_EVENT_REJECTED": 8,
        "RDMA_CM_EVENT_ESTABLISHED": 9, "RDMA_CM_EVENT_DISCONNECTED": 10, "RDMA_CM_EVENT_DEVICE_REMOVAL": 11,
        "RDMA_CM_EVENT_MULTICAST_JOIN": 12, "RDMA_CM_EVENT_MULTICAST_ERROR": 13, "RDMA_CM_EVENT_ADDR_CHANGE": 14,
        "RDMA_CM_EVENT_TIMEWAIT_EXIT": 15,
    },
    "rdma_port_space": {"RDMA_PS_IPOIB": 0x0002, "RDMA_PS_TCP": 0x0106, "RDMA_PS_UDP": 0x0111, "RDMA_PS_IB": 0x013F},
    "rai_flags": {"RAI_PASSIVE": 1, "RAI_NUMERICHOST": 2, "RAI_NOROUTE": 4, "RAI_FAMILY": 8},
    "rdma_cm_join_mc_attr_mask": {"RDMA_CM_JOIN_MC_ATTR_ADDRESS": 1, "RDMA_CM_JOIN_MC_ATTR_JOIN_FLAGS": 2},
    "rdma_cm_mc_join_flags": {"RDMA_MC_JOIN_FLAG_FULLMEMBER": 0, "RDMA_MC_JOIN_FLAG_SENDONLY_FULLMEMBER": 1},
    "rdma_option": {"RDMA_OPTION_ID": 0, "RDMA_OPTION_IB": 1},
    "rdma_option_id": {
        "RDMA_OPTION_ID_TOS": 0, "RDMA_OPTION_ID_REUSEADDR": 1, "RDMA_OPTION_ID_AFONLY": 2, "RDMA_OPTION_ID_ACK_TIMEOUT": 3,
    },
}  # fmt: skip


def _build() -> dict[str, object]:
    names: dict[str, object] = {}
    for title, members in ENUMS.items():
        kind = make_enum(title, members)
        names[title] = kind
        names.update(kind.__members__)
    return names


NAMES: Final = _build()
globals().update(NAMES)
