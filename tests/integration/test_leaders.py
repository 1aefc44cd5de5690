"""Brokers of the target are gone, and partitions with them (invariant H)."""

from __future__ import annotations

import pytest

from replicator.embedded import EmbeddedCluster
from replicator.metrics import DATA_PLANES
from tests.support.brokers import on_three_brokers
from tests.support.flows import FlowBenches
from tests.support.records import NewRecord, leader_of

pytestmark = on_three_brokers

PARTITIONS = 3


def records(first: int) -> list[NewRecord]:
    """Ten for each partition."""
    numbers = range(first, first + 10 * PARTITIONS)
    return [NewRecord(b"%d" % number, b"key", number % PARTITIONS, number + 1) for number in numbers]


@pytest.mark.parametrize("plane", DATA_PLANES)
def test_a_partition_whose_brokers_are_down_stops_alone(
    make_flow: FlowBenches, source: EmbeddedCluster, three_brokers: EmbeddedCluster, plane: str
) -> None:
    """Under load, and for a task that begins meanwhile; it goes on by itself when they are back."""
    settings = {"data_plane": plane, "replication_factor": 1, "transaction_timeout_s": 5}
    bench = make_flow(source, three_brokers, flow=settings)
    bench.create(bench.topic, partitions=PARTITIONS)
    bench.produce(bench.topic, records(0))
    bench.start()
    bench.await_caught_up(bench.topic)
    broker = leader_of(bench.target, bench.remote(bench.topic), 0)
    three_brokers.kill_broker(broker)
    try:
        bench.produce(bench.topic, records(100))
        bench.await_stopped(bench.topic, 0, "target_unavailable")
        bench.await_caught_up(bench.topic, without=(0,))
        bench.stop()
        seen = len(bench.events)
        bench.produce(bench.topic, records(200))
        bench.start(runs=False)
        error = bench.await_stopped(bench.topic, 0, "target_unavailable", after=seen)
        assert "has no leader there" in error
        bench.await_caught_up(bench.topic, without=(0,))
    finally:
        three_brokers.start_broker(broker)
    assert bench.verify(bench.topic).records == 30 * PARTITIONS
