"""What every test shares: Hypothesis without a deadline, the same examples on every run of the gate; a folder in memory."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("netfs", deadline=None, print_blob=True, derandomize="CI" in os.environ)
settings.load_profile("netfs")


@pytest.fixture
def memory_folder() -> Iterator[Path]:
    if not os.access("/dev/shm", os.W_OK):
        pytest.skip("no writable memory filesystem")
    path = Path(tempfile.mkdtemp(dir="/dev/shm"))
    yield path
    shutil.rmtree(path)
