"""The client that fits a cluster: our own, where it can log in and the brokers are new enough; else librdkafka's."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from replicator.deadline import Deadline
from replicator.errors import KafkaOpError
from replicator.groups.client import GroupClient, Listing, OffsetsQuery, OffsetsTransaction
from replicator.groups.librdkafka import LibrdkafkaGroups
from replicator.groups.offsets import GroupOffsets, GroupState
from replicator.groups.refusals import Refusals
from replicator.groups.wire import WireGroups
from replicator.kafka.cluster import Cluster
from replicator.protocol.capabilities import probe, reason_against
from replicator.protocol.group_codecs import lacking


def open_groups(cluster: Cluster, deadline: Deadline) -> GroupClient:
    """A client for the groups of a cluster that answers.

    Raises:
        RetriableError: the cluster does not answer.
    """
    if reason_against(cluster.settings) is not None:
        return LibrdkafkaGroups(cluster)
    versions = probe(cluster, max(0.1, deadline.left_s()))
    return LibrdkafkaGroups(cluster) if any(lacking(versions)) else WireGroups(cluster)


class ClusterGroups:
    """See `client.GroupClient`. The client is chosen at the first request that the cluster answers."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self._chosen: GroupClient | None = None

    def _client(self, deadline: Deadline) -> GroupClient:
        if self._chosen is None:
            self._chosen = open_groups(self.cluster, deadline)
        return self._chosen

    def list(self, deadline: Deadline) -> Listing:
        return self._client(deadline).list(deadline)

    def describe(self, groups: Iterable[str], deadline: Deadline) -> Mapping[str, GroupState | KafkaOpError]:
        return self._client(deadline).describe(groups, deadline)

    def ask_offsets(self, groups: Iterable[str], deadline: Deadline, *, stable: bool) -> OffsetsQuery:
        return self._client(deadline).ask_offsets(groups, deadline, stable=stable)

    def commit(self, wanted: Mapping[str, GroupOffsets], deadline: Deadline) -> Mapping[str, Refusals]:
        return self._client(deadline).commit(wanted, deadline)

    def transaction(self, transactional_id: str, deadline: Deadline) -> OffsetsTransaction:
        return self._client(deadline).transaction(transactional_id, deadline)

    def close(self) -> None:
        if self._chosen is not None:
            self._chosen.close()
