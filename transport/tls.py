"""Trio shell. TLS 1.3 as a byte stream: a non-blocking `ssl.SSLSocket`, tried first and waited for when it would block.

Views under a record (16 KiB) that follow one another are joined, so that a small message is one record; larger ones are handed to
TLS one by one, where they are. Both ways are three to four times as fast as through `trio.SSLStream`.

TLS may want to send in order to receive (it answers a key update), and to receive in order to send. So `recv_nowait` and
`send_nowait` remember what they wait for, and the waits below let one task at a time into Trio's, which takes only one for each
direction; others are woken with it and try again. A send that would block has sealed its bytes already and must be repeated with
the same ones: `ByteStream` promises that by what it says of `send_nowait`, which has sent nothing then.

A connection ends by TLS's close_notify. One that ends without it has been cut, by whomever: an error, never an end of the stream.
Ownership: views are lent for the call alone; the joined bytes are the stream's.
"""

import contextlib
import errno
import socket
import ssl
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import trio

from iov.probe import Probe
from transport.env import Env
from transport.errors import HelloMismatch, NotTrusted, TransportError
from transport.link import name_of
from transport.security import ALPN, peer_fingerprint
from transport.trust import Fingerprint

__all__ = ["HANDSHAKE_TIMEOUT_S", "TlsStream"]

HANDSHAKE_TIMEOUT_S: Final = 10.0
RECORD: Final = 16 << 10
SLICE: Final = 256 << 10
"""The most that is handed to TLS at a time; it is sealed and sent whole before anybody else has a turn."""
MAX_SEND: Final = 1 << 20
HANDSHAKE_RECORD: Final = 0x16
_SHAKING: Final = "in the TLS handshake"
ALERT_PROTOCOL_VERSION: Final = b"\x15\x03\x03\x00\x02\x02\x46"
_CUT: Final = "UNEXPECTED_EOF_WHILE_READING"
"""As older releases of Python 3.11 say it; others have an exception of its own."""
_REFUSALS: Final = ("ALERT_UNKNOWN_CA", "ALERT_BAD_CERTIFICATE", "CERTIFICATE_REQUIRED", "ALERT_CERTIFICATE", "ACCESS_DENIED")
_OLD: Final = ("UNSUPPORTED_PROTOCOL", "ALERT_PROTOCOL_VERSION")
_STRANGE: Final = ("CERTIFICATE_VERIFY_FAILED", "PEER_DID_NOT_RETURN_A_CERTIFICATE")


class _Door:
    """Lets one task wait for a socket; those who come meanwhile wait for that one."""

    __slots__ = ("_crowd", "_taken", "_wait")

    def __init__(self, wait: Callable[[socket.socket], Awaitable[None]]) -> None:
        self._wait = wait
        self._taken = False
        self._crowd = trio.lowlevel.ParkingLot()

    async def wait(self, sock: socket.socket) -> None:
        if self._taken:
            await self._crowd.park()
            return
        self._taken = True
        try:
            await self._wait(sock)
        finally:
            self._taken = False
            self._crowd.unpark_all()


