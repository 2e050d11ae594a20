"""Trio shell. Telling who started a server that it is ready, or stopping: systemd's socket, or a descriptor. Owns no memory."""

import os
import socket
from collections.abc import Mapping

__all__ = ["tell_ready", "tell_systemd"]


def tell_ready(fd: int | None, environment: Mapping[str, str]) -> None:
    """Say that the server accepts clients: a line into `fd`, which is closed then, and READY=1 to systemd.

    Raises: OSError for a descriptor that is none.
    """
    if fd is not None:
        try:
            os.write(fd, b"ready\n")
        finally:
            os.close(fd)
    tell_systemd("READY=1", environment)


def tell_systemd(state: str, environment: Mapping[str, str]) -> None:
    """Send a state to the service manager, if there is one; one that does not listen is nobody's trouble."""
    where = environment.get("NOTIFY_SOCKET", "")
    if not where.startswith(("/", "@")):
        return
    address = "\0" + where[1:] if where.startswith("@") else where
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        try:
            sock.sendto(state.encode(), address)
        except OSError:
            return
