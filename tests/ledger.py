"""A ledger of every encryption of the whole run: no key may meet one nonce with two plaintexts (`trials/checkers/nonces.py`).

A simulation that is run twice encrypts the same twice, which tells nobody anything; anything else that repeats a nonce fails
the test in which it happens, whatever that test is about. What a test encrypts with chosen nonces, as a vector does, goes around
the door or has `chosen_nonces`.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from trials.checkers.nonces import Ledger, NonceUsedTwice, watch

__all__ = ["NonceUsedTwice", "chosen_nonces", "entries", "install", "world"]

LEDGER = Ledger()
WORLDS: dict[str, Ledger] = {}
FOREVER = ExitStack()


def entries() -> int:
    """Return how many encryptions are noted."""
    return sum(len(ledger.seen) for ledger in (LEDGER, *WORLDS.values()))


@contextmanager
def chosen_nonces() -> Iterator[None]:
    """Let the block use nonces as it likes."""
    LEDGER.watching = False
    try:
        yield
    finally:
        LEDGER.watching = True


@contextmanager
def world(name: str) -> Iterator[None]:
    """Keep what the block encrypts apart: simulations that begin with one seed draw the same keys and nonces, each for itself."""
    with watch(WORLDS.setdefault(name, Ledger())):
        yield


def install() -> None:
    """Stand at the door, for the rest of the process."""
    FOREVER.enter_context(watch(LEDGER))
