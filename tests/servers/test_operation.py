"""A server while it runs: who gets which export, limits, status, metrics, new keys, and its end in order."""

import errno
import json
import os
import signal
import stat
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
import trio

import netfs
from iov.probe import Probe
from servers import MemoryStore, serve
from servers.config import ServerLimits
from servers.listen import default_listen, open_listener
from servers.privileges import user_for
from servers.report import answer_reports, ask_status, command_server, metrics_text
from servers.server import Server, Serving
from servers.stores.base import Store
from tests.transport.secure import identity
from transport.address import Address, parse_address
from transport.env import system_env
from transport.errors import TransportError
from transport.link import memory_link
from transport.messages import Ping
from transport.security import Identity, KnownHosts
from transport.stream import connect_stream

LINUX = sys.platform == "linux"


@asynccontextmanager
async def keyed(
    folder: Path, lines: str, exports: dict[str, Store], **more: object
) -> AsyncIterator[tuple[Serving, list[Identity]]]:
    """Serve with keys; `lines` has {0}, {1} for the fingerprints of two clients."""
    server, *clients = (identity(folder, name) for name in ("server", "one", "two"))
    keys = folder / "authorized_keys"
    keys.write_text(lines.format(*[client.fingerprint for client in clients]))
    store = MemoryStore(Probe())
    async with serve(store, identity=server.path, authorized_keys=keys, exports=exports, **more) as serving:  # type: ignore[arg-type]
        KnownHosts(folder / "known_hosts").remember(serving.address, server.fingerprint)
        yield serving, clients
    store.close()


async def test_each_key_gets_its_export(tmp_path: Path) -> None:
    photos = MemoryStore(Probe())
    photos.create(photos.root().handle, "photo", 0o644, exclusive=True)
    async with keyed(tmp_path, "{0} one rw photos\n{1} two\n", {"photos": photos}) as (serving, (one, two)):
        hosts = tmp_path / "known_hosts"
        async with netfs.open_client(serving.url, identity=one.path, known_hosts=hosts) as client:
            assert await client.listdir() == ["photo"]
            await client.mkdir("/mine")
        async with netfs.open_client(serving.url, identity=two.path, known_hosts=hosts) as client:
            assert await client.listdir() == []
    photos.close()


async def test_a_handle_of_another_export_is_stale_there(tmp_path: Path) -> None:
    if not LINUX:
        pytest.skip("serves real folders")
    from servers.stores.directory import DirectoryStore

    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "secret").write_text(name)
    first, second = DirectoryStore(tmp_path / "a", Probe()), DirectoryStore(tmp_path / "b", Probe())
    entry = first.lookup(first.root().handle, "secret")
    with pytest.raises(OSError) as caught:
        second.getattr(entry.handle)
    assert caught.value.errno == errno.ESTALE
    first.close()
    second.close()


