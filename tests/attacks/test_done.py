"""The whole of it, as people use it: a volume made, filled by two users in turn, verified; a rollback met and accepted."""

import json
import os
from pathlib import Path

import pytest

from tests.netfs.test_cli_session import netfs, serving, told
from tests.netfs.test_cli_volume import typed

ROOT = Path(__file__).parents[2]
CHEAP = ["--memory-mib", "19", "--passes", "1", "--lanes", "1"]
LINUX = os.uname().sysname == "Linux"


@pytest.fixture
def two_users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.delenv("NETFS_KEY_FILE", raising=False)
    return [str(tmp_path / name) for name in ("alice", "bob")]


def become(user: str, patch: pytest.MonkeyPatch) -> None:
    """Use another user's configuration and memory of what was seen."""
    patch.setenv("XDG_CONFIG_HOME", f"{user}/config")
    patch.setenv("XDG_STATE_HOME", f"{user}/state")


@pytest.mark.slow
@pytest.mark.skipif(not LINUX, reason="the server of a real folder runs on Linux")
def test_a_source_tree_by_two_clients_in_turn_passes_fsck(
    tmp_path: Path, two_users: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    alice, bob = two_users
    folder = tmp_path / "export"
    folder.mkdir()
    become(bob, monkeypatch)
    key = Path(bob) / "id"
    key.parent.mkdir()
    assert netfs("keygen", "--identity", key).code == 0
    become(alice, monkeypatch)
    with serving(folder, "--listen", "127.0.0.1:0") as (url, _):
        vault = f"{url}/vault"
        with typed("geheim") as secret:
            assert netfs("volume", "init", vault, *CHEAP, *secret).code == 0
        with typed("geheim") as secret:
            assert netfs("volume", "add-recipient", vault, f"{key}.pub", *secret).code == 0
        for user, part in ((alice, "crypto"), (bob, "docs"), (alice, "servers"), (bob, "netfs")):
            become(user, monkeypatch)
            if user == alice:
                with typed("geheim") as secret:
                    done = netfs("cp", "-r", *secret, ROOT / part, f"{vault}/")
            else:
                done = netfs("cp", "-r", "--key-file", key, ROOT / part, f"{vault}/")
            assert done.code == 0, done
        done = netfs("fsck", "--key-file", key, "--json", vault)
        assert done.code == 0, done
        report = json.loads(done.out)
        assert report["damaged"] == []
        assert report["checked_files"] > 80
        become(alice, monkeypatch)
        with typed("geheim") as secret:
            assert netfs("volume", "verify", *secret, vault).code == 0
    # A bit of something stored turns over.
    stored = [Path(where) / name for where, _, names in os.walk(folder / "vault") for name in names]
    victim = max((path for path in stored if not path.name.startswith(".")), key=lambda path: path.stat().st_size)
    content = bytearray(victim.read_bytes())
    content[len(content) // 2] ^= 16
    victim.write_bytes(content)
    with serving(folder, "--listen", "127.0.0.1:0") as (url, _):
        become(bob, monkeypatch)
        fingerprint = json.loads(netfs("volume", "info", "--json", f"{url}/vault").out)["fingerprint"]
        done = netfs("fsck", "--key-file", key, "--fingerprint", fingerprint, "--json", f"{url}/vault")
        assert done.code == 1, done
        (damage,) = json.loads(done.out)["damaged"]
        assert (ROOT / damage["path"].removeprefix("/vault/")).is_file(), "named by its path"
        assert damage["block"] >= 0
        assert damage["reason"].startswith("EBADMSG: ")


def test_a_rollback_is_met_refused_and_accepted(tmp_path: Path, two_users: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    become(two_users[0], monkeypatch)
    key, file = tmp_path / "key", tmp_path / "file"
    assert netfs("keygen", key).code == 0
    with serving("--memory", "--tamper", "A10", "--listen", "127.0.0.1:0") as (url, _):
        codes = []
        for n in range(3):
            file.write_bytes(bytes([n]) * 50_000)
            codes.append(netfs("cp", "--key-file", key, file, f"{url}/file").code)
        assert codes[-1] == 3
        told(netfs("ls", "--key-file", key, url), 3, "accept-rollback")
        with Path(os.devnull).open() as nothing:
            monkeypatch.setattr("sys.stdin", nothing)
            told(netfs("volume", "accept-rollback", "--key-file", key, url), 2, "--yes")
        done = netfs("volume", "accept-rollback", "--key-file", key, "--yes", "--json", url)
        assert done.code == 0, done
        answer = json.loads(done.out)
        assert answer["accepted"]
        assert answer["rollbacks"] > 0
        assert "accept-rollback" not in netfs("ls", "--key-file", key, url).err
        assert netfs("volume", "accept-rollback", "--key-file", tmp_path / "none", "--yes", url).code == 4


@pytest.mark.slow
def test_a_volume_with_a_root_at_the_terminal(tmp_path: Path, two_users: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    alice, bob = two_users
    become(alice, monkeypatch)
    (tmp_path / "file").write_bytes(b"content" * 10_000)
    with serving("--memory", "--listen", "127.0.0.1:0") as (url, _):
        vault = f"{url}/vault"
        with typed("geheim") as secret:
            assert netfs("volume", "init", "--root", vault, *CHEAP, *secret).code == 0
        assert json.loads(netfs("volume", "info", "--json", vault).out)["freshness"] == "root"
        for user in (alice, bob, alice):
            become(user, monkeypatch)
            with typed("geheim") as secret:
                assert netfs("cp", *secret, tmp_path / "file", f"{vault}/{Path(user).name}").code == 0
        with typed("geheim") as secret:
            done = netfs("fsck", "--json", *secret, vault)
        assert (done.code, json.loads(done.out)["checked_files"]) == (0, 2)
