"""The program around the commands: what each end of a command prints and exits with, and what it costs to start."""

import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

import pytest
import trio

from netfs.cli.host import CommandError, Exit, Host, OutputClosed, failing, root_cause
from netfs.cli.main import build, run

NETFS = [sys.executable, "-m", "netfs"]


def register(host: Host) -> None:
    """Commands that end in every way a command can."""

    async def end(how: str, /) -> int:
        """End.

        Args:
            how: the way.
        """
        await trio.lowlevel.checkpoint()
        async with trio.open_nursery():
            ENDS[how](host)
        return 1

    host.command(end, name="end", examples=["netfs end well"])


def raiser(make: Callable[[], BaseException]) -> Callable[[Host], None]:
    def end(_host: Host) -> None:
        raise make()

    return end


def oserror_inside(host: Host) -> None:
    with failing(Exit.REMOTE, "netfs://h:1/x"):
        raise ExceptionGroup("several", [FileNotFoundError(errno.ENOENT, "gone", "/elsewhere")])


ENDS: dict[str, Callable[[Host], None]] = {
    "no": lambda _host: None,
    "told": lambda host: host.fail(3, "peer: connection lost"),
    "inside": oserror_inside,
    "oserror": raiser(lambda: PermissionError(errno.EACCES, os.strerror(errno.EACCES), "a\nb")),
    "interrupt": raiser(KeyboardInterrupt),
    "closed": raiser(OutputClosed),
    "bug": raiser(lambda: RuntimeError("an\nassumption")),
    "emit": lambda host: host.emit({"name": "ü\udcff"}, "text ü"),
}


@pytest.mark.parametrize(
    ("arguments", "code", "out", "err"),
    [
        (["end", "no"], 1, "", ""),
        (["end", "told"], 3, "", "netfs: peer: connection lost\n"),
        (["end", "inside"], 3, "", "netfs: netfs://h:1/x: gone\n"),
        (["end", "oserror"], 4, "", "netfs: a\\nb: Permission denied\n"),
        (["end", "interrupt"], 130, "", ""),
        (["end", "bug"], 1, "", "netfs: RuntimeError: an assumption  (NETFS_DEBUG=1 shows where)\n"),
        (["end", "emit"], 1, "text ü\n", ""),
        (["--json", "end", "emit"], 1, '{"name": "\\u00fc\\udcff"}\n', ""),
        (["end", "--json", "emit"], 1, '{"name": "\\u00fc\\udcff"}\n', ""),
        (["end"], 2, "", "requires an argument"),
        (["bend"], 2, "", 'netfs: Unknown command "bend". Did you mean "end"?'),
        (["end", "no", "--what"], 2, "", "--what"),
    ],
)
def test_ends(arguments: list[str], code: int, out: str, err: str, capfd: pytest.CaptureFixture[str]) -> None:
    app, host = build([EntryPoint("toy", f"{__name__}:register", "netfs.commands")])
    assert run(app, host, arguments) == code
    printed = capfd.readouterr()
    assert printed.out == out
    assert err in printed.err
    assert len(printed.err.splitlines()) == (1 if err else 0)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_cancels_and_comes_in_the_middle_of_no_line(number: signal.Signals, capfd: pytest.CaptureFixture[str]) -> None:
    """Raised wherever the program happened to be, an interrupt left locks taken: clients did not close, mounts stayed."""
    app, host = build([])

    async def linger() -> None:
        """Linger."""
        os.kill(os.getpid(), number)
        host.emit({}, "what was begun is ended")
        try:
            await trio.sleep_forever()
        finally:
            host.emit({}, "and cleaned up")

    host.command(linger, name="linger", examples=["netfs linger"])
    assert run(app, host, ["linger"]) == 128 + number
    printed = capfd.readouterr()
    assert (printed.out, printed.err) == ("what was begun is ended\nand cleaned up\n", "")


def test_debug_shows_where(capfd: pytest.CaptureFixture[str]) -> None:
    app, host = build([EntryPoint("toy", f"{__name__}:register", "netfs.commands")])
    assert run(app, host, ["end", "bug", "--debug"]) == 1
    assert "Traceback" in capfd.readouterr().err


def test_a_broken_command_module_leaves_the_others(capfd: pytest.CaptureFixture[str]) -> None:
    points = [EntryPoint("broken", "netfs.no_such_module:register", "netfs.commands")]
    app, host = build([*points, EntryPoint("toy", f"{__name__}:register", "netfs.commands")])
    assert run(app, host, ["end", "emit"]) == 1
    printed = capfd.readouterr()
    assert printed.out == "text ü\n"
    assert printed.err.startswith("netfs: the commands of netfs.no_such_module:register are not available: ModuleNotFoundError")
    assert len(printed.err.splitlines()) == 1


