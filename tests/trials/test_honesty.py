"""Errors that callers are told: only those that what went wrong may end in, and each descriptor once."""

import errno
from typing import Final

import pytest

from iov.extract import peek_segments
from iov.iov_iter import IovIter
from iov.probe import Probe
from servers.stores.memory import MemoryStore
from trials import sim
from trials.case import Case, run_case
from trials.checkers.honesty import check_errors
from trials.faults.catalogue import allowed_errnos
from trials.faults.injector import Injector
from trials.faults.plan import Fault, Plan, Trigger
from trials.faults.storage import FaultyStore
from trials.history import History

EIO: Final = errno.EIO


def told(history: History, kind: str, code: int = 0, fd: int = 1) -> None:
    op = history.begin("client0", kind, "/file", fd=fd)
    if code:
        history.fail(op, code)
    else:
        history.end(op)


def test_an_error_has_a_fault_behind_it() -> None:
    history = History()
    told(history, "read", errno.ENOSPC)
    (found,) = check_errors(history, allowed_errnos(["S6"]))
    assert found.kind == "U7 unlawful error"
    assert "ENOSPC" in found.message
    assert "EIO" in found.message
    assert not list(check_errors(history, allowed_errnos(["S6", "S4"])))


def test_what_clients_tell_each_other_needs_no_fault() -> None:
    history = History()
    for code in (errno.EAGAIN, errno.ENOENT, errno.ENOTSUP, errno.ESTALE):
        told(history, "open", code)
    assert not list(check_errors(history, ()))


@pytest.mark.parametrize(("again", "between", "wrong"), [(1, "", True), (1, "fault", False), (1, "fsync", False), (2, "", False)])
def test_a_descriptor_is_told_once(again: int, between: str, wrong: bool) -> None:
    """Another descriptor is told too; so is the same one when something else has gone wrong, or when all was well meanwhile."""
    history = History()
    told(history, "fsync", EIO)
    if between == "fault":
        history.struck()
    elif between:
        told(history, between)
    told(history, "close", EIO, fd=again)
    assert [found.kind for found in check_errors(history, [EIO])] == (["U7 told twice"] if wrong else [])


def test_a_trial_is_judged_by_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same trial, with and without the fault in the catalogue that explains what was told."""
    plan = Plan((Fault("S6", Trigger("every", 2, "read"), "", (("errno", EIO),)),))
    case = Case("own-files", 1, operations=10, plan=plan)
    assert run_case(case).failure is None
    monkeypatch.setattr("trials.case.allowed_errnos", lambda ids: frozenset())
    failure = run_case(case).failure
    assert failure is not None and failure.kind == "U7 unlawful error"


def test_a_short_write_leaves_the_rest_alone() -> None:
    """What was there is there still, behind the bytes that count."""

    async def main(world: sim.SimWorld) -> None:
        injector = Injector(Plan((Fault("N2", Trigger("nth", 2, "written")),)), world.streams, world.trace.record)
        store = FaultyStore(inner := MemoryStore(Probe(), lambda: 0), injector, [])
        injector.begin()
        handle = inner.create(inner.root().handle, "file", 0o600, exclusive=True).handle
        counts = []
        for byte in (b"a", b"b"):
            landing = store.write_landing(handle, 0, 1000)
            peek_segments(landing.iter, 1000)[0][:] = byte * 1000
            counts.append(store.write(handle, 0, landing, stable=False))
        assert counts[0] == 1000 > counts[1] > 0
        lent = store.read_source(handle, 0, 1000)
        assert isinstance(lent.source, IovIter)
        (view,) = peek_segments(lent.source, 1000)
        assert view == b"b" * counts[1] + b"a" * (1000 - counts[1])

    sim.run(1, main)
