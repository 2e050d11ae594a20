"""Sans-IO. pyverbs.fork: nothing is needed, the device's memory is the process's. Owns no memory."""

__all__ = ["fork_init", "is_fork_initialized"]

UNNEEDED = 2


def fork_init() -> None:
    """Do nothing."""


def is_fork_initialized() -> int:
    """Return IBV_FORK_UNNEEDED."""
    return UNNEEDED
