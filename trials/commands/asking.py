"""Trio shell. What the commands of trials are asked with: the options that say which trials, and what stands in for them.

Owns no memory.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from netfs.cli.host import CommandError, Exit, failing

if TYPE_CHECKING:
    from trials.case import Case
    from trials.seeds import Spec

__all__ = ["Which", "case_of_token", "quiet", "spec_of"]


@Parameter(name="*")
@dataclass(frozen=True)
class Which:
    """Which trials.

    Args:
        scenario: what the clients do; `netfs trial scenarios` lists them.
        transport: stream, rdma-memory, rdma-stream, or any: drawn from the seed.
        encrypt: yes, no, or any: drawn from the seed.
        clients: how many clients there are.
        operations: how many things each client does.
        policy: which task runs next: fifo, uniform, pct:3, starve:8.
        plan: a TOML file with the faults, instead of a plan drawn from the seed.
        bug: a planted bug to let loose (see netfs trial zoo).
        check_determinism: run each so many-th seed once more in a fresh process and compare the traces; 0 for none.
    """

    scenario: str = "mixed"
    transport: str = "any"
    encrypt: str = "any"
    clients: int = 2
    operations: int = 60
    policy: str = "uniform"
    plan: str | None = None
    bug: str = ""
    check_determinism: Annotated[int, Parameter(name="--check-determinism")] = 0


def quiet() -> None:
    """Keep what the code under trial logs off the terminal: broken connections are what trials are made of."""
    logging.getLogger().addHandler(logging.NullHandler())


def spec_of(which: Which) -> "Spec":
    """Return what was asked for, or end the command with a usage error."""
    from trials.faults.plan import Plan, PlanError  # noqa: PLC0415 - whole systems take a while to load
    from trials.seeds import Spec  # noqa: PLC0415
    from trials.sim.schedules import make_policy  # noqa: PLC0415

    plan = ""
    if which.plan is not None:
        with failing(Exit.LOCAL, which.plan):
            text = Path(which.plan).read_text("utf-8", errors="replace")
        try:
            plan = Plan.from_toml(text).to_json()
        except PlanError as error:
            raise CommandError(Exit.USAGE, f"{which.plan}: {error}") from None
    if which.encrypt not in {"any", "yes", "no"}:
        raise CommandError(Exit.USAGE, f"--encrypt {which.encrypt}: yes, no or any")
    if which.check_determinism < 0:
        raise CommandError(Exit.USAGE, f"--check-determinism {which.check_determinism}: a number of seeds, or 0")
    spec = Spec(
        which.scenario, which.transport, which.encrypt, which.clients, which.operations, which.policy, which.bug, plan,
        which.check_determinism,
    )  # fmt: skip
    try:
        if not which.policy.startswith("exhaustive"):
            make_policy(which.policy, 0)
        spec.case(0)
    except ValueError as error:
        raise CommandError(Exit.USAGE, str(error)) from None
    return spec


def case_of_token(token: str, note: Callable[[str], object]) -> "Case":
    """Return the case of a token, or end the command; what has changed since is noted."""
    from trials.token import TokenError, decode, outdated  # noqa: PLC0415

    try:
        case, code = decode(token)
    except TokenError as error:
        raise CommandError(Exit.USAGE, str(error)) from None
    changed = outdated(code)
    if changed is not None:
        note(changed)
    return case
