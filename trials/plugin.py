"""Trio shell. The pytest plugin: `@trial(...)` makes a test of an async function, run under many seeds in the simulator.

The test is a plain function for pytest, so that it lives beside pytest-trio, pytest-asyncio, xdist and unittest. Options choose
seeds, schedule, time and what happens with a failure; tokens kept in text files (`trial_corpus`) run first. Owns no memory.
"""

import inspect
import os
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import pytest

if TYPE_CHECKING:
    from trials.case import Case
    from trials.faults.plan import Plan

__all__ = ["trial"]

FILLED: Final = ("world", "fault_plan")
KIND: Final = "_trial_kind"
DEFAULT_SEEDS: Final = 100
Function = TypeVar("Function", bound=Callable[..., Awaitable[object]])


def trial(
    seeds: int | str = DEFAULT_SEEDS, *, transport: str | Sequence[str] = "stream", encrypt: bool | Sequence[bool] = False,
    clients: int = 2, plan: "Plan | str | None" = None, policy: str = "uniform",
) -> Callable[[Function], Callable[..., None]]:  # fmt: skip
    """Make a test of an async function: its parameter `world` is a `Trial`, `fault_plan` the plan; others are fixtures.

    Args: seeds: how many, or `a:b`. transport, encrypt: one, or several, each a test of its own. clients: connected to one
    server. plan: a plan or its TOML; None: drawn from each seed. policy: as `--trial-policy`.
    """

    def decorate(fn: Function) -> Callable[..., None]:
        from trials.written import register  # noqa: PLC0415 - loaded by those who have trials

        takes = tuple(name for name in inspect.signature(fn).parameters if name in FILLED)
        written = register(fn, takes)
        others = [one for name, one in inspect.signature(fn).parameters.items() if name not in FILLED]
        asked = {"seeds": str(seeds), "clients": clients, "plan": plan, "policy": policy, "name": written.name}

        def run(request: pytest.FixtureRequest, **given: Any) -> None:
            transport, encrypt = given.pop(KIND)
            _Run(request.config, asked, transport, encrypt, given).run()

        transports = [transport] if isinstance(transport, str) else list(transport)
        ciphers = [encrypt] if isinstance(encrypt, bool) else list(encrypt)
        kinds = [(each, secret) for each in transports for secret in ciphers]
        ids = [f"{each}-{'encrypted' if secret else 'plain'}" for each, secret in kinds]
        parameters = [inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD) for name in ("request", KIND)]
        test: Any = run
        test.__signature__ = inspect.Signature([*others, *parameters])
        test.__name__, test.__qualname__ = fn.__name__, fn.__qualname__
        test.__doc__, test.__module__ = fn.__doc__, fn.__module__
        marked: Callable[..., None] = pytest.mark.parametrize(KIND, kinds, ids=ids)(test)
        return marked

    return decorate


