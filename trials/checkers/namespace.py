"""Sans-IO. Level 4: creating, removing, renaming and linking names is linearizable.

Names that never met in one operation do not bear on each other, so each group of names that did is searched alone (`wgl.py`).
A listing promises nothing as a whole: of each name it tells whether it was there at some moment of the listing. "Not there" and
"there already" are answers like others; any other error leaves the outcome open. Owns no memory.
"""

from collections.abc import Iterator, Sequence
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


def step(state: Names, what: Step) -> Sequence[Names]:
    """Return what names there may be after an operation; nothing where it cannot have answered as it did."""
    there = dict(state)
    name = what.names[0]
    held = there.get(name)
    if what.kind in {"stat", "listed"}:
        if held is None or what.answer == ABSENT:
            fits = held is None and what.answer == ABSENT
        else:
            fits = what.kind == "listed" or held.startswith("?") or held == what.answer
        return (state,) if fits else ()
    if what.answer == ABSENT:
        return (state,) if held is None else ()
    if what.answer == EXISTS:
        return (state,) if there.get(what.names[-1]) is not None else ()
    if what.kind == "create":
        return () if held is not None else (_with(there, name, what.answer or f"?{what.number}"),)
    if what.kind == "link":
        # It is made of what the name was when it was looked up, a moment before.
        return () if what.names[1] in there else (_with(there, what.names[1], f"?{what.number}"),)
    if held is None:
        return ()
    gone = {other: thing for other, thing in there.items() if other != name}
    if what.kind == "unlink":
        return (tuple(sorted(gone.items())),)
    target = what.names[1]
    old = there.get(target)
    if target == name or old == held:
        return (state,)
    moved = _with(gone, target, held)
    # Renaming one name of a file to another name of it does nothing, as POSIX has it.
    return (moved, state) if old is not None and (old.startswith("?") or held.startswith("?")) else (moved,)


def _with(there: dict[str, str], name: str, thing: str) -> Names:
    return tuple(sorted({**there, name: thing}.items()))


def check_namespace(history: History, folder: str = "/", budget: int = 100_000) -> Iterator[Failure]:
    """Yield a failure for each group of a folder's names that no order explains; one beyond the budget is passed over."""
    steps: list[Call[Step]] = []
    for op in history.of(*NAMESPACE):
        if op.file == folder:
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
