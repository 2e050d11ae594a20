"""Trio shell. What a running server tells of itself: a status object as JSON, and Prometheus text, over HTTP on a socket.

    GET /status     one JSON object, for `netfs status`
    GET /metrics    Prometheus text, for whoever scrapes it
    POST /reload    read identity and keys again, as SIGHUP does; for `netfs control`
    POST /disconnect?who=NAME    end the connections of a client, by its name, key or address

The socket is `.netfs/control` of the folder that is served, which only its owner may use, and what `--metrics` names; that one
takes no POST. It tells counts, names of clients and addresses; no key and no file. Owns no memory.
"""

import errno
import json
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final
from urllib.parse import parse_qs, urlencode

import trio

from servers.listen import Listener
from transport.address import Address

if TYPE_CHECKING:
    from servers.server import Server

__all__ = ["CONTROL", "answer_reports", "ask_status", "command_server", "metrics_text"]

CONTROL: Final = "control"
"""The name of the socket in `.netfs/`."""
TIMEOUT_S: Final = 5.0
MAX_REQUEST: Final = 4096
MAX_ANSWER: Final = 1 << 20
MAX_ASKERS: Final = 16
_HELP: Final = {
    "connections": "Connections now.",
    "sessions": "Sessions now, with and without a connection.",
    "accepted_total": "Connections accepted.",
    "refused_total": "Connections turned away.",
    "requests_total": "Requests begun.",
    "replays_total": "Requests answered from memory because their answer was lost.",
    "messages_total": "Messages in and out.",
    "wire_bytes_total": "Bytes in and out, above TLS.",
    "uptime_seconds": "Seconds since the start.",
}


def metrics_text(numbers: Mapping[str, float]) -> str:
    """Return Prometheus text."""
    lines = []
    for name, value in numbers.items():
        kind = "counter" if name.endswith("_total") else "gauge"
        lines += [f"# HELP netfs_{name} {_HELP[name]}", f"# TYPE netfs_{name} {kind}", f"netfs_{name} {value:g}"]
    return "\n".join(lines) + "\n"


async def answer_reports(server: "Server", listener: Listener, *, commands: bool = False) -> None:
    """Answer whoever asks, until cancelled. commands: do what is asked, too. Ownership: the listener is closed when this ends."""
    limit = trio.CapacityLimiter(MAX_ASKERS)
    try:
        async with trio.open_nursery() as nursery:
            while True:
                await trio.lowlevel.wait_readable(listener.sock)
                try:
                    sock, _ = listener.sock.accept()
                except OSError:
                    continue
                stream = trio.SocketStream(trio.socket.from_stdlib_socket(sock))
                nursery.start_soon(_answer, server, stream, limit, commands)
    finally:
        listener.close()


async def _answer(server: "Server", stream: trio.SocketStream, limit: trio.CapacityLimiter, commands: bool) -> None:
    async with stream:
        with trio.move_on_after(TIMEOUT_S):
            async with limit:
                try:
                    await stream.send_all(_response(server, await _first_line(stream), commands))
                except (OSError, trio.BrokenResourceError):
                    return


async def _first_line(stream: trio.SocketStream) -> str:
    asked = bytearray()
    while b"\r\n\r\n" not in asked and len(asked) < MAX_REQUEST:
        piece = await stream.receive_some(MAX_REQUEST)
        if not piece:
            break
        asked += piece
    return bytes(asked.partition(b"\r\n")[0]).decode("latin-1")


def _response(server: "Server", asked: str, commands: bool) -> bytes:
    words = asked.split(" ")
    if commands and len(words) == 3 and words[0] == "POST":
        return _done(server, words[1])
    path = words[1] if len(words) == 3 and words[0] == "GET" else ""
    if path == "/metrics":
        return _http("200 OK", "text/plain; version=0.0.4", metrics_text(server.numbers()))
    if path == "/status":
        return _http("200 OK", "application/json", json.dumps(server.status()))
    return _http("404 Not Found", "text/plain", "there are /status and /metrics\n")


def _done(server: "Server", asked: str) -> bytes:
    """Do what a POST asks for."""
    path, _, query = asked.partition("?")
    who = parse_qs(query).get("who", [""])[0]
    if path == "/reload":
        try:
            server.reload()
        except OSError as error:
            where = f"{os.fsdecode(error.filename)}: " if error.filename else ""
            return _http("409 Conflict", "text/plain", f"{where}{error.strerror or error}; the old keys go on counting")
        return _http("200 OK", "application/json", json.dumps({"reloaded": True}))
    if path == "/disconnect" and who:
        return _http("200 OK", "application/json", json.dumps({"disconnected": server.disconnect(who)}))
    return _http("404 Not Found", "text/plain", "there are /reload and /disconnect?who=NAME")


def _http(status: str, kind: str, text: str) -> bytes:
    body = text.encode()
    return (
        f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode() + body
    )


async def ask_status(address: Address) -> dict[str, object]:
    """Return the status of a running server. Raises: OSError when it cannot be reached; ValueError for what is no server."""
    return await _asked(address, "GET /status")


async def command_server(address: Address, path: str, who: str = "") -> dict[str, object]:
    """Have a running server do something. Raises: as `ask_status`, ValueError also with what the server has against it."""
    return await _asked(address, f"POST {path}{'?' + urlencode({'who': who}) if who else ''}")


async def _asked(address: Address, request: str) -> dict[str, object]:
    try:
        with trio.fail_after(TIMEOUT_S):
            answer = await _exchanged(address, request)
    except trio.TooSlowError:
        raise TimeoutError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT)) from None
    except trio.BrokenResourceError as error:
        raise ConnectionResetError(errno.ECONNRESET, os.strerror(errno.ECONNRESET)) from error
    head, _, body = answer.partition(b"\r\n\r\n")
    if head.startswith(b"HTTP/1.1 409"):
        raise ValueError(body.decode(errors="replace"))
    if not head.startswith(b"HTTP/1.1 200"):
        raise ValueError("not the control socket of a netfs server")
    found = json.loads(body)
    if not isinstance(found, dict):
        raise ValueError("not the status of a netfs server")
    return found


async def _exchanged(address: Address, request: str) -> bytes:
    """Return what is answered to a request."""
    if address.socket:
        folder, name = os.path.split(address.socket)
        fd = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)  # a path may be longer than an address
        try:
            stream = await trio.open_unix_socket(f"/proc/self/fd/{fd}/{name}")
        finally:
            os.close(fd)
    else:
        stream = await trio.open_tcp_stream(address.host, address.port)
    async with stream:
        await stream.send_all(f"{request} HTTP/1.1\r\n\r\n".encode())
        answer = bytearray()
        while len(answer) < MAX_ANSWER and (piece := await stream.receive_some(65536)):
            answer += piece
    return bytes(answer)
