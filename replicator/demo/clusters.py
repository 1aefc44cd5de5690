"""The demo's two clusters: what things are called there, the source topic, and cleaning up after us."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from replicator.clients import AdminClient, Cluster, KafkaException, NewTopic, await_results
from replicator.config import ClusterSettings
from replicator.deadline import Deadline
from replicator.demo.flights import DemoError
from replicator.names import syncs_topic
from replicator.topics import list_topics

PARTITIONS = 6
ADMIN_TIMEOUT_S = 30.0
GROUP = "replicator-demo"
"""Consumers carry it and never join it."""


@dataclass(frozen=True, slots=True)
class Names:
    """What the demo calls things.

    Args:
        source: alias of the source cluster.
        target: alias of the target cluster.
        topic: on the source.
    """

    source: str = "east"
    target: str = "west"
    topic: str = "flights"

    @classmethod
    def unique(cls) -> Names:
        """Names that nobody uses, for clusters that are not ours.

        The aliases are part of them: topics on the target, the workers' group and their transactional ids follow
        from these, and must not be those of a flow in production.
        """
        run = uuid.uuid4().hex[:8]
        return cls(f"demo-{run}-east", f"demo-{run}-west", f"demo-{run}-flights")

    @property
    def flow(self) -> str:
        return f"{self.source}->{self.target}"

    @property
    def remote_topic(self) -> str:
        """Where the records arrive."""
        return f"{self.source}.{self.topic}"

    def config(self, bootstrap_servers: Mapping[str, str]) -> dict[str, Any]:
        """The workers' configuration; the clusters by alias."""
        return {
            "clusters": {alias: {"bootstrap_servers": servers} for alias, servers in bootstrap_servers.items()},
            "flows": {self.flow: {"topics": [self.topic.replace(".", r"\.")], "groups": [], "heartbeat_interval_s": 0}},
        }


@dataclass(frozen=True, slots=True)
class Sides:
    """The two clusters, as their clients see them."""

    names: Names
    source: Cluster
    target: Cluster
    bootstrap_servers: Mapping[str, str]

    @classmethod
    def of(cls, names: Names, source_servers: str, target_servers: str) -> Sides:
        return cls(
            names,
            Cluster(names.source, "source", ClusterSettings(bootstrap_servers=source_servers), GROUP),
            Cluster(names.target, "target", ClusterSettings(bootstrap_servers=target_servers), GROUP),
            {names.source: source_servers, names.target: target_servers},
        )

    def create_topic(self) -> None:
        """The source topic. It keeps its records for ever: they are from 2013, and retention goes by their timestamps.

        Raises:
            KafkaOpError: it could not be created.
        """
        admin = self.source.connect(ADMIN_TIMEOUT_S)
        topic = NewTopic(self.names.topic, PARTITIONS, -1, config={"retention.ms": "-1"})
        result = await_results(admin.create_topics([topic]), Deadline(ADMIN_TIMEOUT_S))[self.names.topic]
        if isinstance(result, Exception):
            raise self.source.error(result, op=f"create {self.names.topic}", right="CREATE")

    def check_remote_topic(self) -> None:
        """The workers created the copy with as many partitions.

        Raises:
            DemoError: they did not.
        """
        admin = self.target.connect(ADMIN_TIMEOUT_S)
        found = list_topics(self.target, admin, Deadline(ADMIN_TIMEOUT_S)).topics.get(self.names.remote_topic)
        partitions = len(found.partitions) if found is not None else 0
        if partitions != PARTITIONS:
            raise DemoError(f"{self.names.remote_topic} has {partitions} partitions on the target, not {PARTITIONS}")

    def remove_ours(self) -> list[str]:
        """Delete the topics of this run, which has unique names, from both clusters; nothing else.

        Returns:
            What could not be deleted, and why.
        """
        mine = self.names
        left = self._remove(self.source, lambda topic: topic == mine.topic)
        prefix, syncs = f"{mine.source}.", syncs_topic(mine.source)
        return left + self._remove(self.target, lambda topic: topic == syncs or topic.startswith(prefix))

    @staticmethod
    def _remove(cluster: Cluster, is_ours: Callable[[str], bool]) -> list[str]:
        deadline = Deadline(ADMIN_TIMEOUT_S)
        admin: AdminClient = cluster.connect(ADMIN_TIMEOUT_S)
        try:
            topics = [topic for topic in list_topics(cluster, admin, deadline).topics if is_ours(topic)]
            results = await_results(admin.delete_topics(topics), deadline) if topics else {}
        except KafkaException as cause:
            return [str(cluster.error(cause, op="delete the demo's topics"))]
        return [f"{topic}: {result}" for topic, result in results.items() if isinstance(result, Exception)]
