"""How fresh the checkpoints are, as one record among them tells it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from replicator.checkpoint_reader import KnownGroups
from replicator.errors import TP
from replicator.mm2_wire import Checkpoint, decode_checkpoint, encode_checkpoint
from replicator.names import GroupFilter
from replicator.pulse import MOST_LATE, Pulse, decode_pulse, encode_pulse, pulse_key
from replicator.wire import WireError

KEY = pulse_key("replicator-east-west", "replicator.east.syncs")
TP_0, TP_1 = TP("east.orders", 0), TP("east.orders", 1)
KNOWN = KnownGroups({}, {("late", TP_0): 4_000, ("late", TP_1): 6_000, ("known", TP_0): 1_000}, 9_000, frozenset())


def test_a_pulse_comes_back_through_the_bytes_of_a_checkpoint() -> None:
    """MM2's readers see a checkpoint of a group that no flow translates."""
    made = encode_pulse(KEY, 1_700_000_000_123, {"größe", "billing"})
    assert made is not None
    assert (made.group, made.tp, made.downstream_next) == ("replicator-east-west", TP("replicator.east.syncs", 0), 0)
    assert decode_pulse(decode_checkpoint(*encode_checkpoint(made))) == Pulse(
        1_700_000_000_123, frozenset({"größe", "billing"})
    )
    assert not GroupFilter([".*"], [], "east").matches(made.group)


def test_more_late_groups_than_fit_make_no_pulse() -> None:
    """Leaving some out would call them fresh."""
    names = [f"group-{number}" for number in range(MOST_LATE)]
    assert encode_pulse(KEY, 1, names) is not None
    assert encode_pulse(KEY, 1, [*names, "one-more"]) is None
    assert encode_pulse(KEY, 1, ["g" * 20_000, "ü" * 10_000]) is None


@pytest.mark.parametrize("metadata", ["", "{}", '["a", 1]', "["])
def test_a_pulse_that_says_something_else_is_refused(metadata: str) -> None:
    with pytest.raises(WireError, match="the pulse of replicator-east-west can't be read"):
        decode_pulse(Checkpoint(*KEY, 1, 0, metadata))


def test_the_age_is_that_of_the_pulse() -> None:
    """However old the group's checkpoint is; clocks that differ make nothing younger than now."""
    assert KNOWN.age_s("known", 10_500) == 1.5
    assert KNOWN.age_s("known", 8_000) == 0.0
    assert replace(KNOWN, pulse_ms=None).age_s("known", 10_500) is None


def test_a_late_group_is_as_old_as_its_newest_checkpoint() -> None:
    late = replace(KNOWN, late=frozenset({"late", "never"}))
    assert late.age_s("late", 10_500) == 4.5
    assert late.age_s("never", 10_500) is None
