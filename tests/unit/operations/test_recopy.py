"""Which copies are begun anew, and what is refused: by what the clusters say, without them."""

from __future__ import annotations

from typing import Any

import pytest

from replicator.errors import TP
from replicator.offset_map.runs import Run
from replicator.offset_map.sync_format import TargetTopic
from replicator.offset_map.topic_id import NO_ID, TopicId
from replicator.operations.recopy import RemotePartition, plan_recopy

ID, NEW_ID = TopicId([1] * 16), TopicId([2] * 16)
TOLD = TargetTopic("east.orders", ID)
NEWEST = Run(4, 90, 40, 10, 30, 100, TopicId([9] * 16), ())
"""Replicated to 100 there and 50 here."""


def copy(partition: int = 0, **known: Any) -> RemotePartition:
    """A copy that is whole, but for what is given."""
    whole = {"recorded": TOLD, "found": TOLD, "begin": 0, "end": 51}
    return RemotePartition(TP("orders", partition), "east.orders", NEWEST, **{**whole, **known})


@pytest.mark.parametrize(
    ("known", "is_lost"),
    [
        ({}, False),
        ({"begin": 51}, False),
        ({"end": 50}, False),
        ({"end": 49}, True),
        ({"found": None, "begin": 0, "end": 0}, True),
        ({"found": TargetTopic("east.orders", NEW_ID), "end": 1000}, True),
        ({"recorded": None, "end": 1000}, False),
        ({"recorded": TargetTopic("east.orders", NO_ID), "found": TargetTopic("east.orders", NEW_ID)}, False),
        ({"found": TargetTopic("east.orders", NO_ID)}, False),
        ({"found": TargetTopic("east.orders", NO_ID), "end": 0}, True),
    ],
    ids=[
        "whole", "retention", "whole without its marker", "cut", "gone", "another topic", "never told",
        "told without ids", "no ids any more", "created again without ids",
    ],
)  # fmt: skip
def test_a_copy_is_lost_when_that_is_certain(known: dict[str, Any], is_lost: bool) -> None:
    assert copy(**known).is_lost == is_lost


def test_lost_and_empty_copies_are_begun_anew_and_the_others_kept() -> None:
    new = TargetTopic("east.orders", NEW_ID)
    plan = plan_recopy([copy(2, found=new, end=0), copy(1), copy(0, found=None, end=0)], "west", behind=False)
    assert [it.tp.partition for it in plan.forgotten] == [0, 2]
    assert plan.kept == {TP("orders", 1): "no record is missing"}
    assert plan.refusals == ()


def test_nothing_is_begun_anew_where_records_would_come_twice() -> None:
    """A: one partition that holds records is enough."""
    new = TargetTopic("east.orders", NEW_ID)
    held = [copy(partition, found=new, begin=5, end=7) for partition in range(5)]
    plan = plan_recopy([*held, copy(5, found=new, end=0)], "west", behind=False)
    (refusal,) = plan.refusals
    assert refusal.startswith(
        "east.orders on west holds 10 offsets in 5 partitions; delete the topic first, or pass --behind"
    )
    (one,) = plan_recopy([held[0], copy(1)], "west", behind=False).refusals
    assert "holds 2 offsets in 1 partition; " in one


def test_a_whole_copy_is_refused() -> None:
    plan = plan_recopy([copy(0), copy(1)], "west", behind=False)
    assert plan.forgotten == ()
    (refusal,) = plan.refusals
    assert refusal.startswith("east.orders on west lost no records; delete the topic first")


def test_asked_for_everything_is_begun_anew_behind_what_is_there() -> None:
    plan = plan_recopy([copy(1), copy(0, found=None, end=0)], "west", behind=True)
    assert [it.tp.partition for it in plan.forgotten] == [0, 1]
    assert (plan.kept, plan.refusals) == ({}, ())
