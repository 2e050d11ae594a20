"""What every test shares: Hypothesis without a deadline, the same examples on every run of the gate, nothing left at home."""

import atexit
import os
import shutil
import tempfile

from hypothesis import settings

from iov.debug import set_debug

settings.register_profile("netfs", deadline=None, print_blob=True, derandomize="CI" in os.environ)
settings.load_profile("netfs")
set_debug(True)  # mistakes with memory that the product forgives are errors in tests

os.environ["XDG_STATE_HOME"] = tempfile.mkdtemp(prefix="netfs-state-")
atexit.register(shutil.rmtree, os.environ["XDG_STATE_HOME"], ignore_errors=True)
