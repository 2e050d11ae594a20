"""The table of a cookie's states."""

from itertools import product

import pytest

from netfs.fscache.states import BUSY, TABLE, Event, State, after

ASKED = (Event.USE, Event.INVALIDATE, Event.IDLE, Event.WITHDRAW, Event.RELINQUISH)


def test_what_is_asked_for_can_be_asked_in_every_resting_state() -> None:
    resting = [state for state in State if state not in BUSY and state is not State.DROPPED]
    assert [pair for pair in product(resting, ASKED) if pair not in TABLE] == []


def test_busy_states_only_end() -> None:
    for state, event in TABLE:
        assert (state in BUSY) == (event not in ASKED) or (state, event) in {
            (State.ACTIVE, Event.BROKEN),
            (State.FAILED, Event.BROKEN),
        }


def test_every_state_is_reached_and_every_busy_one_is_left() -> None:
    reached, new = set(), {State.QUIESCENT}
    while new:
        reached |= new
        new = {to for (state, _), to in TABLE.items() if state in reached} - reached
    assert reached == set(State)
    assert {state for state, _ in TABLE} == set(State) - {State.DROPPED}


def test_what_cannot_happen_is_an_assertion() -> None:
    with pytest.raises(AssertionError, match="FOUND in ACTIVE"):
        after(State.ACTIVE, Event.FOUND)