async def test_an_export_that_is_not_served(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with keyed(tmp_path, "{0} one ro elsewhere\n", {}) as (serving, (one, _)):
        with pytest.raises(netfs.NotReachable):
            async with netfs.open_client(serving.url, identity=one.path, known_hosts=tmp_path / "known_hosts"):
                pass
    assert "elsewhere, which is not served here" in caplog.text


async def test_one_client_cannot_take_all_connections(tmp_path: Path) -> None:
    bounds = ServerLimits(per_client=2)
    async with keyed(tmp_path, "{0} one\n{1} two\n", {}, bounds=bounds) as (serving, (one, two)):
        hosts = tmp_path / "known_hosts"
        async with netfs.open_client(serving.url, identity=one.path, known_hosts=hosts, channels=2) as client:
            with trio.fail_after(60):
                while serving.server.connections < 2:  # noqa: ASYNC110
                    await trio.sleep(0.01)
            await client.mkdir("/a")
            with pytest.raises(netfs.NotReachable):
                async with netfs.open_client(serving.url, identity=one.path, known_hosts=hosts):
                    pass
            async with netfs.open_client(serving.url, identity=two.path, known_hosts=hosts) as other:
                assert await other.listdir() == ["a"]


async def test_a_key_that_is_taken_out_loses_its_connection_at_reload(tmp_path: Path) -> None:
    async with keyed(tmp_path, "{0} one\n{1} two\n", {}) as (serving, (one, two)):
        hosts, keys = tmp_path / "known_hosts", tmp_path / "authorized_keys"
        async with (
            netfs.open_client(serving.url, identity=one.path, known_hosts=hosts, timeout=0.5) as first,
            netfs.open_client(serving.url, identity=two.path, known_hosts=hosts) as second,
        ):
            keys.write_text("nonsense")
            with pytest.raises(OSError):
                serving.server.reload()
            await first.mkdir("/still")
            keys.write_text(f"{two.fingerprint} two\n")
            serving.server.reload()
            await second.mkdir("/there")
            with pytest.raises(netfs.NotReachable):
                await first.mkdir("/gone")


async def test_commands_over_the_control_socket_alone(tmp_path: Path) -> None:
    where = parse_address(f"unix:{tmp_path}/control")
    async with keyed(tmp_path, "{0} one\n{1} two\n", {}) as (serving, (one, two)):
        hosts, keys = tmp_path / "known_hosts", tmp_path / "authorized_keys"
        async with (
            netfs.open_client(serving.url, identity=two.path, known_hosts=hosts) as second,
            trio.open_nursery() as nursery,
        ):
            listener = open_listener(where)
            nursery.start_soon(partial(answer_reports, serving.server, listener, commands=True))
            assert await command_server(where, "/disconnect", "nobody") == {"disconnected": 0}
            async with netfs.open_client(serving.url, identity=one.path, known_hosts=hosts) as first:
                assert await command_server(where, "/disconnect", "one") == {"disconnected": 1}
                await first.mkdir("/again")  # its key still counts
            async with netfs.open_client(serving.url, identity=one.path, known_hosts=hosts, timeout=0.5) as first:
                keys.write_text("nonsense")
                with pytest.raises(ValueError, match="old keys go on counting"):
                    await command_server(where, "/reload")
                keys.write_text(f"{two.fingerprint} two\n")
                assert await command_server(where, "/reload") == {"reloaded": True}
                await second.mkdir("/there")
                with pytest.raises(netfs.NotReachable):
                    await first.mkdir("/gone")
            with pytest.raises(ValueError, match="not the control socket"):
                await command_server(where, "/format")
            nursery.cancel_scope.cancel()


async def test_a_socket_that_only_tells_does_nothing(tmp_path: Path) -> None:
    where = f"unix:{tmp_path}/report"
    async with serve(MemoryStore(Probe()), f"unix:{tmp_path}/sock", reports=where):
        for path in ("/reload", "/disconnect"):
            with pytest.raises(ValueError, match="not the control socket"):
                await command_server(parse_address(where), path, "somebody")


async def test_who_only_looks_is_no_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    async with serve(MemoryStore(Probe()), f"unix:{tmp_path}/sock"):
        async with await trio.open_unix_socket(f"{tmp_path}/sock"):
            pass
        with trio.fail_after(60):
            while "looked peer=" not in caplog.text:  # noqa: ASYNC110
                await trio.sleep(0.01)
        async with await trio.open_unix_socket(f"{tmp_path}/sock") as stream:
            await stream.send_all(b"GET / HTTP/1.1")
        with trio.fail_after(60):
            while "stranger error=" not in caplog.text:  # noqa: ASYNC110
                await trio.sleep(0.01)
    assert [record.levelname for record in caplog.records if "looked" in record.getMessage()] == ["INFO"]


async def test_status_and_metrics(tmp_path: Path) -> None:
    store = MemoryStore(Probe())
    where = f"unix:{tmp_path}/report"
    async with serve(store, f"unix:{tmp_path}/sock", reports=where) as serving:
        async with netfs.open_client(serving.url) as client:
            await client.mkdir("/a")
            found = await ask_status(parse_address(where))
            assert found["state"] == "serving" and found["connections"] == found["sessions"] == 1
            assert isinstance(found["clients"], list) and len(found["clients"]) == 1
        stream = await trio.open_unix_socket(f"{tmp_path}/report")
        async with stream:
            await stream.send_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
            text = b"".join([piece async for piece in stream]).decode()
        assert "# TYPE netfs_connections gauge" in text and "netfs_accepted_total 1" in text
        for nonsense in (b"GET /etc/passwd HTTP/1.1\r\n\r\n", b"\xff\xfe\r\n\r\n", b"POST /status HTTP/1.1\r\n\r\n"):
            stream = await trio.open_unix_socket(f"{tmp_path}/report")
            async with stream:
                await stream.send_all(nonsense)
                assert b"".join([piece async for piece in stream]).startswith(b"HTTP/1.1 404")
    store.close()


def test_metrics_have_help() -> None:
    assert metrics_text({"connections": 2}).splitlines()[-1] == "netfs_connections 2"


async def test_asking_what_is_no_server(tmp_path: Path) -> None:
    with pytest.raises(OSError):
        await ask_status(Address(socket=str(tmp_path / "nothing")))


async def test_asking_what_does_not_answer(tmp_path: Path, autojump_clock: trio.testing.MockClock) -> None:
    where = Address(socket=str(tmp_path / "silent"))
    listener = open_listener(where)
    try:
        with pytest.raises(TimeoutError):
            await ask_status(where)
    finally:
        listener.close()


async def test_draining_answers_what_is_under_way(autojump_clock: trio.testing.MockClock) -> None:
    store = MemoryStore(Probe())
    server = Server(store, system_env(), Probe(), bounds=ServerLimits(requests_per_s=1))
    ours, theirs = memory_link()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.serve_connection, theirs)
        async with connect_stream(ours, system_env(), Probe()) as transport:
            await transport.call(Ping())
            replies: list[int] = []

            async def late() -> None:
                replies.append((await transport.call(Ping())).status)

            nursery.start_soon(late)
            await trio.testing.wait_all_tasks_blocked()
            assert server.connections == 1 and not replies
            await server.drain()
            assert replies == [0] and server.connections == 0
            with pytest.raises(TransportError):
                await transport.call(Ping())
        ours, theirs = memory_link()
        nursery.start_soon(server.serve_connection, theirs)
        with pytest.raises(TransportError):
            async with connect_stream(ours, system_env(), Probe()):
                pass
    store.close()


