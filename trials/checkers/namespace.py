"""Sans-IO. Level 4: creating, removing, renaming and linking names is linearizable.

Names that never met in one operation do not bear on each other, so each group of names that did is searched alone (`wgl.py`).
A listing promises nothing as a whole: of each name it tells whether it was there at some moment of the listing. "Not there" and
"there already" are answers like others; any other error leaves the outcome open. Owns no memory.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from trials.checkers.wgl import Call, search
from trials.history import NEVER, Failure, History, Op

__all__ = ["ABSENT", "EXISTS", "NAMESPACE", "Step", "check_namespace", "step"]

ABSENT: Final = "ENOENT"
EXISTS: Final = "EEXIST"
NAMESPACE: Final = ("create", "unlink", "rename", "link", "stat", "readdir")
Names = tuple[tuple[str, str], ...]
"""What is there: names with their objects, sorted. An object is called by its inode number, or `?` and the number of the
operation that made it where that is not known."""

NOTHING: Final[Names] = ()


@dataclass(frozen=True, slots=True)
class Step:
    """One operation and its answer: ABSENT, EXISTS, "" for done, of `stat` and `create` the inode; None: unknown."""

    number: int
    kind: str
    names: tuple[str, ...]
    answer: str | None


def step(state: Names, what: Step) -> Names | None:
    """Return the names after an operation; None where it cannot have answered as it did."""
    there = dict(state)
    name = what.names[0]
    held = there.get(name)
    if what.kind in {"stat", "listed"}:
        if held is None or what.answer == ABSENT:
            return state if held is None and what.answer == ABSENT else None
        return state if what.kind == "listed" or held.startswith("?") or held == what.answer else None
    if what.answer == ABSENT:
        return state if held is None and what.kind != "create" else None
    if what.answer == EXISTS:
        blocked = held is not None if what.kind == "create" else what.kind == "link" and what.names[1] in there
        return state if blocked else None
    if what.kind == "create":
        if held is not None:
            return None
        there[name] = what.answer or f"?{what.number}"
    elif held is None:
        return None
    elif what.kind == "unlink":
        del there[name]
    elif what.kind == "link":
        if what.names[1] in there:
            return None
        there[what.names[1]] = held
    else:
        # Renaming one name of a file to another name of it does nothing, as POSIX has it.
        if there.get(what.names[1]) != held or what.names[1] == name:
            there[what.names[1]] = held
            if what.names[1] != name:
                del there[name]
        elif held.startswith("?"):
            return None
    return tuple(sorted(there.items()))


def check_namespace(history: History, budget: int = 100_000) -> Iterator[Failure]:
    """Yield a failure for each group of names that no order of operations explains; a group beyond the budget is passed over."""
    steps: list[Call[Step]] = []
    for op in history.of(*NAMESPACE):
        steps.extend(_calls(op, history))
    for group in _groups(steps):
        verdict = search(group, NOTHING, step, budget)
        if verdict.linearizable is False:
            stuck = group[verdict.stuck].what if verdict.stuck >= 0 else group[-1].what
            around = ", ".join(sorted({name for call in group for name in call.what.names}))
            answer = {None: "", ABSENT: " (not there)", EXISTS: " (there already)"}.get(stuck.answer, "")
            yield Failure(
                "U6 impossible namespace", f"no order of the operations on {around} explains {history.op(stuck.number)}{answer}"
            )


def _calls(op: Op, history: History) -> Iterator[Call[Step]]:
    if op.kind != "readdir":
        answer = None if not op.ok else op.result if isinstance(op.result, str) else ""
        if op.ok or op.kind != "stat":
            yield Call(Step(op.id, op.kind, op.args, answer), op.call, op.ret if op.ok else NEVER)
    elif op.ok:
        listed = str(op.result or "").split("/")
        every = sorted({name for other in history.of(*NAMESPACE) if other.file == op.file for name in other.args})
        for name in every:
            yield Call(Step(op.id, "listed", (name,), "" if name in listed else ABSENT), op.call, op.ret)


def _groups(steps: list[Call[Step]]) -> list[list[Call[Step]]]:
    """Part the operations by names that never met."""
    leader: dict[str, str] = {}

    def find(name: str) -> str:
        while leader.setdefault(name, name) != name:
            name = leader[name]
        return name

    for call in steps:
        names = call.what.names
        for other in names[1:]:
            leader[find(names[0])] = find(other)
    parted: dict[str, list[Call[Step]]] = {}
    for call in steps:
        parted.setdefault(find(call.what.names[0]), []).append(call)
    return list(parted.values())
