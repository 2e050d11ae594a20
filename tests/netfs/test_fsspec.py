"""netfs under fsspec and UPath: fsspec's own suites, and what they leave out."""

import gc
import os
import pickle
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import fsspec
import pytest
import trio
from fsspec.tests.abstract import (
    AbstractCopyTests,
    AbstractFixtures,
    AbstractGetTests,
    AbstractOpenTests,
    AbstractPipeTests,
    AbstractPutTests,
)
from upath import UPath

from crypto.errors import ENOKEY
from crypto.keys import format_key_file
from crypto.slots import RawKey
from crypto.volume import new_volume
from netfs.fs.client import open_client
from netfs.fs.volumes import create_header
from netfs.fsspec import NetFileSystem, NetPath
from netfs.fsspec.portal import Portal

KEY = RawKey(b"k" * 32)


@pytest.fixture(scope="module")
def shared(url: str) -> Iterator[NetFileSystem]:
    fs = NetFileSystem(url, skip_instance_cache=True)
    yield fs
    fs.close()


class OverNetfs(AbstractFixtures):
    @pytest.fixture
    def fs(self, shared: NetFileSystem) -> NetFileSystem:
        return shared

    @pytest.fixture
    def fs_join(self) -> Callable[..., str]:
        return lambda *names: "/".join(names)

    @pytest.fixture
    def fs_path(self, fs: NetFileSystem) -> Iterator[str]:
        fs.makedirs("/t", exist_ok=True)
        yield "/t"
        fs.rm("/t", recursive=True)


class TestCopy(AbstractCopyTests, OverNetfs):
    pass


class TestGet(AbstractGetTests, OverNetfs):
    pass


class TestPut(AbstractPutTests, OverNetfs):
    pass


class TestOpen(AbstractOpenTests, OverNetfs):
    pass


class TestPipe(AbstractPipeTests, OverNetfs):
    pass


@pytest.fixture
def fs(shared: NetFileSystem) -> Iterator[NetFileSystem]:
    yield shared
    for path in shared.ls("/", detail=False):
        shared.rm(path, recursive=True)


def test_a_url_is_enough(url: str, fs: NetFileSystem) -> None:
    with fsspec.open(f"{url}/note.txt", "w") as file:
        file.write("to whom it may concern")
    with fsspec.open(f"{url}/note.txt", "rb") as file:
        assert file.read() == b"to whom it may concern"
    other, path = fsspec.url_to_fs(f"{url}/note.txt")
    assert isinstance(other, NetFileSystem) and path == "/note.txt"
    assert other.unstrip_protocol(path) == f"{other.endpoint.removesuffix('/')}/note.txt"
    other.close()


def test_read_and_written_in_any_order(fs: NetFileSystem) -> None:
    with fs.open("/file", "wb") as file:
        file.write(b"0123456789")
    with fs.open("/file", "r+b") as file:
        file.seek(3)
        file.write(b"xyz")
        file.seek(0)
        assert file.read(5) == b"012xy"
        assert file.size == 10
    with fs.open("/file", "ab") as file:
        file.write(b"!")
    assert fs.cat_file("/file") == b"012xyz6789!"
    with fs.open("/file", "rb") as file:
        buffer = bytearray(4)
        assert file.readinto(buffer) == 4 and buffer == b"012x"
        assert file.seek(-1, os.SEEK_END) == 10 and file.read() == b"!"


@pytest.mark.parametrize(
    ("start", "end", "expected"),
    [
        (None, None, b"0123456789"),
        (2, 5, b"234"),
        (-3, None, b"789"),
        (None, -4, b"012345"),
        (5, 2, b""),
        (20, 30, b""),
        (8, 99, b"89"),
    ],
)
def test_a_range(fs: NetFileSystem, start: int | None, end: int | None, expected: bytes) -> None:
    fs.pipe_file("/file", b"0123456789")
    assert fs.cat_file("/file", start, end) == expected


def test_ranges_of_many_files_and_an_error_in_its_place(fs: NetFileSystem) -> None:
    for number in range(40):
        fs.pipe_file(f"/{number}", bytes([number]) * 100)
    paths = [f"/{number}" for number in range(40)] + ["/none"]
    results = fs.cat_ranges(paths, 10, 20)
    assert results[:40] == [bytes([number]) * 10 for number in range(40)]
    assert isinstance(results[40], FileNotFoundError)
    with pytest.raises(FileNotFoundError):
        fs.cat_ranges(paths, 10, 20, on_error="raise")
    with pytest.raises(ValueError, match="as many"):
        fs.cat_ranges(paths, [1], [2])


