"""Sans-IO. pyverbs.utils: names for numbers. Owns no memory."""

from typing import Final

from transport.rdma.enums import STATUS_TEXT, Access, QPState

__all__ = [
    "access_flags_to_str", "cqe_status_to_str", "gid_str", "gid_str_to_array", "mtu_to_str", "qp_state_to_str", "qp_type_to_str",
    "wc_status_to_str",
]  # fmt: skip

TYPES: Final = {2: "RC", 3: "UC", 4: "UD", 8: "Raw Packet", 9: "XRCSend", 10: "XRCRecv", 255: "Driver QP"}


def qp_type_to_str(qp_type: int) -> str:
    """Name a service."""
    return TYPES.get(int(qp_type), f"Unknown {qp_type}")


def qp_state_to_str(qp_state: int) -> str:
    """Name a state."""
    return QPState(int(qp_state)).name if 0 <= int(qp_state) <= QPState.ERR else f"Unknown {qp_state}"


def mtu_to_str(mtu: int) -> str:
    """Name an MTU code by its bytes."""
    return str(128 << int(mtu)) if 1 <= int(mtu) <= 5 else "0"


def access_flags_to_str(flags: int) -> str:
    """Name each permission."""
    return " ".join(flag.name or "" for flag in Access if flag and int(flags) & flag)


def wc_status_to_str(status: int) -> str:
    """Name a completion's status."""
    return STATUS_TEXT.get(int(status), f"Unknown {status}")


cqe_status_to_str = wc_status_to_str


def gid_str(subnet_prefix: int, interface_id: int) -> str:
    """Return the text of a GID."""
    raw = subnet_prefix.to_bytes(8, "big") + interface_id.to_bytes(8, "big")
    return ":".join(raw[index : index + 2].hex() for index in range(0, 16, 2))


def gid_str_to_array(val: str) -> list[str]:
    """Return the bytes of a GID's text, as digits."""
    digits = val.replace(":", "")
    return [digits[index : index + 2] for index in range(0, 32, 2)]
