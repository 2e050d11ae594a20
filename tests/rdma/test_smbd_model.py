"""Every state of two sides with few credits: nobody waits for ever, nothing arrives where no receive is, no talk without end."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace

import pytest

from transport.rdma.smbd_credits import RESERVE, Credits

FEW = list(itertools.product((1, 2, 3), repeat=2))


@dataclass(frozen=True)
class Side:
    """spent: receives taken, not posted again. left: messages to send. flow: those under way: whether empty, what each grants."""

    send: int
    granted: int
    posted: int
    spent: int = 0
    left: int = 0
    flow: tuple[tuple[bool, int], ...] = ()


State = tuple[Side, Side]


def restored(side: Side, target: int) -> Credits:
    counts = Credits(target)
    counts.send, counts.granted, counts.posted = side.send, side.granted, side.posted
    return counts


def kept(side: Side, counts: Credits) -> Side:
    return replace(side, send=counts.send, granted=counts.granted, posted=counts.posted)


def steps(state: State, targets: tuple[int, int]) -> Iterator[tuple[str, State]]:
    """Yield all that can happen next: a side sends, takes what has come, or posts a receive again."""
    for me in (0, 1):
        for what, mine, other in moves(state[me], state[1 - me], targets[me]):
            yield what, (mine, other) if me == 0 else (other, mine)


def moves(side: Side, other: Side, target: int) -> Iterator[tuple[str, Side, Side]]:
    counts = restored(side, target)
    if side.left and counts.may_send:
        grant = counts.take()
        yield "data", replace(kept(side, counts), left=side.left - 1, flow=(*side.flow, (False, grant))), other
    counts = restored(side, target)
    if not side.spent and counts.starving:
        # As a connection does it, after receives were posted again; what is still to send may not have been handed in yet.
        grant = counts.take()
        yield "empty", replace(kept(side, counts), flow=(*side.flow, (True, grant))), other
    counts = restored(side, target)
    if other.flow:
        assert counts.posted >= len(other.flow), "a message where no receive is"
        counts.received(other.flow[0][1])
        yield "take", replace(kept(side, counts), spent=side.spent + 1), replace(other, flow=other.flow[1:])
    if side.spent:
        yield "post", replace(side, posted=side.posted + 1, spent=side.spent - 1), other


def start(targets: tuple[int, int], left: tuple[int, int]) -> State:
    """Return the state behind the negotiation: the client, the first side, holds what the server granted, the server nothing."""
    client, server = Credits(targets[0]), Credits(targets[1])
    client.posted, server.posted = targets[0] + RESERVE, targets[1] + RESERVE
    client.gain(server.grant())
    return kept(Side(0, 0, 0, left=left[0]), client), kept(Side(0, 0, 0, left=left[1]), server)


def explore(first: State, targets: tuple[int, int]) -> dict[State, list[tuple[str, State]]]:
    found: dict[State, list[tuple[str, State]]] = {}
    todo = [first]
    while todo:
        state = todo.pop()
        if state not in found:
            found[state] = list(steps(state, targets))
            todo += [after for _, after in found[state]]
    return found


def longest_run_of_empties(found: dict[State, list[tuple[str, State]]], first: State) -> int:
    """Return the most empty messages on any path; a cycle, which is talk without end, is an error."""
    most: dict[State, int] = {}
    open_: set[State] = set()
    stack = [(first, False)]
    while stack:
        state, leaving = stack.pop()
        if leaving:
            open_.discard(state)
            most[state] = max((most[after] + (what == "empty") for what, after in found[state]), default=0)
            continue
        if state in most:
            continue
        assert state not in open_, "the two sides talk for ever"
        open_.add(state)
        stack.append((state, True))
        for _, after in found[state]:
            assert after not in open_, "the two sides talk for ever"
            stack.append((after, False))
    return most[first]


def check(targets: tuple[int, int], left: tuple[int, int]) -> None:
    first = start(targets, left)
    found = explore(first, targets)
    for state, following in found.items():
        if not following:
            assert state[0].left == state[1].left == 0, f"both wait for ever: {state}"
            assert not state[0].flow and not state[1].flow
            # When all is quiet either side may speak.
            assert restored(state[0], targets[0]).may_send
            assert not sum(left) or restored(state[1], targets[1]).may_send
    assert len(found) > 4 * sum(left)
    assert longest_run_of_empties(found, first) <= 2 * sum(left) + 2


@pytest.mark.parametrize("targets", FEW)
@pytest.mark.parametrize("left", [(0, 0), (1, 0), (0, 1), (1, 1), (3, 0), (0, 3), (2, 2)])
def test_no_deadlock_and_no_ping_pong(targets: tuple[int, int], left: tuple[int, int]) -> None:
    check(targets, left)


@pytest.mark.slow
@pytest.mark.parametrize("targets", [*FEW, (4, 1), (5, 4), (8, 2)])
def test_no_deadlock_and_no_ping_pong_with_more_messages(targets: tuple[int, int]) -> None:
    check(targets, (6, 6))
