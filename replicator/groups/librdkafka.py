"""The client of groups for clusters that only librdkafka can log in to, or whose brokers are too old for our own.

One request asks for one group: that is all that librdkafka can do. It also has two defects that end the process, open
in 2.16: when a coordinator moves while offsets are read (issue 5040), and when one comes back after a request that
waited for it was given up (issue 4605). Such clusters have to live with that (docs/data-planes.md).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from concurrent.futures import Future
from typing import Any

from replicator.deadline import Deadline
from replicator.errors import TP, KafkaOpError
from replicator.groups.client import Listing, ReadOffsets
from replicator.groups.offsets import Committed, GroupOffsets, GroupState
from replicator.groups.refusals import Refusals
from replicator.kafka.cluster import (
    Cluster,
    ConsumerGroupTopicPartitions,
    KafkaException,
    TopicPartition,
    await_results,
    group_metadata,
)
from replicator.kafka.transactions import FencingWriter

FORGETFUL = {"metadata.max.age.ms": 10}
"""By default, a client that asks again and again never leaves a broker that is no coordinator any more."""
PLACE_S = 5.0
"""How long librdkafka looks for a group's coordinator; for a topic that is not there it tries again all that time."""


class LibrdkafkaGroups:
    """See `client.GroupClient`."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self._admin = cluster.admin(FORGETFUL)

    def list(self, deadline: Deadline) -> Listing:
        future = self._admin.list_consumer_groups(request_timeout=_timeout_s(deadline))
        result = await_results({"": future}, deadline)[""]
        failures = [result] if isinstance(result, Exception) else result.errors
        errors = tuple(self.cluster.error(it, op="list groups", right="DESCRIBE") for it in failures)
        if errors and (isinstance(result, Exception) or not result.valid):
            raise errors[0]
        return Listing({it.group_id: it.state.name for it in result.valid}, errors)

    def describe(self, groups: Iterable[str], deadline: Deadline) -> dict[str, GroupState | KafkaOpError]:
        futures = self._admin.describe_consumer_groups(list(groups), request_timeout=_timeout_s(deadline))
        found: dict[str, GroupState | KafkaOpError] = {}
        for group, result in await_results(futures, deadline).items():
            if isinstance(result, Exception):
                error = self.cluster.error(result, op=f"describe the group {group}", right="DESCRIBE", group=group)
                found[group] = GroupState() if error.code == "GROUP_ID_NOT_FOUND" else error
            else:
                members = tuple(f"{it.client_id} at {it.host.lstrip('/')}" for it in result.members)
                found[group] = GroupState(result.state.name, members)
        return found

    def ask_offsets(self, groups: Iterable[str], deadline: Deadline, *, stable: bool) -> LibrdkafkaOffsetsQuery:
        options: dict[str, Any] = {"require_stable": stable, "request_timeout": _timeout_s(deadline)}
        asked = {}
        for group in groups:
            request = [ConsumerGroupTopicPartitions(group)]
            asked[group] = self._admin.list_consumer_group_offsets(request, **options)[group]
        return LibrdkafkaOffsetsQuery(self.cluster, asked)

    def commit(self, wanted: Mapping[str, GroupOffsets], deadline: Deadline) -> dict[str, Refusals]:
        futures: dict[str, Future[Any]] = {}
        for group, offsets in wanted.items():
            request = [ConsumerGroupTopicPartitions(group, _partitions(offsets))]
            timeout_s = _timeout_s(deadline)
            futures[group] = self._admin.alter_consumer_group_offsets(request, request_timeout=timeout_s)[group]
        return {
            group: self._refusals(group, wanted[group], result)
            for group, result in await_results(futures, deadline).items()
        }

    def _refusals(self, group: str, wanted: GroupOffsets, result: Any) -> Refusals:
        op = f"commit for the group {group}"
        if isinstance(result, Exception):
            return dict.fromkeys(wanted, self.cluster.error(result, op=op, right="READ", group=group))
        return {
            TP(it.topic, it.partition): self.cluster.error(it.error, op=op, right="READ", topic=it.topic, group=group)
            for it in result.topic_partitions
            if it.error
        }

    def transaction(self, transactional_id: str, deadline: Deadline) -> LibrdkafkaOffsetsTransaction:
        transaction = LibrdkafkaOffsetsTransaction(self.cluster, transactional_id)
        try:
            transaction.open(deadline)
        except KafkaOpError:
            transaction.close()
            raise
        return transaction

    def close(self) -> None:
        """The client ends with this object."""


class LibrdkafkaOffsetsQuery:
    """See `client.OffsetsQuery`. librdkafka itself asks again for what is not stable."""

    def __init__(self, cluster: Cluster, asked: dict[str, Future[Any]]) -> None:
        self.results: dict[str, ReadOffsets | KafkaOpError] = {}
        self._cluster = cluster
        self._asked = asked

    @property
    def is_done(self) -> bool:
        return not self._asked

    def wait(self, patience: Deadline, deadline: Deadline) -> None:
        until = Deadline(min(patience.left_s(), deadline.left_s()))
        for group, future in list(self._asked.items()):
            if until.expired and not future.done():
                continue
            try:
                self.results[group] = _read(future.result(timeout=until.left_s()))
            except TimeoutError:
                continue
            except KafkaException as cause:
                op = f"read the offsets of the group {group}"
                self.results[group] = self._cluster.error(cause, op=op, right="DESCRIBE", group=group)
            del self._asked[group]

    def take_partial(self, groups: Iterable[str]) -> dict[str, ReadOffsets]:
        """Nothing is: an answer has all, or errors."""
        return {}


class LibrdkafkaOffsetsTransaction(FencingWriter):
    """See `client.OffsetsTransaction`."""

    def place(self, wanted: Mapping[str, GroupOffsets], deadline: Deadline) -> dict[str, KafkaOpError]:
        """As `client.OffsetsTransaction`; the first group that is not taken ends it."""
        try:
            self._producer.begin_transaction()
        except KafkaException as cause:
            raise self._cluster.error(cause, op="begin a transaction") from cause
        for group, offsets in wanted.items():
            timeout_s = max(0.1, deadline.slice_s(PLACE_S))
            try:
                self._producer.send_offsets_to_transaction(_partitions(offsets), group_metadata(group), timeout_s)
            except KafkaException as cause:
                op, topic = f"commit for the group {group}", next(iter(offsets)).topic
                error = self._cluster.error(cause, op=op, right="READ", topic=topic, group=group)
                if not cause.args[0].txn_requires_abort():
                    raise error from cause
                return {group: error}
        return {}

    def abort(self, deadline: Deadline) -> None:
        """Abort the transaction of offsets.

        Raises:
            KafkaOpError: it is not known to be aborted: `close`.
        """
        try:
            self._producer.abort_transaction(max(0.1, deadline.left_s()))
        except KafkaException as cause:
            raise self._cluster.error(cause, op="abort transaction") from cause


def _timeout_s(deadline: Deadline) -> float:
    return max(0.1, deadline.left_s())


def _partitions(offsets: GroupOffsets) -> list[TopicPartition]:
    return [TopicPartition(tp.topic, tp.partition, it.next_offset, metadata=it.metadata) for tp, it in offsets.items()]


def _read(answer: Any) -> ReadOffsets:
    found = answer.topic_partitions
    offsets = {
        TP(it.topic, it.partition): Committed(it.offset, it.metadata or "")
        for it in found
        if it.error is None and it.offset >= 0
    }
    return ReadOffsets(offsets, not any(it.error for it in found))
