"""cp and sync with their options: filters, verification, a bound on speed, dry runs, and copies that go on after a kill -9."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from netfs.cli.copying import PIECE, How, copy_trees
from netfs.cli.filters import Filters, parse_rate
from netfs.cli.host import Exit
from netfs.cli.journal import Journals
from netfs.cli.pace import Pace
from netfs.cli.place import Place
from netfs.cli.sides import Item, Kind
from tests.netfs.test_cli_copying import ScriptedSide, ScriptedSink, never, silent_host
from tests.netfs.test_cli_session import LINUX, NETFS, netfs, on_a_terminal, serving, told, wait_for_part


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("export")


@pytest.fixture(scope="module")
def url(folder: Path) -> Iterator[str]:
    with serving(*([folder] if LINUX else ["--memory"]), "--listen", "127.0.0.1:0") as (url, _):
        yield url


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "state" / "netfs" / "copies"


def make(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode() * 10)


def names(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("include", "exclude", "taken"),
    [
        ((), (), {"a.jpg", "b.o", "docs/c.jpg", "docs/old/d.txt", "src/.git/e"}),
        (("*.jpg",), (), {"a.jpg", "docs/c.jpg"}),
        ((), ("*.o", ".git"), {"a.jpg", "docs/c.jpg", "docs/old/d.txt"}),
        ((), ("docs/*",), {"a.jpg", "b.o", "src/.git/e"}),
        (("docs/**",), ("old/",), {"docs/c.jpg"}),
        (("**/*.txt", "?.o"), (), {"b.o", "docs/old/d.txt"}),
        (("/a.jpg",), (), {"a.jpg"}),
        (("[a].jpg",), (), set[str]()),
    ],
)
def test_filters(include: tuple[str, ...], exclude: tuple[str, ...], taken: set[str]) -> None:
    filters = Filters(include, exclude)
    files = ["a.jpg", "b.o", "docs/c.jpg", "docs/old/d.txt", "src/.git/e"]

    def reached(path: str) -> bool:
        parts = path.split("/")
        above = ["/".join(parts[:depth]) for depth in range(1, len(parts))]
        return all(filters.admits(each, is_directory=True) for each in above) and filters.admits(path, is_directory=False)

    assert {path for path in files if reached(path)} == taken
    assert filters.admits("", is_directory=True)


def test_rates() -> None:
    assert [parse_rate(text) for text in ("500", "500k", "1.5M", "1Gi", "10MB")] == [500, 500e3, 1.5e6, 2**30, 10e6]
    for wrong in ("", "fast", "0", "-1", "10X", "1e3"):
        with pytest.raises(ValueError, match="bytes a second"):
            parse_rate(wrong)


async def test_a_bound_on_speed_holds(autojump_clock: trio.testing.MockClock) -> None:
    target = ScriptedSide(8, never)
    job = (Place(None, "/big"), Item("big", Kind.FILE, 0o644, 8 * PIECE), Place(None, "/copy"))
    with silent_host().progress(None, "") as progress:
        began = trio.current_time()
        totals = await copy_trees(
            [job], ScriptedSide(8, never), target, workers=4, measured=False, progress=progress,
            fresh_name=lambda: "part", how=How(pace=Pace(((0, PIECE),))),
        )  # fmt: skip
    assert totals.files == 1 and 7 <= trio.current_time() - began <= 9


async def test_what_is_not_what_was_written_gets_no_name() -> None:
    class Forgetful(ScriptedSink):
        async def read_back(self, view: memoryview, pos: int) -> int:
            done = await super().read_back(view, pos)
            view[:1] = b"\xff" if pos == PIECE else view[:1]
            return done

    class Side(ScriptedSide):
        def sink(self, place: Place, item: Item, temporary: str, *, resumed: bool = False) -> ScriptedSink:
            return Forgetful(self, place.path, temporary)

    target = Side(3, never)
    job = (Place(None, "/big"), Item("big", Kind.FILE, 0o644, 3 * PIECE), Place(None, "/copy"))
    with silent_host().progress(None, "") as progress:
        totals = await copy_trees(
            [job], ScriptedSide(3, never), target, workers=2, measured=False, progress=progress,
            fresh_name=lambda: "part", how=How(verify=True),
        )  # fmt: skip
    (error,) = totals.failed
    assert error.code == Exit.NO and f"at {PIECE:,} bytes" in str(error)
    assert (target.named, target.unfinished) == (set(), set())


def test_sync_makes_one_folder_like_another(tmp_path: Path, url: str, folder: Path) -> None:
    here = tmp_path / "here"
    make(here, "a", "b", "sub/c", "sub/d.tmp")
    assert netfs("sync", "--exclude", "*.tmp", here, f"{url}/there").code == 0
    again = json.loads(netfs("--json", "sync", "--exclude", "*.tmp", here, f"{url}/there").out)
    assert (again["files"], again["same"], again["deleted"]) == (0, 3, 0)
    # Something is changed, something new, something gone; what is excluded stays on the other side too.
    (here / "a").write_bytes(b"changed")
    (here / "b").unlink()
    make(here, "e/f")
    assert netfs("cp", here / "sub" / "d.tmp", f"{url}/there/kept.tmp").code == 0
    planned = netfs("sync", "--dry-run", "--delete", "--exclude", "*.tmp", here, f"{url}/there")
    assert sorted(planned.out.splitlines()) == [
        f"copy {here}/a to {url}/there/a",
        f"copy {here}/e/f to {url}/there/e/f",
        f"make directory {url}/there/e",
        f"remove {url}/there/b",
    ]
    kept = json.loads(netfs("--json", "sync", "--exclude", "*.tmp", here, f"{url}/there").out)
    assert (kept["files"], kept["deleted"]) == (2, 0)
    done = json.loads(netfs("--json", "sync", "--delete", "--verify", "--exclude", "*.tmp", here, f"{url}/there").out)
    assert (done["files"], done["same"], done["deleted"]) == (0, 3, 1)
    assert netfs("sync", f"{url}/there", tmp_path / "back").code == 0
    assert names(tmp_path / "back") == {"a", "sub/c", "e/f", "kept.tmp"}
    told(netfs("sync", here / "a", f"{url}/there"), 2, "not a directory")
    told(netfs("sync", here / "none", f"{url}/there"), 4, "No such file")
    told(netfs("cp", "--bwlimit", "fast", here / "a", f"{url}/x"), 2, "--bwlimit")
    told(netfs("cp", "--jobs", "0", here / "a", f"{url}/x"), 2, "--jobs")
    assert netfs("rm", "-r", f"{url}/there").code == 0


def test_what_is_left_out_is_not_removed_with_its_folder(tmp_path: Path, url: str) -> None:
    make(tmp_path / "here", "a.jpg")
    make(tmp_path / "there", "a.jpg", "old/b.jpg", "old/keep.txt", "gone/c.jpg", "gone/deep/d.jpg", "e.txt")
    for options, kept in (
        (["--include", "*.jpg"], {"a.jpg", "old/keep.txt", "e.txt"}),
        (["--exclude", "keep.*"], {"a.jpg", "old/keep.txt"}),
        ([], {"a.jpg"}),
    ):
        assert netfs("cp", "-r", tmp_path / "there", f"{url}/t").code == 0
        planned = netfs("sync", "-n", "--delete", *options, tmp_path / "here", f"{url}/t").out
        assert "keep.txt" not in planned or not options
        assert netfs("sync", "--delete", *options, tmp_path / "here", f"{url}/t").code == 0
        assert netfs("cp", "-r", f"{url}/t", tmp_path / "back").code == 0
        assert names(tmp_path / "back") == kept
        assert not (tmp_path / "back" / "gone").exists()
        shutil.rmtree(tmp_path / "back")
        assert netfs("rm", "-r", f"{url}/t").code == 0


@pytest.mark.slow
@pytest.mark.parametrize("up", [True, False])
def test_a_copy_that_was_killed_goes_on(tmp_path: Path, url: str, folder: Path, state: Path, up: bool) -> None:
    if not LINUX:
        pytest.skip("the store in memory has no folder to watch")
    content = os.urandom(5 * PIECE + 17)
    source, into = (tmp_path / "data", folder) if up else (folder / "data", tmp_path / "into")
    into.mkdir(exist_ok=True)
    state.mkdir(parents=True)
    source.write_bytes(content)
    ends: list[str | Path] = [source, f"{url}/copy"] if up else [f"{url}/data", into / "copy"]
    command = [*NETFS, "cp", "--resume", "-j", "1", "--bwlimit", "8M", *map(str, ends)]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as client:
        wait_for_part(state)
        (journal,) = state.iterdir()
        while len(journal.read_text().splitlines()) < 3:
            assert client.poll() is None
        client.send_signal(signal.SIGKILL)
    (part,) = into.glob(".netfs-*.part")
    assert not (into / "copy").exists()
    with part.open("r+b") as file:  # damage the first piece that has arrived
        file.write(b"damage")
    done = json.loads(netfs("--json", "cp", "--resume", *ends).out)
    assert done["files"] == 1 and PIECE <= done["resumed"] < len(content)
    assert hashlib.sha256((into / "copy").read_bytes()).digest() == hashlib.sha256(content).digest()
    assert not list(into.glob(".netfs-*")) and not list(state.iterdir())
    again = json.loads(netfs("--json", "cp", "--resume", *ends).out)
    assert (again["files"], again["same"]) == (0, 1)
    (into / "copy").unlink()


def test_a_source_that_has_changed_is_copied_anew(tmp_path: Path) -> None:
    place, target, journals = Place(None, str(tmp_path / "a")), Place("netfs://h", "/a"), Journals(tmp_path / "state", PIECE)
    old = journals.open(place, Item("a", Kind.FILE, 0o644, 100, 1), target, "one.part")
    old.add(0, "0" * 64)
    old.add(2, "1" * 64)
    old.close()
    old.path.write_text(old.path.read_text() + "3 cut")  # killed while it wrote
    same = journals.open(place, Item("a", Kind.FILE, 0o644, 100, 1), target, "two.part")
    assert (same.temporary, same.pieces, same.outdated) == ("one.part", {0: "0" * 64, 2: "1" * 64}, None)
    other = journals.open(place, Item("a", Kind.FILE, 0o644, 100, 2), target, "three.part")
    assert (other.temporary, other.pieces, other.outdated) == ("three.part", {}, "one.part")
    other.path.write_bytes(b"\xff\x00nonsense")
    assert journals.open(place, Item("a", Kind.FILE, 0o644, 100, 2), target, "four.part").pieces == {}


@pytest.mark.slow
def test_tree_du_and_put(tmp_path: Path, url: str) -> None:
    make(tmp_path / "t", "a", "sub/b", "sub/deep/c")
    assert netfs("cp", "-r", tmp_path / "t", f"{url}/t").code == 0
    shown = netfs("tree", "--sizes", f"{url}/t")
    assert shown.out.splitlines() == [
        f"{url}/t", "├── a  10 B", "└── sub/  150 B", "    ├── b  50 B", "    └── deep/  100 B", "        └── c  100 B", "",
        "2 directories, 3 files, 160 B",
    ]  # fmt: skip
    assert netfs("tree", "-L", "1", f"{url}/t").out.splitlines()[1:3] == ["├── a", "└── sub/"]
    sums = json.loads(netfs("--json", "du", "--depth", "1", f"{url}/t", f"{url}/t/a").out)["sums"]
    assert [(row["url"].removeprefix(url), row["size"], row["files"]) for row in sums] == [
        ("/t/sub", 150, 2), ("/t", 160, 3), ("/t/a", 10, 1),
    ]  # fmt: skip
    data = os.urandom(5 << 20)
    for options, expected in (([], data), (["--append"], data + data)):
        done = subprocess.run([*NETFS, "put", *options, f"{url}/t/new"], input=data, check=True, timeout=30)
        assert done.returncode == 0
        assert subprocess.run([*NETFS, "cat", f"{url}/t/new"], capture_output=True, check=True, timeout=30).stdout == expected
    told(netfs("put", "--mode", "999", f"{url}/t/x"), 2, "--mode")
    told(netfs("put", f"{url}/none/x"), 3, "No such file")
    assert not [line for line in netfs("ls", f"{url}/t").out.splitlines() if line.startswith(".netfs")]
    assert netfs("rm", "-r", f"{url}/t").code == 0


@pytest.mark.slow
def test_a_sync_on_a_terminal_shows_progress_and_what_it_came_to(tmp_path: Path, url: str) -> None:
    (tmp_path / "t").mkdir()
    (tmp_path / "t" / "big").write_bytes(os.urandom(3 * PIECE))
    code, shown = on_a_terminal("sync", "--verify", tmp_path / "t", f"{url}/s")
    assert code == 0 and "100%" in shown and "1 file, 12.6 MB" in shown
    code, shown = on_a_terminal("sync", tmp_path / "t", f"{url}/s")
    assert code == 0 and "0 files" in shown and "1 the same" in shown
    assert netfs("rm", "-r", f"{url}/s").code == 0
