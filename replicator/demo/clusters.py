"""The demo's two clusters: names, the source topic, and cleaning up."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from replicator.audit.audit import read_audit
from replicator.config import ClusterSettings
from replicator.deadline import Deadline
from replicator.demo.flights import DemoError
from replicator.kafka.cluster import AdminClient, Cluster, KafkaException, NewTopic, await_results, kafka_error
from replicator.kafka.topic_queries import list_topics
from replicator.names import AUDIT_TOPIC, syncs_topic, worker_group

PARTITIONS = 6
ADMIN_TIMEOUT_S = 30.0
RETRY_S = 0.5
GROUP = "replicator-demo"
"""Consumers carry it and never join it."""


@dataclass(frozen=True, slots=True)
class Names:
    """What the demo calls things.

    Args:
        source: alias of the source cluster.
        target: alias of the target cluster.
        topic: on the source.
        group: the consumer group that moves.
    """

    source: str = "east"
    target: str = "west"
    topic: str = "flights"
    group: str = "departures"

    @classmethod
    def unique(cls) -> Names:
        """Unique names, for existing clusters.

        The aliases are part of them: topics on the target, the workers' group and their transactional ids follow
        from these, and must not be those of a production flow.
        """
        run = uuid.uuid4().hex[:8]
        return cls(f"demo-{run}-east", f"demo-{run}-west", f"demo-{run}-flights", f"demo-{run}-departures")

    @property
    def flow(self) -> str:
        return f"{self.source}->{self.target}"

    @property
    def groups(self) -> tuple[str, str]:
        """The groups of this run that have offsets: the consumers', and the workers'."""
        return self.group, worker_group(self.source, self.target)

    @property
    def remote_topic(self) -> str:
        """Where the records arrive."""
        return f"{self.source}.{self.topic}"

    def config(self, bootstrap_servers: Mapping[str, str]) -> dict[str, Any]:
        """The workers' configuration; the clusters by alias."""
        flow = {"topics": [self.topic], "groups": [self.group], "heartbeat_interval_s": 0}
        return {
            "clusters": {alias: {"bootstrap_servers": servers} for alias, servers in bootstrap_servers.items()},
            "flows": {self.flow: flow},
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
        """The source topic. Without retention: the records' timestamps are from 2013.

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

    def consumers(self, alias: str) -> Cluster:
        """A cluster, as the consumer group's members see it."""
        cluster = self.source if alias == self.names.source else self.target
        return Cluster(alias, cluster.side, cluster.settings, self.names.group)

    # --- cleaning up --------------------------------------------------------------------------------------------------

    def audit_exists(self) -> bool:
        """Whether groups were moved to the target before.

        Raises:
            KafkaOpError: no answer.
        """
        admin = self.target.connect(ADMIN_TIMEOUT_S)
        return AUDIT_TOPIC in list_topics(self.target, admin, Deadline(ADMIN_TIMEOUT_S)).topics

    def remove_ours(self, *, had_audit: bool) -> list[str]:
        """Delete the topics and groups of this run, which has unique names, from both clusters; nothing else.

        Args:
            had_audit: as `audit_exists` said before the run.

        Returns:
            What could not be deleted, and why.
        """
        mine = self.names
        left = self._remove(self.source, lambda topic: topic == mine.topic)
        ours = {syncs_topic(mine.source)} | self._our_audit(had_audit)
        left += self._remove(self.target, lambda topic: topic in ours or topic.startswith(f"{mine.source}."))
        return left + [line for cluster in (self.source, self.target) for line in self._remove_groups(cluster)]

    def _our_audit(self, had_audit: bool) -> set[str]:
        """The audit's topic, where there was none before and no other flow moved a group since."""
        deadline = Deadline(ADMIN_TIMEOUT_S)
        is_ours = not had_audit and all(it.flow == self.names.flow for it in read_audit(self.target, deadline))
        return {AUDIT_TOPIC} if is_ours else set()

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

    def _remove_groups(self, cluster: Cluster) -> list[str]:
        """Delete the groups; waits for the session of the killed worker, which is a member until then."""
        deadline = Deadline(ADMIN_TIMEOUT_S)
        admin = cluster.connect(ADMIN_TIMEOUT_S)
        left = dict.fromkeys(self.names.groups, "")
        while left and not deadline.expired:
            results = await_results(admin.delete_consumer_groups(list(left)), deadline)
            left = {group: str(it) for group, it in results.items() if isinstance(it, Exception) and not _is_gone(it)}
            time.sleep(deadline.slice_s(RETRY_S) if left else 0)
        return [f"the group {group} on {cluster.alias}: {why}" for group, why in left.items()]


def _is_gone(error: Exception) -> bool:
    found = kafka_error(error)
    return found is not None and found.name() == "GROUP_ID_NOT_FOUND"
