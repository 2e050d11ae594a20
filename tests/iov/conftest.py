"""The tests of memory itself look at both modes: debug mode is off unless a test asks for it."""

from collections.abc import Iterator

import pytest

from iov.debug import set_debug


@pytest.fixture(autouse=True, scope="package")
def _forgiving() -> Iterator[None]:
    before = set_debug(False)
    yield
    set_debug(before)
