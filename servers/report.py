"""Trio shell. What a running server tells of itself: a status object as JSON, and Prometheus text, over HTTP on a socket.

    GET /status     one JSON object, for `netfs status`
    GET /metrics    Prometheus text, for whoever scrapes it

The socket is `.netfs/control` of the folder that is served, which only its owner may use, and what `--metrics` names. It tells
counts, names of clients and addresses; no key and no file. Owns no memory.
"""

import json
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

import trio

from servers.listen import Listener
from transport.address import Address

if TYPE_CHECKING:
    from servers.server import Server

__all__ = ["CONTROL", "answer_reports", "ask_status", "metrics_text"]

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


async def answer_reports(server: "Server", listener: Listener) -> None:
    """Answer whoever asks, until cancelled. Ownership: the listener is closed when this ends."""
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
                nursery.start_soon(_answer, server, stream, limit)
    finally:
        listener.close()


async def _answer(server: "Server", stream: trio.SocketStream, limit: trio.CapacityLimiter) -> None:
    async with stream:
        with trio.move_on_after(TIMEOUT_S):
            async with limit:
                try:
                    await stream.send_all(_response(server, await _first_line(stream)))
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


def _response(server: "Server", asked: str) -> bytes:
    words = asked.split(" ")
    path = words[1] if len(words) == 3 and words[0] == "GET" else ""
    if path == "/metrics":
        return _http("200 OK", "text/plain; version=0.0.4", metrics_text(server.numbers()))
    if path == "/status":
        return _http("200 OK", "application/json", json.dumps(server.status()))
    return _http("404 Not Found", "text/plain", "there are /status and /metrics\n")


def _http(status: str, kind: str, text: str) -> bytes:
    body = text.encode()
    return (
        f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode() + body
    )


async def ask_status(address: Address) -> dict[str, object]:
    """Return the status of a running server. Raises: OSError when it cannot be reached; ValueError for what is no server."""
    with trio.fail_after(TIMEOUT_S):
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
            await stream.send_all(b"GET /status HTTP/1.1\r\n\r\n")
            answer = bytearray()
            while len(answer) < MAX_ANSWER and (piece := await stream.receive_some(65536)):
                answer += piece
    head, _, body = bytes(answer).partition(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 200"):
        raise ValueError("not the control socket of a netfs server")
    found = json.loads(body)
    if not isinstance(found, dict):
        raise ValueError("not the status of a netfs server")
    return found
