"""Two users with keys at their terminals: keygen, serve, trust, cp; each with a home of their own."""

import json
import os
import stat
import subprocess
from collections.abc import Iterator
from contextlib import chdir, contextmanager
from pathlib import Path

import pytest

from tests.netfs.test_cli_session import NETFS, netfs


class User:
    """Somebody with a home folder."""

    def __init__(self, home: Path) -> None:
        home.mkdir()
        self.home = home
        self.files = home / ".config" / "netfs"
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("NETFS_", "XDG_"))}
        self.env = {**kept, "HOME": str(home), "LOGNAME": home.name}

    def run(self, *arguments: str | Path, code: int = 0, **env: str) -> str:
        """Run a command; return what it printed, or its one line of error when it is to fail with a code."""
        with chdir(self.home), pytest.MonkeyPatch.context() as patch:
            for name in set(os.environ) - set(self.env):
                patch.delenv(name)
            for name, value in (self.env | env).items():
                patch.setenv(name, value)
            done = netfs(*arguments)
        assert done.code == code, done
        if not code:
            assert not done.err
            return done.out
        assert len(done.err.splitlines()) == 1, done.err
        assert done.err.startswith("netfs: ")
        return done.err

    @contextmanager
    def serving(self, *arguments: str | Path) -> Iterator[dict[str, str]]:
        command = [*NETFS, "--json", "serve", *map(str, arguments), "--listen", "127.0.0.1:0"]
        with subprocess.Popen(
            command, env=self.env, cwd=self.home, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as server:
            try:
                assert server.stdout is not None
                yield json.loads(server.stdout.readline())
            finally:
                server.terminate()


@pytest.fixture
def alice(tmp_path: Path) -> User:
    return User(tmp_path / "alice")


@pytest.fixture
def bob(tmp_path: Path) -> User:
    return User(tmp_path / "bob")


def test_keygen_makes_an_identity_once(alice: User) -> None:
    printed = alice.run("keygen").splitlines()
    line = printed[0].split()
    assert [text.split()[:2] for text in printed[1:]] == [["#", "xwing"], ["#", "x25519"]]
    assert (alice.files / "identity.pub").read_text().startswith("iovc-recipient-1 xwing ")
    assert line[0].startswith("SHA256:") and line[1] == "alice"
    path = alice.files / "identity"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(alice.files.stat().st_mode) == 0o700
    before = path.read_bytes()
    said = alice.run("keygen", "--identity", code=4)
    assert "File exists" in said and line[0] in said
    assert path.read_bytes() == before
    made = json.loads(alice.run("--json", "keygen", "--identity", "other.id"))
    assert made["file"] == "other.id" and made["fingerprint"] != line[0]
    assert made["fingerprints"].keys() == {"xwing", "x25519"}
    assert "File exists" in alice.run("keygen", code=4)
    assert "No such file" in alice.run("keygen", "--identity", "missing/folder", code=4)


def test_two_users(alice: User, bob: User) -> None:
    (alice.home / "note").write_text("for bob\n")
    (bob.home / "answer").write_text("for alice\n")
    alice.run("keygen", "--identity")
    line = bob.run("keygen", "--identity")
    keys = alice.files / "authorized_keys"
    keys.write_text(line)
    with alice.serving("--memory", "--authorized-keys", keys) as served:
        url = served["url"]
        assert url.startswith("netfs://")
        said = bob.run("ls", url, code=3)
        assert served["fingerprint"] in said and f"netfs trust {url}" in said
        assert "its key is" in bob.run("trust", url, "SHA256:" + "A" * 43, code=1)
        assert served["fingerprint"] in bob.run("trust", url)
        assert bob.run("trust", url, served["fingerprint"]) == bob.run("trust", url), "once more changes nothing"
        assert len((bob.files / "known_hosts").read_text().splitlines()) == 1
        bob.run("cp", "answer", url)
        assert bob.run("cat", f"{url}answer") == "for alice\n"
        # One without a key, one whose key is not listed, one who is let read only.
        assert "it speaks TLS" in bob.run("ls", url.replace("netfs://", "netfs+tcp://"), code=3)
        alice.run("trust", url)
        assert "perhaps it does not know this key" in alice.run("ls", url, code=3)
        keys.write_text(line.replace("\n", " ro\n"))
        assert "Read-only file system" in bob.run("rm", f"{url}answer", code=3)
        assert bob.run("ls", url) == "answer\n"


def test_a_server_that_has_changed_its_key(alice: User, bob: User) -> None:
    alice.run("keygen", "--identity", "server.id")
    bob.run("keygen", "--identity")
    (alice.home / "keys").write_text("")
    with alice.serving("--memory", "--identity", "server.id", "--authorized-keys", "keys") as served:
        peer = served["url"].removeprefix("netfs://").rstrip("/")
        (bob.files / "known_hosts").write_text(f"{peer} SHA256:{'A' * 43}\n")
        assert "somebody is in between" in bob.run("ls", served["url"], code=3)
        assert "remove that line" in bob.run("trust", served["url"], code=1)
        (bob.files / "known_hosts").write_text("nonsense\n")
        assert "known_hosts: line 1" in bob.run("trust", served["url"], code=4)


def test_what_is_said_without_keys(alice: User, bob: User) -> None:
    assert "netfs keygen --identity" in bob.run("trust", "netfs://127.0.0.1:1", code=4)
    assert "only a server at netfs:// or netfs+rdmas:// has a key" in bob.run("trust", "netfs+unix:///s:/", code=2)
    assert "No such file" in alice.run("serve", "--memory", "--identity", "none.id", code=4)
    alice.run("keygen", "--identity", "my.id")
    assert "authorized_keys" in alice.run("serve", "--memory", "--identity", "my.id", code=4)
    (alice.home / "my.id").chmod(0o644)
    assert "chmod 600" in alice.run("ls", "netfs://127.0.0.1:1", code=4, NETFS_IDENTITY="my.id")
    assert "--authorized-keys" in alice.run("serve", "--memory", "--listen", "0.0.0.0:0", code=4)


def test_a_plain_server_works_for_those_with_an_identity_and_those_without(alice: User, bob: User) -> None:
    bob.run("keygen", "--identity")
    with alice.serving("--memory") as served:
        assert served["url"].startswith("netfs+tcp://")
        for user in (alice, bob):
            assert user.run("ls", served["url"]) == ""
        secure = served["url"].replace("netfs+tcp://", "netfs://")
        assert alice.run("ls", secure) == "", "without an identity, on this machine"
        assert "perhaps it speaks without TLS" in bob.run("ls", secure, code=3), "never the other way round"
