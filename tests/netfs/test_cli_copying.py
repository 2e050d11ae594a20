"""The copy engine between folders of this machine, and between sides that fail where the test says."""

import errno
import math
import os
from collections.abc import AsyncIterator, Callable, Iterator
from itertools import count
from pathlib import Path
from typing import cast

import pytest
import trio

from netfs.cli import copying
from netfs.cli.copying import Totals, copy_trees
from netfs.cli.host import CommandError, Exit, Host, failing
from netfs.cli.how import How
from netfs.cli.local_side import LocalSide
from netfs.cli.main import build
from netfs.cli.place import Place
from netfs.cli.remote_side import RemoteSide
from netfs.cli.sides import Item, Kind, Side, Sink, Source
from netfs.fs.client import Client, Entry
from transport.messages import Attr, FileType

PIECE = copying.PIECE


def fresh_names() -> Callable[[], str]:
    numbers: Iterator[int] = count()
    return lambda: f".part-{next(numbers)}"


def silent_host() -> Host:
    return build([])[1]


async def copy(source: Side, target: Side, origin: Path | str, final: Path | str, workers: int = 4) -> Totals:
    place = Place(None, str(origin))
    item = await source.find(place)
    assert item is not None
    with silent_host().progress(None, "") as progress:
        jobs = [(place, item, Place(None, str(final)))]
        return await copy_trees(
            jobs, source, target, workers=workers, measured=False, progress=progress, fresh_name=fresh_names()
        )


def make_tree(root: Path) -> dict[str, bytes]:
    """Fill `root` and return what a copy is to hold."""
    contents = {
        "empty": b"",
        "one": b"x",
        "piece": os.urandom(PIECE),
        "pieces": os.urandom(2 * PIECE + 17),
        "sub/deeper/file": b"deep",
        "sub/größe\udcff": b"name",
    }
    for name, content in contents.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    (root / "hollow").mkdir()
    (root / "one").chmod(0o4751)
    return contents


