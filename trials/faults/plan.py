"""Trio shell. Fault plans: what goes wrong in a trial and when, as a frozen value that can be printed, compared and written down.

A plan is a set of faults and of knobs. A fault is an id of the catalogue, a trigger, a target and arguments; a trigger is a
moment of virtual time, or counts what passes a place where faults can be injected:

    at(0.2)              once, so many seconds after the trial began
    nth(write, 3)        the third time; before(commit, 1) is the same, after(commit, 1) waits until it was done
    every(read, 5)       each fifth time
    p(send, 0.01)        each time with a chance, from a random stream of its own
    after_bytes(65536)   when so many bytes have been sent there
    when(unsafe, 4096)   once, as soon as a state of the world (STATES) is so large

Text forms: TOML for people and a compact JSON for tokens, each the inverse of the other. Owns no memory.
"""

import json
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

__all__ = ["KINDS", "STATES", "Fault", "Plan", "PlanError", "Trigger", "Value"]

Value = int | float | str
KINDS: Final = ("at", "nth", "before", "after", "every", "p", "after_bytes", "when")
STATES: Final = {
    "unsafe": "bytes that only a client's page cache has, or that no commit has made durable",
    "requests": "reads and writes of a client that are under way",
    "connects": "connections that have joined a client's session",
}
"""What `when` looks at: of the fault's target, or of the client that has most."""
_COUNTED: Final = frozenset({"nth", "before", "after", "every"})
_TEXT: Final = re.compile(r"(\w+)\(\s*(?:([\w.]+)\s*,\s*)?([-+.\deE]+)\s*\)")
MAX_FAULTS: Final = 1000


class PlanError(ValueError):
    """A plan that is none, in one line that says where."""


@dataclass(frozen=True, slots=True)
class Trigger:
    """When a fault happens. kind: one of KINDS. event: what is counted, or a state; empty for `at` and `after_bytes`."""

    kind: str
    value: float
    event: str = ""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise PlanError(f"no trigger {self.kind}; there are {', '.join(KINDS)}")
        if bool(self.event) != (self.kind in _COUNTED or self.kind in {"p", "when"}):
            raise PlanError(f"{self.kind} {'names no event' if self.event else 'needs an event, as in nth(write, 3)'}")
        if self.kind == "when" and self.event not in STATES:
            raise PlanError(f"no state {self.event}; when knows {', '.join(STATES)}")
        whole = self.kind in _COUNTED or self.kind == "after_bytes"
        if whole and (self.value != int(self.value) or self.value < (1 if self.event else 0)):
            raise PlanError(f"{self.kind} counts from 1, not {self.value:g}")
        if not (0 <= self.value < (1.000001 if self.kind == "p" else 1e15)):
            raise PlanError(f"{self.value:g} is out of range for {self.kind}")

    def __str__(self) -> str:
        number = f"{self.value:g}" if self.value != int(self.value) else str(int(self.value))
        return f"{self.kind}({self.event}, {number})" if self.event else f"{self.kind}({number})"

    @classmethod
    def parse(cls, text: str) -> "Trigger":
        """Read what `str` gives. Raises: PlanError."""
        found = _TEXT.fullmatch(text.strip())
        if found is None:
            raise PlanError(f"not a trigger: {text!r}; one looks like nth(write, 3) or at(0.2)")
        try:
            return cls(found[1], float(found[3]), found[2] or "")
        except (ValueError, OverflowError) as error:
            raise PlanError(str(error)) from None


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that goes wrong. id: of the catalogue. target: a node's name, empty for any. args: sorted by name."""

    id: str
    trigger: Trigger
    target: str = ""
    args: tuple[tuple[str, Value], ...] = ()

    def arg(self, name: str, default: Value) -> Any:
        """Return an argument."""
        return next((value for key, value in self.args if key == name), default)

    def __str__(self) -> str:
        more = "".join(f" {key}={value}" for key, value in self.args)
        return f"{self.id} {self.trigger}{f' @{self.target}' if self.target else ''}{more}"


