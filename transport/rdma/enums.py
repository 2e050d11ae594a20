"""Sans-IO. The numbers of the verbs interface, as the Linux uapi has them; owns no memory.

The hot path compares plain integers: an `IntFlag` operation costs ten times an integer's.
"""

import enum
from typing import Final

__all__ = [
    "STATUS_TEXT",
    "Access",
    "AttrMask",
    "EventType",
    "FlushLevel",
    "FlushType",
    "MrState",
    "Mtu",
    "MwType",
    "NodeType",
    "Opcode",
    "QPState",
    "QPType",
    "ReregFlag",
    "SendFlag",
    "WcFlag",
    "WcOpcode",
    "WcStatus",
]


class Opcode(enum.IntEnum):
    """What a work request asks for. REG_MR is a kernel verb; the uapi gives it a driver's private number."""

    WRITE = 0
    WRITE_WITH_IMM = 1
    SEND = 2
    SEND_WITH_IMM = 3
    READ = 4
    CMP_AND_SWP = 5
    FETCH_AND_ADD = 6
    LOCAL_INV = 7
    BIND_MW = 8
    SEND_WITH_INV = 9
    TSO = 10
    FLUSH = 14
    ATOMIC_WRITE = 15
    REG_MR = 32


class WcOpcode(enum.IntEnum):
    """What a completion completes."""

    SEND = 0
    RDMA_WRITE = 1
    RDMA_READ = 2
    COMP_SWAP = 3
    FETCH_ADD = 4
    BIND_MW = 5
    LOCAL_INV = 6
    TSO = 7
    FLUSH = 8
    ATOMIC_WRITE = 9
    REG_MR = 10
    RECV = 128
    RECV_RDMA_WITH_IMM = 129


class WcStatus(enum.IntEnum):
    """Outcome of a work request."""

    SUCCESS = 0
    LOC_LEN_ERR = 1
    LOC_QP_OP_ERR = 2
    LOC_EEC_OP_ERR = 3
    LOC_PROT_ERR = 4
    WR_FLUSH_ERR = 5
    MW_BIND_ERR = 6
    BAD_RESP_ERR = 7
    LOC_ACCESS_ERR = 8
    REM_INV_REQ_ERR = 9
    REM_ACCESS_ERR = 10
    REM_OP_ERR = 11
    RETRY_EXC_ERR = 12
    RNR_RETRY_EXC_ERR = 13
    LOC_RDD_VIOL_ERR = 14
    REM_INV_RD_REQ_ERR = 15
    REM_ABORT_ERR = 16
    INV_EECN_ERR = 17
    INV_EEC_STATE_ERR = 18
    FATAL_ERR = 19
    RESP_TIMEOUT_ERR = 20
    GENERAL_ERR = 21
    TM_ERR = 22
    TM_RNDV_INCOMPLETE = 23


STATUS_TEXT: Final[dict[int, str]] = {
    0: "success",
    1: "local length error",
    2: "local QP operation error",
    3: "local EE context operation error",
    4: "local protection error",
    5: "Work Request Flushed Error",
    6: "memory management operation error",
    7: "bad response error",
    8: "local access error",
    9: "remote invalid request error",
    10: "remote access error",
    11: "remote operation error",
    12: "transport retry counter exceeded",
    13: "RNR retry counter exceeded",
    14: "local RDD violation error",
    15: "remote invalid RD request",
    16: "aborted error",
    17: "invalid EE context number",
    18: "invalid EE context state",
    19: "fatal error",
    20: "response timeout error",
    21: "general error",
    22: "TM error",
    23: "TM software rendezvous",
}


class WcFlag(enum.IntFlag):
    """Which optional fields of a completion hold a value."""

    GRH = 1
    WITH_IMM = 2
    IP_CSUM_OK = 4
    WITH_INV = 8


class SendFlag(enum.IntFlag):
    """Modifiers of a send work request."""

    NONE = 0
    FENCE = 1
    SIGNALED = 2
    SOLICITED = 4
    INLINE = 8
    IP_CSUM = 16


