"""Brokers of the target are gone, and partitions with them (invariant H)."""

from __future__ import annotations

import pytest

from replicator.embedded import ClusterSpec, EmbeddedCluster
from replicator.metrics import DATA_PLANES
from tests.support.brokers import OwnClusters
from tests.support.flows import FlowBenches
from tests.support.records import NewRecord, leader_of

PARTITIONS = 3


@pytest.fixture(scope="module")
def three(module_clusters: OwnClusters) -> EmbeddedCluster:
    """A target whose brokers may be killed."""
    return module_clusters(ClusterSpec("three", brokers=3))["three"]


def records(first: int) -> list[NewRecord]:
    """Ten for each partition."""
    numbers = range(first, first + 10 * PARTITIONS)
    return [NewRecord(b"%d" % number, b"key", number % PARTITIONS, number + 1) for number in numbers]


@pytest.mark.parametrize("plane", DATA_PLANES)
def test_a_partition_whose_brokers_are_down_stops_alone(
    make_flow: FlowBenches, source: EmbeddedCluster, three: EmbeddedCluster, plane: str
) -> None:
    """Under load, and for a task that begins meanwhile; it goes on by itself when they are back."""
    settings = {"data_plane": plane, "replication_factor": 1, "transaction_timeout_s": 5}
    bench = make_flow(source, three, flow=settings)
    bench.create(bench.topic, partitions=PARTITIONS)
    bench.produce(bench.topic, records(0))
    bench.start()
    bench.await_caught_up(bench.topic)
    broker = leader_of(bench.target, bench.remote(bench.topic), 0)
    three.kill_broker(broker)
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
        three.start_broker(broker)
    assert bench.verify(bench.topic).records == 30 * PARTITIONS
