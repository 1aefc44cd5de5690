"""The `batches` plane's own ways with brokers: replicas nearby, logs that were cut, quotas, coordinators that move."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from kafka.protocol.admin import AlterClientQuotasRequest

from replicator.config import ClusterSettings
from replicator.deadline import Deadline
from replicator.embedded import Clusters, ClusterSpec
from replicator.embedded import EmbeddedCluster as KafkaCluster
from replicator.errors import TP, PartitionError, StopReason
from replicator.kafka.client_properties import client_id
from replicator.kafka.cluster import Cluster
from replicator.planes.batches.plane import BatchesPlane
from replicator.protocol.brokers import Brokers
from replicator.protocol.event_loop import EventLoop
from tests.support.brokers import OwnClusters, UniqueName, on_killable_pair, on_three_brokers
from tests.support.eventually import eventually
from tests.support.lane import settled
from tests.support.planes import TIMEOUT_S, Driver, settings
from tests.support.records import NewRecord, create_topic, leader_of, partition_metadata, produce, read_topic

NEARBY = {
    "broker.rack": "rack-{node}",
    "replica.selector.class": "org.apache.kafka.common.replica.RackAwareReplicaSelector",
}
UNCLEAN = {"unclean.leader.election.enable": "true", "min.insync.replicas": "1"}
RECORDS = 200


def records(first: int, count: int = RECORDS) -> list[NewRecord]:
    return [NewRecord(b"%d" % n, b"k", 0, n + 1) for n in range(first, first + count)]


@contextmanager
def driving(source: KafkaCluster, target: KafkaCluster, topic: str, **client: Any) -> Iterator[Driver]:
    """A driver of a plane from the beginning of a topic's first partition; the copy's topic is made, too."""
    create_topic(target.bootstrap_servers, f"east.{topic}")
    near = ClusterSettings(bootstrap_servers=source.bootstrap_servers, client=client)
    far = ClusterSettings(bootstrap_servers=target.bootstrap_servers)
    wanted = settings(f"replicator-{topic}")
    plane = BatchesPlane(Cluster("east", "source", near, "g"), Cluster("west", "target", far, "g"), wanted)
    try:
        yield Driver(plane, f"east.{topic}").start({TP(topic, 0): 0})
    finally:
        plane.close()


def reads_from(driver: Driver, tp: TP) -> int | None:
    """The broker where a partition is read."""
    plane = driver.plane
    assert isinstance(plane, BatchesPlane)
    return plane._fetcher._partitions[tp].node


def await_leader(cluster: KafkaCluster, topic: str, *, among: set[int]) -> int:
    """The partition's leader, once it is one of these."""

    def leads() -> int:
        leader = leader_of(cluster.bootstrap_servers, topic)
        assert leader in among, f"broker {leader} leads"
        return leader

    return eventually(leads, TIMEOUT_S)


def test_a_replica_nearby_is_read(own_clusters: OwnClusters, target: KafkaCluster, unique: UniqueName) -> None:
    """KIP-392: the follower in our rack, as long as it is there; then the leader again."""
    source = own_clusters(ClusterSpec("source", brokers=3, properties=NEARBY))["source"]
    topic = create_topic(source.bootstrap_servers, unique("orders"), replication_factor=3)
    tp = TP(topic, 0)
    follower = next(node for node in (1, 2, 3) if node != leader_of(source.bootstrap_servers, topic))
    produce(source.bootstrap_servers, topic, records(0))
    with driving(source, target, topic, **{"client.rack": f"rack-{follower}"}) as driver:
        driver.carry({tp: RECORDS})
        assert reads_from(driver, tp) == follower
        source.kill_broker(follower)
        produce(source.bootstrap_servers, topic, records(RECORDS))
        driver.carry({tp: 2 * RECORDS})
        assert reads_from(driver, tp) == leader_of(source.bootstrap_servers, topic)
    assert_same(source, target, topic)


def test_a_log_that_was_cut_and_grew_again_is_noticed(
    own_clusters: OwnClusters, target: KafkaCluster, unique: UniqueName
) -> None:
    """A, H: after an unclean election other records stand at our offsets; the leader epoch tells (KIP-320)."""
    source = own_clusters(ClusterSpec("source", brokers=3, properties=UNCLEAN))["source"]
    topic = create_topic(source.bootstrap_servers, unique("orders"), replication_factor=2)
    tp = TP(topic, 0)
    first = leader_of(source.bootstrap_servers, topic)
    second = next(node for node in partition_metadata(source.bootstrap_servers, topic).replicas if node != first)
    produce(source.bootstrap_servers, topic, records(0))
    with driving(source, target, topic) as driver:
        driver.carry({tp: RECORDS})
        source.kill_broker(second)
        eventually(lambda: partition_metadata(source.bootstrap_servers, topic).isrs == [first], TIMEOUT_S)
        produce(source.bootstrap_servers, topic, records(RECORDS))
        driver.carry({tp: 2 * RECORDS})
        source.kill_broker(first)
        source.start_broker(second)
        await_leader(source, topic, among={second})
        produce(source.bootstrap_servers, topic, records(10_000, 3 * RECORDS))

        def has_failed() -> list[PartitionError]:
            driver.fetch()
            return driver.failed

        errors = list(eventually(has_failed, TIMEOUT_S, every_s=0))
        driver.plane.remove([tp])
        driver.plane.add({tp: 2 * RECORDS})  # as a task does that tries again
        errors += eventually(lambda: has_failed()[len(errors) :], TIMEOUT_S, every_s=0)
    for error in errors:
        assert (error.tp, error.reason) == (tp, StopReason.SOURCE_LOG_SHORTER)
        assert f"was truncated to {RECORDS}" in str(error)
    assert len(errors) == 2
    assert driver.positions[tp] == 2 * RECORDS


