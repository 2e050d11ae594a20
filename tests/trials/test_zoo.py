"""The zoo: planted bugs are found by stock scenarios, and the patches are gone when the trial is over."""

import pytest

from trials.case import Case, run_case
from trials.zoo.bug import bugs, planted
from trials.zoo.hunt import as_json, hunt

QUICK = ("stale-after-open", "change-is-not-counted", "nonce-reuse")


@pytest.mark.parametrize("name", QUICK)
def test_a_bug_is_found(name: str) -> None:
    found = hunt(name, shrinking=0)
    assert found.found, found
    assert found.failure is not None and found.token.startswith("nt1.")


def test_there_are_enough_bugs_in_all_layers() -> None:
    table = bugs()
    assert len(table) >= 25
    assert {bug.layer for bug in table.values()} == {"netfs", "transport", "servers", "crypto"}


def test_a_bug_is_gone_after_its_trial() -> None:
    from netfs.fs.inode import Inode

    before = Inode.opened
    with planted("stale-after-open"):
        assert Inode.opened is not before
    assert Inode.opened is before


def test_an_unknown_bug_is_refused_in_one_line() -> None:
    with pytest.raises(ValueError, match="no bug moth; there are"):
        run_case(Case("fsx", 1, bug="moth"))
    with pytest.raises(ValueError, match="no bug moth; there are"):
        hunt("moth")


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", list(bugs()))
def test_every_bug_is_found_in_its_window_and_made_small(name: str) -> None:
    found = hunt(name)
    assert found.found, f"{name} was not found in {found.seeds_tried} seeds"
    assert found.shrunk_faults <= 3, as_json([found])
    assert found.shrunk_ops <= 8, as_json([found])