async def test_draining_does_not_wait_for_ever(autojump_clock: trio.testing.MockClock) -> None:
    server = Server(MemoryStore(Probe()), system_env(), Probe(), bounds=ServerLimits(requests_per_s=1e-3, drain_s=5))
    ours, theirs = memory_link()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.serve_connection, theirs)
        async with connect_stream(ours, system_env(), Probe()) as transport:
            call = transport.submit(Ping(), lambda _: None)
            await trio.testing.wait_all_tasks_blocked()
            began = trio.current_time()
            await server.drain()
            assert trio.current_time() - began == pytest.approx(5, abs=0.1)
            call.abandon()


# ---- the program


@pytest.mark.skipif(not LINUX, reason="serves a real folder")
def test_the_program_from_its_config_file_to_its_end(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    config = tmp_path / "server.toml"
    config.write_text(f'folder = "{tmp_path}/data"\nlisten = "unix:{tmp_path}/s"\nlog_json = true\nverbose = true\n')
    back, fd = os.pipe()
    command = [sys.executable, "-m", "netfs", "serve", "--config", str(config), "--ready-fd", str(fd), "--json"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, pass_fds=[fd])
    os.close(fd)
    assert os.read(back, 100) == b"ready\n"
    os.close(back)
    assert server.stdout is not None and server.stderr is not None
    assert json.loads(server.stdout.readline())["url"] == f"netfs+unix://{tmp_path}/s:/"
    netfs_ = [sys.executable, "-m", "netfs"]
    assert subprocess.run([*netfs_, "mkdir", f"netfs+unix://{tmp_path}/s:/made"], check=False).returncode == 0
    told = subprocess.run([*netfs_, "status", str(tmp_path / "data"), "--json"], capture_output=True, check=True)
    assert json.loads(told.stdout)["accepted_total"] == 1
    assert stat.S_IMODE((tmp_path / "data" / ".netfs" / "control").stat().st_mode) == 0o600
    control = [*netfs_, "control", str(tmp_path / "data")]
    for action, answer in ((["disconnect", "nobody"], "0 connections ended\n"), (["reload"], "keys are read again\n")):
        assert subprocess.run([*control, *action], capture_output=True, text=True, check=True).stdout == answer
    assert subprocess.run([*control, "disconnect"], capture_output=True, check=False).returncode == 2
    server.send_signal(signal.SIGHUP)
    server.send_signal(signal.SIGTERM)
    _, log = server.communicate(timeout=120)
    assert server.returncode == 0
    events = [json.loads(line)["event"] for line in log.splitlines()]
    assert events[:2] == ["connected", "left"]
    gone = subprocess.run([*netfs_, "status", str(tmp_path / "data")], capture_output=True, text=True, check=False)
    assert gone.returncode == 3 and "no server answers there" in gone.stderr


def test_the_default_socket_is_the_users_alone(tmp_path: Path) -> None:
    assert default_listen({"XDG_RUNTIME_DIR": str(tmp_path)}) == f"unix:{tmp_path}/netfs.sock"
    assert default_listen({}).startswith("unix:/tmp/netfs-")


def test_who_a_server_becomes(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no such user"):
        user_for("nobody-has-this-name", tmp_path)
    if os.geteuid() == 0:
        os.chown(tmp_path, 65534, 65534)
        user = user_for(None, tmp_path)
        assert user is not None and user.pw_uid == 65534
        assert user_for("root", tmp_path) is None
    else:
        assert user_for(None, tmp_path) is None
        with pytest.raises(ValueError, match="only root"):
            user_for("root", tmp_path)


@pytest.mark.skipif(not LINUX or os.geteuid() != 0, reason="only root can become somebody else")
def test_a_server_that_root_starts_gives_root_up(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    os.chown(tmp_path / "data", 65534, 65534)
    for folder in (tmp_path, *tmp_path.parents):
        if folder.stat().st_mode & 0o005 != 0o005:
            folder.chmod(folder.stat().st_mode | 0o005)
    command = [sys.executable, "-m", "netfs", "serve", str(tmp_path / "data"), "--listen", "127.0.0.1:0", "--json"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert server.stdout is not None
    try:
        assert server.stdout.readline()
        status = Path(f"/proc/{server.pid}/status").read_text()
        assert "Uid:\t65534\t65534\t65534\t65534" in status
        assert "NoNewPrivs:\t1" in status
    finally:
        server.kill()
        server.communicate()


@pytest.mark.parametrize("kind", ["tcp", "tls", "rdma", "rdmas", "unix"])
async def test_every_kind_of_connection_is_made_anew(kind: str, tmp_path: Path) -> None:
    store = MemoryStore(Probe())
    server, client = identity(tmp_path, "server"), identity(tmp_path, "client")
    (tmp_path / "keys").write_text(f"{client.fingerprint} client\n")
    keyed = {"identity": server.path, "authorized_keys": tmp_path / "keys"} if kind in {"tls", "rdmas"} else {}
    listen = f"unix:{tmp_path}/s" if kind == "unix" else "127.0.0.1:0"
    rdma = "127.0.0.1:0" if kind.startswith("rdma") else None
    async with serve(store, listen, rdma=rdma, **keyed) as serving:  # type: ignore[arg-type]
        url = serving.rdma_url or (serving.url if kind != "tcp" else f"netfs+tcp://{serving.address}/")
        hosts = KnownHosts(tmp_path / "known_hosts")
        hosts.remember(netfs.parse_url(url).peer, server.fingerprint)
        who = client.path if keyed else None
        async with netfs.open_client(url, identity=who, known_hosts=hosts.path) as fs:
            await fs.mkdir("/0")
            for number in range(1, 4):
                for one in serving.server.clients:
                    one.scope.cancel()
                await fs.mkdir(f"/{number}")
            assert await fs.listdir() == ["0", "1", "2", "3"]
            assert len(serving.server.sessions) == 1
    store.close()
