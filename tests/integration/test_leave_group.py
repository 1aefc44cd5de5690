"""Leaving a cooperative group in the middle of a rebalance: every callback is called before the client closes."""

from __future__ import annotations

import threading
import time

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition

from replicator.embedded import EmbeddedCluster
from replicator.kafka import cluster
from replicator.kafka.cluster import leave_group
from tests.support.brokers import UniqueName
from tests.support.eventually import eventually
from tests.support.records import NewRecord, create_topic, enqueue

PARTITIONS = 4
POLL_S = 0.05


class _Member(Consumer):
    """Notes its callbacks, and when it is closed. Its answers to losses are slower than one `poll`."""

    def __init__(self, cluster: EmbeddedCluster, topic: str) -> None:
        super().__init__(
            {
                "bootstrap.servers": cluster.bootstrap_servers,
                "group.id": topic,
                "partition.assignment.strategy": "cooperative-sticky",
                "heartbeat.interval.ms": 100,
                "auto.offset.reset": "earliest",
            }
        )
        self.story: list[tuple[str, int]] = []
        self.subscribe([topic], on_assign=self._gets, on_revoke=self._loses)

    def _gets(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self.story.append(("gets", len(partitions)))
        consumer.incremental_assign(partitions)

    def _loses(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self.story.append(("loses", len(partitions)))
        time.sleep(4 * POLL_S)
        consumer.incremental_unassign(partitions)

    def close(self) -> None:
        self.story.append(("closes", 0))
        super().close()


class _Other(threading.Thread):
    """A second member, which takes its half."""

    def __init__(self, cluster: EmbeddedCluster, topic: str) -> None:
        super().__init__(daemon=True)
        self.ending = threading.Event()
        self.consumer = _Member(cluster, topic)
        self.assigned = 0

    def run(self) -> None:
        while not self.ending.is_set():
            self.consumer.poll(POLL_S)
            self.assigned = len(self.consumer.assignment())
        leave_group(self.consumer)


@pytest.fixture
def topic(target: EmbeddedCluster, unique: UniqueName) -> str:
    return create_topic(target.bootstrap_servers, unique("left"), partitions=PARTITIONS)


def poll_until(member: _Member, event: tuple[str, int]) -> None:
    def has_happened() -> bool:
        member.poll(POLL_S)
        return event in member.story

    eventually(has_happened, within_s=60)


def test_what_waits_is_heard_before_the_client_closes(target: EmbeddedCluster, topic: str) -> None:
    """It has lost half, and not heard yet that it gets nothing in return: a client that is closed then may hang."""
    member = _Member(target, topic)
    poll_until(member, ("gets", PARTITIONS))
    other = _Other(target, topic)
    other.start()
    poll_until(member, ("loses", PARTITIONS // 2))
    for _ in range(2000):
        member.assignment()  # asks the client's own thread, which queues what there is to hear
    leave_group(member)
    closed = member.story.index(("closes", 0))
    assert member.story[closed + 1 :] == [("loses", PARTITIONS // 2)], member.story
    eventually(lambda: other.assigned == PARTITIONS, within_s=60)  # it left: nobody waits for its session's end
    other.ending.set()
    other.join(60)
    assert not other.is_alive()


def test_a_member_leaves_while_records_flow(
    target: EmbeddedCluster, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is always a record to read: nobody would ever be silent, and the whole time would pass."""
    monkeypatch.setattr(cluster, "HEAR_WITHIN_S", 60.0)
    ending = threading.Event()
    producer = Producer({"bootstrap.servers": target.bootstrap_servers, "linger.ms": 1})

    def write() -> None:
        while not ending.wait(0.002):
            enqueue(producer, topic, NewRecord(b"x" * 100, partition=-1))

    writer = threading.Thread(target=write, daemon=True)
    writer.start()
    try:
        member = _Member(target, topic)
        poll_until(member, ("gets", PARTITIONS))
        eventually(lambda: member.poll(POLL_S), within_s=60)
        began_s = time.monotonic()
        leave_group(member)
        assert time.monotonic() - began_s < 30
    finally:
        ending.set()
        writer.join(60)
        producer.flush(60)
    assert member.story[-1] == ("loses", PARTITIONS)
