"""Identities for tests, and both ends of TLS over a socketpair or over two pipes that a test controls."""

import os
import socket
import ssl
import tempfile
from functools import cache
from pathlib import Path

import trio

from iov.probe import Probe
from transport.env import system_env
from transport.security import Identity, client_context, server_context, write_identity
from transport.tls import TlsStream

__all__ = ["ENV", "client_side", "contexts", "identity", "server_side", "shaken"]

ENV = system_env()


def identity(folder: Path, name: str) -> Identity:
    """Make an identity in a folder."""
    return write_identity(folder / name, os.urandom(32))


@cache
def contexts() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Return a client's and a server's context, made once."""
    with tempfile.TemporaryDirectory() as folder:
        return client_context(identity(Path(folder), "client")), server_context(identity(Path(folder), "server"))


def client_side(sock: socket.socket, probe: Probe | None = None, context: ssl.SSLContext | None = None) -> TlsStream:
    return TlsStream(sock, context or contexts()[0], probe or Probe(), server_side=False)


def server_side(sock: socket.socket, probe: Probe | None = None, context: ssl.SSLContext | None = None) -> TlsStream:
    return TlsStream(sock, context or contexts()[1], probe or Probe(), server_side=True)


async def shaken(client: TlsStream, server: TlsStream) -> None:
    """Do both halves of the handshake."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.handshake, ENV)
        nursery.start_soon(server.handshake, ENV)
