"""Trio shell. `netfs trial …` and `netfs proxy` as command lines; what they do is loaded when one runs. Owns no memory."""

from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from netfs.cli.host import Host
from trials.commands.asking import Which, case_of_token, spec_of

__all__ = ["register_proxy", "register_trial"]

Seeds = Annotated[str, Parameter(name="--seeds", help="which seeds: a:b is from a up to and without b, n the first n.")]
Jobs = Annotated[int, Parameter(name="--jobs", help="processes at a time; 0: one for each processor.")]
Outputs = Annotated[
    list[Path] | None,
    Parameter(
        name=("--report", "--capture"),
        help="also write a report, as *.html (timeline), *.txt (story), *.pftrace (ui.perfetto.dev) or *.pcapng (Wireshark).",
        negative_iterable=(),
    ),
]
DEFAULT_WHICH = Which()
MORE_RUNS = 400


def register_trial(host: Host) -> None:
    """Add the commands."""
    group = host.group(
        "trial",
        "Run client and server in a simulator under faults, thousands of times, each time reproducible from its seed.",
        [
            "netfs trial run --scenario mixed --seeds 0:2000 --jobs 2",
            "netfs trial replay nt1.…",
            "netfs trial shrink nt1.… --report failure.html",
        ],
    )

    def run(
        *, which: Which = DEFAULT_WHICH, seeds: Seeds = "0:100", seed: int | None = None, jobs: Jobs = 0, out: str | None = None,
        time: float = float("inf"), shrink: Annotated[bool, Parameter(negative="--no-shrink")] = True, report: str | None = None,
    ) -> int:  # fmt: skip
        """Run a range of seeds, make the first failure of each kind small, and tell what failed and which faults took effect.

        Args:
            seed: this one seed.
            out: also keep a line for each trial in this file.
            time: begin no trial after so many seconds.
            shrink: make failures small.
            report: write the timeline of each kind of failure into this folder.
        """
        from trials.commands.run import run as run_them  # noqa: PLC0415 - whole systems take a while to load

        wanted = seeds if seed is None else f"{seed}:{seed + 1}"
        return run_them(host, which, wanted, jobs, out, time, shrink, report)

    host.command(
        run, name="run", under=group,
        examples=["netfs trial run --seeds 0:2000 --jobs 2", "netfs trial run --scenario own-files --transport stream --seed 7"],
    )  # fmt: skip
    _one_trial(host, group)
    _campaigns(host, group)


def _one_trial(host: Host, group: App) -> None:
    """Add what takes a token or a seed."""

    def replay(token: str, /, *, report: Outputs = None) -> int:
        """Run the trial of a token once more; exit code 1 when it fails, as it should."""
        from trials.commands import tokens  # noqa: PLC0415
        from trials.report.files import check_outputs  # noqa: PLC0415

        check_outputs(report or [])
        return tokens.replay(host, token, report or [])

    def shrink(token: str, /, *, runs: int = MORE_RUNS, report: Outputs = None) -> int:
        """Make the trial of a token smaller: fewer faults, operations and clients, smaller numbers, a plainer schedule.

        Args:
            runs: how many runs that may take.
        """
        from trials.commands import tokens  # noqa: PLC0415
        from trials.report.files import check_outputs  # noqa: PLC0415

        check_outputs(report or [])
        return tokens.shrink_token(host, token, runs, report or [])

    def explain(token: str, /, *, at: float | None = None, width: float = 0.001) -> int:
        """Tell the story of a trial: operations, faults, crashes, what was lost, and the operations the verdict names.

        Args:
            at: instead show every line of the trace around this second of virtual time.
            width: so many seconds before and after it.
        """
        from trials.commands import tokens  # noqa: PLC0415

        return tokens.explain(host, token, at, width)

    def inevitable(token: str, /, *, points: int = 12, tries: int = 10) -> int:
        """Show when a failure becomes inevitable: how often runs fail that are the same up to a moment and random after it.

        Args:
            points: how many moments.
            tries: how many runs for each.
        """
        from trials.commands import tokens  # noqa: PLC0415

        if points < 2 or tries < 1:
            host.fail(2, "a curve takes 2 points or more, and a run or more for each")
        return tokens.inevitable(host, token, points, tries)

    def hash(*, which: Which = DEFAULT_WHICH, seed: int = 0, token: str | None = None, lines: bool = False) -> None:  # noqa: A001 (is named so)
        """Print the hash over every step, wire byte and store write of a trial: the same on every machine and Python.

        Args:
            seed: of the trial.
            token: of the trial, instead.
            lines: also print what is hashed, line by line, to find where two machines differ.
        """
        from trials.commands import tokens  # noqa: PLC0415

        case = case_of_token(token, host.warn) if token is not None else spec_of(which).case(seed)
        tokens.hash_of(host, case, lines)

    for fn, example in (
        (replay, "nt1.…"), (shrink, "nt1.… --report failure.html"), (explain, "nt1.… --at 0.0312"), (inevitable, "nt1.…"),
        (hash, "--scenario mixed --seed 17"),
    ):  # fmt: skip
        host.command(fn, name=fn.__name__, examples=[f"netfs trial {fn.__name__} {example}"], under=group)