def test_a_transaction_shows_all_or_nothing(fs: NetFileSystem) -> None:
    fs.pipe_file("/a", b"old")
    with fs.transaction:
        with fs.open("/a", "wb") as file:
            file.write(b"new")
        with fs.open("/b", "wb") as file:
            file.write(b"more")
        assert fs.cat_file("/a") == b"old" and not fs.exists("/b")
    assert (fs.cat_file("/a"), fs.cat_file("/b")) == (b"new", b"more")
    with pytest.raises(RuntimeError, match="no"), fs.transaction:
        with fs.open("/a", "wb") as file:
            file.write(b"never")
        raise RuntimeError("no")
    assert fs.cat_file("/a") == b"new"
    assert sorted(fs.ls("/", detail=False)) == ["/a", "/b"]


def test_a_file_that_is_copied_onto_itself_stays(fs: NetFileSystem) -> None:
    fs.pipe_file("/a", b"kept")
    fs.cp_file("/a", "/a")
    assert fs.cat_file("/a") == b"kept"


def test_the_key_of_a_version_changes_with_it(fs: NetFileSystem) -> None:
    fs.pipe_file("/a", b"one")
    key, sum_ = fs.ukey("/a"), fs.checksum("/a")
    assert (fs.ukey("/a"), fs.checksum("/a")) == (key, sum_)
    fs.pipe_file("/a", b"two")
    assert fs.ukey("/a") != key and fs.checksum("/a") != sum_


def test_names_move_whole_directories(fs: NetFileSystem) -> None:
    fs.makedirs("/d/e")
    fs.pipe_file("/d/e/f", b"1")
    ino = fs.info("/d/e/f")["ino"]
    fs.mv("/d", "/moved", recursive=True)
    assert fs.info("/moved/e/f")["ino"] == ino
    fs.mkdir("/into")
    fs.mv("/moved/e/f", "/into")
    assert fs.cat_file("/into/f") == b"1"
    assert fs.find("/") == ["/into/f"]


def test_a_file_travels_to_this_machine_and_back(fs: NetFileSystem, tmp_path: Path) -> None:
    content = os.urandom(20 << 20)
    (tmp_path / "there").write_bytes(content)
    fs.put(str(tmp_path / "there"), "/x/there")
    fs.get("/x/there", str(tmp_path / "back"))
    assert (tmp_path / "back").read_bytes() == content
    with pytest.raises(FileExistsError):
        fs.put_file(str(tmp_path / "there"), "/x/there", mode="create")


def test_errors_are_pythons_own(fs: NetFileSystem) -> None:
    for call in (fs.info, fs.ls, fs.cat_file, fs.open, fs.rm_file, fs.modified):
        with pytest.raises(FileNotFoundError):
            call("/none")
    fs.mkdir("/d")
    with pytest.raises(FileExistsError):
        fs.mkdir("/d")
    with pytest.raises(IsADirectoryError):
        fs.open("/d", "rb")
    with pytest.raises(ValueError, match="no server"):
        fsspec.filesystem("netfs")


def test_a_server_that_is_not_there_is_told_at_the_first_use() -> None:
    fs = NetFileSystem("netfs+tcp://127.0.0.1:1", skip_instance_cache=True)
    with pytest.raises(ConnectionError, match=r"127\.0\.0\.1:1"):
        fs.ls("/")


def test_pickled_it_connects_again(fs: NetFileSystem) -> None:
    fs.pipe_file("/a", b"here")
    other = pickle.loads(pickle.dumps(fs))
    assert other.cat_file("/a") == b"here"
    other.close()


