"""Trio shell. What a command gets from the `netfs` program: its registration, its output, its progress bar and its way to fail.

A command module offers `register(host)` through the entry-point group `netfs.commands`; it keeps heavy imports inside its
commands, so that `netfs --help` stays quick. Text and `--json` go to standard output, everything else to standard error.
Owns no memory.
"""

import errno
import functools
import inspect
import json
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from enum import IntEnum
from typing import TYPE_CHECKING, NoReturn, Protocol

from cyclopts import App

from netfs.cli.place import printable

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["CommandError", "Exit", "Host", "Lost", "OutputClosed", "Progress", "Terminated", "describe", "failing", "root_cause"]


class Exit(IntEnum):
    """What the exit code of the program tells a script."""

    DONE = 0
    NO = 1
    USAGE = 2
    REMOTE = 3
    LOCAL = 4


class CommandError(Exception):
    """The end of a command: an exit code and the one line that says why."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


class Lost(CommandError):
    """What was written may be gone, since the server restarted before it was durable: the file is to be written again."""


class OutputClosed(Exception):
    """Nobody reads standard output any more (`netfs ls | head`); the program ends without a word."""


class Terminated(Exception):
    """The program was asked to end, and its command has cleaned up."""


class Progress(Protocol):
    """The part of a progress bar that a command moves."""

    def advance(self, amount: int) -> None:
        """Count `amount` more as done."""

    def expect(self, amount: int) -> None:
        """Add `amount` to what there is to do."""

    def say(self, label: str) -> None:
        """Change the text in front of the bar."""


class _Silent:
    def advance(self, amount: int) -> None:
        pass

    def expect(self, amount: int) -> None:
        pass

    def say(self, label: str) -> None:
        pass


def _terminable(fn: Callable[..., Awaitable[object]]) -> Callable[..., Awaitable[object]]:
    """Return `fn` such that a SIGTERM or an interrupt cancels it, and it cleans up; another interrupt meanwhile ends it at once.

    Left to itself a SIGTERM would leave temporary files behind, and an interrupt would come in the middle of any line of any
    task: of one that answers the kernel, or has begun to change what it shares.
    """

    @functools.wraps(fn)
    async def run(*args: object, **kwargs: object) -> object:
        import trio  # noqa: PLC0415 - the help needs no event loop

        async def watch(scope: trio.CancelScope, *, task_status: trio.TaskStatus[None]) -> None:
            # What is started in the background by a shell ignores interrupts, and goes on doing so.
            numbers = [signal.SIGTERM, *([] if signal.getsignal(signal.SIGINT) is signal.SIG_IGN else [signal.SIGINT])]
            with trio.open_signal_receiver(*numbers) as signals:
                task_status.started()
                async for number in signals:
                    scope.cancel()
                    raise KeyboardInterrupt if number == signal.SIGINT else Terminated

        async with trio.open_nursery() as nursery:
            await nursery.start(functools.partial(watch, nursery.cancel_scope))
            result = await fn(*args, **kwargs)
            nursery.cancel_scope.cancel()
        return result

    return run


class Host:
    """The program as its commands see it. json: one object on standard output instead of text. debug: tracebacks are shown."""

    def __init__(self, app: App) -> None:
        self.app = app
        self.json = False
        self.debug = False

    def command(
        self,
        fn: Callable[..., object],
        *,
        name: str,
        help: str | None = None,  # noqa: A002
        usage: str | None = None,
        examples: Sequence[str] = (),
        under: App | None = None,
    ) -> None:
        """Add a subcommand.

        Args:
            fn: a plain or async function; its signature is the command line, the `Args:` of its docstring describe it, and an
                int it returns is the exit code.
            name: the word to type.
            help: what it does; the docstring of `fn` up to `Args:` when None.
            usage: the line that shows the order of the arguments; made from the signature when None.
            examples: whole command lines, shown below the help.
            under: the command it is a part of, as `group` returned it.
        """
        shown = "\n".join(["Examples:", *(f"  {line}" for line in examples)]) if examples else None
        run = _terminable(fn) if inspect.iscoroutinefunction(fn) else fn
        # A docstring is broken where its lines are full, the help where the terminal's are.
        text = (help or inspect.getdoc(fn) or "").partition("\nArgs:")[0].strip()
        about = "\n\n".join(" ".join(paragraph.split()) for paragraph in text.split("\n\n"))
        (under or self.app).command(run, name=name, help=about, usage=f"Usage: {usage}" if usage else None, help_epilogue=shown)

    def group(self, name: str, help: str, examples: Sequence[str]) -> App:  # noqa: A002
        """Add a command that is followed by another one, and return it."""
        group = App(name=name, help=help, help_epilogue="\n".join(["Examples:", *(f"  {line}" for line in examples)]))
        self.app.command(group)
        return group

    def emit(self, value: object, text: str | None = None) -> None:
        """Print the result: `value` as one line of JSON under --json, else `text` (nothing when None or empty)."""
        if self.json:
            self.write(json.dumps(value).encode() + b"\n")
        elif text:
            self.write(text.encode("utf-8", "surrogateescape") + (b"" if text.endswith("\n") else b"\n"))

    def say(self, text: str) -> None:
        """Print a line of the result as soon as it is known; nothing under --json, where `emit` prints it all."""
        if not self.json:
            self.emit(None, text)

    def write(self, data: bytes | memoryview) -> None:
        """Write to standard output at once. Raises: OutputClosed when its reader has gone, CommandError when it fails."""
        rest = memoryview(data)
        try:
            if sys.stdout is None:
                raise OSError(errno.EBADF, os.strerror(errno.EBADF))
            sys.stdout.flush()
            while len(rest) > 0:
                rest = rest[os.write(sys.stdout.fileno(), rest) :]
        except BrokenPipeError:
            raise OutputClosed from None
        except OSError as error:
            raise CommandError(Exit.LOCAL, f"standard output: {error_text(error)}") from error

    def note(self, message: str) -> None:
        """Say something on standard error that is neither the result nor an error."""
        if sys.stderr is not None:
            print(message, file=sys.stderr, flush=True)  # noqa: T201

    def warn(self, message: str) -> None:
        """Say on standard error that something was left out; the command goes on."""
        self.note(f"netfs: {printable(message)}")

    def fail(self, code: int, message: str) -> NoReturn:
        """End the command with an exit code and one line on standard error, `netfs: <message>`."""
        raise CommandError(code, message)

    @property
    def interactive(self) -> bool:
        """Whether somebody watches standard error."""
        return sys.stderr is not None and sys.stderr.isatty() and not self.json

    def console(self) -> "Console":
        """Return a rich console on standard output, for tables; as wide as the terminal, or 100 columns."""
        from rich.console import Console  # noqa: PLC0415

        return Console(width=None if sys.stdout.isatty() or "COLUMNS" in os.environ else 100, highlight=False)

    @contextmanager
    def progress(self, total: int | None, label: str, unit: str = "") -> Iterator[Progress]:
        """Show a bar with rate and time left while the block runs, on a terminal only; it is wiped off at the end.

        Args:
            total: bytes to do, or things; None when that is not known yet.
            label: text in front of the bar.
            unit: what is counted, when it is not bytes.
        """
        if not self.interactive:
            yield _Silent()
            return
        from netfs.cli.bar import bar  # noqa: PLC0415

        with bar(total, label, unit) as progress:
            yield progress


@contextmanager
def failing(code: Exit, what: str | None = None) -> Iterator[None]:
    """Turn an OSError of the block into a CommandError with `code`, told as a failure of `what` or of the path in the error."""
    try:
        yield
    except (OSError, BaseExceptionGroup) as error:
        cause = root_cause(error)
        if not isinstance(cause, OSError):
            if cause is error:
                raise
            raise cause from None
        raise CommandError(code, describe(cause, what)) from cause


def describe(error: OSError, what: str | None = None) -> str:
    """Return `<what>: <errno text>`; without `what`, the path the error names."""
    name = what if what is not None else error.filename
    if isinstance(name, bytes):
        name = os.fsdecode(name)
    return f"{name}: {error_text(error)}" if name is not None else error_text(error)


def error_text(error: OSError) -> str:
    """Return the text of an error without its number and path."""
    if error.strerror:
        return error.strerror
    if error.errno is not None:
        return os.strerror(error.errno)
    return str(error) or errno.errorcode[errno.EIO]


def root_cause(error: BaseException) -> BaseException:
    """Return the one error a person should hear of from a group: an interrupt before a told failure, that before the rest."""
    leaves = list(_leaves(error))
    for kind in (Terminated, KeyboardInterrupt, SystemExit, CommandError, OutputClosed, OSError):
        for leaf in leaves:
            if isinstance(leaf, kind):
                return leaf
    return leaves[0]


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _leaves(inner)
    else:
        yield error
