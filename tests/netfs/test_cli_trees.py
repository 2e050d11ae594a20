"""What a copy keeps of a tree, and what it does not touch: symlinks, holes, content under another time, devices, tries again."""

import errno
import json
import os
from pathlib import Path

import pytest
import trio

from netfs.cli.carrying import HOLES_FROM, PIECE
from netfs.cli.copying import copy_trees
from netfs.cli.host import Exit, Lost
from netfs.cli.how import How, Totals
from netfs.cli.journal import Journals
from netfs.cli.local_side import LocalSide
from netfs.cli.pace import Pace, parse_timetable
from netfs.cli.place import Place
from netfs.cli.sides import Side
from tests.netfs.test_cli_copying import ScriptedSide, never, silent_host
from tests.netfs.test_cli_session import netfs, told


async def copied(source: Side, target: Side, origin: Path, final: Path, how: How) -> Totals:
    place = Place(None, str(origin))
    item = await source.find(place)
    assert item is not None
    numbers = iter(range(1000))
    with silent_host().progress(None, "") as progress:
        return await copy_trees(
            [(place, item, Place(None, str(final)))], source, target, workers=2, measured=False, progress=progress,
            fresh_name=lambda: f".part-{next(numbers)}", how=how,
        )  # fmt: skip


async def test_symlinks_are_copied_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "from" / "sub").mkdir(parents=True)
    (tmp_path / "from" / "sub" / "up").symlink_to("../file")
    (tmp_path / "from" / "nowhere").symlink_to("/no/such/\udcff")
    (tmp_path / "to").mkdir()
    (tmp_path / "to" / "nowhere").symlink_to("elsewhere")
    planned = await copied(LocalSide(), LocalSide(), tmp_path / "from", tmp_path / "to", How(links=True, newer=True, dry=True))
    assert [line.rpartition("/")[2] for line in planned.planned] == ["sub", "\udcff", "file"] and planned.links == 2
    totals = await copied(LocalSide(), LocalSide(), tmp_path / "from", tmp_path / "to", How(links=True))
    assert (totals.links, totals.skipped, totals.failed) == (2, [], [])
    assert str((tmp_path / "to" / "sub" / "up").readlink()) == "../file"
    assert str((tmp_path / "to" / "nowhere").readlink()) == "/no/such/\udcff"
    again = await copied(LocalSide(), LocalSide(), tmp_path / "from", tmp_path / "to", How(links=True, newer=True))
    assert (again.links, again.same) == (0, 2)
    assert not list((tmp_path / "to").rglob(".part-*"))