def test_a_forked_child_has_a_connection_of_its_own(fs: NetFileSystem) -> None:
    fs.pipe_file("/a", b"parent")
    child = os.fork()
    if not child:
        try:
            ok = fs.cat_file("/a") == b"parent"
            fs.close()
        except BaseException:  # noqa: BLE001 (the child must not run the tests of its parent)
            ok = False
        os._exit(0 if ok else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert fs.cat_file("/a") == b"parent"


def test_threads_share_one_connection(fs: NetFileSystem) -> None:
    fs.pipe_file("/a", bytes(range(256)) * 1000)
    wrong: list[int] = []

    def reads(at: int) -> None:
        if fs.cat_file("/a", at, at + 10) != (bytes(range(256)) * 2)[at : at + 10]:
            wrong.append(at)

    threads = [threading.Thread(target=reads, args=(at,)) for at in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_an_interrupted_call_has_ended_when_it_returns() -> None:
    portal = Portal()
    seen: list[str] = []

    async def slow() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        try:
            await trio.sleep_forever()
        finally:
            seen.append("ended")

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # who runs tests in parallel ignores it
    try:
        with pytest.raises(KeyboardInterrupt):
            portal.call(slow)
    finally:
        signal.signal(signal.SIGINT, before)
    assert seen == ["ended"]
    portal.close()
    with pytest.raises(RuntimeError):
        portal.call(partial(trio.sleep, 0))


def test_a_volume_opens_with_what_opens_it(url: str, fs: NetFileSystem, tmp_path: Path) -> None:
    header = new_volume(KEY, os.urandom)

    async def made() -> None:
        async with open_client(url) as client:
            await client.mkdir("/vault")
            await create_header(client, "/vault", header)

    trio.run(made)
    (tmp_path / "key").write_bytes(format_key_file(KEY.secret))
    options: dict[str, Any] = {"volume": "/vault", "key_file": str(tmp_path / "key"), "fingerprint": header.fingerprint.hex()}
    vault = NetFileSystem(url, skip_instance_cache=True, **options)
    vault.pipe_file("/vault/secret", b"between us" * 1000)
    assert vault.cat_file("/vault/secret", 0, 10) == b"between us"
    assert vault.ls("/vault", detail=False) == ["/vault/secret"]
    with pytest.raises(FileNotFoundError, match="outside"):
        vault.info("/elsewhere")
    vault.close()
    with fsspec.open(f"{url}/vault/secret", "rb", **options) as file:
        assert file.read(7) == b"between"
    for path in fs.find("/vault"):
        with pytest.raises(OSError) as refused:
            assert b"between us" not in fs.cat_file(path)
            raise OSError(ENOKEY, "a header, or a name without its key")
        assert refused.value.errno == ENOKEY


def test_paths_in_the_manner_of_pathlib(url: str, fs: NetFileSystem) -> None:
    path = UPath(f"{url}/folder/file.txt")
    assert isinstance(path, NetPath)
    path.parent.mkdir()
    path.write_text("hello")
    assert (path.read_text(), path.stat().st_size, path.name) == ("hello", 5, "file.txt")
    assert [each.name for each in path.parent.iterdir()] == ["file.txt"]
    assert str(path.parent / "file.txt") == str(path)
    path.rename(path.with_name("other.txt"))
    assert UPath(f"{url}/folder").joinpath("other.txt").is_file()
    fs.invalidate_cache()


def test_a_cache_on_disk(url: str, fs: NetFileSystem, tmp_path: Path) -> None:
    content = bytes(range(256)) * 1000
    fs.pipe_file("/cached", content)
    for turn in range(2):
        caching = NetFileSystem(url, cache_dir=str(tmp_path / "cache"), skip_instance_cache=True)
        assert caching.cat_file("/cached") == content
        assert caching._opened is not None
        cache = caching._opened[2].local_cache
        assert cache is not None and cache.stats.read_bytes == len(content) * turn
        with caching.open("/cached") as file:
            assert file.read() == content
        caching.close()
    fs.rm("/cached")
    assert len(list((tmp_path / "cache").glob("v-*/*/*"))) == 1


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
def test_blocks_are_cached_by_fsspec(url: str, fs: NetFileSystem, tmp_path: Path) -> None:
    content = bytes(range(256)) * 20_000
    fs.pipe_file("/large", content)
    options: dict[str, Any] = {"blockcache": {"cache_storage": str(tmp_path)}}
    with fsspec.open(f"blockcache::{url}/large", "rb", **options) as file:
        file.seek(1_000_000)
        assert file.read(300) == content[1_000_000:1_000_300]
        assert file.seek(-10, os.SEEK_END) and file.read() == content[-10:]
        assert {2, 3}.isdisjoint(file.cache.blocks) and 4 in file.cache.blocks
    assert file.closed
    del file
    gc.collect()  # fsspec leaves it to this to close its own file


@pytest.mark.parametrize(("mode", "expected"), [("ab", b"old!"), ("r+b", b"!ld"), ("wb", b"!")])
def test_a_file_is_changed_in_a_transaction(fs: NetFileSystem, mode: str, expected: bytes) -> None:
    fs.pipe_file("/a", b"old")
    with fs.transaction:
        with fs.open("/a", mode) as file:
            file.write(b"!")
        assert fs.cat_file("/a") == b"old"
    assert fs.cat_file("/a") == expected
    assert fs.ls("/", detail=False) == ["/a"]


def test_whole_files_wait_for_the_end_of_a_transaction(fs: NetFileSystem, tmp_path: Path) -> None:
    (tmp_path / "local").write_bytes(b"put")
    fs.pipe_file("/a", b"here")
    with fs.transaction:
        fs.pipe_file("/piped", b"piped")
        fs.put_file(str(tmp_path / "local"), "/put")
        fs.cp_file("/a", "/copied")
        assert not any(fs.exists(name) for name in ("/piped", "/put", "/copied"))
    assert [fs.cat_file(name) for name in ("/piped", "/put", "/copied")] == [b"piped", b"put", b"here"]


def test_a_name_moves_to_a_directory_that_is_made(fs: NetFileSystem) -> None:
    fs.pipe_file("/a", b"1")
    fs.mv("/a", "/new/folder/b")
    assert fs.find("/") == ["/new/folder/b"]
    with pytest.raises(FileNotFoundError):
        fs.mv("/none", "/other/folder/b")
    assert not fs.exists("/other")


def test_what_stands_behind_a_question_mark(url: str, fs: NetFileSystem) -> None:
    """How to deal with a lost connection is the endpoint's; anything else is a pattern or a name."""
    for number in range(3):
        fs.pipe_file(f"/part-{number}", b"x")
    assert fs.glob(f"{url}/part-?") == ["/part-0", "/part-1", "/part-2"]
    other, path = fsspec.url_to_fs(f"{url}/part-0?soft&timeout=30")
    assert path == "/part-0" and other.endpoint.endswith("/?soft&timeout=30")
    assert other.cat_file(path) == b"x" and other.unstrip_protocol(path) == f"{url}/part-0"
    other.close()


def test_a_misspelt_option_ends_in_no_plaintext(url: str) -> None:
    with pytest.raises(ValueError, match="volume= meant"):
        NetFileSystem(url, volumes="/vault", skip_instance_cache=True)
    with pytest.raises(ValueError, match="key_file= meant"):
        NetFileSystem(url, keyfile="my.key", skip_instance_cache=True)
    with pytest.raises(ValueError, match="what opens it"):
        NetFileSystem(url, volume="/vault", skip_instance_cache=True)


def test_a_path_tells_its_server(url: str, fs: NetFileSystem) -> None:
    fs.pipe_file("/d/one.txt", b"1")
    top = UPath(f"{url}/d")
    assert str(top) == f"{url}/d"
    assert [str(each) for each in (*top.iterdir(), *top.glob("*.txt"), *top.parent.rglob("*.txt"))] == [f"{url}/d/one.txt"] * 3
    assert str((top / "one.txt").relative_to(top)) == "one.txt"
    with fsspec.open(str(top / "one.txt"), "rb") as file:
        assert file.read() == b"1"


def test_what_the_command_remembers_of_a_volume_holds_here(
    url: str, fs: NetFileSystem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    header = new_volume(KEY, os.urandom)

    async def made() -> None:
        async with open_client(url) as client:
            await client.mkdir("/known")
            await create_header(client, "/known", header)

    trio.run(made)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "key").write_bytes(format_key_file(KEY.secret))
    (tmp_path / "netfs").mkdir()
    for fingerprint, right in ((header.fingerprint, True), (bytes(32), False)):
        (tmp_path / "netfs" / "known_volumes").write_text(f"{fingerprint.hex()} 0 {url}/known\n")
        vault = NetFileSystem(url, volume="/known", key_file="~/key", skip_instance_cache=True)
        if right:
            assert vault.ls("/known") == []
        else:
            with pytest.raises(OSError, match="fingerprint"):
                vault.ls("/known")
        vault.close()
    (tmp_path / "netfs" / "known_volumes").write_text("nonsense\n")
    with pytest.raises(OSError, match="known_volumes"):
        NetFileSystem(url, volume="/known", key_file="~/key", skip_instance_cache=True).ls("/known")


def test_what_is_still_open_at_the_end_of_the_program_arrives(url: str, fs: NetFileSystem) -> None:
    script = f"""
import fsspec
fs, _ = fsspec.url_to_fs({url!r})
file = fs.open("/late", "wb")
file.write(b"written, and never closed")
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert fs.cat_file("/late") == b"written, and never closed"
