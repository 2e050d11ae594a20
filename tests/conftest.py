"""What every test shares: Hypothesis without a deadline, and the same examples on every run of the gate."""

import os

from hypothesis import settings

from iov.debug import set_debug

settings.register_profile("netfs", deadline=None, print_blob=True, derandomize="CI" in os.environ)
settings.load_profile("netfs")
set_debug(True)  # mistakes with memory that the product forgives are errors in tests
