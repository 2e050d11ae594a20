"""man, completion, doctor, top and profiles: what the program says about itself, and what it is told once for all."""

import json
import os
import pty
import re
import select
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import Distribution, PackagePath, entry_points
from pathlib import Path

import pytest

from netfs.cli.doctor import examined
from netfs.cli.main import GROUP, build
from netfs.cli.manuals import pages
from netfs.cli.place import parse_place
from netfs.cli.profiles import parse_profiles
from servers.top import rates, screen
from tests.netfs.test_cli_session import NETFS, netfs, on_a_terminal, serving, told

COMMANDS = sorted({point.name for point in entry_points(group=GROUP)})


def test_every_command_has_a_manual_page_with_its_options() -> None:
    app, _ = build(entry_points(group=GROUP))
    found = dict(pages(app))
    assert {f"netfs-{name}" for name in COMMANDS} | {"netfs", "netfs-volume-init"} <= set(found)
    for name, text in found.items():
        assert text.startswith(f'.TH "{name.upper()}" 1'), name
        if not name.startswith("netfs-trial"):
            assert "\n\\&\n" not in text, f"{name}: an option without an explanation"
    assert r"\fB\-\-bwlimit\fR \fIVALUE\fR" in found["netfs-cp"] and "NETFS_BWLIMIT" in found["netfs-cp"]
    assert r"netfs cp \-r photos" in found["netfs-cp"]


def test_manual_pages_are_what_roff_takes(tmp_path: Path) -> None:
    done = json.loads(netfs("--json", "man", "--write", tmp_path / "man1").out)
    assert "netfs-cp" in done["pages"] and (tmp_path / "man1" / "netfs-cp.1").exists()
    assert netfs("man", "volume", "init").out == (tmp_path / "man1" / "netfs-volume-init.1").read_text()
    told(netfs("man", "nonsense"), 2, "no such command")
    if shutil.which("groff") is None:
        pytest.skip("groff is not installed: apt install groff")
    command: list[str | Path] = ["groff", "-man", "-ww", "-Tutf8", *sorted((tmp_path / "man1").iterdir())]
    shown = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30)
    assert shown.stderr == "" and "NETFS-VOLUME-INIT(1)" in shown.stdout


@pytest.mark.slow
@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(shell: str, tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text(netfs("completion", shell).out)
    for name in COMMANDS:
        assert re.search(rf"\b{name}\b", script.read_text()), name
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    assert not subprocess.run([shell, "-n", script], capture_output=True, text=True, check=True, timeout=30).stderr
    (tmp_path / "holiday").mkdir()
    script.rename(tmp_path / "_netfs")
    for typed, whole in (
        ("netfs cp --bwl", "--bwlimit"), ("netfs vol", "volume"), ("netfs volume ini", "init"), ("netfs cp holi", "holiday"),
    ):  # fmt: skip
        assert whole in completed(shell, typed, whole, tmp_path), typed


SETTING_UP = {
    "bash": (["bash", "--norc", "--noprofile", "-i"], "source ./_netfs"),
    "zsh": (["zsh", "-f", "-i"], "fpath=($PWD $fpath); autoload -Uz compinit; compinit -D -u"),  # as from ~/.zfunc
}


def completed(shell: str, typed: str, whole: str, folder: Path) -> str:
    """Type something and a tab in a shell on a terminal. Returns: what is shown then, up to `whole` if that comes."""
    if shell == "fish":
        asked = f"source ./_netfs; complete -C '{typed}'"
        command = ["fish", "--no-config", "-c", asked]
        return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True, timeout=60).stdout
    command, setup = SETTING_UP[shell]
    fd, terminal = pty.openpty()
    shown = b""

    def read_until(word: bytes) -> None:
        nonlocal shown
        shown = b""
        while word not in shown and select.select([fd], [], [], 60)[0]:
            shown += os.read(fd, 65536)

    with subprocess.Popen(
        command, stdin=terminal, stdout=terminal, stderr=terminal, cwd=folder, env={**os.environ, "TERM": "xterm", "PS1": "$ "},
        start_new_session=True,
    ) as client:  # fmt: skip
        try:
            os.write(fd, f"{setup}; echo set''up\n".encode())
            read_until(b"setup")
            os.write(fd, typed.encode() + b"\t")
            read_until(whole.encode())
        finally:
            client.kill()
            os.close(fd)
            os.close(terminal)
    return shown.decode(errors="replace")


class Other(Distribution):
    """A distribution that installs a package with the name of one of ours."""

    def __init__(self, name: str, *files: str) -> None:
        self._name, self._paths = name, [PackagePath(file) for file in files]

    def read_text(self, filename: str) -> str | None:
        return f"Metadata-Version: 2.1\nName: {self._name}\nVersion: 1\n" if filename == "METADATA" else None

    def locate_file(self, path: "str | os.PathLike[str]") -> Path:
        return Path(path)

    @property
    def files(self) -> list[PackagePath]:
        return self._paths


def test_doctor_names_who_else_is_called_crypto() -> None:
    def installed() -> Iterator[Distribution]:
        yield Other("crypto", "crypto/__init__.py", "crypto/app.py")
        yield Other("harmless", "Cryptodome/__init__.py", "crypto.py")

    (wrong,) = [each for each in examined(installed) if each.state == "wrong"]
    assert wrong.what == "package crypto" and "crypto installs one of the same name" in wrong.detail
    assert "pip uninstall crypto" in wrong.advice