class Access(enum.IntFlag):
    """What a registration allows beside local reading, which is always on."""

    NONE = 0
    LOCAL_WRITE = 1
    REMOTE_WRITE = 2
    REMOTE_READ = 4
    REMOTE_ATOMIC = 8
    MW_BIND = 16
    ZERO_BASED = 32
    ON_DEMAND = 64
    HUGETLB = 128
    FLUSH_GLOBAL = 256
    FLUSH_PERSISTENT = 512
    RELAXED_ORDERING = 1 << 20


class FlushType(enum.IntFlag):
    """How far a FLUSH pushes the data."""

    GLOBAL = 1
    PERSISTENT = 2


class FlushLevel(enum.IntEnum):
    """What a FLUSH covers."""

    RANGE = 0
    MR = 1


class QPState(enum.IntEnum):
    """State of a queue pair."""

    RESET = 0
    INIT = 1
    RTR = 2
    RTS = 3
    SQD = 4
    SQE = 5
    ERR = 6


class QPType(enum.IntEnum):
    """Service of a queue pair; only RC and UD are emulated."""

    RC = 2
    UC = 3
    UD = 4
    RAW_PACKET = 8
    XRC_SEND = 9
    XRC_RECV = 10
    DRIVER = 255


class AttrMask(enum.IntFlag):
    """Which attributes a modify carries."""

    STATE = 1 << 0
    CUR_STATE = 1 << 1
    EN_SQD_ASYNC_NOTIFY = 1 << 2
    ACCESS_FLAGS = 1 << 3
    PKEY_INDEX = 1 << 4
    PORT = 1 << 5
    QKEY = 1 << 6
    AV = 1 << 7
    PATH_MTU = 1 << 8
    TIMEOUT = 1 << 9
    RETRY_CNT = 1 << 10
    RNR_RETRY = 1 << 11
    RQ_PSN = 1 << 12
    MAX_QP_RD_ATOMIC = 1 << 13
    ALT_PATH = 1 << 14
    MIN_RNR_TIMER = 1 << 15
    SQ_PSN = 1 << 16
    MAX_DEST_RD_ATOMIC = 1 << 17
    PATH_MIG_STATE = 1 << 18
    CAP = 1 << 19
    DEST_QPN = 1 << 20
    RATE_LIMIT = 1 << 25


class Mtu(enum.IntEnum):
    """Path MTU codes; the size is 128 << code."""

    MTU_256 = 1
    MTU_512 = 2
    MTU_1024 = 3
    MTU_2048 = 4
    MTU_4096 = 5


class EventType(enum.IntEnum):
    """Asynchronous events."""

    CQ_ERR = 0
    QP_FATAL = 1
    QP_REQ_ERR = 2
    QP_ACCESS_ERR = 3
    COMM_EST = 4
    SQ_DRAINED = 5
    PATH_MIG = 6
    PATH_MIG_ERR = 7
    DEVICE_FATAL = 8
    PORT_ACTIVE = 9
    PORT_ERR = 10
    LID_CHANGE = 11
    PKEY_CHANGE = 12
    SM_CHANGE = 13
    SRQ_ERR = 14
    SRQ_LIMIT_REACHED = 15
    QP_LAST_WQE_REACHED = 16
    CLIENT_REREGISTER = 17
    GID_CHANGE = 18
    WQ_FATAL = 19
    DEVICE_SPEED_CHANGE = 20


class NodeType(enum.IntEnum):
    """What kind of adapter a device is."""

    CA = 1
    RNIC = 4


class MrState(enum.IntEnum):
    """Life of a key: FREE may be registered, VALID may be used, INVALID is gone for good."""

    FREE = 0
    VALID = 1
    INVALID = 2


class MwType(enum.IntEnum):
    """Kind of a memory window; type 2 is 2B: only the QP that bound it may use it."""

    TYPE_1 = 1
    TYPE_2 = 2


class ReregFlag(enum.IntFlag):
    """What a re-registration changes."""

    TRANSLATION = 1
    PD = 2
    ACCESS = 4