def test_quotas_slow_us_down_and_nothing_else(source: KafkaCluster, target: KafkaCluster, unique: UniqueName) -> None:
    """KIP-219: the broker answers at once and says how long to be silent; that is heeded."""
    topic = create_topic(source.bootstrap_servers, unique("orders"))
    large = [NewRecord(b"%d." % n * 2000) for n in range(60)]
    with driving(source, target, topic) as driver, quota(target, "producer_byte_rate", 50_000):
        began_s = time.monotonic()
        for number in range(1, 6):
            produce(source.bootstrap_servers, topic, large)
            driver.carry({TP(topic, 0): len(large) * number})
        took_s = time.monotonic() - began_s
    assert_same(source, target, topic)
    assert took_s > 1, "the quota did nothing"


@contextmanager
def quota(cluster: KafkaCluster, key: str, value: float) -> Iterator[None]:
    """A quota of this process's clients, for a while: the cluster has others."""
    loop = EventLoop()
    brokers = Brokers(
        loop, Cluster("west", "target", ClusterSettings(bootstrap_servers=cluster.bootstrap_servers), "g"), "t"
    )

    def set_to(value: float | None) -> None:
        kind = AlterClientQuotasRequest.EntryData
        entity = kind.EntityData(entity_type="client-id", entity_name=client_id())
        op = kind.OpData(key=key, value=value or 0.0, remove=value is None)
        message = AlterClientQuotasRequest(entries=[kind(entity=[entity], ops=[op])], validate_only=False)
        answer = brokers.call(None, message, 1, Deadline(TIMEOUT_S))
        assert [it.error_code for it in answer.entries] == [0]

    set_to(value)
    try:
        yield
    finally:
        set_to(None)
        loop.close()


@on_three_brokers
def test_the_coordinator_moves_inside_a_transaction(
    three_brokers: KafkaCluster, source: KafkaCluster, unique: UniqueName
) -> None:
    """A, C: its broker is killed between the flush and the commit; the next coordinator commits."""
    target = three_brokers
    topic = create_topic(source.bootstrap_servers, unique("orders"))
    tp = TP(topic, 0)
    produce(source.bootstrap_servers, topic, records(0))
    with driving(source, target, topic) as driver:
        plane = driver.plane
        assert isinstance(plane, BatchesPlane)
        driver.append(driver.fetch_to({tp: RECORDS}))
        coordinator = plane._transaction_manager._node
        assert coordinator is not None
        target.kill_broker(coordinator)
        plane.commit(Deadline(2 * TIMEOUT_S))
        assert plane._transaction_manager._node != coordinator
        produce(source.bootstrap_servers, topic, records(RECORDS))
        driver.batches = []
        driver.carry({tp: 2 * RECORDS})
    assert_same(source, target, topic)


@on_killable_pair
@pytest.mark.parametrize("outcome", ["commit", "abort"])
def test_a_broker_of_the_target_is_frozen(
    killable_pair: Clusters, source: KafkaCluster, unique: UniqueName, outcome: str
) -> None:
    """A: an answer that takes long is waited for, within the deadline; what was asked is not done twice."""
    target = killable_pair["target"]
    topic = create_topic(source.bootstrap_servers, unique("orders"))
    tp = TP(topic, 0)
    produce(source.bootstrap_servers, topic, records(0))
    with driving(source, target, topic) as driver:
        batches = driver.fetch_to({tp: RECORDS})
        driver.append(batches)
        with frozen_for_a_while(target):
            driver.commit() if outcome == "commit" else driver.abort()
        if outcome == "abort":
            driver.assign({tp: 0})
            driver.carry({tp: RECORDS})
    assert_same(source, target, topic)


@contextmanager
def frozen_for_a_while(cluster: KafkaCluster) -> Iterator[None]:
    """SIGSTOP now, SIGCONT after 2 s from a thread of its own."""
    cluster.signal_broker(1, signal.SIGSTOP)
    thaw = threading.Timer(2.0, cluster.signal_broker, (1, signal.SIGCONT))
    thaw.start()
    try:
        yield
    finally:
        thaw.join()


def assert_same(source: KafkaCluster, target: KafkaCluster, topic: str) -> None:
    """A: the copy is what a read_committed reader finds on the source, once everything is decided."""
    settled(target.bootstrap_servers, f"east.{topic}")
    copies = read_topic(target.bootstrap_servers, f"east.{topic}")
    assert [r.content for r in copies] == [r.content for r in read_topic(source.bootstrap_servers, topic)]
    assert copies
