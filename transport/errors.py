"""Sans-IO. The errors of the transport layer; each carries an errno, and `retryable` steers the retry policy.

The public edge (`netfs/errors.py`) turns them into `OSError` with the path. Owns no memory.
"""

import errno

__all__ = ["HelloMismatch", "LeftSilently", "NotTrusted", "ProtocolError", "SmallerLimits", "TransportError"]


class TransportError(Exception):
    """A call whose outcome the wire did not tell: the connection failed, timed out or was closed.

    retryable: true when the same call may be sent again on a new connection (idempotent, or never left this side).
    """

    def __init__(self, code: int, text: str, *, retryable: bool = False) -> None:
        super().__init__(text)
        self.errno = code
        self.retryable = retryable


class ProtocolError(TransportError):
    """The peer broke the protocol; the connection is closed and nothing it said after that is believed."""

    def __init__(self, text: str) -> None:
        super().__init__(errno.EPROTO, text)


class SmallerLimits(TransportError):
    """A call that was never sent: it was made for larger limits than those of the connection there is now. Cut it anew."""

    def __init__(self, text: str) -> None:
        super().__init__(errno.EMSGSIZE, f"the server takes less at once now: {text}", retryable=True)


class HelloMismatch(TransportError):
    """The peer is not one of ours, or no version or feature set is common to both."""

    def __init__(self, text: str) -> None:
        super().__init__(errno.EPROTONOSUPPORT, text)


class LeftSilently(HelloMismatch):
    """The peer closed the connection before it said anything: it looked whether somebody is there, or at whose key this is."""


class NotTrusted(TransportError):
    """The peer's key is not the one we know, or the peer does not let ours in."""

    def __init__(self, text: str) -> None:
        super().__init__(errno.EACCES, text)
