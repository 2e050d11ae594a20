"""`netfs volume` and volumes in the other commands, against a server in another process."""

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from crypto.slots import Identity, RawKey
from crypto.volume import HEADER_NAME, new_volume, unlock
from tests.netfs.test_cli_session import Done, netfs, serving, told

CHEAP = ["--memory-mib", "19", "--passes", "1", "--lanes", "1"]


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with serving("--memory", "--listen", "127.0.0.1:0") as (url, _):
        yield url


@pytest.fixture(autouse=True)
def known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.delenv("NETFS_KEY_FILE", raising=False)
    return tmp_path / "config" / "netfs" / "known_volumes"


@contextmanager
def typed(text: str, option: str = "--passphrase-fd") -> Iterator[list[str]]:
    """Yield the options that read a passphrase from a pipe."""
    source, sink = os.pipe()
    try:
        os.write(sink, text.encode())
        os.close(sink)
        yield [option, str(source)]
    finally:
        os.close(source)


def with_passphrase(text: str, *arguments: str | Path) -> Done:
    with typed(text) as options:
        return netfs(*arguments, *options)


def done(result: Done) -> dict[str, object]:
    assert result.code == 0, result
    answer = json.loads(result.out)
    assert isinstance(answer, dict)
    return answer


@pytest.fixture
def vault(url: str, tmp_path: Path) -> str:
    vault = f"{url}/{tmp_path.name}"
    done(with_passphrase("geheim\n", "volume", "init", "--json", vault, *CHEAP))
    return vault


def test_a_life_of_a_volume(vault: str, tmp_path: Path, known: Path) -> None:
    (tmp_path / "file").write_bytes(b"secret" * 1000)
    assert with_passphrase("geheim", "cp", tmp_path / "file", f"{vault}/") == Done(0, "", "")
    assert with_passphrase("geheim", "ls", vault).out == "file\n"
    listed = netfs("ls", vault).out.split()
    assert (len(listed), HEADER_NAME in listed) == (2, True)
    assert "file" not in listed
    told(with_passphrase("falsch", "ls", vault), 3, vault, "wrong passphrase")

    bob, eve = tmp_path / "bob", tmp_path / "eve"
    prints = {who: done(netfs("keygen", "--identity", "--json", who))["fingerprints"] for who in (bob, eve)}
    assert bob.stat().st_mode & 0o777 == 0o600
    for who in (bob, eve):
        done(with_passphrase("geheim", "volume", "add-recipient", "--json", vault, f"{who}.pub"))
        assert netfs("cat", "--key-file", who, f"{vault}/file").out == "secret" * 1000
    told(with_passphrase("geheim", "volume", "add-recipient", vault, f"{bob}.pub"), 1, "already")
    told(netfs("volume", "rotate", vault, "--key-file", bob), 1, "only its owner")

    eves = prints[eve]
    assert isinstance(eves, dict)
    told(with_passphrase("geheim", "volume", "remove-recipient", vault, "00" * 16), 1, "not open")
    shown = done(with_passphrase("geheim", "volume", "remove-recipient", "--json", vault, eves["xwing"]))
    assert (shown["epoch"], len(list(shown["recipients"]))) == (2, 1)  # type: ignore[call-overload]
    told(netfs("cat", "--key-file", eve, f"{vault}/file"), 3, "not open to this identity")
    assert netfs("cat", "--key-file", bob, f"{vault}/file").out == "secret" * 1000

    with typed("neu", "--new-passphrase-fd") as new:
        assert with_passphrase("geheim", "volume", "passwd", vault, *CHEAP, *new).code == 0
    told(with_passphrase("geheim", "cat", f"{vault}/file"), 3, "wrong passphrase")
    assert done(with_passphrase("neu", "volume", "rotate", "--json", vault))["epoch"] == 3
    assert with_passphrase("neu", "volume", "reencrypt", vault).out == "1 files, 6,000 bytes written anew\n"
    told(netfs("volume", "reencrypt", vault), 2, "only what is encrypted")
    assert with_passphrase("neu", "cat", f"{vault}/file").out == "secret" * 1000
    shown = done(netfs("volume", "info", "--json", f"{vault}/file"))
    assert (shown["url"], shown["verified"]) == (vault, False)
    assert "not verified" in netfs("volume", "info", vault).out
    assert "not verified" not in with_passphrase("neu", "volume", "info", vault).out
    assert known.read_text() == f"{shown['fingerprint']} 3 {vault}\n"


