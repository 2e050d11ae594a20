"""`netfs trial`: what the commands print and how they end."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from perfetto.protos.perfetto.trace.perfetto_trace_pb2 import Trace

from netfs.cli.host import Exit
from netfs.cli.main import build, run
from trials.case import Case, run_case
from trials.cli import register
from trials.faults.plan import Fault, Plan, Trigger
from trials.history import Failure
from trials.token import decode, encode

FEW = ("--scenario", "own-files", "--operations", "4")
RESET = Fault("T14", Trigger("nth", 9, "send"), "client1", (("side", "during"),))
CASE = Case("own-files", 5, operations=6, plan=Plan((RESET,)))


def trial(capfd: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Run a command line in this process. Returns: exit code, standard output, standard error."""
    app, host = build([])
    register(host)
    code = run(app, host, ["trial", *arguments])
    out, err = capfd.readouterr()
    return code, out, err


@pytest.fixture
def always_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have every trial with a fault in its plan fail after it has run."""

    def failing(case: Case, **more: object) -> object:
        outcome = run_case(case, **more)  # type: ignore[arg-type]
        if outcome.case.plan and outcome.case.plan.faults:
            outcome.failure = Failure("U1 made up", "operation #3 is guilty")
        return outcome

    for module in ("trials.commands.tokens", "trials.report.files", "trials.report.nearest", "trials.inevitable"):
        monkeypatch.setattr(f"{module}.run_case", failing)


def test_run_prints_one_object(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    out_file, calm = tmp_path / "rows.jsonl", tmp_path / "calm.toml"
    calm.touch()
    few = (*FEW, "--plan", str(calm))
    code, out, _ = trial(capfd, "run", *few, "--seeds", "0:4", "--jobs", "2", "--out", str(out_file), "--json")
    assert code == Exit.DONE
    found = json.loads(out)
    assert found["trials"] == 4
    assert found["failures"] == [] and found["shrunk"] == {} and found["lost"] == []
    assert found["operations"] == 32
    assert found["seconds"] > 0
    assert not set(found["fired"]) & set(found["never_fired"])
    assert len(out_file.read_text().splitlines()) == 5

    code, out, err = trial(capfd, "campaign", *few, "--seeds", "0:4", "--out", str(out_file))
    assert code == Exit.USAGE and "--resume" in err
    code, out, _ = trial(capfd, "campaign", *few, "--seeds", "0:6", "--out", str(out_file), "--resume", "--jobs", "1")
    assert code == Exit.DONE
    assert "6 trials" in out and "4 of them were done before" in out
    code, _, err = trial(capfd, "campaign", "--scenario", "own-files", "--seeds", "0:6", "--out", str(out_file), "--resume")
    assert code == Exit.USAGE and "another specification" in err
    code, out, _ = trial(capfd, "merge", str(out_file), "--json")
    assert code == Exit.DONE and json.loads(out)["trials"] == 6


def test_a_disk_that_is_full_of_reports_takes_nothing_else_along(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """The trials are told of all the same, and half a page is none."""
    place = tmp_path / "trial-sharing-0.html"
    place.symlink_to("/dev/full")
    bug = ("--scenario", "sharing", "--transport", "stream", "--encrypt", "no", "--operations", "6", "--bug", "stale-after-open")
    code, out, err = trial(capfd, "run", *bug, "--seeds", "0:1", "--jobs", "1", "--report", str(tmp_path), "--json")
    assert code == Exit.LOCAL
    found = json.loads(out)
    assert found["trials"] == 1
    assert len(found["failures"]) == len(found["shrunk"]) == 1
    assert "reports are not complete: " in err and "No space left" in err
    assert not place.is_symlink()


def test_hash_is_of_the_trial(capfd: pytest.CaptureFixture[str]) -> None:
    code, out, _ = trial(capfd, "hash", *FEW, "--seed", "5", "--json", "--transport", "stream", "--encrypt", "no")
    assert code == Exit.DONE
    outcome = run_case(Case("own-files", 5, operations=4))
    assert json.loads(out) == {"seed": 5, "trace": outcome.trace, "steps": outcome.steps}
    code, out, _ = trial(capfd, "hash", "--token", encode(Case("own-files", 5, operations=4)), "--lines")
    lines = out.splitlines()
    assert lines[-1].startswith(outcome.trace)
    assert sum(" step " in line for line in lines) == outcome.steps
    assert any(" wire client0>server" in line for line in lines)


def test_replay_tells_what_happened(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, out, _ = trial(capfd, "replay", encode(CASE))
    assert code == Exit.DONE
    assert "own-files, seed 5, stream, plain, 2 clients, uniform" in out
    assert "T14 nth(send, 9) @client1 side=during" in out and "took effect" in out
    assert out.endswith("no failure\n")
    code, _, err = trial(
        capfd, "replay", encode(CASE), "--report", str(tmp_path / "r.pftrace"), "--capture", str(tmp_path / "r.pcapng")
    )
    assert code == Exit.DONE and err.count("wrote ") == 2
    trace = Trace.FromString((tmp_path / "r.pftrace").read_bytes())
    names = {packet.track_event.name for packet in trace.packet if packet.HasField("track_event")}
    assert {"WRITE", "READ"} & names
    (fault,) = [packet.track_event for packet in trace.packet if packet.track_event.name == "T14"]
    assert "nth(send, 9)" in fault.debug_annotations[0].string_value
    assert (tmp_path / "r.pcapng").stat().st_size > 10_000


@pytest.mark.usefixtures("always_fails")
def test_a_failure_is_shrunk_and_replayed(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    page, story = tmp_path / "f.html", tmp_path / "f.txt"
    plan = Plan((RESET, replace(RESET, trigger=Trigger("nth", 11, "send"))), (("credits", 2),))
    token = encode(replace(CASE, plan=plan))
    code, out, _ = trial(capfd, "shrink", token, "--runs", "60", "--json", "--report", str(page), "--report", str(story))
    assert code == Exit.DONE
    found = json.loads(out)
    assert found["class"] == "U1 made up"
    assert found["size"] == {"faults": 1, "knobs": 0, "operations": 0, "clients": 1, "schedule": 0}
    small, _ = decode(found["token"])
    assert small.plan is not None and len(small.plan.faults) == 1 and small.schedule == ()
    assert "<svg" in page.read_text() and "U1 made up" in page.read_text()
    assert "FAILED U1 made up" in story.read_text()
    code, out, _ = trial(capfd, "replay", found["token"])
    assert code == Exit.NO
    assert "FAILED U1 made up\n  operation #3 is guilty" in out


@pytest.mark.usefixtures("always_fails")
def test_inevitable_is_a_curve(capfd: pytest.CaptureFixture[str]) -> None:
    code, out, _ = trial(capfd, "inevitable", encode(CASE), "--points", "3", "--tries", "2")
    assert code == Exit.DONE
    assert len(re.findall(r"█ 100%$", out, re.MULTILINE)) == 3


def test_explain_shows_the_story_or_a_moment(capfd: pytest.CaptureFixture[str]) -> None:
    code, out, _ = trial(capfd, "explain", encode(CASE))
    assert code == Exit.DONE
    assert "⚑" in out and "T14 nth(send, 9) @client1" in out
    moment = float(next(line for line in out.splitlines() if "⚑" in line).split()[0])
    code, out, _ = trial(capfd, "explain", encode(CASE), "--at", str(moment), "--width", "0.0001", "--json")
    found = json.loads(out)
    assert any(" fault T14" in line for line in found["lines"])
    assert all(abs(float(line.split()[0]) - moment) <= 0.0001 for line in found["lines"])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("run", "--scenario", "golf"), "no scenario golf; there are"),
        (("run", *FEW, "--transport", "pigeon"), "pigeon is not simulated"),
        (("run", *FEW, "--encrypt", "maybe"), "--encrypt maybe: yes, no or any"),
        (("run", *FEW, "--seeds", "9:3"), "'9:3' holds no seeds"),
        (("run", *FEW, "--policy", "fair"), "'fair' is no policy; there are fifo"),
        (("run", *FEW, "--clients", "0"), "1 to 16 clients"),
        (("campaign", *FEW, "--seeds", "9", "--out", "x", "--shard", "3"), "a shard is written i/n"),
        (("campaign", *FEW, "--seeds", "9", "--out", "x", "--on", "tcp://h:1"), "a cluster is named dask://host:port"),
        (("replay", "nt7.abc"), "a token of version 7"),
        (("replay", encode(CASE)[:-2]), "the token is damaged"),
        (("replay", encode(CASE), "--report", "x.pdf"), "x.pdf: a report is named *.html or"),
        (("inevitable", encode(CASE), "--points", "1"), "2 points or more"),
        (("run", *FEW, "--plan", "PLAN"), "no fault Q1"),
    ],
)
def test_wrong_input_is_one_line(
    arguments: tuple[str, ...], said: str, capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("PLAN").write_text('[[fault]]\nid = "Q1"\nwhen = "at(1)"\n')
    code, out, err = trial(capfd, *arguments)
    assert code == Exit.USAGE
    assert out == ""
    assert err.count("\n") == 1
    assert said in err


def test_what_does_not_fail_cannot_be_shrunk(capfd: pytest.CaptureFixture[str]) -> None:
    for command in ("shrink", "inevitable"):
        code, _, err = trial(capfd, command, encode(replace(CASE, plan=Plan())))
        assert code == Exit.NO and "the trial does not fail" in err
