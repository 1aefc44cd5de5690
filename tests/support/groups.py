"""Consumer groups of the tests, as the clusters tell of them; independent of the product's clients."""

from __future__ import annotations

from typing import Any

from confluent_kafka import Consumer, ConsumerGroupTopicPartitions, TopicPartition

from replicator.errors import TP
from replicator.offset_map.mm2_format import Checkpoint, decode_checkpoint
from tests.support.eventually import eventually
from tests.support.records import ADMIN_TIMEOUT_S, admin_client, has_topic, read_topic


def commit(servers: str, group: str, offsets: dict[TP, int], metadata: str = "") -> None:
    """Commit for a group without members, as `kafka-consumer-groups --reset-offsets` does."""
    partitions = [TopicPartition(tp.topic, tp.partition, it, metadata=metadata) for tp, it in offsets.items()]
    request = [ConsumerGroupTopicPartitions(group, partitions)]
    admin = admin_client(servers)  # it answers as long as it is referred to
    (future,) = admin.alter_consumer_group_offsets(request).values()
    assert not [it.error for it in future.result(ADMIN_TIMEOUT_S).topic_partitions if it.error]


def committed(servers: str, group: str) -> dict[TP, tuple[int, str]]:
    """Offset and metadata of each partition in which the group has committed."""
    admin = admin_client(servers)
    (future,) = admin.list_consumer_group_offsets([ConsumerGroupTopicPartitions(group)]).values()
    found = future.result(ADMIN_TIMEOUT_S).topic_partitions
    return {TP(it.topic, it.partition): (it.offset, it.metadata or "") for it in found if it.offset >= 0}


def offsets(servers: str, group: str) -> dict[TP, int]:
    """As `committed`, the offsets alone."""
    return {tp: offset for tp, (offset, _) in committed(servers, group).items()}


def checkpoints(servers: str, topic: str, group: str) -> dict[TP, Checkpoint]:
    """The newest checkpoint of each of a group's partitions."""
    newest = {}
    if has_topic(servers, topic):
        for record in read_topic(servers, topic):
            it = decode_checkpoint(record.key or b"", record.value or b"", record.headers)
            if it.group == group:
                newest[it.tp] = it
    return newest


class Member:
    """A consumer that is a member of a group, and has partitions of `topic` assigned."""

    def __init__(self, servers: str, group: str, topic: str, **client: Any) -> None:
        conf = {"bootstrap.servers": servers, "group.id": group, "auto.offset.reset": "earliest"}
        self.consumer = Consumer({**conf, "enable.auto.commit": False, "isolation.level": "read_committed", **client})
        self.consumer.subscribe([topic])
        self.values: list[bytes | None] = []

        def has_partitions() -> bool:
            self.poll(0.1)
            return bool(self.consumer.assignment())

        eventually(has_partitions, within_s=ADMIN_TIMEOUT_S)

    def poll(self, wait_s: float) -> list[bytes | None]:
        """Take what there is; everything that was taken so far."""
        self.values += [it.value() for it in self.consumer.consume(1000, wait_s) if it.error() is None]
        return self.values

    def close(self) -> None:
        self.consumer.close()
