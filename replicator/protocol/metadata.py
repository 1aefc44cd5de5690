"""Keeps what Metadata responses said: brokers, topics, leaders. Pure, but for the schema of the request.

A partition's leader is kept with its epoch, so that a broker that has not heard of the last election does not bring
back the old leader, unless the topic has another id by now.

Source: KIP-320 (leader epochs), KIP-516 (topic ids), KIP-951 (leaders in other answers); clients `Metadata`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from kafka.protocol.metadata import MetadataRequest

from replicator.protocol.handshake import Endpoint

METADATA = 3
LOWEST_VERSION = 9
HIGHEST_VERSION = 12
TOPIC_IDS_SINCE = 10
NEVER_ASKED = -1
NO_ID = bytes(16)
_NOT_THERE = frozenset({3, 17, 29})
"""UNKNOWN_TOPIC_OR_PARTITION, INVALID_TOPIC_EXCEPTION, TOPIC_AUTHORIZATION_FAILED: drop what was known."""


@dataclass(frozen=True, slots=True)
class Leader:
    """A partition's leader; `epoch` is -1 where the broker did not name it."""

    node: int
    epoch: int


@dataclass(slots=True)
class TopicMetadata:
    """The newest metadata of a topic.

    Args:
        error: the last response's error code; 0: none.
        leaders: by partition; a partition without a leader is left out.
    """

    error: int = NEVER_ASKED
    topic_id: bytes = NO_ID
    partitions: int | None = None
    leaders: dict[int, Leader] = field(default_factory=dict)


@dataclass(slots=True)
class BrokerChanges:
    """Brokers that a Metadata response changed.

    Args:
        moved: brokers with another address than before.
        removed: brokers that are not part of the cluster any more.
    """

    moved: set[int] = field(default_factory=set)
    removed: set[int] = field(default_factory=set)


def request(topics: Iterable[str], version: int) -> Any:
    """Make a Metadata request for these topics, which never creates one."""
    kind = MetadataRequest.MetadataRequestTopic
    extra = {"topic_id": None} if version >= TOPIC_IDS_SINCE else {}
    return MetadataRequest(
        topics=[kind(name=name, **extra) for name in topics],
        allow_auto_topic_creation=False,
        include_cluster_authorized_operations=False,
        include_topic_authorized_operations=False,
    )


class ClusterMetadata:
    """The newest metadata of one cluster: brokers by node id, topics by name."""

    def __init__(self) -> None:
        self.nodes: dict[int, Endpoint] = {}
        self.topics: dict[str, TopicMetadata] = {}
        self.cluster_id: str | None = None

    def is_of_another_cluster(self, answer: Any) -> bool:
        """Whether the address belongs to another cluster by now, which must be neither read nor written."""
        known, said = self.cluster_id, answer.cluster_id
        return known is not None and said is not None and known != said

    def update(self, answer: Any) -> BrokerChanges:
        """Take over a response. Topics that are not tracked are left out."""
        if self.cluster_id is None:
            self.cluster_id = answer.cluster_id
        changes = self._take_nodes(answer.brokers or ())
        for said in answer.topics or ():
            topic = self.topics.get(said.name)
            if topic is not None:
                _take_topic(topic, said)
        return changes

    def _take_nodes(self, brokers: Iterable[Any]) -> BrokerChanges:
        nodes = {it.node_id: Endpoint(it.host, it.port) for it in brokers if it.node_id >= 0 and it.host}
        if not nodes:  # so does one that has just started, or the last one of a cluster that shuts down
            return BrokerChanges()
        old, self.nodes = self.nodes, nodes
        elsewhere = {node for node, endpoint in nodes.items() if node in old and old[node] != endpoint}
        return BrokerChanges(elsewhere, set(old) - set(nodes))

    def leader(self, topic: str, partition: int) -> Leader | None:
        known = self.topics.get(topic)
        return known.leaders.get(partition) if known else None

    def update_leader(self, topic: str, partition: int, leader: Leader) -> bool:
        """Take over the leader that the response to another request named.

        Returns:
            Whether it was taken over: its epoch is newer, and the broker is known.
        """
        known = self.topics.get(topic)
        if known is None or leader.node not in self.nodes:
            return False
        current = known.leaders.get(partition)
        if current is not None and current.epoch >= leader.epoch:
            return False
        known.leaders[partition] = leader
        return True

    def led_by(self, node: int) -> set[str]:
        """Topics with a partition that this broker leads."""
        return {name for name, it in self.topics.items() if any(leader.node == node for leader in it.leaders.values())}


def _take_topic(topic: TopicMetadata, said: Any) -> None:
    topic.error = int(said.error_code)
    if topic.error in _NOT_THERE:
        topic.leaders, topic.partitions, topic.topic_id = {}, None, NO_ID
        return
    if topic.error:  # such as LEADER_NOT_AVAILABLE: what was known may still hold
        return
    topic_id = said.topic_id.bytes if getattr(said, "topic_id", None) is not None else NO_ID
    is_same = topic_id == topic.topic_id
    topic.topic_id = topic_id
    old = topic.leaders if is_same else {}
    topic.partitions = len(said.partitions)
    topic.leaders = {}
    for it in said.partitions:
        leader = _newest(old.get(it.partition_index), Leader(it.leader_id, it.leader_epoch))
        if leader is not None:
            topic.leaders[it.partition_index] = leader


def _newest(known: Leader | None, said: Leader) -> Leader | None:
    if known is not None and -1 < said.epoch < known.epoch:
        return known
    return said if said.node >= 0 else None
