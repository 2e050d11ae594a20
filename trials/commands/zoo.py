"""Trio shell. `netfs trial zoo`: hunt the planted bugs, and say in how many seeds each was found and how small it became.

Owns no memory.
"""

from netfs.cli.host import Exit, Host
from trials.commands.asking import quiet
from trials.zoo.bug import Bug, bugs
from trials.zoo.hunt import Hunt, as_json, hunt

__all__ = ["list_bugs", "run_zoo"]


def list_bugs(host: Host) -> int:
    """Print all bugs and where they are hunted."""
    rows = bugs().values()
    host.emit({"bugs": [_row(bug) for bug in rows]}, "\n".join(f"{bug.name:32} {bug.layer:10} {bug.text}" for bug in rows))
    return Exit.DONE


def _row(bug: Bug) -> dict[str, object]:
    return {
        "name": bug.name, "layer": bug.layer, "text": bug.text, "scenario": bug.scenario, "transport": bug.transport,
        "encrypt": bug.encrypt, "seeds": bug.seeds,
    }  # fmt: skip


def run_zoo(host: Host, names: tuple[str, ...], seeds: int | None, runs: int) -> int:
    """Hunt bugs, all by default. Returns: NO when one was not found."""
    quiet()
    table = bugs()
    for name in names:
        if name not in table:
            host.fail(Exit.USAGE, f"no bug {name}; there are {', '.join(table)}")
    found: list[Hunt] = []
    chosen = names or tuple(table)
    with host.progress(len(chosen), "hunting", "bugs") as bar:
        for name in chosen:
            one = hunt(name, seeds, shrinking=runs)
            found.append(one)
            host.say(_line(one))
            bar.advance(1)
    missed = [one.name for one in found if not one.found]
    told = f"{len(found) - len(missed)} of {len(found)} bugs found"
    host.emit(as_json(found), told + (f"; not found: {', '.join(missed)}" if missed else ""))
    return Exit.NO if missed else Exit.DONE


def _line(one: Hunt) -> str:
    if not one.found or one.failure is None:
        return f"{one.name:32} not found in {one.seeds_tried} seeds"
    size = f"{one.shrunk_faults} faults, {one.shrunk_ops} operations"
    return f"{one.name:32} {one.seeds_tried:4} seeds, then {size:24} {one.failure.kind}"
