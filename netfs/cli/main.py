"""Trio shell. The `netfs` program: finds its commands through entry points, runs one, and turns every end into an exit code.

Commands come from the entry-point group `netfs.commands`, so the client need not import the server or the trials to offer
theirs. An entry's name is that of a command; when the command line names one, only its module is loaded. A module that cannot
be imported costs one line of warning. Owns no memory.
"""

import os
import signal
import sys
import traceback
from collections.abc import Iterable, Sequence
from importlib.metadata import EntryPoint, entry_points, version
from typing import Annotated

from cyclopts import App, CycloptsError, Group, Parameter
from cyclopts.config import Env

from netfs.cli.host import CommandError, Exit, Host, OutputClosed, Terminated, describe, root_cause

__all__ = ["GROUP", "build", "main", "run"]

GROUP = "netfs.commands"
ABOUT_ALL = frozenset({"completion", "man", "trace"})
QUIET = Parameter(negative=(), show_default=False)


def needed(points: Iterable[EntryPoint], arguments: Sequence[str]) -> dict[str, EntryPoint]:
    """Return the entry points to load by what they load: those of the command that is named, or all, also for one about all."""
    name = next((argument for argument in arguments if not argument.startswith("-")), None)
    found = {point.value: point for point in points if point.name == name and name not in ABOUT_ALL}
    return found or {point.value: point for point in points}


def build(points: Iterable[EntryPoint], arguments: Sequence[str] = ()) -> tuple[App, Host]:
    """Return the program with the commands a command line needs; a module that cannot be loaded is named and left out."""
    app = App(
        name="netfs",
        help="A network filesystem on Trio: files over sockets or RDMA, encrypted end to end.\n\n"
        "Each option can be said by an environment variable too: NETFS_CP_JOBS=4 is netfs cp --jobs 4.",
        version=version("netfs"),
        help_format="plaintext",
        default_parameter=QUIET,
        backend="trio",
        result_action="return_value",
        exit_on_error=False,
        print_error=False,
        suppress_keyboard_interrupt=False,
        config=Env("NETFS_", show=False),
    )
    app["--help"].group = app["--version"].group = app.meta.group_parameters = Group("Every command", sort_key=9)
    host = Host(app)
    for value, point in needed(tuple(points), arguments).items():
        try:
            point.load()(host)
        except Exception as error:  # noqa: BLE001 - whatever is wrong with one command, the others work
            host.warn(f"the commands of {value} are not available: {type(error).__name__}: {error}")

    def launch(
        *tokens: Annotated[str, Parameter(show=False, allow_leading_hyphen=True)],
        json: bool = False,
        debug: Annotated[bool, Parameter(env_var="NETFS_DEBUG")] = False,
    ) -> object:
        """Run a command.

        Args:
            json: print the result as one JSON object.
            debug: show a traceback when something fails.
        """
        host.json, host.debug = json, debug
        return app(tokens)

    app.meta.default(launch)
    return app, host


def run(app: App, host: Host, arguments: Sequence[str]) -> int:
    """Run one command line. Returns: the exit code; every failure has been told in one line on standard error."""
    try:
        result = app.meta(arguments)
        if sys.stdout is not None:
            sys.stdout.flush()
    except BaseException as error:  # noqa: BLE001 - the outermost frame: nothing may leave it but an exit code
        if host.debug:
            traceback.print_exc()
        return _ended(host, root_cause(error))
    return result if isinstance(result, int) else Exit.DONE


def _ended(host: Host, error: BaseException) -> int:
    match error:
        case CommandError():
            host.warn(str(error))
            return error.code
        case CycloptsError():
            host.warn(f"{_one_line(error)}  (see: netfs --help)")
            return Exit.USAGE
        case KeyboardInterrupt():
            return 128 + signal.SIGINT
        case Terminated():
            return 128 + signal.SIGTERM
        case OutputClosed() | BrokenPipeError():
            # What is still buffered has no reader either; give the interpreter's last flush somewhere to go.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 128 + signal.SIGPIPE
        case SystemExit():
            return error.code if isinstance(error.code, int) else Exit.DONE if error.code is None else Exit.NO
        case OSError():
            host.warn(describe(error))
            return Exit.LOCAL
        case _:
            host.warn(f"{type(error).__name__}: {_one_line(error)}  (NETFS_DEBUG=1 shows where)")
            return Exit.NO


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())


def main() -> None:
    """Run the command line of this process and exit."""
    try:
        app, host = build(entry_points(group=GROUP), sys.argv[1:])
        code = run(app, host, sys.argv[1:])
    except KeyboardInterrupt:
        code = 128 + signal.SIGINT
    sys.exit(code)
