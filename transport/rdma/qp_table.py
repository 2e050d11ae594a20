"""Sans-IO. The state table of a queue pair: which transitions exist, what each requires and what it allows beside that.

Theory of operation. A modify names a target state and a mask of attributes. The row (from, to) must exist; every bit of
`required` must be in the mask, and none outside required and optional (STATE is implied). Else EINVAL and nothing changes.
Rows are those of the kernel's `qp_state_table` for RC and UD; "any to RESET" and "any but RESET to ERR" are written out.

    RESET -> INIT -> RTR -> RTS <-> SQD          any -> RESET, any but RESET -> ERR; SQE exists for UD alone
"""

from typing import Final

from transport.rdma.enums import AttrMask, QPState, QPType

__all__ = ["TABLE", "Row", "find_row"]

Row = tuple[int, int]
"""Required and optional attribute bits."""

M = AttrMask
S = QPState
NOTHING: Final[Row] = (0, 0)

_ALWAYS: Final[dict[tuple[QPState, QPState], Row]] = {
    (S.RESET, S.RESET): NOTHING,
    (S.INIT, S.RESET): NOTHING,
    (S.RTR, S.RESET): NOTHING,
    (S.RTS, S.RESET): NOTHING,
    (S.SQD, S.RESET): NOTHING,
    (S.SQE, S.RESET): NOTHING,
    (S.ERR, S.RESET): NOTHING,
    (S.INIT, S.ERR): NOTHING,
    (S.RTR, S.ERR): NOTHING,
    (S.RTS, S.ERR): NOTHING,
    (S.SQD, S.ERR): NOTHING,
    (S.SQE, S.ERR): NOTHING,
    (S.ERR, S.ERR): NOTHING,
}

_RC_LIVE: Final = M.CUR_STATE | M.ACCESS_FLAGS | M.ALT_PATH | M.MIN_RNR_TIMER | M.PATH_MIG_STATE
_RC: Final[dict[tuple[QPState, QPState], Row]] = {
    **_ALWAYS,
    (S.RESET, S.INIT): (M.PKEY_INDEX | M.PORT | M.ACCESS_FLAGS, 0),
    (S.INIT, S.INIT): (0, M.PKEY_INDEX | M.PORT | M.ACCESS_FLAGS),
    (S.INIT, S.RTR): (
        M.AV | M.PATH_MTU | M.DEST_QPN | M.RQ_PSN | M.MAX_DEST_RD_ATOMIC | M.MIN_RNR_TIMER,
        M.ALT_PATH | M.ACCESS_FLAGS | M.PKEY_INDEX,
    ),
    (S.RTR, S.RTS): (M.TIMEOUT | M.RETRY_CNT | M.RNR_RETRY | M.SQ_PSN | M.MAX_QP_RD_ATOMIC, _RC_LIVE),
    (S.RTS, S.RTS): (0, _RC_LIVE),
    (S.RTS, S.SQD): (0, M.EN_SQD_ASYNC_NOTIFY),
    (S.SQD, S.RTS): (0, _RC_LIVE),
    (S.SQD, S.SQD): (
        0,
        M.PORT | M.AV | M.TIMEOUT | M.RETRY_CNT | M.RNR_RETRY | M.MAX_QP_RD_ATOMIC | M.MAX_DEST_RD_ATOMIC | M.ALT_PATH
        | M.ACCESS_FLAGS | M.PKEY_INDEX | M.MIN_RNR_TIMER | M.PATH_MIG_STATE,
    ),
}  # fmt: skip

_UD: Final[dict[tuple[QPState, QPState], Row]] = {
    **_ALWAYS,
    (S.RESET, S.INIT): (M.PKEY_INDEX | M.PORT | M.QKEY, 0),
    (S.INIT, S.INIT): (0, M.PKEY_INDEX | M.PORT | M.QKEY),
    (S.INIT, S.RTR): (0, M.PKEY_INDEX | M.QKEY),
    (S.RTR, S.RTS): (M.SQ_PSN, M.CUR_STATE | M.QKEY),
    (S.RTS, S.RTS): (0, M.CUR_STATE | M.QKEY),
    (S.RTS, S.SQD): (0, M.EN_SQD_ASYNC_NOTIFY),
    (S.SQD, S.RTS): (0, M.CUR_STATE | M.QKEY),
    (S.SQD, S.SQD): (0, M.PKEY_INDEX | M.QKEY),
    (S.SQE, S.RTS): (0, M.CUR_STATE | M.QKEY),
}

TABLE: Final[dict[QPType, dict[tuple[QPState, QPState], Row]]] = {QPType.RC: _RC, QPType.UD: _UD}


def find_row(qp_type: QPType, old: QPState, new: QPState, mask: int) -> str | None:
    """Return None when the modify is legal, else the rule it breaks."""
    row = TABLE[qp_type].get((old, new))
    if row is None:
        return f"no transition from {old.name} to {new.name}"
    required, optional = row
    missing = int(required) & ~mask
    if missing:
        return f"{old.name} to {new.name} needs {AttrMask(missing)!r}"
    extra = mask & ~int(required | optional | M.STATE)
    if extra:
        return f"{old.name} to {new.name} does not take {AttrMask(extra)!r}"
    return None