class TlsStream:
    """One side of TLS over a connected socket, which belongs to the stream from here on; `handshake` comes first.

    fingerprint: of the peer's key, after the handshake; whether it is trusted is the caller's to say. own: of
    this side's, for errors. silent: nothing has been received since the handshake. vouched: an authority vouches for the peer,
    a server by its `name`; `certificate` is what it showed.
    """

    def __init__(
        self, sock: socket.socket, context: ssl.SSLContext, probe: Probe, *,
        server_side: bool, own: Fingerprint | None = None, vouched: bool = False, name: str | None = None,
    ) -> None:  # fmt: skip
        sock.setblocking(False)
        if sock.family in (socket.AF_INET, socket.AF_INET6):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.peer = name_of(sock)
        self.fingerprint: Fingerprint | None = None
        self.own = own
        self.silent = True
        self.certificate = b""
        self._vouched = vouched
        self._probe = probe
        self._role = "client" if server_side else "server"
        self._sock = context.wrap_socket(
            sock, server_side=server_side, do_handshake_on_connect=False, suppress_ragged_eofs=False, server_hostname=name
        )
        self._joined = memoryview(bytearray(RECORD))
        self._sealed = 0
        self._sealed_joined = False
        self._send_wants_read = self._recv_wants_write = False
        self._failure: Exception | None = None
        self._readable = _Door(trio.lowlevel.wait_readable)
        self._writable = _Door(trio.lowlevel.wait_writable)

    # ---- the handshake

    async def handshake(self, env: Env, timeout_s: float = HANDSHAKE_TIMEOUT_S) -> Fingerprint:
        """Agree on keys. Returns: the fingerprint of the peer's.

        Raises: HelloMismatch for a peer that is none of ours; NotTrusted when it refused us; TransportError when it broke off.
        Cancellation, and errors: the stream is closed.
        """
        try:
            with trio.CancelScope(deadline=env.now() + timeout_s):
                await self._shake()
                self.fingerprint = self._identify()
                return self.fingerprint
            raise HelloMismatch(f"{self.peer}: no TLS handshake in {timeout_s:g} s")
        except BaseException as error:
            self._drop()
            if isinstance(error, OSError):
                raise self._told(error, _SHAKING) from None
            raise

    async def _shake(self) -> None:
        if self._role == "client":
            await self._readable.wait(self._sock)
            self._refuse_plain()
        while True:
            try:
                self._sock.do_handshake()
                break
            except ssl.SSLWantReadError:
                await self._readable.wait(self._sock)
            except ssl.SSLWantWriteError:
                await self._writable.wait(self._sock)
        await trio.lowlevel.checkpoint()

    def _refuse_plain(self) -> None:
        """Tell a client that does not begin with TLS, in a way that both kinds understand: OpenSSL would not answer it."""
        first = socket.socket.recv(self._sock, 1, socket.MSG_PEEK)
        if first and first[0] != HANDSHAKE_RECORD:
            socket.socket.recv(self._sock, 1 << 16)  # unread bytes would make the close a reset
            with contextlib.suppress(OSError):
                socket.socket.send(self._sock, ALERT_PROTOCOL_VERSION)
            raise HelloMismatch(f"{self.peer}: not a netfs client over TLS: it began in the clear")

    def _identify(self) -> Fingerprint:
        if self._sock.version() != "TLSv1.3" or self._sock.selected_alpn_protocol() != ALPN:
            raise HelloMismatch(f"{self.peer}: not a netfs {self._role}: it speaks TLS for something else")
        self.certificate = self._sock.getpeercert(binary_form=True) or b""
        try:
            return peer_fingerprint(self.certificate, any_key=self._vouched)
        except ValueError as error:
            raise NotTrusted(f"{self.peer}: its certificate holds no key of ours: {error}") from None

    # ---- sending

    def send_nowait(self, views: Sequence[bytes | memoryview], more: bool = False) -> int:
        del more  # each call ends a record
        self._check()
        sent = index = off = 0
        while index < len(views) and sent < MAX_SEND:
            piece = self._piece(views, index, off)
            length = self._write(piece) if len(piece) else 0
            if not length and len(piece):
                break
            sent += length
            index, off = _moved(views, index, off + length)
        return sent

    def _piece(self, views: Sequence[bytes | memoryview], index: int, off: int) -> memoryview:
        """Return what to seal next: what was sealed last time, a slice of a large view, or small ones together."""
        first = memoryview(views[index])[off:]
        if self._sealed:
            return self._joined[: self._sealed] if self._sealed_joined else first[: self._sealed]
        self._sealed_joined = False
        if len(first) >= RECORD:
            return first[:SLICE]
        end = index + 1
        total = len(first)
        while end < len(views) and total + len(views[end]) <= RECORD:
            total += len(views[end])
            end += 1
        if end == index + 1:
            return first
        self._sealed_joined = True
        self._joined[: len(first)] = first
        at = len(first)
        for view in views[index + 1 : end]:
            self._joined[at : at + len(view)] = view
            at += len(view)
        self._probe.copied(total)
        return self._joined[:total]

    def _write(self, piece: memoryview) -> int:
        """Hand a piece to TLS. Returns: bytes, 0 when it would block; then the same piece comes again."""
        self._send_wants_read = False
        try:
            length = self._sock.send(piece)
        except ssl.SSLWantWriteError:
            self._sealed = len(piece)
            return 0
        except ssl.SSLWantReadError:
            self._sealed = len(piece)
            self._send_wants_read = True
            return 0
        except OSError as error:
            raise self._told(error, "while sending") from None
        self._sealed = 0
        return length

    async def wait_writable(self) -> None:
        await (self._readable if self._send_wants_read else self._writable).wait(self._open())
        self._open()

    # ---- receiving

    def recv_nowait(self, views: Sequence[memoryview]) -> int | None:
        self._check()
        received = 0
        self._recv_wants_write = False
        try:
            for view in views:
                while view:
                    length = self._sock.recv_into(view, len(view))
                    if not length:
                        return received  # the end; it will be said again
                    received += length
                    view = view[length:]
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLWantWriteError:
            self._recv_wants_write = True
        except OSError as error:
            self._failure = self._told(error, "while receiving")
            if not received:
                raise self._failure from None
        if received:
            self.silent = False
        return received or None

    async def wait_readable(self) -> None:
        sock = self._open()
        if sock.pending() or self._failure is not None:
            await trio.lowlevel.checkpoint()
            return
        await (self._writable if self._recv_wants_write else self._readable).wait(sock)
        self._open()

    # ---- the rest

    def _check(self) -> None:
        if self._failure is not None:
            raise self._failure
        if self._sock.fileno() < 0:
            raise OSError(errno.EBADF, "the stream was closed")

    def _open(self) -> ssl.SSLSocket:
        if self._sock.fileno() < 0:
            raise trio.ClosedResourceError("the stream was closed")
        return self._sock

    def _told(self, error: OSError, where: str) -> Exception:
        """Return the error to raise for one of ssl's, whose errnos are none of the system's."""
        cut = isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError | ssl.SSLSyscallError | ConnectionError)
        cut = cut or getattr(error, "reason", "") == _CUT
        if cut and where is _SHAKING:
            guess = "; perhaps it speaks without TLS" if self._role == "server" else ""
            return TransportError(errno.ECONNRESET, f"{self.peer}: it broke off {where}{guess}")
        if not isinstance(error, ssl.SSLError):
            return TransportError(error.errno or errno.EIO, f"{self.peer}: {error.strerror or error} {where}")
        reason = error.reason or ""
        if cut:
            return TransportError(errno.ECONNRESET, f"{self.peer}: it cut the connection {where}")
        if any(word in reason for word in _REFUSALS):
            return NotTrusted(f"{self.peer}: it refused the certificate of this side")
        if any(word in reason for word in _OLD):
            return HelloMismatch(f"{self.peer}: it cannot speak TLS 1.3")
        if any(word in reason for word in _STRANGE):
            return NotTrusted(f"{self.peer}: not a netfs {self._role}: its certificate is none of ours")
        if reason == "WRONG_VERSION_NUMBER":
            return HelloMismatch(f"{self.peer}: not a netfs {self._role} over TLS: it answered in the clear")
        return TransportError(errno.EPROTO, f"{self.peer}: TLS failed {where}: {reason.replace('_', ' ').lower() or error}")

    def fileno(self) -> int | None:
        return None

    def close(self) -> None:
        if self._sock.fileno() >= 0:
            # Says goodbye if the socket takes it at once; the peer's goodbye is not waited for.
            with contextlib.suppress(OSError, ValueError):
                self._sock.unwrap()
            self._drop()

    def _drop(self) -> None:
        if self._sock.fileno() >= 0:
            trio.lowlevel.notify_closing(self._sock)
            self._sock.close()

    async def aclose(self) -> None:
        self.close()
        await trio.lowlevel.checkpoint()


def _moved(views: Sequence[bytes | memoryview], index: int, off: int) -> tuple[int, int]:
    """Return view and offset of a place given as an offset that may lie beyond the view."""
    while index < len(views) and off >= len(views[index]):
        off -= len(views[index])
        index += 1
    return index, off