def test_doctor_on_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    findings = {each["what"]: each for each in json.loads(netfs("--json", "doctor").out)["findings"]}
    assert findings["packages"]["state"] == "ok" and findings["identity"]["advice"] == "netfs keygen --identity"
    (tmp_path / "netfs").mkdir()
    (tmp_path / "netfs" / "identity").write_text("secret")
    (tmp_path / "netfs" / "identity").chmod(0o644)
    done = netfs("doctor")
    assert done.code == 1 and "can be read by others" in done.out and "chmod 600" in done.out


PROFILES = """
[profile.work]
url = "netfs+tcp://127.0.0.1:7777/team/"
key_file = "~/my.key"
timeout = 10
[profile.sock]
url = "netfs+unix:///run/netfs.sock"
"""


def test_profiles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/mine")
    profiles = parse_profiles(PROFILES)
    assert dict(profiles["work"].options) == {"key_file": "/mine/my.key", "timeout": 10}
    for text, shown in (
        ("work:photos/2026", "netfs+tcp://127.0.0.1:7777/team/photos/2026"),
        ("work:", "netfs+tcp://127.0.0.1:7777/team"),
        ("work:/x", "netfs+tcp://127.0.0.1:7777/team/x"),
        ("sock:x", "netfs+unix:///run/netfs.sock:/x"),
        ("other:x", "other:x"),
        ("netfs://h/x", "netfs://h/x"),
    ):
        assert str(parse_place(text, profiles)) == shown
    assert parse_place("work:a", profiles).child("b").profile is profiles["work"]
    for wrong, said in (
        ("[profile.a]", "needs a url"), ("[profile.a]\nurl='x'", "needs a url"), ("profile = 1", "tables"), ("[", "document"),
        ("[profile]\na = 1", "write [profile.a]"), ('[profile."a/b"]\nurl="netfs://h"', "neither slash"),
        ("[profile.a]\nurl='netfs://h'\nspeed=1", "speed is not an option"),
        ("[profile.a]\nurl='netfs://h'\ntimeout='x'", "wrong type"),
        ("[profile.a]\nurl='netfs://h'\nchannels=true", "wrong type"),
    ):  # fmt: skip
        with pytest.raises(ValueError) as raised:
            parse_profiles(wrong)
        assert said in str(raised.value)


@pytest.mark.slow
def test_a_profile_and_top_on_a_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    (tmp_path / "netfs").mkdir()
    assert netfs("keygen", tmp_path / "my.key").code == 0
    (tmp_path / "served").mkdir()
    with serving(tmp_path / "served", "--listen", "127.0.0.1:0") as (url, _):
        config = f'[profile.work]\nurl = "{url}/team"\nkey_file = "{tmp_path}/my.key"\n'
        (tmp_path / "netfs" / "netfs.toml").write_text(config)
        assert netfs("mkdir", f"{url}/team").code == 0
        (tmp_path / "f").write_bytes(b"a secret of ours")
        assert netfs("cp", tmp_path / "f", "work:").code == 0
        assert netfs("cat", "work:f").out == "a secret of ours"
        assert not [path for path in (tmp_path / "served").rglob("*") if path.is_file() and b"secret" in path.read_bytes()]
        looks = [
            json.loads(line)
            for line in netfs("--json", "top", tmp_path / "served", "--times", "2", "--interval", "0.05").out.splitlines()
        ]
        assert len(looks) == 2 and looks[0]["requests_total"] > 0 and looks[1]["rates"]["requests/s"] == 0
        code, shown = on_a_terminal("top", tmp_path / "served", "--times", "2", "--interval", "0.05")
        assert code == 0 and shown.count("\x1b[H\x1b[J") == 2 and "requests/s" in shown and "connections" in shown
        told(netfs("top", tmp_path / "served", "--interval", "0"), 2, "--interval")
    told(netfs("top", tmp_path / "served", "--times", "1"), 3, "no server")
    (tmp_path / "netfs" / "netfs.toml").write_text("[")
    told(netfs("ls", "work:"), 2, "netfs.toml")


def test_rates_of_a_server() -> None:
    one = {"uptime_seconds": 10.0, "requests_total": 100, "messages_total": 10, "wire_bytes_total": 5_000_000}
    two = {**one, "uptime_seconds": 12.0, "requests_total": 300, "wire_bytes_total": 9_000_000}
    assert rates(None, one) == {"requests/s": 10, "messages/s": 1, "MB/s": 0.5}
    assert rates(one, two) == {"requests/s": 100, "messages/s": 0, "MB/s": 2}
    assert rates(two, one)["requests/s"] == 10  # the server was started again
    status = {**two, "state": "serving", "connections": 1, "sessions": 1, "clients": [{"name": "bob", "address": "x" * 300}] * 20}
    lines = screen("srv", one, status, 60)
    assert lines[0] == "srv  serving  up 0:00:12" and "100 requests/s" in lines[1] and lines[-1] == "and 8 more"
    assert max(map(len, lines)) <= 60


def test_help_loads_in_time() -> None:
    assert NETFS[0] == sys.executable
    done = subprocess.run([*NETFS, "--help"], capture_output=True, text=True, timeout=30, check=True)
    for name in ("doctor", "top", "man", "completion", "sync", "tree", "du", "put"):
        assert re.search(rf"^│ {name} ", done.stdout, re.MULTILINE), name
