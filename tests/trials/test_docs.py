"""What docs/trials.md shows is so: its test runs, its plan is one, its options and commands exist."""

import re
from pathlib import Path

import pytest

import trials.commands.tokens
import trials.written  # noqa: F401 - imported before inner runs, as in test_plugin.py
from netfs.cli.main import build
from trials.cli import register
from trials.faults.plan import Plan
from trials.sim.schedules import parse_policy
from trials.workloads import SCENARIOS

pytest_plugins = "pytester"
PAGE = (Path(__file__).parents[2] / "docs" / "trials.md").read_text("utf-8")


def block(kind: str) -> str:
    """Return the first block of a language."""
    return PAGE.partition(f"```{kind}\n")[2].partition("```")[0]


def test_the_eight_lines_run(pytester: pytest.Pytester) -> None:
    source = block("python")
    body = source[source.index("@trial") :]
    assert len(body.splitlines()) <= 8
    Path("test_notes.py").write_text(source)
    done = pytester.runpytest_inprocess("-q", "-p", "no:cacheprovider", "--trial-seeds", "4")
    assert done.parseoutcomes() == {"passed": 2}


def test_the_plan_is_one() -> None:
    plan = Plan.from_toml(block("toml"))
    assert str(plan) == "T14 nth(send, 3) @client1 side=during; credits=2"
    assert Plan.from_toml(plan.to_toml()) == plan


def test_options_commands_and_policies_exist(pytester: pytest.Pytester) -> None:
    known = pytester.runpytest_inprocess("--help").stdout.str()
    for option in set(re.findall(r"--(?:no-)?trial-[a-z-]+", PAGE)):
        assert option in known, option
    app, host = build([])
    register(host)
    commands = set(app["trial"])
    table = PAGE.partition("| command |")[2].partition("\n\n")[0]
    for name in re.findall(r"`([a-z]+)", re.sub(r"\|[^|]*\|$", "|", table, flags=re.MULTILINE)):
        assert name in commands, name
    for name in re.findall(r"^\| `([a-z:0-9]+)` \|", PAGE.partition("## Schedules")[2], re.MULTILINE):
        assert str(parse_policy(name)) == name


def test_every_scenario_is_explained() -> None:
    table = PAGE.partition("| scenario |")[2].partition("\n\n")[0]
    assert sorted(re.findall(r"^\| `([a-z-]+)` \|", table, re.MULTILINE)) == sorted(SCENARIOS)