# ---- options


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options."""
    group = parser.getgroup("trials", "trials: client and server in a simulator, under faults")
    group.addoption("--trial-seeds", metavar="N|A:B", help="run these seeds instead of those the tests name")
    group.addoption("--trial-seed", type=int, metavar="S", help="run this one seed")
    group.addoption("--trial-replay", metavar="TOKEN", help="run this token, and no other trial")
    group.addoption("--trial-time", metavar="SECONDS", help="begin no seed of a test after so long, such as 60 or 60s")
    group.addoption("--trial-policy", metavar="NAME", help="fifo, uniform, pct:3, starve:8")
    shrink = "--trial-shrink", "--no-trial-shrink"
    group.addoption(shrink[0], action="store_true", default=True, dest="trial_shrink", help="make failures small (the default)")
    group.addoption(shrink[1], action="store_false", dest="trial_shrink", help="leave failures as they are")
    group.addoption("--trial-report", metavar="FOLDER", help="write the timeline of each failure into this folder")
    group.addoption(
        "--trial-check-determinism", nargs="?", type=int, const=50, default=0, metavar="N",
        help="run each N-th seed (50 by default) once more in a fresh process, and compare the traces",
    )  # fmt: skip
    group.addoption("--trial-jobs", type=int, default=1, metavar="N", help="run the seeds of a test in N processes")
    parser.addini("trial_corpus", "folder of tokens that run first, in *.txt", default="tests/trials")


def pytest_configure(config: pytest.Config) -> None:
    """Refuse options that make no sense before anything runs."""
    from trials.sim.schedules import make_policy  # noqa: PLC0415 - loaded by those who use the option

    try:
        if config.getoption("trial_policy") is not None:
            make_policy(config.getoption("trial_policy"), 0)
        if config.getoption("trial_seeds") is not None:
            _parsed(config.getoption("trial_seeds"))
        _seconds(config.getoption("trial_time"))
        if config.getoption("trial_replay") is not None:
            from trials.token import decode  # noqa: PLC0415

            decode(config.getoption("trial_replay"))
    except ValueError as error:
        raise pytest.UsageError(str(error)) from None


@pytest.fixture
def world() -> None:
    """Say what is missing: the world of a test comes from its decorator."""
    raise pytest.UsageError("`world` is what @trial gives a test; see docs/trials.md")


@pytest.fixture
def fault_plan() -> None:
    """Say what is missing: the plan of a test comes from its decorator."""
    raise pytest.UsageError("`fault_plan` is what @trial gives a test; see docs/trials.md")


def _parsed(text: str) -> range:
    from trials.seeds import parse_seeds  # noqa: PLC0415

    return parse_seeds(text)


def _seconds(text: str | None) -> float:
    """Read `60` or `60s`."""
    if text is None:
        return float("inf")
    try:
        found = float(text.removesuffix("s"))
    except ValueError:
        found = -1
    if not found > 0:
        raise ValueError(f"--trial-time {text}: a number of seconds, such as 60s")
    return found


# ---- one test


class _Run:
    """All seeds of one test. given: its fixtures."""

    def __init__(
        self, config: pytest.Config, asked: dict[str, Any], transport: str, encrypt: bool, given: dict[str, Any]
    ) -> None:
        from trials.faults.plan import Plan  # noqa: PLC0415
        from trials.seeds import Spec  # noqa: PLC0415

        self.config = config
        self.given = given
        plan = asked["plan"]
        self.spec: Spec = Spec(
            asked["name"], transport, "yes" if encrypt else "no", asked["clients"], 0,
            config.getoption("trial_policy") or asked["policy"],
            plan="" if plan is None else (Plan.from_toml(plan) if isinstance(plan, str) else plan).to_json(),
            check=config.getoption("trial_check_determinism"),
        )  # fmt: skip
        one = config.getoption("trial_seed")
        self.seeds = range(one, one + 1) if one is not None else _parsed(config.getoption("trial_seeds") or asked["seeds"])
        self.jobs: int = config.getoption("trial_jobs")

    def run(self) -> None:
        """Run what was kept, then the seeds; the first failure ends the test."""
        from trials.commands.asking import quiet  # noqa: PLC0415
        from trials.sim import settled  # noqa: PLC0415

        quiet()
        with settled():
            self._all()

    def _all(self) -> None:
        replayed = self.config.getoption("trial_replay")
        if replayed is not None:
            case = self._mine(replayed)
            if case is None:
                pytest.skip("another trial is replayed")
            self._judge(case, "the token")
            return
        if self.config.getoption("trial_seed") is None:
            for place, token in corpus(Path(self.config.rootpath, self.config.getini("trial_corpus"))):
                case = self._mine(token)
                if case is not None:
                    self._judge(case, place)
        if self.given and self.jobs > 1:
            raise pytest.UsageError("a trial with fixtures runs in this process alone: leave --trial-jobs out")
        reached: dict[str, bool] = {}
        for row in self._rows():
            for name, seen in row.get("sometimes", {}).items():
                reached[name] = reached.get(name, False) or seen
            if "class" in row:
                self._fail(row)
        for name, seen in reached.items():
            if not seen:
                pytest.fail(f"{name}: never reached by {len(self.seeds)} seeds", pytrace=False)

    def _rows(self) -> Iterator[dict[str, Any]]:
        from trials.seeds import run_seed  # noqa: PLC0415

        most = _seconds(self.config.getoption("trial_time"))
        if self.jobs > 1:
            yield from self._from_processes(most)
            return
        began = time.perf_counter()
        with self._fixtures():
            for seed in self.seeds:
                if time.perf_counter() - began > most:
                    return
                yield run_seed(self.spec, seed)

    def _from_processes(self, most: float) -> Iterator[dict[str, Any]]:
        import trio  # noqa: PLC0415

        from trials.campaign import run_campaign  # noqa: PLC0415

        rows: list[dict[str, Any]] = []

        async def work() -> list[Any]:
            return list(await run_campaign(self.spec, [self.seeds], self.jobs, rows.append, until=trio.current_time() + most))

        lost = trio.run(work)
        yield from sorted(rows, key=lambda row: int(row["seed"]))
        if lost:
            pytest.fail("\n".join(map(str, lost)), pytrace=False)

    def _fixtures(self) -> Any:
        from trials.written import giving  # noqa: PLC0415

        return giving(self.spec.scenario, self.given)

    def _mine(self, token: str) -> "Case | None":
        """Return the case of a token if it is one of this test."""
        from trials.token import TokenError, decode  # noqa: PLC0415

        try:
            case, _ = decode(token)
        except TokenError:
            return None
        same = (self.spec.scenario, self.spec.transport, self.spec.encrypt == "yes")
        return case if (case.scenario, case.transport, case.encrypt) == same else None

    def _judge(self, case: "Case", where: str) -> None:
        """Run one case, and fail if it does."""
        from trials.case import run_case  # noqa: PLC0415
        from trials.token import encode  # noqa: PLC0415

        with self._fixtures():
            outcome = run_case(case)
        if outcome.failure is not None:
            text = f"{where} fails: {outcome.failure.kind}\n  {outcome.failure.message}"
            pytest.fail(f"{text}\n  replay: netfs trial replay {encode(outcome.case)}", pytrace=False)

    def _fail(self, row: dict[str, Any]) -> None:
        """Make the failure small if that is wanted, and tell it."""
        from trials.token import decode, encode  # noqa: PLC0415

        lines = [f"seed {row['seed']}: {row['class']}", f"  {row['message']}"]
        case, _ = decode(row["token"])
        token = row["token"]
        if self.config.getoption("trial_shrink") and not row["class"].startswith("D"):
            from trials.case import run_case  # noqa: PLC0415
            from trials.shrink import NoFailure, shrink, size  # noqa: PLC0415

            try:
                with self._fixtures():
                    found = shrink(case, run_case, runs=200)
                case, token = found.case, encode(found.case)
                parts = ", ".join(f"{count} {name}" for name, count in size(found.outcome).items() if name != "operations")
                lines.append(f"  shrunk in {found.runs} runs to {parts}: {case.plan}")
                lines += [f"  also seen: {kind}: {encode(other.case)}" for kind, other in found.others.items()]
            except NoFailure:
                lines.append("  it does not fail when it is run again: see --trial-check-determinism")
        lines.append(f"  replay: netfs trial replay {token}")
        self._kept(token, row, lines)
        folder = self.config.getoption("trial_report")
        if folder is not None:
            from trials.report.files import write_page  # noqa: PLC0415

            with self._fixtures():
                lines.append(f"  report: {write_page(case, Path(folder))}")
        pytest.fail("\n".join(lines), pytrace=False)

    def _kept(self, token: str, row: dict[str, Any], lines: list[str]) -> None:
        """Keep the token where it runs first from now on, unless nobody would see the file."""
        folder = Path(self.config.rootpath, self.config.getini("trial_corpus"))
        if folder.is_dir() and "CI" not in os.environ:
            name = self.spec.scenario.rpartition("::")[2]
            path = folder / f"{name}.txt"
            if token not in (path.read_text("utf-8") if path.is_file() else ""):
                with path.open("a", encoding="utf-8") as file:
                    file.write(f"# seed {row['seed']}: {row['class']}\n{token}\n")
            lines.append(f"  kept in {path.relative_to(self.config.rootpath)}, which runs first")


def corpus(folder: Path) -> Iterator[tuple[str, str]]:
    """Yield the tokens kept in a folder with their places."""
    for path in sorted(folder.glob("*.txt")) if folder.is_dir() else ():
        for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
            if line.startswith("nt"):
                yield f"{path.name}:{number}", line.strip()
