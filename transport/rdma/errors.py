"""Sans-IO. The one error of the verbs interface; the outcome of a posted work request is `WC.status`, never an exception.

Owns no memory.
"""

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transport.rdma.wr import RecvWR, SendWR

__all__ = ["VerbsError"]


class VerbsError(Exception):
    """A verb refused; nothing changed but for the work requests in front of `bad_wr`, which are posted.

    errno: positive, as the specification names it. rule: which rule was broken. bad_wr: the first request not posted.
    """

    def __init__(self, code: int, rule: str, bad_wr: "SendWR | RecvWR | None" = None) -> None:
        super().__init__(f"{rule}: {os.strerror(code)}")
        self.errno = code
        self.rule = rule
        self.bad_wr = bad_wr
