"""Invariant F as a decision: what is written for a group, from what is there."""

from __future__ import annotations

import pytest

from replicator.checkpoints.group_sync import Decision, decide
from replicator.errors import TP
from replicator.groups.offsets import Committed, is_ours, tag

FLOW = "east->west"
ORDERS, OTHER = TP("east.orders", 0), TP("east.orders", 1)
LOCAL = TP("local", 0)
TOPICS = {"east.orders", "east.payments"}


def ours(next_offset: int, flow: str = FLOW) -> Committed:
    return Committed(next_offset, tag(flow, next_offset))


@pytest.mark.parametrize(
    ("found", "writes"),
    [
        ({}, {ORDERS: ours(10)}),
        ({ORDERS: ours(7)}, {ORDERS: ours(10)}),
        ({ORDERS: ours(70)}, {ORDERS: ours(10)}),
        ({ORDERS: ours(10)}, {}),
        ({LOCAL: Committed(3)}, {ORDERS: ours(10)}),
        ({OTHER: ours(3)}, {ORDERS: ours(10)}),
    ],
    ids=["absent", "behind", "rewound on the source", "same", "has other topics", "has another partition"],
)
def test_absent_offsets_and_our_own_are_written(found: dict[TP, Committed], writes: dict[TP, Committed]) -> None:
    assert decide(FLOW, {ORDERS: 10}, found, TOPICS) == Decision(False, writes)


@pytest.mark.parametrize(
    "found",
    [
        {ORDERS: Committed(10)},
        {ORDERS: Committed(7, "a consumer's own")},
        {ORDERS: Committed(8, tag(FLOW, 7))},
        {ORDERS: ours(7, "north->west")},
        {ORDERS: ours(7), OTHER: Committed(1)},
        {TP("east.payments", 0): Committed(1)},
    ],
    ids=["same offset", "metadata", "moved with our metadata", "another flow", "another partition", "another topic"],
)
def test_a_group_in_which_somebody_else_committed_is_not_touched(found: dict[TP, Committed]) -> None:
    assert decide(FLOW, {ORDERS: 10}, found, TOPICS) == Decision(True, {})


def test_the_tag_names_flow_and_offset() -> None:
    """It is stored by the target's brokers: releases must go on to recognise it."""
    assert tag(FLOW, 42) == "replicator east->west 42"
    assert is_ours(Committed(42, "replicator east->west 42"), FLOW)
    assert not is_ours(Committed(43, "replicator east->west 42"), FLOW)
