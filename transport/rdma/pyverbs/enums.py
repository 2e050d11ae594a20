"""Sans-IO. The names of libibverbs' enumerations with their numbers, as pyverbs shows them; owns no memory.

Each enumeration is here by its C name, and so is each of its members. Flags can be or-ed, all can be iterated. Names with a
leading underscore are those that pyverbs gives as plain integers.
"""

import enum
from typing import Final

from transport.rdma.enums import (
    Access,
    AttrMask,
    EventType,
    Mtu,
    MwType,
    NodeType,
    Opcode,
    QPState,
    QPType,
    ReregFlag,
    SendFlag,
    WcFlag,
    WcOpcode,
    WcStatus,
)

__all__ = ["NAMES", "make_enum", "make_flags"]


def _of(prefix: str, source: type[enum.IntEnum] | type[enum.IntFlag], **renamed: str) -> dict[str, int]:
    """Return C names for one of the device's own enumerations."""
    return {f"{prefix}_{renamed.get(member.name or '', member.name or '')}": int(member) for member in source if member.name}


def _from(prefix: str, names: str, start: int = 0) -> dict[str, int]:
    """Number names upwards."""
    return {f"{prefix}_{name}": start + index for index, name in enumerate(names.split())}


def _bits(prefix: str, names: str, start: int = 0) -> dict[str, int]:
    """Give names one bit each, upwards from bit `start`; a dash skips one."""
    return {f"{prefix}_{name}": 1 << (start + index) for index, name in enumerate(names.split()) if name != "-"}


ENUMS: Final[dict[str, dict[str, int]]] = {
    "ibv_qp_type": _of("IBV_QPT", QPType),
    "ibv_qp_state": {**_of("IBV_QPS", QPState), "IBV_QPS_UNKNOWN": 7},
    "ibv_wr_opcode": {
        **_of(
            "IBV_WR", Opcode, WRITE="RDMA_WRITE", WRITE_WITH_IMM="RDMA_WRITE_WITH_IMM", READ="RDMA_READ",
            CMP_AND_SWP="ATOMIC_CMP_AND_SWP", FETCH_AND_ADD="ATOMIC_FETCH_AND_ADD",
        ),
        "IBV_WR_DRIVER1": 11,
    },
    "ibv_wc_status": {**_of("IBV_WC", WcStatus, TM_ERR="TM_ERR")},
    "ibv_wc_opcode": {
        **{name: value for name, value in _of("IBV_WC", WcOpcode).items() if name != "IBV_WC_REG_MR"},
        **_from("IBV_WC", "TM_ADD TM_DEL TM_SYNC TM_RECV TM_NO_TAG", 130),
    },
    "ibv_mw_type": _of("IBV_MW", MwType),
    "ibv_mtu": {f"IBV_{member.name}": int(member) for member in Mtu},
    "ibv_node_type": {"IBV_NODE_UNKNOWN": -1, **_of("IBV_NODE", NodeType), "IBV_NODE_SWITCH": 2, "IBV_NODE_ROUTER": 3,
                      "IBV_NODE_USNIC": 5, "IBV_NODE_USNIC_UDP": 6, "IBV_NODE_UNSPECIFIED": 7},
    "ibv_event_type": {f"IBV_EVENT_{member.name}": int(member) for member in EventType},
    "ibv_atomic_cap": _from("IBV_ATOMIC", "NONE HCA GLOB"),
    "ibv_port_state": _from("IBV_PORT", "NOP DOWN INIT ARMED ACTIVE ACTIVE_DEFER"),
    "ibv_link_layer": _from("IBV_LINK_LAYER", "UNSPECIFIED INFINIBAND ETHERNET"),
    "ibv_gid_type_sysfs": _from("IBV_GID_TYPE_SYSFS", "IB_ROCE_V1 ROCE_V2"),
    "ibv_gid_type": _from("IBV_GID_TYPE", "IB ROCE_V1 ROCE_V2"),
    "ibv_mig_state": _from("IBV_MIG", "MIGRATED REARM ARMED"),
    "ibv_srq_type": _from("IBV_SRQT", "BASIC XRC TM"),
    "ibv_wq_type": _from("IBV_WQT", "RQ"),
    "ibv_wq_state": _from("IBV_WQS", "RESET RDY ERR UNKNOWN"),
    "ibv_fork_status": _from("IBV_FORK", "DISABLED ENABLED UNNEEDED"),
    "ibv_flow_spec_type": {"IBV_FLOW_SPEC_ETH": 0x20, "IBV_FLOW_SPEC_IPV4": 0x30, "IBV_FLOW_SPEC_IPV6": 0x31,
                           "IBV_FLOW_SPEC_IPV4_EXT": 0x32, "IBV_FLOW_SPEC_TCP": 0x40, "IBV_FLOW_SPEC_UDP": 0x41},
    "ibv_ops_wr_opcode": _from("IBV_WR_TAG", "ADD DEL SYNC"),
    "ibv_tmh_op": _from("IBV_TMH", "NO_TAG RNDV FIN EAGER"),
    "ibv_transport_type": {"IBV_TRANSPORT_UNKNOWN": -1, **_from("IBV_TRANSPORT", "IB IWARP")},
    "ibv_selectivity_level": _from("IBV_FLUSH", "RANGE MR"),
}  # fmt: skip

