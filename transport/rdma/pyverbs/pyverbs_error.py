"""Sans-IO. The exceptions of pyverbs, and the one place where the device's errors become them; owns no memory."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from transport.rdma.errors import VerbsError

__all__ = ["PyverbsError", "PyverbsRDMAError", "PyverbsUserError", "translated"]


class PyverbsError(Exception):
    """Any error of pyverbs."""

    def __init__(self, msg: str = "", error_code: int = -1) -> None:
        super().__init__(msg)
        self.error_code = error_code


class PyverbsRDMAError(PyverbsError):
    """A verb failed; `error_code` is its errno."""

    def __init__(self, msg: str, error_code: int = 0) -> None:
        if error_code:
            msg = f"{msg}. Errno: {error_code}, {os.strerror(abs(error_code))}"
        super().__init__(msg, error_code)


class PyverbsUserError(PyverbsError):
    """The program misused pyverbs itself."""


@contextmanager
def translated(msg: str) -> Iterator[None]:
    """Turn the device's errors of a block into `PyverbsRDMAError`; the broken rule is part of the message."""
    try:
        yield
    except VerbsError as error:
        raise PyverbsRDMAError(f"{msg} ({error.rule})", error.errno) from error
