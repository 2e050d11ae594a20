"""Campaigns: seeds to rows and files, a worker that dies, a disk that is full, shards and merging."""

import json
import os
import resource
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from trials.campaign import run_campaign, summary_of
from trials.commands.run import parts_without
from trials.rows import RowsError, Writer, gaps, merge, read_results
from trials.seeds import Spec, parse_seeds, run_seed, shard_of, text_of_seeds

SPEC = Spec("own-files", operations=4)
Row = dict[str, Any]


@pytest.mark.parametrize(
    ("text", "seeds"), [("0:5", range(5)), ("7", range(7)), ("3:1e3", range(3, 1000)), ("1_000:2_000", range(1000, 2000))]
)
def test_seeds_are_read(text: str, seeds: range) -> None:
    assert parse_seeds(text) == seeds
    assert parse_seeds(text_of_seeds(seeds)) == seeds


@pytest.mark.parametrize("text", ["", "a:b", "5:5", "7:3", "-3:4", "0.5", "0:", ":3", "1e-1", "nan", "inf", "0:1e999"])
def test_seeds_that_are_none(text: str) -> None:
    with pytest.raises(ValueError, match="seeds"):
        parse_seeds(text)


@pytest.mark.parametrize("count", [1, 3, 7, 64])
def test_shards_are_disjoint_and_whole(count: int) -> None:
    parts = [shard_of(range(5, 100), f"{index}/{count}") for index in range(1, count + 1)]
    assert [seed for part in parts for seed in part] == list(range(5, 100))


@pytest.mark.parametrize("text", ["", "3", "0/3", "4/3", "a/b", "1/0", "1/3/5"])
def test_a_shard_that_is_none(text: str) -> None:
    with pytest.raises(ValueError, match="i/n"):
        shard_of(range(10), text)


def test_a_seed_draws_its_kind_and_its_row_is_json() -> None:
    kinds = {(SPEC.case(seed).transport, SPEC.case(seed).encrypt) for seed in range(60)}
    assert len(kinds) == 6
    fixed = Spec("own-files", transport="stream", encrypt="no", operations=4)
    assert {(fixed.case(seed).transport, fixed.case(seed).encrypt) for seed in range(20)} == {("stream", False)}
    first, second = run_seed(fixed, 3), run_seed(fixed, 3)
    assert first["operations"] == 8
    assert {**first, "seconds": 0} == {**json.loads(json.dumps(second)), "seconds": 0}


@pytest.mark.slow
def test_processes_give_the_rows_a_single_one_gives() -> None:
    rows: list[Row] = []
    assert trio.run(run_campaign, SPEC, [range(2, 7)], 2, rows.append) == []
    here = [run_seed(SPEC, seed) for seed in range(2, 7)]
    assert {row["seed"]: row["trace"] for row in rows} == {row["seed"]: row["trace"] for row in here}
    assert summary_of(rows).trials == 5


def children() -> list[int]:
    """Return the processes that this one has started and that still run."""
    tasks = Path("/proc/self/task")
    return [int(pid) for task in tasks.iterdir() for pid in (task / "children").read_text().split()]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="looks for its children in /proc")
async def test_a_worker_that_dies_costs_one_seed() -> None:
    before = set(children())
    rows: list[Row] = []

    def took(row: Row) -> None:
        rows.append(row)
        if row["seed"] == 1:
            (worker,) = set(children()) - before
            os.kill(worker, signal.SIGSTOP)  # nothing more comes out of it before it dies
            os.kill(worker, signal.SIGKILL)

    with trio.fail_after(50):
        lost = await run_campaign(Spec("own-files", operations=30), [range(6)], 1, took)
    assert len(lost) == 1
    assert len(lost[0].seeds) == 1
    assert "was killed by SIGKILL at seed" in str(lost[0])
    assert f"--seeds {text_of_seeds(lost[0].seeds)}" in str(lost[0])
    assert {row["seed"] for row in rows} | set(lost[0].seeds) == set(range(6))


