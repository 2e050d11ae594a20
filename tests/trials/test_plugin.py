"""The pytest plugin: tests under `@trial`, their options, their failures and the tokens that are kept."""

import re
from pathlib import Path

import pytest

# What is imported first inside an inner run is forgotten after it, and would be there twice.
import trials.commands.tokens
import trials.report.page
import trials.written  # noqa: F401

pytest_plugins = "pytester"

PASSES = """
import pytest
from trials import Plan, Trial, trial

@pytest.fixture
def word():
    return b"hello"

@trial(seeds=4, transport=["stream", "rdma-memory"], encrypt=[False, True], plan=Plan())
async def test_what_is_written_is_read(world: Trial, fault_plan: Plan, word: bytes) -> None:
    assert fault_plan == Plan() and world.plan is fault_plan
    first, second = world.clients
    async with await first.open("/notes", "w") as file:
        await file.write(word)
    async with await second.open("/notes") as file:
        assert await file.read() == word
    world.sometimes("low", world.rng.random() < 0.6)
"""
FAILS = """
from trials import Trial, trial

RESETS = '''
[[fault]]
id = "T14"
when = "nth(send, 3)"
[[fault]]
id = "T14"
when = "nth(send, 5)"
'''

@trial(seeds="3:20", plan=RESETS)
async def test_is_quick(world: Trial) -> None:
    async with await world.client.open("/notes", "w") as file:
        await file.write(b"hello")
    assert world.seed < 7 or not world.plan.faults, "late"
"""
TOKEN = re.compile(r"nt1\.[\w-]+")


def outcomes(pytester: pytest.Pytester, text: str, *options: str) -> tuple[dict[str, int], str]:
    """Run a file of trials. Returns: how many tests passed and failed, and what was printed."""
    Path("test_it.py").write_text(text)
    done = pytester.runpytest_inprocess("-q", "-p", "no:cacheprovider", *options)
    text = done.stdout.str() + done.stderr.str()
    return (done.parseoutcomes() if done.outlines else {}), text


def test_a_test_for_each_transport_and_cipher(pytester: pytest.Pytester) -> None:
    found, text = outcomes(pytester, PASSES, "--trial-seeds", "4:6")
    assert found == {"passed": 4}, text
    assert outcomes(pytester, PASSES, "-k", "rdma-memory-encrypted")[0] == {"passed": 1, "deselected": 3}


@pytest.mark.slow
def test_a_failure_names_its_seed_its_class_and_a_small_token(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CI", raising=False)
    Path("tests/trials").mkdir(parents=True)
    found, text = outcomes(pytester, FAILS, "--trial-report", "reports")
    assert found == {"failed": 1}
    assert "seed 7: U0 AssertionError in test_it.py:test_is_quick" in text
    assert re.search(r"shrunk in \d+ runs to 1 faults, 0 knobs, 1 clients, 0 schedule: T14 nth\(send, 1\)", text)
    (page,) = Path("reports").glob("*.html")
    assert "AssertionError" in page.read_text()
    # It is kept, and runs first from now on.
    kept = Path("tests/trials/test_is_quick.txt")
    (token,) = TOKEN.findall(kept.read_text())
    assert f"replay: netfs trial replay {token}" in text
    found, text = outcomes(pytester, FAILS, "--trial-seeds", "1")
    assert found == {"failed": 1} and "test_is_quick.txt:2 fails: U0 AssertionError" in text
    # One seed alone, or one token alone.
    assert outcomes(pytester, FAILS, "--trial-seed", "6")[0] == {"passed": 1}
    assert outcomes(pytester, FAILS, "--trial-seed", "8", "--no-trial-shrink")[0] == {"failed": 1}
    found, text = outcomes(pytester, FAILS, "--trial-replay", token)
    assert found == {"failed": 1} and "the token fails" in text
    assert outcomes(pytester, PASSES, "--trial-replay", token)[0] == {"skipped": 4}
    # What has been put right passes.
    right = FAILS.replace("world.seed < 7", "world.seed >= 0")
    assert outcomes(pytester, right, "--trial-seeds", "2")[0] == {"passed": 1}


def test_what_must_be_reached(pytester: pytest.Pytester) -> None:
    found, text = outcomes(pytester, PASSES.replace("< 0.6", "> 2"), "-k", "stream-plain", "--trial-seeds", "2")
    assert found["failed"] == 1
    assert "low: never reached by 2 seeds" in text


@pytest.mark.slow
def test_in_processes_with_another_schedule_and_checked(pytester: pytest.Pytester) -> None:
    plain = PASSES.replace(", word: bytes", "").replace("(word)", "(b'x')").replace("== word", "== b'x'")
    options = ("-k", "stream", "--trial-seeds", "6", "--trial-policy", "starve:8", "--trial-check-determinism", "3")
    found, text = outcomes(pytester, plain, *options, "--trial-jobs", "2")
    assert found["passed"] == 2, text
    found, text = outcomes(pytester, PASSES, "-k", "stream", "--trial-jobs", "2")
    assert "runs in this process alone" in text
    plain = plain.replace("< 0.6", "< 2")  # by the first seed: however slow this is, one is begun
    assert outcomes(pytester, plain, "--trial-seeds", "1e9", "--trial-time", "0.2s", "-k", "stream-plain")[0]["passed"] == 1


def test_a_trial_that_is_not_deterministic_is_found(pytester: pytest.Pytester) -> None:
    text = """
from trials import Plan, trial

@trial(seeds=1, plan=Plan())
async def test_follows_the_hash_seed(world):
    for name in {"a", "b", "c", "d", "e", "f", "g", "h"}:
        async with await world.client.open(f"/{name}", "w"):
            pass
"""
    found, told = outcomes(pytester, text, "--trial-check-determinism", "1")
    assert found == {"failed": 1}, told
    assert "D1 not deterministic" in told
    assert "two runs of one case differ, first in line" in told
    assert re.search(r"here   \d+\.\d+ .*\n\s+there  \d+\.\d+ ", told)


def test_an_escape_is_named(pytester: pytest.Pytester) -> None:
    text = """
import time
from trials import Plan, trial

@trial(seeds=1, plan=Plan())
async def test_looks_at_the_clock(world):
    time.monotonic()
"""
    found, told = outcomes(pytester, text)
    assert found == {"failed": 1}
    assert re.search(r"D2 escaped the simulator\n\s+time.monotonic called from .*test_it.py:7", told)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--trial-seeds", "x"), "seeds are written a:b"),
        (("--trial-policy", "fair"), "'fair' is no policy"),
        (("--trial-time", "soon"), "--trial-time soon: a number of seconds"),
        (("--trial-replay", "nt9.x"), "a token of version 9"),
    ],
)
def test_wrong_options_are_told_before_anything_runs(pytester: pytest.Pytester, options: tuple[str, ...], said: str) -> None:
    found, text = outcomes(pytester, PASSES, *options)
    assert found == {}
    assert said in text


def test_fixtures_of_a_test_without_the_decorator(pytester: pytest.Pytester) -> None:
    found, text = outcomes(pytester, "def test_plain(world):\n    pass\n")
    assert found == {"errors": 1}
    assert "`world` is what @trial gives a test" in text
