"""Trio shell. Who may come in: TLS on a socket that was accepted, and what its client's key is granted.

Owns no memory.
"""

import os
import socket

from iov.probe import Probe
from transport.env import Env
from transport.errors import NotTrusted
from transport.link import ByteStream
from transport.security import AuthorizedKeys, authority_context, certified_name, load_identity, server_context
from transport.tls import TlsStream
from transport.trust import Fingerprint, Grant

__all__ = ["Gate"]


class Gate:
    """A server's identity and the keys it lets in. fingerprint: of the server's own key.

    authority: a file with certificates; whoever has one of theirs comes in, by the name in it. Then the identity is a PEM file
    with key and certificate, and authorized_keys, if there are any, say what some of the keys may do.

    Raises: OSError with the path when one of the files is missing or is not what it should be.
    """

    def __init__(
        self, identity: str | os.PathLike[str], authorized_keys: str | os.PathLike[str] | None,
        authority: str | os.PathLike[str] | None = None,
    ) -> None:  # fmt: skip
        self._identity = identity
        self._authority = authority
        self.keys = AuthorizedKeys(authorized_keys or os.devnull)
        self.reload()

    def reload(self) -> None:
        """Read the files again; connections there are stay as they are. Raises: OSError, and nothing has changed."""
        if self._authority is not None:
            context, fingerprint = authority_context(self._identity, self._authority, server_side=True), None
        else:
            mine = load_identity(self._identity)
            context, fingerprint = server_context(mine), mine.fingerprint
        self.keys.grants()
        self._context, self.fingerprint = context, fingerprint

    def stream(self, sock: socket.socket, probe: Probe) -> TlsStream:
        """Return the server's side of TLS on a socket; `admit` comes next. Raises: OSError for a socket that is dead."""
        return TlsStream(sock, self._context, probe, server_side=True, vouched=self._authority is not None)

    def grant(self, fingerprint: Fingerprint, name: str) -> Grant | None:
        """Return what a client may do, None for nothing. name: of its certificate. Raises: OSError for the file."""
        grant = self.keys.grant(fingerprint)
        return Grant(name or "unnamed") if grant is None and self._authority is not None else grant

    async def admit(self, stream: ByteStream, env: Env) -> Grant | None:
        """Do the handshake and look up the client's key.

        Returns: None for a stream that is not the gate's: a UNIX socket, or one of this process.
        Raises: NotTrusted for a key that is not authorized, or when the keys cannot be read; as `TlsStream.handshake`.
        Cancellation: the stream is closed.
        """
        if not isinstance(stream, TlsStream):
            return None
        fingerprint = await stream.handshake(env)
        try:
            grant = self.grant(fingerprint, certified_name(stream.certificate))
        except OSError as error:
            raise NotTrusted(f"{stream.peer}: {error.filename}: {error.strerror}") from None
        if grant is None:
            raise NotTrusted(f"{stream.peer}: its key {fingerprint} is not in {self.keys.path}")
        return grant
