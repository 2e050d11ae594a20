"""What becomes of the errors of the layers below at the public edge."""

import errno

import pytest

from crypto.errors import IntegrityError
from netfs.errors import NotReachable, status_error, translate
from transport.errors import HelloMismatch, ProtocolError, TransportError


@pytest.mark.parametrize(
    ("error", "kind", "code"),
    [
        (status_error(errno.ENOENT), FileNotFoundError, errno.ENOENT),
        (status_error(errno.EACCES), PermissionError, errno.EACCES),
        (status_error(errno.ENOTEMPTY), OSError, errno.ENOTEMPTY),
        (OSError(errno.ENODATA, "a read that ended nowhere"), OSError, errno.EIO),
        (OSError(errno.ECANCELED, "abandoned"), InterruptedError, errno.EINTR),
        (TransportError(errno.ECONNRESET, "gone", retryable=True), NotReachable, errno.ECONNRESET),
        (ProtocolError("nonsense"), NotReachable, errno.EPROTO),
        (HelloMismatch("not a netfs server"), NotReachable, errno.EPROTONOSUPPORT),
    ],
)
def test_translation(error: Exception, kind: type[OSError], code: int) -> None:
    seen = translate(error, "/path")
    assert isinstance(seen, kind)
    assert (seen.errno, seen.filename) == (code, "/path")
    assert "\n" not in str(seen)


def test_failed_verification_is_ebadmsg() -> None:
    seen = translate(IntegrityError("a tag failed", block_no=3), "/f")
    assert isinstance(seen, OSError) and seen.errno == errno.EBADMSG


@pytest.mark.parametrize("status", [3999, 0xFFFF])
def test_a_status_that_is_no_errors_number_is_no_errno(status: int) -> None:
    error = status_error(status)
    assert error.errno == errno.EPROTO
    assert str(status) in str(error)
    assert isinstance(status_error(errno.ENOENT), FileNotFoundError)


def test_what_is_translated_stays_and_defects_pass() -> None:
    once = translate(TransportError(errno.EPIPE, "gone"), "/a")
    assert translate(once, "/b") is once
    for defect in (AssertionError("x"), KeyError("y"), TypeError("z")):
        assert translate(defect, "/p") is defect


def test_a_path_of_its_own_is_kept_when_there_is_no_better_one() -> None:
    seen = translate(OSError(errno.EIO, "bad", "/inner"), None)
    assert isinstance(seen, OSError) and seen.filename == "/inner"


def test_the_peer_is_named_once() -> None:
    found = translate(HelloMismatch("127.0.0.1:80: not a netfs server"), "127.0.0.1:80")
    assert isinstance(found, NotReachable)
    assert str(found).count("127.0.0.1:80") == 1