FLAGS: Final[dict[str, dict[str, int]]] = {
    "ibv_access_flags": {
        name: value
        for name, value in _of("IBV_ACCESS", Access).items()
        if name not in ("IBV_ACCESS_NONE", "IBV_ACCESS_FLUSH_GLOBAL", "IBV_ACCESS_FLUSH_PERSISTENT")
    },
    "ibv_send_flags": {name: value for name, value in _of("IBV_SEND", SendFlag).items() if value},
    "ibv_wc_flags": {
        **_of("IBV_WC", WcFlag), "IBV_WC_TM_SYNC_REQ": 16, "IBV_WC_TM_MATCH": 32, "IBV_WC_TM_DATA_VALID": 64,
    },
    "ibv_qp_attr_mask": {
        f"IBV_QP_{'RATE_LIMIT' if m is AttrMask.RATE_LIMIT else m.name}": int(m) for m in AttrMask if m is not AttrMask.CUR_STATE
    }
    | {"IBV_QP_CUR_STATE": 2},
    "ibv_rereg_mr_flags": _of("IBV_REREG_MR_CHANGE", ReregFlag),
    "ibv_odp_transport_cap_bits": _bits("IBV_ODP_SUPPORT", "SEND RECV WRITE READ ATOMIC SRQ_RECV"),
    "ibv_odp_general_caps": {"IBV_ODP_SUPPORT": 1, "IBV_ODP_SUPPORT_IMPLICIT": 2},
    "ibv_device_cap_flags": {
        "IBV_DEVICE_RESIZE_MAX_WR": 1, "IBV_DEVICE_BAD_PKEY_CNTR": 2, "IBV_DEVICE_CURR_QP_STATE_MOD": 128,
        "IBV_DEVICE_SRQ_RESIZE": 1 << 13, "IBV_DEVICE_MEM_WINDOW": 1 << 17, "IBV_DEVICE_XRC": 1 << 20,
        "IBV_DEVICE_MEM_MGT_EXTENSIONS": 1 << 21, "IBV_DEVICE_MEM_WINDOW_TYPE_2A": 1 << 23,
        "IBV_DEVICE_MEM_WINDOW_TYPE_2B": 1 << 24,
    },
    "ibv_qp_create_send_ops_flags": _bits(
        "IBV_QP_EX_WITH",
        "RDMA_WRITE RDMA_WRITE_WITH_IMM SEND SEND_WITH_IMM RDMA_READ ATOMIC_CMP_AND_SWP ATOMIC_FETCH_AND_ADD LOCAL_INV BIND_MW"
        " SEND_WITH_INV TSO FLUSH ATOMIC_WRITE",
    ),
    "ibv_qp_init_attr_mask": _bits(
        "IBV_QP_INIT_ATTR", "PD XRCD CREATE_FLAGS MAX_TSO_HEADER IND_TABLE RX_HASH SEND_OPS_FLAGS"
    ),
    "ibv_qp_create_flags": {
        "IBV_QP_CREATE_BLOCK_SELF_MCAST_LB": 2, "IBV_QP_CREATE_SCATTER_FCS": 1 << 8, "IBV_QP_CREATE_CVLAN_STRIPPING": 1 << 9,
        "IBV_QP_CREATE_SOURCE_QPN": 1 << 10, "IBV_QP_CREATE_PCI_WRITE_END_PADDING": 1 << 11,
    },
    "ibv_srq_attr_mask": {"IBV_SRQ_MAX_WR": 1, "IBV_SRQ_LIMIT": 2},
    "ibv_srq_init_attr_mask": _bits("IBV_SRQ_INIT_ATTR", "TYPE PD XRCD CQ TM"),
    "ibv_cq_init_attr_mask": {"IBV_CQ_INIT_ATTR_MASK_FLAGS": 1, "IBV_CQ_INIT_ATTR_MASK_PD": 2},
    "ibv_create_cq_wc_flags": _bits(
        "IBV_WC_EX_WITH",
        "BYTE_LEN IMM QP_NUM SRC_QP SLID SL DLID_PATH_BITS COMPLETION_TIMESTAMP CVLAN FLOW_TAG TM_INFO"
        " COMPLETION_TIMESTAMP_WALLCLOCK",
    ),
    "ibv_create_cq_attr_flags": {"IBV_CREATE_CQ_ATTR_SINGLE_THREADED": 1, "IBV_CREATE_CQ_ATTR_IGNORE_OVERRUN": 2},
    "ibv_xrcd_init_attr_mask": {"IBV_XRCD_INIT_ATTR_FD": 1, "IBV_XRCD_INIT_ATTR_OFLAGS": 2},
    "ibv_wq_attr_mask": {"IBV_WQ_ATTR_STATE": 1, "IBV_WQ_ATTR_CURR_STATE": 2, "IBV_WQ_ATTR_FLAGS": 4},
    "ibv_rx_hash_function_flags": {"IBV_RX_HASH_FUNC_TOEPLITZ": 1},
    "ibv_rx_hash_fields": _bits("IBV_RX_HASH", "SRC_IPV4 DST_IPV4 SRC_IPV6 DST_IPV6"),
    "ibv_raw_packet_caps": _bits("IBV_RAW_PACKET_CAP", "CVLAN_STRIPPING SCATTER_FCS IP_CSUM DELAY_DROP"),
    "ibv_tm_cap_flags": {"IBV_TM_CAP_RC": 1},
    "ibv_ops_flags": {"IBV_OPS_SIGNALED": 1, "IBV_OPS_TM_SYNC": 2},
    "ibv_placement_type": {"IBV_FLUSH_GLOBAL": 1, "IBV_FLUSH_PERSISTENT": 2},
}  # fmt: skip

