"""What is at a place of a log, and what is not: against a consumer that resets as librdkafka's does."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import pytest

from replicator.deadline import Deadline
from replicator.errors import TP
from replicator.kafka.offset_probe import OffsetProbe, Presence
from tests.unit.copy.world.flow import World
from tests.unit.copy.world.librdkafka import WorldCluster

LOG = TP("orders", 0)


@pytest.fixture
def world() -> Iterator[World]:
    made = World({"orders": 1})
    yield made
    made.close()


def presence(world: World, place: int, *, committed: bool = True) -> Presence:
    cluster = WorldCluster(world.source, "target", world.flow.source_cluster, "group")
    with closing(OffsetProbe(cluster, committed=committed)) as probe:
        return probe.has_record({LOG: place}, Deadline(5))[LOG]


def after(world: World, place: int) -> int:
    cluster = WorldCluster(world.source, "target", world.flow.source_cluster, "group")
    with closing(OffsetProbe(cluster)) as probe:
        return probe.first_at_or_after({LOG: place}, Deadline(5))[LOG]


def test_a_record_is_there_and_a_marker_is_none(world: World) -> None:
    world.transact({LOG: 3})
    world.simulation.run(for_s=1)
    assert [presence(world, place) for place in range(5)] == [Presence.RECORD] * 3 + [Presence.NO_RECORD] * 2
    assert after(world, 3) == 4


def test_nothing_is_behind_the_end_of_a_log(world: World) -> None:
    """The first record of the log, which a consumer gets there, is not at that place (A, B, E)."""
    world.produce(LOG, 3)
    for place in (4, 99):
        assert presence(world, place) is Presence.BEHIND_END
        assert presence(world, place, committed=False) is Presence.BEHIND_END
        assert after(world, place) == place


def test_an_empty_log_has_nothing_at_its_end_and_ends_before_anything_else(world: World) -> None:
    assert presence(world, 0) is Presence.NO_RECORD
    assert presence(world, 1) is Presence.BEHIND_END


def test_what_is_open_or_aborted_counts_for_those_who_read_everything(world: World) -> None:
    end = world.transact({LOG: 2}, commit=None)
    assert (presence(world, 1), presence(world, 1, committed=False)) == (Presence.NO_RECORD, Presence.RECORD)
    end(False)
    world.simulation.run(for_s=1)
    assert (presence(world, 1), presence(world, 1, committed=False)) == (Presence.NO_RECORD, Presence.RECORD)


def test_what_retention_deleted_is_not_there(world: World) -> None:
    world.produce(LOG, 3)
    world.produce(LOG, 3)
    world.source.trim(LOG, 3)
    assert presence(world, 1) is Presence.NO_RECORD
    assert after(world, 1) == 3


def test_a_partition_without_a_leader_gives_no_answer(world: World) -> None:
    world.produce(LOG, 3)
    world.source.lose_leader(LOG)
    cluster = WorldCluster(world.source, "target", world.flow.source_cluster, "group")
    with closing(OffsetProbe(cluster)) as probe:
        assert probe.has_record({LOG: 1}, Deadline(1)) == {}