def test_first_use_is_told_and_remembered(vault: str, known: Path) -> None:
    before = known.read_text()
    known.unlink()
    first = with_passphrase("geheim", "ls", vault)
    assert first.code == 0 and before.split()[0] in first.err and len(first.err.splitlines()) == 1
    assert known.read_text() == before and known.stat().st_mode & 0o777 == 0o600
    assert with_passphrase("geheim", "ls", vault) == Done(0, "", "")
    known.unlink()
    assert with_passphrase("geheim", "ls", vault, "--fingerprint", before.split()[0]) == Done(0, "", "")
    told(with_passphrase("geheim", "ls", vault, "--fingerprint", "00" * 32), 3, "fingerprint")
    told(with_passphrase("geheim", "ls", vault, "--fingerprint", "00"), 2, "64 hexadecimal digits")
    known.write_text("nonsense\n")
    told(with_passphrase("geheim", "ls", vault), 4, "known_volumes")


def test_what_a_server_may_show_in_place_of_the_header(url: str, vault: str, tmp_path: Path, known: Path) -> None:
    (tmp_path / "bob").write_bytes(b"iovc-identity-1 " + b"07" * 32 + b"\n")
    (tmp_path / "file").write_bytes(b"secret")
    theirs = unlock(new_volume(RawKey(b"s" * 32), os.urandom), RawKey(b"s" * 32), pinned=None)
    (tmp_path / "forged").write_bytes(theirs.with_recipient(Identity(b"\x07" * 32).recipients[0]).encode())
    header = f"{vault}/{HEADER_NAME}"
    (tmp_path / "old").write_bytes(netfs("cat", header).out.encode())
    assert with_passphrase("geheim", "volume", "rotate", vault).code == 0
    assert netfs("cp", tmp_path / "old", header).code == 0
    told(with_passphrase("geheim", "cp", tmp_path / "file", f"{vault}/"), 3, "epoch 1")
    assert netfs("cp", tmp_path / "forged", header).code == 0
    told(netfs("cp", "--key-file", tmp_path / "bob", tmp_path / "file", f"{vault}/"), 3, "fingerprint")
    assert netfs("rm", header).code == 0
    raw = tmp_path / "raw.key"
    assert netfs("keygen", raw).code == 0
    for secret in (raw, tmp_path / "bob"):
        told(netfs("cp", "--key-file", secret, tmp_path / "file", f"{vault}/"), 3, "not there any more")
    assert netfs("ls", vault).out == ""


def test_a_key_file_opens_without_a_derivation(url: str, tmp_path: Path) -> None:
    key, other = tmp_path / "my.key", tmp_path / "other.key"
    for path in (key, other):
        assert netfs("keygen", path).code == 0
    vault = f"{url}/keyed"
    shown = done(netfs("volume", "init", "--json", vault, "--key-file", key))
    assert shown["opens_with"] == "key file"
    (tmp_path / "file").write_bytes(b"secret")
    assert netfs("cp", "--key-file", key, tmp_path / "file", f"{vault}/").code == 0
    told(netfs("ls", "--key-file", other, vault), 3, "wrong key file")
    assert netfs("volume", "passwd", vault, "--key-file", key, "--new-key-file", other).code == 0
    assert netfs("cat", "--key-file", other, f"{vault}/file").out == "secret"
    told(netfs("cp", "--key-file", other, f"{vault}/file", f"{url}/outside"), 2, "outside of the volume")
    told(netfs("volume", "init", f"{vault}/inner", "--key-file", key), 1, "volume already")