PLAIN: Final[dict[str, int]] = {
    "IBV_WC_STANDARD_FLAGS": 0x7F,
    "IBV_ACCESS_FLUSH_GLOBAL": int(Access.FLUSH_GLOBAL),
    "IBV_ACCESS_FLUSH_PERSISTENT": int(Access.FLUSH_PERSISTENT),
    "_IBV_DEVICE_RAW_SCATTER_FCS": 1 << 34,
    "_IBV_DEVICE_PCI_WRITE_END_PADDING": 1 << 36,
    "_IBV_ALLOCATOR_USE_DEFAULT": (1 << 64) - 1,
    "_IBV_ADVISE_MR_ADVICE_PREFETCH": 0,
    "_IBV_ADVISE_MR_ADVICE_PREFETCH_WRITE": 1,
    "_IBV_ADVISE_MR_ADVICE_PREFETCH_NO_FAULT": 2,
    "_IBV_ADVISE_MR_FLAG_FLUSH": 1,
    "IBV_QPF_GRH_REQUIRED": 1,
}


def make_enum(title: str, members: dict[str, int]) -> type[enum.Enum]:
    """Make an enumeration from its table."""
    return enum.IntEnum(title, list(members.items()))  # type: ignore[return-value]


def make_flags(title: str, members: dict[str, int]) -> type[enum.Enum]:
    """Make flags from their table."""
    return enum.IntFlag(title, list(members.items()))  # type: ignore[return-value]


def _build() -> dict[str, object]:
    names: dict[str, object] = dict(PLAIN)
    kinds = [make_enum(title, members) for title, members in ENUMS.items()]
    kinds += [make_flags(title, members) for title, members in FLAGS.items()]
    for kind in kinds:
        names[kind.__name__] = kind
        names.update(kind.__members__)
    return names


NAMES: Final = _build()
globals().update(NAMES)