@dataclass(frozen=True, slots=True)
class Plan:
    """Faults in the order of writing, and knobs: settings of client and server that are unusual on purpose."""

    faults: tuple[Fault, ...] = ()
    knobs: tuple[tuple[str, Value], ...] = ()

    def __or__(self, other: "Plan") -> "Plan":
        """Join two plans; a knob of the second one wins."""
        return Plan(self.faults + other.faults, tuple(sorted((dict(self.knobs) | dict(other.knobs)).items())))

    def __len__(self) -> int:
        return len(self.faults)

    def __iter__(self) -> Iterator[Fault]:
        return iter(self.faults)

    def without(self, *indices: int) -> "Plan":
        """Leave faults out by their places."""
        return replace(self, faults=tuple(fault for index, fault in enumerate(self.faults) if index not in indices))

    def without_knob(self, name: str) -> "Plan":
        """Leave a knob as it is by default."""
        return replace(self, knobs=tuple(item for item in self.knobs if item[0] != name))

    def knob(self, name: str, default: Value) -> Any:
        """Return a knob."""
        return next((value for key, value in self.knobs if key == name), default)

    def __str__(self) -> str:
        knobs = [f"{key}={value}" for key, value in self.knobs]
        return "; ".join([*map(str, self.faults), *knobs]) or "nothing goes wrong"

    # ---- text

    def to_json(self) -> str:
        """Return one line without spaces."""
        faults = [_trimmed([fault.id, str(fault.trigger), fault.target, dict(fault.args)]) for fault in self.faults]
        return json.dumps(_trimmed([faults, dict(self.knobs)]), separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> "Plan":
        """Read what `to_json` gives. Raises: PlanError."""
        try:
            data = json.loads(text)
        except ValueError as error:
            raise PlanError(f"not JSON: {error}") from None
        rows: Any = data[0] if isinstance(data, list) and data else data
        if not isinstance(rows, list) or len(data) > 2 or not all(isinstance(row, list) for row in rows):
            raise PlanError("a plan is a list of faults and an object of knobs")
        names = ("id", "when", "target", "args")
        return cls._made(
            [dict(zip(names, row, strict=False)) if len(row) <= len(names) else {"too": "long"} for row in rows],
            data[1] if len(data) > 1 else {},
        )

    def to_toml(self) -> str:
        """Return a file for people."""
        lines: list[str] = []
        for fault in self.faults:
            lines += ["[[fault]]", f"id = {json.dumps(fault.id)}", f"when = {json.dumps(str(fault.trigger))}"]
            if fault.target:
                lines.append(f"target = {json.dumps(fault.target)}")
            if fault.args:
                lines.append(f"args = {{ {', '.join(f'{key} = {json.dumps(value)}' for key, value in fault.args)} }}")
            lines.append("")
        if self.knobs:
            lines += ["[knobs]", *(f"{key} = {json.dumps(value)}" for key, value in self.knobs), ""]
        return "\n".join(lines)

    @classmethod
    def from_toml(cls, text: str) -> "Plan":
        """Read what `to_toml` gives. Raises: PlanError."""
        try:
            data = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise PlanError(f"not TOML: {error}") from None
        for name in data:
            if name not in {"fault", "knobs"}:
                raise PlanError(f"a plan has [[fault]] and [knobs], not {name}")
        faults = data.get("fault", [])
        if not isinstance(faults, list):
            raise PlanError("faults are written [[fault]], with two brackets")
        return cls._made(faults, data.get("knobs", {}))

    @classmethod
    def _made(cls, rows: Iterable[Any], knobs: Any) -> "Plan":
        from trials.faults.catalogue import check_fault, check_knob  # noqa: PLC0415 - it draws plans, so it knows this module

        faults: list[Fault] = []
        for number, row in enumerate(rows, 1):
            try:
                fault = _fault_of(row)
                check_fault(fault)
            except PlanError as error:
                raise PlanError(f"fault {number}: {error}") from None
            faults.append(fault)
        if len(faults) > MAX_FAULTS:
            raise PlanError(f"{len(faults)} faults; {MAX_FAULTS} are enough")
        if not isinstance(knobs, dict):
            raise PlanError("knobs are names and numbers")
        for name, value in knobs.items():
            check_knob(name, value)
        return cls(tuple(faults), tuple(sorted(knobs.items())))


def _fault_of(row: Any) -> Fault:
    if not isinstance(row, Mapping):
        raise PlanError("not a table")
    for name in row:
        if name not in {"id", "when", "target", "args"}:
            raise PlanError(f"no field {name}; there are id, when, target, args")
    for name in ("id", "when"):
        if not isinstance(row.get(name), str):
            raise PlanError(f"{name} is missing or no text")
    target, args = row.get("target", ""), row.get("args", {})
    if not isinstance(target, str) or not isinstance(args, Mapping):
        raise PlanError("target is a text and args are names and values")
    for name, value in args.items():
        if isinstance(value, bool) or not isinstance(value, int | float | str):
            raise PlanError(f"args: {name} is neither number nor text")
    return Fault(row["id"], Trigger.parse(row["when"]), target, tuple(sorted(args.items())))


def _trimmed(row: list[Any]) -> list[Any]:
    """Leave empty things at the end out."""
    while row and not row[-1] and len(row) > 1:
        row = row[:-1]
    return row