def test_usage(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bob").write_bytes(b"iovc-identity-1 " + b"07" * 32 + b"\n")
    (tmp_path / "full").write_bytes(b"x")
    assert netfs("mkdir", f"{url}/full").code == 0
    assert netfs("cp", tmp_path / "full", f"{url}/full/x").code == 0
    told(with_passphrase("p", "volume", "init", f"{url}/full", *CHEAP), 3, "empty directory")
    told(with_passphrase("p", "volume", "init", f"{url}/new", "--memory-mib", "18"), 2, "19 MiB")
    told(with_passphrase("", "volume", "init", f"{url}/new"), 2, "1 to 4096 bytes")
    told(netfs("volume", "init", f"{url}/new", "--passphrase-fd", "999"), 4, "file descriptor 999")
    told(netfs("volume", "init", f"{url}/new", "--key-file", tmp_path / "bob"), 2, "identity cannot own")
    told(netfs("volume", "info", f"{url}/full"), 3, "not in a volume")
    told(with_passphrase("p", "ls", f"{url}/full"), 3, "not in a volume")
    told(with_passphrase("p", "ls", f"{url}/full", "--key-file", tmp_path / "bob"), 2, "enough")
    told(netfs("ls", "--key-file", tmp_path / "full", f"{url}/full"), 4, "not a key file")
    assert "new" not in netfs("ls", url).out.split()


TERMINAL = """
import os, pty, sys
answers = sys.stdin.read().split()
pid, fd = pty.fork()
if not pid:
    os.execv(sys.executable, [sys.executable, "-m", "netfs", *sys.argv[1:]])
shown = b""
while True:
    try:
        more = os.read(fd, 4096)
    except OSError:
        more = b""
    if not more:
        break
    shown += more
    if (b"passphrase: " in more or b"again: " in more) and answers:
        os.write(fd, answers.pop(0).encode() + b"\\n")
print(shown.decode())
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""


def at_terminal(answers: str, *arguments: str) -> tuple[int, str]:
    """Run a command as somebody at a terminal of its own, who types the answers when asked."""
    ran = subprocess.run([sys.executable, "-c", TERMINAL, *arguments], input=answers, capture_output=True, text=True, check=False)
    return ran.returncode, ran.stdout


def test_a_passphrase_is_asked_for_at_the_terminal(url: str) -> None:
    vault = f"{url}/asked"
    code, shown = at_terminal("geheim anders", "volume", "init", vault, *CHEAP)
    assert code == 2 and "two different passphrases" in shown
    assert at_terminal("geheim geheim", "volume", "init", vault, *CHEAP)[0] == 0
    code, shown = at_terminal("falsch", "ls", "--passphrase", vault)
    assert code == 3 and "wrong passphrase" in shown
    code, shown = at_terminal("geheim", "volume", "rotate", vault)
    assert code == 0 and "geheim" not in shown


def test_without_a_terminal_nobody_is_asked(url: str) -> None:
    command = [sys.executable, "-m", "netfs", "ls", "--passphrase", url]
    ran = subprocess.run(command, start_new_session=True, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    assert ran.returncode == 2 and "no terminal" in ran.stderr


def test_without_the_key_nothing_is_written_into_a_volume(vault: str, url: str, tmp_path: Path) -> None:
    """What would be plaintext on the server, and damage to whoever has the key."""
    (tmp_path / "file").write_bytes(b"secret")
    outside = f"{url}/{tmp_path.name}-plain"
    assert netfs("cp", tmp_path / "file", outside) == Done(0, "", "")
    before = netfs("ls", vault).out
    for command in (
        ["cp", tmp_path / "file", f"{vault}/"],
        ["cp", outside, f"{vault}/new"],
        ["sync", tmp_path, f"{vault}/folder"],
        ["put", f"{vault}/new"],
        ["mkdir", "-p", f"{vault}/some/folders"],
        ["mv", outside, vault],
        ["ln", "-s", "anything", f"{vault}/link"],
        ["mount", "--foreground", vault, tmp_path],
    ):
        if command[0] != "mount" or importlib.util.find_spec("pyfuse3"):
            told(netfs(*command), 3, vault, "Required key not available; say --passphrase or --key-file")
    listed = netfs("ls", vault)
    assert listed.out == before and "as the server has it" in listed.err
    assert netfs("ls", outside).code == 0 and netfs("rm", "-r", vault).code == 0  # whoever has lost the key is rid of it
