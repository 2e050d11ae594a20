"""What every test shares: Hypothesis without a deadline, the same examples on every run of the gate, nothing left at home."""

import atexit
import os
import shutil
import signal
import tempfile
from collections.abc import Generator

import pytest
from hypothesis import settings

from iov.debug import set_debug
from tests import ledger

settings.register_profile("netfs", deadline=None, print_blob=True, derandomize="CI" in os.environ)
settings.load_profile("netfs")
set_debug(True)  # mistakes with memory that the product forgives are errors in tests

os.environ["XDG_STATE_HOME"] = tempfile.mkdtemp(prefix="netfs-state-")
atexit.register(shutil.rmtree, os.environ["XDG_STATE_HOME"], ignore_errors=True)

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # As in the background of a shell; every program that a test starts and interrupts would ignore it too.
    signal.signal(signal.SIGINT, signal.default_int_handler)

ledger.install()  # no key meets a nonce twice, whatever a test is about


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """Let vectors and tests of one sealed thing choose their nonces."""
    if item.get_closest_marker("chosen_nonces") is None:
        return (yield)
    with ledger.chosen_nonces():
        return (yield)