async def test_a_campaign_ends_in_time() -> None:
    rows: list[Row] = []
    assert await run_campaign(SPEC, [range(1_000_000)], 1, rows.append, until=trio.current_time()) == []
    assert rows == []


# ---- files


def row(seed: int, kind: str = "", **more: Any) -> Row:
    failed = {"class": kind, "message": "m", "token": "nt1.x"} if kind else {}
    return {"seed": seed, "fired": ["T14"], "operations": 8, **failed, **more}


def written(path: Path, rows: list[Row], spec: Spec = SPEC) -> Path:
    writer = Writer(path, spec)
    for one in rows:
        writer.add(one)
    writer.close()
    assert writer.error is None
    return path


def test_rows_are_read_back_and_a_torn_last_line_is_dropped(tmp_path: Path) -> None:
    path = written(tmp_path / "a.jsonl", [row(1), row(2, "U1")])
    whole = path.stat().st_size
    with path.open("ab") as file:
        file.write(b'{"seed": 3, "fi')
    found = read_results(path)
    assert (found.spec, found.seeds, found.whole) == (SPEC, {1, 2}, whole)
    writer = Writer(path, SPEC, found)
    writer.add(row(4))
    writer.close()
    assert read_results(path).rows == [row(1), row(2, "U1"), row(4)]


@contextmanager
def full_at(size: int) -> Iterator[None]:
    """Let files of this process grow no further."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_keeps_what_there_is(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    writer = Writer(path, SPEC)
    writer.add(row(1))
    with full_at(path.stat().st_size + 10):
        writer.add(row(2))
    assert writer.error is not None
    writer.add(row(3))
    writer.close()
    found = read_results(path)
    assert found.seeds == {1}
    again = Writer(path, SPEC, found)
    again.add(row(2))
    again.close()
    assert read_results(path).seeds == {1, 2}


@pytest.mark.parametrize("text", ["", "hello\n", "{}\n", '{"trials": 1}\n', '{"trials": 1, "spec": {"golf": 1}, "code": ""}\n'])
def test_a_file_of_something_else_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_text(text)
    with pytest.raises(RowsError, match="holds no results"):
        read_results(path)


def test_a_line_that_is_none_is_named(tmp_path: Path) -> None:
    path = written(tmp_path / "a.jsonl", [row(1)])
    with path.open("ab") as file:
        file.write(b"what\n")
    with pytest.raises(RowsError, match=r"a.jsonl:3: not a result"):
        read_results(path)


def test_merging_keeps_failures_and_then_what_came_first(tmp_path: Path) -> None:
    one = read_results(written(tmp_path / "1", [row(1), row(2, "U1"), row(9, n=1)]))
    two = read_results(written(tmp_path / "2", [row(1, "U2"), row(2), row(4), row(9, n=2)]))
    merged = merge([one, two])
    assert merged.rows == [row(1, "U2"), row(2, "U1"), row(4), row(9, n=1)]
    assert list(gaps(merged.seeds)) == [range(3, 4), range(5, 9)]
    assert summary_of(merged.rows).classes().keys() == {"U2", "U1"}


def test_results_of_different_things_are_not_joined(tmp_path: Path) -> None:
    one = read_results(written(tmp_path / "1", [row(1)]))
    two = read_results(written(tmp_path / "2", [row(1)], Spec("own-files", operations=5)))
    with pytest.raises(RowsError, match="operations 5 instead of 4"):
        merge([one, two])
    one.code = bytes(len(one.code))
    with pytest.raises(RowsError, match="other code in"):
        merge([one, read_results(written(tmp_path / "3", [row(1)]))])


@pytest.mark.parametrize(
    ("done", "parts"),
    [(set(), [range(10)]), ({0, 9}, [range(1, 9)]), ({4}, [range(4), range(5, 10)]), (set(range(10)), [])],
)  # fmt: skip
def test_what_is_done_is_not_done_again(done: set[int], parts: list[range]) -> None:
    assert parts_without(range(10), done) == parts