def _campaigns(host: Host, group: App) -> None:
    """Add what is done with many seeds on many machines."""

    def campaign(
        *, which: Which = DEFAULT_WHICH, seeds: Seeds, out: str, shard: str | None = None, resume: bool = False, jobs: Jobs = 0,
        on: str | None = None,
    ) -> int:  # fmt: skip
        """Run a shard of many seeds into a file, a line for each; what is in the file holds, whatever happens to the campaign.

        Args:
            out: the file.
            shard: i/n, the i-th of n equal parts of the seeds, from 1.
            resume: go on where the file ends.
            on: dask://host:port, a cluster to run on instead of this machine (needs netfs[dask]).
        """
        from trials.commands.run import campaign as run_it  # noqa: PLC0415

        return run_it(host, which, seeds, shard, jobs, out, resume, on)

    def merge(*files: str, out: str | None = None) -> int:
        """Join the files of a campaign and tell what came of it; gaps between seeds are named.

        Args:
            out: also write the joined results.
        """
        from trials.commands.run import merge_files  # noqa: PLC0415

        return merge_files(host, files, out)

    host.command(
        campaign, name="campaign", under=group,
        examples=["netfs trial campaign --seeds 0:1e6 --shard 3/64 --out 3.jsonl", "netfs trial campaign … --resume"],
    )  # fmt: skip
    host.command(merge, name="merge", under=group, examples=["netfs trial merge *.jsonl --out all.jsonl"])

    def zoo(
        *names: str, seeds: int | None = None, runs: int = 300,
        list_only: Annotated[bool, Parameter(name="--list", negative="")] = False,
    ) -> int:  # fmt: skip
        """Let planted bugs loose, one after another, and see that stock scenarios find them; exit code 1 when one gets away.

        Args:
            names: these bugs; all of them by default.
            seeds: how many each may take, instead of what it is said to take.
            runs: how many runs making a failure small may take.
            list_only: only tell which there are.
        """
        from trials.commands.zoo import list_bugs, run_zoo  # noqa: PLC0415

        return list_bugs(host) if list_only else run_zoo(host, names, seeds, runs)

    host.command(zoo, name="zoo", under=group, examples=["netfs trial zoo", "netfs trial zoo lost-retry nonce-reuse"])


def register_proxy(host: Host) -> None:
    """Add `netfs proxy`."""

    async def proxy(*, listen: str, upstream: str, plan: str, seed: int = 0, time: float = float("inf")) -> None:
        """Carry TCP connections to a server and do to them what a plan says, in real time, for any program.

        Args:
            listen: where clients connect, host:port or :port.
            upstream: the server, host:port or unix:/path.
            plan: a TOML file of faults, those of the network (see netfs trial run --plan).
            seed: of what is chosen at random.
            time: end after so many seconds.
        """
        from trials.commands.proxying import run_proxy  # noqa: PLC0415 - the catalogue of faults takes a while to load

        await run_proxy(host, listen, upstream, plan, seed, time)

    host.command(
        proxy, name="proxy", examples=["netfs proxy --listen :2049 --upstream 127.0.0.1:2050 --plan plan.toml"],
    )  # fmt: skip
