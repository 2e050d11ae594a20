"""Sans-IO. The public edge of errors: whatever a layer below reports becomes one plain `OSError` with errno and path.

Only here are the errors of the transport, of the cipher and of the server translated; `retryable` and what a connection error is
are looked at nowhere else. Owns no memory.
"""

import errno
import os
from typing import Final

from iov.probe import Probe
from transport.errors import TransportError

__all__ = ["NotReachable", "status_error", "translate"]

# errno as it arises below -> errno as the user sees it.
EDGE_ERRNO: Final = {
    errno.ENODATA: errno.EIO,  # a read that ended nowhere
    errno.ECANCELED: errno.EINTR,
}


class NotReachable(ConnectionError):
    """The other side is not there, is not ours, or went away."""


def status_error(status: int) -> OSError:
    """Make the error for a status a server answered with; EPROTO for one that is no error's number."""
    if status not in errno.errorcode:
        return OSError(errno.EPROTO, f"the server answered with the status {status}, which is no error")
    return OSError(status, os.strerror(status))


def translate(error: Exception, path: str | None, probe: Probe | None = None) -> Exception:
    """Return the error to raise to the user for one from below; what the server is to blame for is told to the probe as `audit`.

    An `OSError` keeps its errno, and with it its subclass (FileNotFoundError and so on). A transport error is a `NotReachable`,
    which is a ConnectionError; anything else that carries an errno (a failed verification: EBADMSG) an OSError with that errno
    and its text. What carries none is a defect, not an operating error, and is returned as it is.
    """
    if isinstance(error, NotReachable):
        return error
    code = getattr(error, "errno", None)
    if not isinstance(code, int):
        return error
    if isinstance(error, TransportError):
        return NotReachable(code, str(error).removeprefix(f"{path}: "), path)
    if probe is not None and probe.sink is not None:
        file_id = getattr(error, "file_id", None)
        if isinstance(file_id, bytes):
            probe.sink("audit", (path or "", file_id.hex(), getattr(error, "block_no", -1), code, str(error)))
    code = EDGE_ERRNO.get(code, code)
    if isinstance(error, OSError):
        return OSError(code, error.strerror or os.strerror(code), path if path is not None else error.filename)
    return OSError(code, str(error), path)
