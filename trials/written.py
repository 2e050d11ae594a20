"""Trio shell. Trials that somebody writes: an async function with a `Trial` in it, run under seeds, faults and schedules.

    @trial(seeds=200, transport=["stream", "rdma-memory"], encrypt=True)
    async def test_what_is_written_is_read(world: Trial) -> None:
        first, second = world.clients
        async with await first.open("/notes", "w") as file:
            await file.write(b"hello")
        async with await second.open("/notes") as file:
            assert await file.read() == b"hello"

The function is a scenario like others, named by its file and itself, so that its tokens can be replayed, shrunk and drawn from
any process that finds the file. `trials/plugin.py` makes a test of it. Owns no memory.
"""

import importlib
import importlib.util
import random
import sys
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import trio

from netfs.fs.client import Client
from trials.faults.catalogue import allowed_errnos
from trials.faults.plan import Plan
from trials.history import Failure, History
from trials.sim.rng import stream_seed
from trials.workloads.base import Operation

if TYPE_CHECKING:
    from trials.case import Case

__all__ = ["MISSED", "REACHED", "NotWritten", "Trial", "Written", "WrittenTrial", "find", "giving", "name_of", "register"]

SEPARATOR: Final = "::"
REACHED: Final = "reached"
MISSED: Final = "missed"
_KNOWN: Final[dict[str, "Written"]] = {}


class NotWritten(ValueError):
    """No such trial can be found; one line."""


@dataclass(slots=True)
class Trial:
    """What a written trial is given. clients: connected to one server. plan: what goes wrong. rng: for its own choices."""

    clients: Sequence[Client]
    seed: int
    transport: str
    encrypt: bool
    plan: Plan
    rng: random.Random
    history: History

    @property
    def client(self) -> Client:
        """The first client."""
        return self.clients[0]

    def now(self) -> float:
        """Return the virtual time, in seconds."""
        return trio.current_time()

    def sometimes(self, name: str, happened: object) -> None:
        """Say whether something happened that must be reached by some seed; the test fails when none of many does."""
        self.history.mark(REACHED if happened else MISSED, name)


@dataclass(frozen=True, slots=True)
class Written:
    """A function that is a trial. takes: the names of its parameters that the trial itself fills."""

    name: str
    fn: Callable[..., Awaitable[object]]
    takes: tuple[str, ...]


class WrittenTrial:
    """The scenario of a written trial: one operation, which is the function."""

    def __init__(self, written: Written) -> None:
        self._written = written
        self._case: Case | None = None

    def plan(self, rng: random.Random, case: "Case") -> Sequence[Operation]:
        """Draw nothing: what is done is written."""
        self._case = case
        return ()

    async def prepare(self, clients: Sequence[Client], history: History) -> None:
        """Make nothing."""

    async def run(self, clients: Sequence[Client], operations: Sequence[Operation], history: History) -> None:
        """Call the function. An OSError with an errno that the plan's faults may end in is an outcome, not a failure."""
        case = self._case
        assert case is not None and case.plan is not None
        rng = random.Random(stream_seed(case.seed, "written"))
        trial = Trial(clients, case.seed, case.transport, case.encrypt, case.plan, rng, history)
        filled = {name: case.plan if name == "fault_plan" else trial for name in self._written.takes}
        try:
            await self._written.fn(**filled)
        except OSError as error:
            if error.errno not in allowed_errnos(fault.id for fault in case.plan):
                raise

    async def verify(self, clients: Sequence[Client], history: History) -> None:
        """Look at nothing more."""

    def check(self, history: History) -> Failure | None:
        """Judge what the function noted."""
        return history.failures[0] if history.failures else None


def name_of(fn: Callable[..., object]) -> str:
    """Return the name of a written trial: its file, from here, and itself."""
    path = Path(fn.__code__.co_filename)
    with suppress(ValueError):
        path = path.relative_to(Path.cwd())
    return f"{path.as_posix()}{SEPARATOR}{fn.__qualname__}"


def register(fn: Callable[..., Awaitable[object]], takes: tuple[str, ...]) -> Written:
    """Make a function known as a trial."""
    written = _KNOWN[name_of(fn)] = Written(name_of(fn), fn, takes)
    return written


@contextmanager
def giving(name: str, given: dict[str, Any]) -> Iterator[None]:
    """Have the trial `name` called with more arguments for the length of a block."""
    written = _KNOWN[name]
    _KNOWN[name] = replace(written, fn=partial(written.fn, **given))
    try:
        yield
    finally:
        _KNOWN[name] = written


def find(name: str) -> Written:
    """Return the trial of a name; its file is imported if need be. Raises: NotWritten."""
    if name not in _KNOWN:
        path = Path(name.partition(SEPARATOR)[0])
        if not path.is_file():
            raise NotWritten(f"no file {path} here, in which the trial {name} is")
        try:
            _import(path)
        except Exception as error:
            raise NotWritten(f"{path} cannot be imported: {type(error).__name__}: {error}") from error
    if name not in _KNOWN:
        raise NotWritten(f"{name}: the file has no such trial")
    return _KNOWN[name]


def _import(path: Path) -> None:
    """Import a file, under the name of the module it is if it lies in packages."""
    root = Path.cwd().as_posix()
    if root not in sys.path:
        sys.path.insert(0, root)
    dotted = ".".join(path.with_suffix("").parts)
    if not path.is_absolute() and (path.parent / "__init__.py").is_file():
        importlib.import_module(dotted)
        return
    spec = importlib.util.spec_from_file_location(f"trial_of_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