def test_the_error_that_matters_is_told() -> None:
    told, interrupt = CommandError(3, "x"), KeyboardInterrupt()
    group = BaseExceptionGroup("a", [ValueError(), ExceptionGroup("b", [OSError(), told])])
    assert root_cause(group) is told
    assert root_cause(BaseExceptionGroup("c", [group, interrupt])) is interrupt
    assert isinstance(root_cause(ExceptionGroup("d", [ValueError()])), ValueError)


def test_failing_lets_other_errors_pass() -> None:
    with pytest.raises(ValueError), failing(Exit.LOCAL):
        raise ValueError
    with pytest.raises(CommandError, match="inner"), failing(Exit.LOCAL):
        raise ExceptionGroup("g", [CommandError(3, "inner")])


def test_failing_tells_what_ended_a_group() -> None:
    with pytest.raises(CommandError) as caught, failing(Exit.REMOTE, "x"):
        raise ExceptionGroup("g", [ConnectionResetError(errno.ECONNRESET, "lost")])
    assert str(caught.value) == "x: lost" and isinstance(caught.value.__cause__, ConnectionError)


# ---- the installed program


def test_help_and_version() -> None:
    done = subprocess.run([*NETFS, "--help"], capture_output=True, text=True, check=True, timeout=20)
    for name in ("cat", "cp", "keygen", "ls", "mkdir", "rm", "stat"):
        assert f"│ {name} " in done.stdout
    assert not done.stderr
    version = subprocess.run([*NETFS, "--version"], capture_output=True, text=True, check=True, timeout=20).stdout
    assert version.strip().count(".") == 2


@pytest.mark.parametrize("name", sorted(point.name for point in entry_points(group="netfs.commands")))
def test_every_command_shows_examples(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    app, host = build(entry_points(group="netfs.commands"))
    assert run(app, host, [name, "--help"]) == 0
    shown = capfd.readouterr().out
    assert f"Examples:\n  netfs {name}" in shown
    assert "--json" in shown


def test_options_are_environment_variables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    app, host = build(entry_points(group="netfs.commands"), ["cp"])
    (tmp_path / "here").mkdir()
    monkeypatch.setenv("NETFS_CP_JOBS", "many")
    words = ["cp", str(tmp_path / "here"), "netfs+tcp://127.0.0.1:1/"]
    assert run(app, host, words) == Exit.USAGE
    assert "NETFS_CP_JOBS" in capfd.readouterr().err
    assert run(app, host, [*words, "--jobs", "2"]) == Exit.REMOTE  # what is said goes before; nobody listens there
    capfd.readouterr()
    monkeypatch.setenv("NETFS_CP_JOBS", "2")
    monkeypatch.setenv("NETFS_CP_TIMEOUT", "soon")
    assert run(app, host, words) == Exit.USAGE
    assert "NETFS_CP_TIMEOUT" in capfd.readouterr().err


def test_a_command_loads_no_other() -> None:
    check = "import sys; from importlib.metadata import entry_points; from netfs.cli.main import build;"
    check += "build(entry_points(group='netfs.commands'), ['--json', 'ls', 'demo']);"
    check += "print([n for n in ('cryptography', 'msgpack', 'rich.progress', 'servers', 'trials') if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True, timeout=20)
    assert done.stdout == "[]\n", done.stdout


def test_every_entry_point_is_named_after_a_command() -> None:
    points = entry_points(group="netfs.commands")
    app, _ = build(points)
    assert {point.name for point in points} == {name for name in app if not name.startswith("-")}


def test_keygen(tmp_path: Path) -> None:
    key = tmp_path / "my.key"
    done = subprocess.run([*NETFS, "keygen", "--json", str(key)], capture_output=True, text=True, check=True, timeout=20)
    assert key.stat().st_mode & 0o777 == 0o600
    assert key.read_text().startswith("iovc-key-1 ")
    assert set(json.loads(done.stdout)) == {"file", "key_id"}
    before = key.read_bytes()
    again = subprocess.run([*NETFS, "keygen", str(key)], capture_output=True, text=True, check=False, timeout=20)
    assert again.returncode == 4
    assert again.stderr == f"netfs: {key}: File exists\n"
    assert key.read_bytes() == before


def test_nobody_reads_the_output() -> None:
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run([*NETFS, "--version"], stdout=write, stderr=subprocess.PIPE, text=True, check=False, timeout=20)
    os.close(write)
    assert done.returncode != 0
    assert done.stderr == ""


def test_the_reader_of_a_command_leaves(capfd: pytest.CaptureFixture[str]) -> None:
    app, host = build([EntryPoint("toy", f"{__name__}:register", "netfs.commands")])
    saved = os.dup(1)
    try:
        assert run(app, host, ["end", "closed"]) == 128 + signal.SIGPIPE
    finally:
        os.dup2(saved, 1)
        os.close(saved)
    assert capfd.readouterr().err == ""
