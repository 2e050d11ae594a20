"""What the checker of direct cells holds against nobody: two writes at once, and what a failed close told to be lost."""

import pytest

from tests.trials.test_checkers import Story
from trials.case import Case
from trials.cells import CELL, fill
from trials.checkers.atomic import check_atomic
from trials.faults.plan import Fault, Plan, Trigger
from trials.workloads.shared import Racing


@pytest.mark.parametrize("beside", [False, True])
def test_two_writes_at_once_may_leave_a_torn_cell(beside: bool) -> None:
    story = Story()
    one = story.history.begin("a", "write", "f", length=CELL, direct=True)
    if not beside:
        story.history.end(one, CELL)
    two = story.write("b", 0, 1, direct=True)
    if beside:
        story.history.end(one, CELL)
    story.read("c", 0, fill(two.id, 0, 1)[:5] + fill(one.id, 0, 1)[5:], direct=True)
    assert [told.split(":")[0] for told in story.found_direct()] == ([] if beside else ["U1 torn data"])


@pytest.mark.parametrize("sealed", [False, True])
def test_a_close_that_failed_may_have_lost_what_was_written_to_an_encrypted_file(sealed: bool) -> None:
    story = Story()
    one = story.write("a", 0, 1, direct=True)
    story.done("a", "fsync")
    two = story.write("b", 0, 1, direct=True)
    story.read("b", 0, fill(two.id, 0, 1), direct=True)
    story.done("b", "close", error=5)
    story.read("c", 0, fill(one.id, 0, 1), direct=True)
    assert len(list(check_atomic(story.history, "f", sealed=sealed))) == (not sealed)
    for write in (two, one, two):
        story.read("c", 0, fill(write.id, 0, 1), direct=True)
    assert len(list(check_atomic(story.history, "f", sealed=sealed))) == 1, "but not to and fro"


@pytest.mark.parametrize(("lie", "excused"), [("A34:older", True), ("A34:crossed", False)])
def test_what_was_built_on_an_old_answer_is_no_stale_read(lie: str, excused: bool) -> None:
    """A client that is shown an old state, and cannot know of a newer one, writes it back: another's write is undone."""
    racing = Racing()
    plan = Plan((Fault("X6", Trigger("nth", 1, "request"), "", (("attack", lie),)),))
    racing.case = Case("racing", 7074, encrypt=True, plan=plan)
    story = Story()
    story.write("a", 0, 1, direct=True)
    first = story.history.ops[-1]
    story.write("b", 0, 1, direct=True)
    story.read("c", 0, fill(first.id, 0, 1), direct=True)
    for op in story.history.ops:
        op.file = "/racing"
    found = racing.check(story.history)
    assert (found is None) == excused, found
