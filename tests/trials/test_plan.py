"""Fault plans as values: composed, written and read again, and what is no plan named in one line."""

import random

import pytest

from trials.faults.catalogue import KNOBS, draw_plan
from trials.faults.plan import Fault, Plan, PlanError, Trigger

PLAN = Plan((Fault("T14", Trigger("nth", 3, "send"), "client1", (("side", "before"),)),), (("rsize", 4096),))


def test_text_forms_are_inverse() -> None:
    rng = random.Random(1)
    for _ in range(200):
        plan = draw_plan(rng, transport="stream", encrypt=True, clients=3, reach=60)
        assert Plan.from_json(plan.to_json()) == plan
        assert Plan.from_toml(plan.to_toml()) == plan
    assert PLAN.to_json() == '[[["T14","nth(send, 3)","client1",{"side":"before"}]],{"rsize":4096}]'


def test_composition() -> None:
    both = PLAN | Plan(PLAN.faults, (("wsize", 1),))
    assert len(both) == 2
    assert both.without(0).faults == PLAN.faults
    assert both.knobs == (("rsize", 4096), ("wsize", 1))
    assert both.without_knob("rsize").knob("rsize", 7) == 7
    assert str(Plan()) == "nothing goes wrong"
    assert hash(both) == hash(Plan(both.faults, both.knobs))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[[fault]]\nid = 'Z9'\nwhen = 'at(1)'", "fault 1: no fault Z9; see netfs faults list"),
        ("[[fault]]\nid = 'T14'\nwhen = 'soon'", "fault 1: not a trigger: 'soon'"),
        ("[[fault]]\nid = 'T14'\nwhen = 'nth(send, 0)'", "counts from 1"),
        ("[[fault]]\nid = 'T14'\nwhen = 'nth(golf, 1)'", "knows no event golf"),
        ("[[fault]]\nid = 'T14'\nwhen = 'nth(1)'", "needs an event"),
        ("[[fault]]\nid = 'S20'\nwhen = 'when(golf, 1)'", "no state golf; when knows unsafe, requests, connects"),
        ("[[fault]]\nid = 'T14'\nwhen = 'when(unsafe, 1)'", "T14 happens"),
        ("[[fault]]\nid = 'T14'\nwhen = 'nth(send, 1)'\nargs = {colour = 1}", "takes no colour"),
        ("[[fault]]\nid = 'S4'\nwhen = 'nth(write, 1)'\nargs = {errno = 0}", "S4 fails with ENOSPC, not 0"),
        ("[[fault]]\nid = 'T14'\nwhen = 'nth(send, 1)'\nargs = {side = []}", "neither number nor text"),
        ("[[fault]]\nid = 'T14'", "fault 1: when is missing"),
        ("[[fault]]\nid = 'T14'\nwhen='at(1)'\nwho = 1", "no field who"),
        ("[fault]\nid = 'T14'", "two brackets"),
        ("[knobs]\ncolour = 1", "no knob colour"),
        ("[knobs]\nrsize = -1", "not negative"),
        ("[other]", "not other"),
        ("fault = ", "not TOML"),
    ],
)
def test_what_is_no_plan(text: str, said: str) -> None:
    with pytest.raises(PlanError, match=said.replace("(", r"\(").replace("[", r"\[")):
        Plan.from_toml(text)


@pytest.mark.parametrize("text", ["", "{}", "[1]", "[[1]]", '[[["T14"]]]', '[[["T14","at(1)","",{},5]]]', "[[],[],[]]", "[[],3]"])
def test_what_is_no_plan_on_one_line(text: str) -> None:
    with pytest.raises(PlanError):
        Plan.from_json(text)


def test_a_swarm_leaves_most_out_and_reaches_all() -> None:
    rng = random.Random(2)
    plans = [draw_plan(rng, transport="stream", encrypt=False, clients=2, reach=60) for _ in range(400)]
    assert {name for plan in plans for name, _ in plan.knobs} == set(KNOBS)
    assert sum(len(plan) < 3 for plan in plans) > 10
