"""What must be true of a trial's history, whatever went wrong in it."""

from trials.checkers.atomic import check_atomic
from trials.checkers.isolation import RedZones
from trials.checkers.leaks import check_leaks, store_streams
from trials.checkers.namespace import check_namespace
from trials.checkers.nonces import Ledger, ledger_of, watch
from trials.checkers.once import check_log
from trials.checkers.sessions import check_sessions

__all__ = [
    "Ledger",
    "RedZones",
    "check_atomic",
    "check_leaks",
    "check_log",
    "check_namespace",
    "check_sessions",
    "ledger_of",
    "store_streams",
    "watch",
]
