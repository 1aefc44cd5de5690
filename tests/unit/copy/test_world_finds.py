"""The world finds what it was made to find: each of these takes a fix out, and an invariant does not hold any more."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from contextlib import closing
from typing import Any

import pytest

from replicator.deadline import Deadline
from replicator.errors import TP
from replicator.kafka.log_reader import LogReader
from replicator.kafka.offset_probe import OffsetProbe, Presence
from replicator.planes import PlaneSettings
from tests.unit.copy.world.disasters import (
    lack_replicas,
    lose_a_marker_and_its_records,
    lose_records_of_an_aborted_transaction,
)
from tests.unit.copy.world.invariants import BrokenInvariantError
from tests.unit.copy.world.simulation import StuckError
from tests.unit.copy.world.story import OTHERS, Story


def test_a_probe_that_takes_any_record_for_the_one_that_it_looks_for(
    story: Story, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A position passes records that are nowhere."""
    take = OffsetProbe._take

    def take_any(self: OffsetProbe, tp: TP, place: Any, message: Any) -> bool:
        is_taken = take(self, tp, place, message)
        known = self._known.get(tp)
        if known is not None and message.error() is None:
            self._known[tp] = type(known)(place.start, known.end, time.monotonic(), Presence.RECORD)
        return is_taken

    monkeypatch.setattr(OffsetProbe, "_take", take_any)
    lose_records_of_an_aborted_transaction(story)
    with pytest.raises(BrokenInvariantError, match=r"^A, B: .* is not on the target"):
        story.finish()


def test_a_recovery_that_reads_a_log_up_to_a_place_that_it_does_not_reach(
    story: Story, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The task restarts for ever."""

    def read(self: Any, places: Sequence[tuple[TP, int]], deadline: Deadline) -> bool:
        met: set[tuple[TP, int]] = set()
        for tp, offset in places:
            begins = {tp.partition: offset}
            reader = LogReader(self._target, tp.topic, begins, lambda it, tp=tp: met.add((tp, it.offset() or 0)))  # type: ignore[misc]
            with closing(reader):
                reader.read_on({tp.partition: offset + 1}, deadline, lambda: False)
        return any(place in met for place in places)

    monkeypatch.setattr("replicator.copy.transaction_recovery.TransactionRecovery._is_any_visible", read)
    lose_a_marker_and_its_records(story)
    with pytest.raises(StuckError, match="not read to what is committed"):
        story.catch_up()


def test_a_producer_that_waits_for_a_partition_as_long_as_for_a_transaction(
    story: Story, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What could be copied is not, and no state says why (H)."""
    monkeypatch.setattr(PlaneSettings, "partition_patience_s", math.inf)
    lack_replicas(story)
    with pytest.raises(StuckError, match="not acknowledged within"):
        story.catch_up(OTHERS)
    assert not story.ledger.state().stopped
