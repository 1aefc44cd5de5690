"""How fresh the checkpoints are, as one record among them tells it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from replicator.checkpoints.freshness import MOST_LATE, Freshness, decode_pulse, encode_pulse, pulse_key
from replicator.checkpoints.topic import KnownGroups, knowledge_text
from replicator.errors import TP
from replicator.names import GroupFilter
from replicator.offset_map.mm2_format import Checkpoint, decode_checkpoint, encode_checkpoint
from replicator.offset_map.sync_format import WireError

KEY = pulse_key("replicator-east-west", "replicator.east.syncs")
TP_0, TP_1 = TP("east.orders", 0), TP("east.orders", 1)
KNOWN = KnownGroups({}, {("late", TP_0): 4_000, ("late", TP_1): 6_000, ("known", TP_0): 1_000}, 9_000, {})


def test_a_pulse_comes_back_through_the_bytes_of_a_checkpoint() -> None:
    """MM2's readers see a checkpoint of a group that no flow translates."""
    made = encode_pulse(KEY, 1_700_000_000_123, {"größe": 1_700_000_000_000, "billing": None})
    assert made is not None
    assert (made.group, made.tp, made.downstream_next) == ("replicator-east-west", TP("replicator.east.syncs", 0), 0)
    assert decode_pulse(decode_checkpoint(*encode_checkpoint(made))) == Freshness(
        1_700_000_000_123, {"größe": 1_700_000_000_000, "billing": None}
    )
    assert not GroupFilter([".*"], [], "east").matches(made.group)


def test_more_late_groups_than_fit_make_no_pulse() -> None:
    """Leaving some out would call them fresh."""
    names = {f"group-{number}": 1_700_000_000_000 for number in range(MOST_LATE)}
    assert encode_pulse(KEY, 1, names) is not None
    assert encode_pulse(KEY, 1, {**names, "one-more": None}) is None
    assert encode_pulse(KEY, 1, {"g" * 20_000: 1, "ü" * 10_000: 1}) is None


@pytest.mark.parametrize("metadata", ["", "[]", '{"a": "b"}', '{"a": true}', "{"])
def test_a_pulse_that_says_something_else_is_refused(metadata: str) -> None:
    with pytest.raises(WireError, match="the checkpoint times of replicator-east-west can't be read"):
        decode_pulse(Checkpoint(*KEY, 1, 0, metadata))


def test_the_age_is_that_of_the_pulse() -> None:
    """However old the group's checkpoint is; clocks that differ make nothing younger than now."""
    assert KNOWN.age_s("known", 10_500) == 1.5
    assert KNOWN.age_s("known", 8_000) == 0.0
    assert replace(KNOWN, pulse_ms=None).age_s("known", 10_500) is None


def test_a_late_group_is_as_old_as_what_was_last_heard_of_it() -> None:
    """Not as its newest checkpoint: one that stands still is written once, and known all the same."""
    late = replace(KNOWN, late={"late": 8_500})
    assert late.age_s("late", 10_500) == 2.0
    assert late.age_s("known", 10_500) == 1.5


def test_of_a_late_group_of_which_nothing_was_heard_the_newest_checkpoint_tells() -> None:
    """As after a worker that has just begun."""
    late = replace(KNOWN, late={"late": None, "never": None})
    assert late.age_s("late", 10_500) == 4.5
    assert late.age_s("never", 10_500) is None


# --- in words ---------------------------------------------------------------------------------------------------------


def test_it_is_told_up_to_when_groups_are_known() -> None:
    at_9 = "checkpoints are complete up to 1970-01-01 00:00:09.000 UTC, 1.5 s ago"
    assert knowledge_text(KNOWN, ["known"], 10_500) == at_9
    assert knowledge_text(KNOWN, [], 10_500) == at_9
    assert knowledge_text(replace(KNOWN, pulse_ms=None), ["known"], 10_500) == "the age of the checkpoints is unknown"


def test_groups_that_are_known_less_far_are_named() -> None:
    known = replace(KNOWN, late={"a": 8_000, "b": 7_000, "never": None})
    text = knowledge_text(known, ["known", "a", "b"], 10_500)
    assert text.endswith(" 00:00:09.000 UTC, 1.5 s ago; for a, b only up to 00:00:07.000 UTC, 3.5 s ago")
    assert knowledge_text(known, ["known", "never"], 10_500).endswith("; of unknown age for never")


def test_when_the_source_is_gone_all_are_known_up_to_the_same_moment() -> None:
    """The last pass found out that nobody answers: it speaks for no group."""
    gone = replace(KNOWN, pulse_ms=12_000, late={"known": 8_000, "late": 8_000})
    text = knowledge_text(gone, ["known", "late"], 20_000)
    assert text == "checkpoints are complete up to 1970-01-01 00:00:08.000 UTC, 12.0 s ago"
