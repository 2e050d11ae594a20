"""Trio shell. Listening sockets: TCP on loopback, UNIX sockets that only their owner may use. Owns no payload memory."""

import contextlib
import errno
import ipaddress
import os
import socket
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from transport.address import Address

__all__ = ["Listener", "default_listen", "open_listener"]

BACKLOG: Final = 128
_SOCKET_MODE: Final = 0o600
DEFAULT_SOCKET: Final = "netfs.sock"


class Listener:
    """A listening, non-blocking socket. address: where it really listens. rdma: its clients speak iWARP."""

    def __init__(self, sock: socket.socket, address: Address, rdma: bool = False) -> None:
        self.sock = sock
        self.rdma = rdma
        self.address = address
        self._made = Path(address.socket).stat() if address.socket else None

    def close(self) -> None:
        """Close the socket, and remove its name if the name is still ours."""
        self.sock.close()
        if self._made is not None:
            name = Path(self.address.socket)
            with contextlib.suppress(FileNotFoundError, PermissionError):  # it may have been made by another user: by root
                if os.path.samestat(self._made, name.lstat()):
                    name.unlink()


def open_listener(address: Address, *, insecure: bool = False, rdma: bool = False) -> Listener:
    """Listen at an address; port 0 takes a free one.

    Raises: EADDRINUSE; EACCES beyond loopback, where anybody could read and write, unless `insecure` says that it is meant.
    """
    if address.socket:
        return _listen_unix(address)
    try:
        found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except socket.gaierror as error:
        raise OSError(errno.EADDRNOTAVAIL, f"no such host: {error.strerror}", str(address)) from None
    family, _, _, _, place = min(found, key=lambda row: row[0] != socket.AF_INET)
    host = str(place[0])
    if not insecure and not ipaddress.ip_address(host.partition("%")[0]).is_loopback:
        raise OSError(
            errno.EACCES,
            "beyond this machine anybody could read and write; give --identity and --authorized-keys, or say --insecure",
            str(address),
        )
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(place)
        return Listener(_listening(sock), Address(host, sock.getsockname()[1]), rdma)
    except OSError as error:
        sock.close()
        raise OSError(error.errno, error.strerror, str(address)) from None


def default_listen(environment: Mapping[str, str]) -> str:
    """Return where a server without keys listens: a socket in a directory that is the user's alone.

    Raises: OSError when there is none and none can be made.
    """
    runtime = environment.get("XDG_RUNTIME_DIR", "")
    if runtime.startswith("/") and Path(runtime).is_dir():
        return f"unix:{runtime}/{DEFAULT_SOCKET}"
    folder = Path("/tmp") / f"netfs-{os.geteuid()}"
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o077:
        raise OSError(errno.EPERM, "not a directory that is yours alone; say --listen", str(folder))
    return f"unix:{folder}/{DEFAULT_SOCKET}"


def _listen_unix(address: Address) -> Listener:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        try:
            sock.bind(address.socket)
        except OSError as error:
            if error.errno != errno.EADDRINUSE or not _is_abandoned(address.socket):
                raise
            Path(address.socket).unlink()
            sock.bind(address.socket)
        Path(address.socket).chmod(_SOCKET_MODE)  # nobody can connect before we listen
        return Listener(_listening(sock), address)
    except OSError as error:
        sock.close()
        raise OSError(error.errno, error.strerror or str(error), str(address)) from None


def _is_abandoned(path: str) -> bool:
    """Tell whether a name is a socket that no server listens on any more."""
    if not stat.S_ISSOCK(Path(path).lstat().st_mode):
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            return True
        except OSError:
            return False
    return False


def _listening(sock: socket.socket) -> socket.socket:
    sock.listen(BACKLOG)
    sock.setblocking(False)
    return sock