async def test_nothing_is_written_through_a_symlink_that_came_with_a_copy(tmp_path: Path) -> None:
    """A server that first lists a link, and then a directory of that name, does not reach what the link leads to."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (tmp_path / "to").mkdir()
    (tmp_path / "to" / "trap").symlink_to(outside)
    (tmp_path / "from" / "trap").mkdir(parents=True)
    (tmp_path / "from" / "trap" / "planted").write_text("x")
    totals = await copied(LocalSide(), LocalSide(), tmp_path / "from", tmp_path / "to", How(links=True))
    (error,) = totals.failed
    assert str(error) == f"{tmp_path}/to/trap: Not a directory" and not list(outside.iterdir())
    # The target itself may be one: it is the user's.
    assert not (await copied(LocalSide(), LocalSide(), tmp_path / "from" / "trap", tmp_path / "to" / "trap", How())).failed
    assert (outside / "planted").exists()


@pytest.mark.parametrize("verify", [False, True])
async def test_holes_stay_holes(tmp_path: Path, verify: bool) -> None:
    sparse, end = tmp_path / "sparse", 3 * PIECE + 5
    with sparse.open("wb") as file:
        file.seek(PIECE + 100)
        file.write(b"island")
        file.truncate(end)
    if sparse.stat().st_blocks * 512 > HOLES_FROM:
        pytest.skip("no holes on this file system")
    totals = await copied(LocalSide(), LocalSide(), sparse, tmp_path / "copy", How(verify=verify))
    assert (totals.files, totals.bytes, totals.failed) == (1, end, [])
    assert (tmp_path / "copy").read_bytes() == sparse.read_bytes()
    assert (tmp_path / "copy").stat().st_blocks * 512 < HOLES_FROM


async def test_content_counts_where_checksums_are_asked_for(tmp_path: Path) -> None:
    for name, content in (("same", b"a" * (PIECE + 1)), ("other", b"b" * (PIECE + 1))):
        for folder in ("from", "to"):
            (tmp_path / folder).mkdir(exist_ok=True)
            (tmp_path / folder / name).write_bytes(content)
    with (tmp_path / "to" / "other").open("r+b") as file:
        file.seek(PIECE)
        file.write(b"x")
    then = (tmp_path / "from" / "other").stat().st_mtime_ns
    os.utime(tmp_path / "to" / "other", ns=(then, then))  # by size and time it is the same
    os.utime(tmp_path / "to" / "same", ns=(1, 1))
    for dry in (True, False):
        how = How(newer=True, checksum=True, dry=dry)
        totals = await copied(LocalSide(), LocalSide(), tmp_path / "from", tmp_path / "to", how)
        assert (totals.files, totals.same, len(totals.planned)) == (1, 1, int(dry))
    assert (tmp_path / "to" / "other").read_bytes() == b"b" * (PIECE + 1)
    assert (tmp_path / "to" / "same").stat().st_mtime_ns == 1


async def test_an_unfinished_file_that_is_finished_is_no_surplus(tmp_path: Path) -> None:
    (tmp_path / "from").mkdir()
    (tmp_path / "from" / "big").write_bytes(bytes(PIECE + 1))
    (tmp_path / "to").mkdir()
    source, target, journals = LocalSide(), LocalSide(), Journals(tmp_path / "state", PIECE)
    ends = [Place(None, str(tmp_path / folder / "big")) for folder in ("from", "to")]
    item = await source.find(ends[0])
    assert item is not None
    journals.open(ends[0], item, ends[1], ".netfs-1.part")
    (tmp_path / "to" / ".netfs-1.part").write_bytes(b"as far as it came")
    totals = await copied(source, target, tmp_path / "from", tmp_path / "to", How(newer=True, delete=True, journals=journals))
    assert (totals.files, totals.failed, [path.name for path in (tmp_path / "to").iterdir()]) == (1, [], ["big"])


async def test_a_folder_in_place_of_a_file_is_another(tmp_path: Path) -> None:
    (tmp_path / "from" / "name").mkdir(parents=True)
    (tmp_path / "to").mkdir()
    (tmp_path / "to" / "name").touch()
    for one, other in (("from", "to"), ("to", "from")):
        how = How(newer=True, checksum=True, dry=True)
        totals = await copied(LocalSide(), LocalSide(), tmp_path / one, tmp_path / other, how)
        assert totals.differing == [("different", f"{tmp_path}/{other}/name")]


async def test_what_failed_is_tried_again(autojump_clock: trio.testing.MockClock, tmp_path: Path) -> None:
    failures = [errno.EIO] * 3

    def fail(name: str, _pos: int) -> object:
        if name == "write" and failures:
            raise OSError(failures.pop(), "bad luck")
        return None

    began = trio.current_time()
    target = ScriptedSide(1, fail)
    totals = await copied(ScriptedSide(1, never), target, Path("/big"), Path("/copy"), How(retries=3))
    assert (totals.files, totals.failed, target.named) == (1, [], {"/copy"})
    assert trio.current_time() - began == pytest.approx(1 + 2 + 4)
    failures += [errno.EIO] * 2
    totals = await copied(ScriptedSide(1, never), target, Path("/big"), Path("/copy"), How(retries=1))
    assert len(totals.failed) == 1 and not target.unfinished


async def test_what_a_restarted_server_may_have_lost_is_copied_again(autojump_clock: trio.testing.MockClock) -> None:
    restarts = 2

    def fail(name: str, _pos: int) -> object:
        nonlocal restarts
        if name == "commit" and restarts:
            restarts -= 1
            raise Lost(Exit.REMOTE, "the server restarted")
        return None

    target = ScriptedSide(2, fail)
    totals = await copied(ScriptedSide(2, never), target, Path("/big"), Path("/copy"), How())
    assert (totals.files, totals.failed, target.named, target.unfinished) == (1, [], {"/copy"}, set())
    restarts = 100
    totals = await copied(ScriptedSide(2, never), target, Path("/big"), Path("/copy"), How())
    assert [str(error) for error in totals.failed] == ["the server restarted"] and not target.unfinished


def test_a_rate_has_a_timetable() -> None:
    table = parse_timetable("08:00,512k 19:00,10M 23:30,off")
    assert table == ((480, 512e3), (1140, 10e6), (1410, None))
    rates = [Pace(table, lambda minute=minute: minute).rate for minute in (0, 479, 480, 1139, 1140, 1410)]  # type: ignore[misc]
    assert rates == [None, None, 512e3, 512e3, 10e6, None]
    assert parse_timetable("10M") == ((0, 10e6),) and parse_timetable("off") == ((0, None),)
    for wrong in ("", " ", "24:00,1M", "8,1M", "08:00,fast", "08:00, 1M", "08:61,1M"):
        with pytest.raises(ValueError, match="write"):
            parse_timetable(wrong)


def test_a_device_or_pipe_is_not_replaced(tmp_path: Path, url: str) -> None:
    (tmp_path / "note").write_text("a note")
    assert netfs("cp", tmp_path / "note", f"{url}/note").code == 0
    os.mkfifo(tmp_path / "pipe")
    told(netfs("cp", f"{url}/note", tmp_path / "pipe"), 2, "special file")
    told(netfs("cp", f"{url}/note", "/dev/null"), 2, "special file")
    (tmp_path / "there").mkdir()
    os.mkfifo(tmp_path / "there" / "note")
    told(netfs("cp", f"{url}/note", tmp_path / "there"), 4, "special file")
    (tmp_path / "link").symlink_to("leads-here")
    assert netfs("cp", f"{url}/note", tmp_path / "link").code == 0
    assert (tmp_path / "link").is_symlink() and (tmp_path / "leads-here").read_text() == "a note"


def test_what_would_be_lost_or_never_end_is_not_begun(tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "x").write_text(folder)
    assert netfs("mkdir", f"{url}/into").code == 0
    told(netfs("cp", tmp_path / "a" / "x", tmp_path / "b" / "x", f"{url}/into"), 2, f"would both become {url}/into/x")
    assert netfs("ls", f"{url}/into").out == ""
    assert netfs("cp", "-r", f"{tmp_path}/a/.", f"{tmp_path}/b/.", f"{url}/into").code == 0  # folders are laid together
    monkeypatch.chdir(tmp_path)
    told(netfs("cp", "-r", f"{url}/into", tmp_path, "a"), 2, "onto or into itself")
    (tmp_path / "b" / "into").symlink_to(tmp_path / "a")
    told(netfs("cp", "-r", f"{url}/into", "b"), 4, "a symlink")
    assert netfs("cp", "-r", f"{url}/into/.", "b/into").code == 0
    assert netfs("mkdir", f"{url}/into/below").code == 0
    told(netfs("sync", "--delete", f"{url}/into/below", f"{url}/into"), 2, "would be removed")
    assert netfs("sync", f"{url}/into/below", f"{url}/into").code == 0
    assert netfs("sync", "--delete", "--exclude", "below", f"{url}/into/below", f"{url}/into").code == 0
    assert netfs("ls", f"{url}/into").out == "below/\n"


def test_between_two_names_of_one_server_no_bytes_travel(tmp_path: Path, url: str) -> None:
    data = os.urandom(3 << 20)
    (tmp_path / "data").write_bytes(data)
    assert netfs("cp", tmp_path / "data", f"{url}/data").code == 0
    assert netfs("--json", "cp", "--trace", tmp_path / "trace.txt", f"{url}/data", f"{url}/again").code == 0
    assert "netfs_sreq" not in (tmp_path / "trace.txt").read_text()  # nothing was read, and nothing written
    assert netfs("cp", f"{url}/again", tmp_path / "back").code == 0
    assert (tmp_path / "back").read_bytes() == data
    trace = tmp_path / "verified.txt"
    done = json.loads(netfs("--json", "cp", "--verify", "--trace", trace, f"{url}/data", f"{url}/verified").out)
    assert "netfs_sreq" in trace.read_text()
    assert (done["files"], done["bytes"]) == (1, len(data))