def read_tree(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


async def test_a_tree_arrives_whole(tmp_path: Path) -> None:
    (tmp_path / "from").mkdir()
    contents = make_tree(tmp_path / "from")
    (tmp_path / "from" / "link").symlink_to("one")
    os.mkfifo(tmp_path / "from" / "pipe")
    totals = await copy(LocalSide(), LocalSide(), tmp_path / "from", tmp_path / "to")
    assert read_tree(tmp_path / "to") == contents
    assert (tmp_path / "to" / "hollow").is_dir()
    assert (tmp_path / "to" / "one").stat().st_mode & 0o7777 == 0o751  # no set-user-id from elsewhere
    assert (totals.files, totals.bytes) == (len(contents), sum(map(len, contents.values())))
    assert totals.directories == 4
    assert [line.rpartition("/")[2] for line in totals.skipped] == [
        "link: a symlink is not copied",
        "pipe: a special file is not copied",
    ]
    assert totals.failed == []


async def test_one_bad_file_does_not_stop_the_others(tmp_path: Path) -> None:
    (tmp_path / "from").mkdir()
    contents = make_tree(tmp_path / "from")
    (tmp_path / "to" / "one" / "in the way").mkdir(parents=True)
    totals = await copy(LocalSide(), LocalSide(), tmp_path / "from", tmp_path / "to")
    (told,) = totals.failed
    assert str(told) == f"{tmp_path}/to/one: Is a directory"
    assert told.code == Exit.LOCAL
    del contents["one"]
    assert read_tree(tmp_path / "to") == contents
    assert totals.files == len(contents)


class ScriptedSide(Side):
    """One file `big` of some pieces; `fail` is asked before each step and may raise or wait."""

    def __init__(self, pieces: int, fail: Callable[[str, int], object]) -> None:
        self.size = pieces * PIECE
        self.fail = fail
        self.named: set[str] = set()
        self.unfinished: set[str] = set()
        self.open = 0

    async def step(self, name: str, pos: int = 0) -> None:
        await trio.lowlevel.checkpoint()
        with failing(Exit.REMOTE, "peer:/big"):
            waiting = self.fail(name, pos)
        if waiting is not None:
            await trio.sleep(math.inf)

    async def find(self, place: Place) -> Item | None:
        await self.step("find")
        return Item(place.name, Kind.FILE, 0o644, self.size)

    async def entries(self, place: Place) -> list[Item]:
        await self.step("entries")
        return []

    async def make_directory(self, place: Place, mode: int, *, top: bool = True) -> None:
        await self.step("make_directory")

    async def read_link(self, place: Place) -> str:
        await self.step("read_link")
        return "text"

    async def make_link(self, place: Place, text: str, temporary: str) -> None:
        await self.step("make_link")

    def source(self, place: Place) -> Source:
        return ScriptedSource(self)

    def sink(self, place: Place, item: Item, temporary: str, *, resumed: bool = False) -> Sink:
        return ScriptedSink(self, place.path, temporary)

    async def remove(self, place: Place, item: Item) -> None:
        await self.step("remove")


class ScriptedSource(Source):
    def __init__(self, side: ScriptedSide) -> None:
        self.side = side
        self.is_open = False

    async def read_into(self, view: memoryview, pos: int) -> int:
        self.side.open += not self.is_open
        self.is_open = True
        await self.side.step("read", pos)
        return max(0, min(len(view), self.side.size - pos))

    async def aclose(self) -> None:
        self.side.open -= self.is_open
        self.is_open = False


class ScriptedSink(Sink):
    def __init__(self, side: ScriptedSide, path: str, temporary: str) -> None:
        self.side, self.path, self.temporary = side, path, temporary

    async def write(self, view: memoryview, pos: int) -> None:
        self.side.unfinished.add(self.temporary)
        await self.side.step("write", pos)

    async def reach_size(self) -> None:
        await self.side.step("reach_size")

    async def read_back(self, view: memoryview, pos: int) -> int:
        await self.side.step("read_back", pos)
        return len(view)

    async def aclose(self) -> None:
        await self.side.step("aclose")

    async def commit(self) -> None:
        await self.side.step("commit")
        self.side.unfinished.discard(self.temporary)
        self.side.named.add(self.path)

    async def discard(self) -> None:
        await self.side.step("discard")
        self.side.unfinished.discard(self.temporary)


def failing_at(step: str, code: int, pos: int = 0) -> Callable[[str, int], object]:
    def fail(name: str, at: int) -> object:
        if (name, at) == (step, pos):
            raise OSError(code, os.strerror(code))
        return None

    return fail


def never(_name: str, _pos: int) -> object:
    return None


@pytest.mark.parametrize(
    ("step", "pos"), [("read", 0), ("read", 2 * PIECE), ("write", 0), ("write", PIECE), ("write", 3 * PIECE), ("commit", 0)]
)
@pytest.mark.parametrize("code", [errno.EACCES, errno.ECONNRESET])
@pytest.mark.parametrize("workers", [1, 3])
async def test_a_failed_copy_leaves_nothing(step: str, pos: int, code: int, workers: int) -> None:
    fail = failing_at(step, code, pos)
    source = ScriptedSide(4, fail if step == "read" else never)
    target = ScriptedSide(4, fail if step != "read" else never)
    told: list[BaseException] = []
    try:
        told += (await copy(source, target, "/big", "/copy", workers)).failed
    except ExceptionGroup as group:
        told += group.exceptions
    (error,) = told
    assert isinstance(error, CommandError)
    assert (error.code, str(error)) == (Exit.REMOTE, f"peer:/big: {os.strerror(code)}")
    assert (source.open, target.unfinished, target.named) == (0, set(), set())


async def test_a_file_is_told_of_once_however_many_pieces_fail() -> None:
    def fail(name: str, _pos: int) -> object:
        if name == "write":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return None

    target = ScriptedSide(4, fail)
    totals = await copy(ScriptedSide(4, never), target, "/big", "/copy")
    assert len(totals.failed) == 1
    assert (totals.files, target.unfinished) == (0, set())


async def test_a_file_that_shrinks_is_not_taken_for_whole() -> None:
    source, target = ScriptedSide(4, never), ScriptedSide(4, never)

    def shrink(name: str, _pos: int) -> object:
        if name == "write":
            source.size = 3 * PIECE
        return None

    target.fail = shrink
    totals = await copy(source, target, "/big", "/copy", workers=1)
    assert [str(error) for error in totals.failed] == ["/big: became shorter while it was copied"]
    assert (source.open, target.unfinished, target.named) == (0, set(), set())


class Liar:
    """A client whose server lists what is no file name, or a symlink to what is no path."""

    def __init__(self, name: str, kind: FileType = FileType.FILE) -> None:
        self.name, self.kind = name, kind

    async def scandir(self, path: str) -> AsyncIterator[Entry]:
        await trio.lowlevel.checkpoint()
        attr = Attr(2, self.kind, 0o644, 1, 0, 0, 5, 0, 0, 0, 1)
        yield Entry(self.name, f"{path}/{self.name}", attr)

    async def readlink(self, path: str) -> str:
        await trio.lowlevel.checkpoint()
        return "a\0b"


async def copy_of_a_liar(liar: Liar, folder: Path) -> CommandError:
    origin, target = Place("netfs://h", "/folder"), Place(None, str(folder / "to"))
    with silent_host().progress(None, "") as progress:
        totals = await copy_trees(
            [(origin, Item("folder", Kind.DIRECTORY, 0o755, 0), target)], RemoteSide(cast("Client", liar)), LocalSide(),
            workers=1, measured=False, progress=progress, fresh_name=fresh_names(), how=How(links=True),
        )  # fmt: skip
    (told,) = totals.failed
    return told


@pytest.mark.parametrize("name", ["", ".", "..", "../../.ssh/authorized_keys", "/etc/passwd", "a\0b"])
async def test_a_server_cannot_lead_out_of_the_target(tmp_path: Path, name: str) -> None:
    told = await copy_of_a_liar(Liar(name), tmp_path)
    assert (told.code, "no file name" in str(told)) == (Exit.REMOTE, True)
    assert read_tree(tmp_path) == {}


async def test_a_symlink_to_what_is_no_path_is_told(tmp_path: Path) -> None:
    told = await copy_of_a_liar(Liar("link", FileType.SYMLINK), tmp_path)
    assert (told.code, "no path" in str(told)) == (Exit.REMOTE, True)


@pytest.mark.parametrize("step", ["read", "write", "commit"])
async def test_a_cancelled_copy_leaves_nothing(step: str, autojump_clock: trio.testing.MockClock) -> None:
    def wait(name: str, pos: int) -> object:
        return name if (name, pos) in {(step, 0), (step, 2 * PIECE)} else None

    source, target = ScriptedSide(4, wait), ScriptedSide(4, wait)
    with trio.move_on_after(1) as scope:
        await copy(source, target, "/big", "/copy", workers=2)
    assert scope.cancelled_caught
    assert (source.open, target.unfinished, target.named) == (0, set(), set())


async def test_a_dead_peer_does_not_hold_the_clean_up(autojump_clock: trio.testing.MockClock) -> None:
    def dead(name: str, _pos: int) -> object:
        return name if name in {"commit", "discard"} else None

    started = trio.current_time()
    with trio.move_on_after(1):
        await copy(ScriptedSide(1, never), ScriptedSide(1, dead), "/big", "/copy")
    assert trio.current_time() - started == pytest.approx(1 + copying.DISCARD_DEADLINE_S)
