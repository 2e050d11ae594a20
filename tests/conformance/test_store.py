"""The store suite over every store; what only a real folder has; random operations against the kernel's own answers."""

from collections.abc import Callable, Iterator

import pytest

from iov.probe import Probe
from servers.stores.base import Store
from tests.conformance import store_suite, store_suite_names, store_suite_posix, store_suite_transact
from tests.conformance.store_words import KINDS, opened

Check = Callable[[Store], None]
SUITES = (store_suite, store_suite_names, store_suite_posix, store_suite_transact)
FOUND = [item for suite in SUITES for item in vars(suite).items()]
CHECKS: tuple[Check, ...] = tuple(check for name, check in FOUND if name.startswith("check_"))
COPYING = ("transact", "aux_and_record", "write_from", "copy_range", "landing_apart")
"""Checks of what a store may copy for."""


@pytest.fixture
def probe() -> Probe:
    return Probe()


@pytest.fixture(params=[*KINDS, "crashable"])
def store(request: pytest.FixtureRequest, probe: Probe) -> Iterator[Store]:
    with opened(request.param, probe) as made:
        yield made


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__.removeprefix("check_"))
def test_store(check: Check, store: Store, probe: Probe) -> None:
    probe.reset()
    check(store)
    if not any(word in check.__name__ for word in COPYING):
        assert probe.payload_copies == 0


def test_every_method_of_a_store_is_checked() -> None:
    assert len(CHECKS) > 60
