"""Trio shell. `netfs top`: what a running server is doing, again and again: rates since the last look, and who is connected.

The server is asked as by `netfs status`; it need not know that somebody watches. Owns no memory.
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

import trio

__all__ = ["rates", "screen", "watch"]

Status = Mapping[str, Any]
COUNTERS: Final = {"requests_total": "requests/s", "messages_total": "messages/s", "wire_bytes_total": "MB/s"}
SHOWN: Final = 12


def rates(before: Status | None, now: Status) -> dict[str, float]:
    """Return what a second has brought since the last look; the mean since the start for the first one."""
    seconds = float(now["uptime_seconds"]) - (float(before["uptime_seconds"]) if before else 0.0)
    if before is not None and seconds <= 0:
        before, seconds = None, float(now["uptime_seconds"])  # it was started again
    found = {}
    for counter, name in COUNTERS.items():
        moved = now.get(counter, 0) - (before.get(counter, 0) if before else 0)
        found[name] = max(0.0, moved / seconds / (1e6 if name == "MB/s" else 1)) if seconds > 0 else 0.0
    return found


def screen(where: str, before: Status | None, now: Status, width: int) -> list[str]:
    """Return the lines of one look."""
    speed = rates(before, now)
    lines = [
        f"{where}  {now['state']}  up {_duration(float(now['uptime_seconds']))}",
        "".join(f"{value:>10,.{1 if name == 'MB/s' else 0}f} {name}" for name, value in speed.items()) + " on the wire",
        f"{now['connections']:>10,} connections {now['sessions']:>9,} sessions {now['requests_total']:>13,} requests in all",
    ]
    clients = now.get("clients", [])
    if clients:
        names = sorted({name for client in clients for name, value in client.items() if value not in (None, "")})
        lines += ["", "  ".join(f"{name:<14}" for name in names)]
        lines += ["  ".join(f"{client.get(name) or '':<14}" for name in names) for client in clients[:SHOWN]]
        if len(clients) > SHOWN:
            lines.append(f"and {len(clients) - SHOWN} more")
    return [line[:width].rstrip() for line in lines]


def _duration(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}"


async def watch(
    ask: Callable[[], Awaitable[Status]], show: Callable[[Status | None, Status], None], interval: float, times: int
) -> None:
    """Ask and show, every `interval` seconds, `times` times, 0: until cancelled. Raises: what asking raises."""
    before: Status | None = None
    shown = 0
    while True:
        now = await ask()
        show(before, now)
        before = now
        shown += 1
        if shown == times:
            return
        await trio.sleep(interval)
