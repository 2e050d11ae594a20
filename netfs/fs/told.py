"""Sans-IO. Calls of the public interface, told to the probe's sink: when each begins and ends, and which requests it makes.

A call that another one makes is not told: what a trace shows is what the program asked for. Without a sink a call costs one
question. Owns no memory.
"""

from collections.abc import Callable, Coroutine
from functools import wraps
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

from iov.probe import Probe
from netfs.engine.events import CALLING, errno_of

__all__ = ["told"]

P = ParamSpec("P")
T = TypeVar("T")


class _Probed(Protocol):
    """What has calls: a client, or a file, which has a path."""

    @property
    def probe(self) -> Probe: ...


S = TypeVar("S", bound=_Probed)
Method = Callable[Concatenate[S, P], Coroutine[Any, Any, T]]


def told(method: Method[S, P, T]) -> Method[S, P, T]:
    """Have a method of a client or a file be told of as `api_call` and `api_done`."""

    @wraps(method)
    def calling(self: S, /, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, T]:
        if self.probe.sink is None or CALLING.get() is not None:
            return method(self, *args, **kwargs)
        return _tell(self.probe, method.__name__, path_of(self, args), method(self, *args, **kwargs))

    return calling


def path_of(caller: object, args: tuple[object, ...]) -> str:
    """Return the path a call is about: the file's own, or the first argument; what is no text, or ends a line, is escaped."""
    path = args[0] if args and isinstance(args[0], str) else getattr(caller, "path", "")
    if not isinstance(path, str):
        return ""
    return path if path.isprintable() else repr(path)[1:-1]


async def _tell(probe: Probe, name: str, path: str, call: Coroutine[Any, Any, T]) -> T:
    probe.call_ids = number = probe.call_ids + 1
    probe.emit("api_call", number, name, path)
    before = CALLING.set((probe, number))
    error = 0
    try:
        return await call
    except Exception as raised:
        error = errno_of(raised)
        raise
    finally:
        CALLING.reset(before)
        probe.emit("api_done", number, name, error)
