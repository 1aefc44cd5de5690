"""Would a failover work now: what is found wrong, and how it is told."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from replicator.checkpoints.topic import KnownGroups
from replicator.moves.model import MoveCommand, MovePlan, Order, counted
from replicator.moves.plan import GroupFacts, MoveFacts
from replicator.moves.routes import Router
from replicator.operations.checks import Condition, Limits, group_conditions

LIMITS = Limits(lag_s=60, checkpoint_age_s=30)
NOW_MS = 100_000


def conditions(known: KnownGroups, *groups: str, halted: str = "") -> dict[str, Condition]:
    plan = MovePlan(Order("", MoveCommand.SWITCHOVER, "east->west", groups, is_all=True), ())
    facts = MoveFacts("east", "west", {group: GroupFacts() for group in groups}, Router(None, None), halted=halted)
    return {it.name: it for it in group_conditions(plan, facts, known, LIMITS, NOW_MS)}


@pytest.mark.parametrize(
    ("pulse_ms", "late", "is_ok", "detail"),
    [
        (99_000, {}, True, "1.0 s old (at most 30 s)"),
        (60_000, {}, False, "40.0 s old (at most 30 s)"),
        (99_000, {"a": 98_000}, True, "2.0 s old (at most 30 s)"),
        (99_000, {"a": 50_000}, False, "50.0 s old for a (at most 30 s)"),
        (99_000, {"a": 50_000, "b": 50_000}, False, "50.0 s old (at most 30 s)"),
        (99_000, {"a": None}, False, "age unknown for a"),
        (None, {}, False, "never written"),
    ],
)
def test_checkpoints_are_as_fresh_as_those_of_the_group_that_is_known_worst(
    pulse_ms: int | None, late: Mapping[str, int | None], is_ok: bool, detail: str
) -> None:
    found = conditions(KnownGroups({}, {}, pulse_ms, late), "a", "b")["checkpoints fresh"]
    assert (found.ok, found.detail) == (is_ok, detail)


def test_without_a_group_the_pulse_itself_tells() -> None:
    assert conditions(KnownGroups({}, {}, 99_000, {}))["checkpoints fresh"].ok
    assert not conditions(KnownGroups({}, {}, 1_000, {}))["checkpoints fresh"].ok


def test_a_halted_flow_and_groups_that_cannot_be_read_are_told() -> None:
    found = conditions(KnownGroups({}, {}, 99_000, {}), "a", halted="the flow east->west is halted")
    assert (found["not halted"].ok, found["groups translated"].detail) == (False, "1 group, 0 partitions")


@pytest.mark.parametrize(("number", "text"), [(0, "0 groups"), (1, "1 group"), (2000, "2,000 groups")])
def test_numbers_and_nouns_agree(number: int, text: str) -> None:
    assert counted(number, "group") == text
