"""Checks whether a partition may run, and where it begins, by what both clusters say of it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from replicator.config import Flow
from replicator.copy.positions import Positions, recopy_hint, start_position, target_log_shorter
from replicator.deadline import Deadline
from replicator.errors import TP, KafkaOpError, PartitionError, StopReason
from replicator.kafka.cluster import (
    EARLIEST,
    LATEST,
    AclOperation,
    AdminClient,
    Cluster,
    ConfigResource,
    OffsetSpec,
    TopicCollection,
    await_results,
)
from replicator.kafka.topic_queries import ask_offsets, describe_topics, lacks_leader, list_offsets, topic_ids
from replicator.kafka.topics import Catalog, Snapshot, SourceTopic
from replicator.offset_map.runs import Run
from replicator.offset_map.sync_format import TargetTopic
from replicator.offset_map.topic_id import NO_ID, TopicId

TOPIC_IDS_TIMEOUT_S = 3.0
ENDS_TIMEOUT_S = 10.0
RECREATED = frozenset({StopReason.RECREATED, StopReason.TARGET_RECREATED})
Answers = Mapping[str, Future[Any]]
"""A cluster's answers about topics, by name; they may be on their way yet."""


@dataclass(slots=True)
class Prepared:
    """What `PartitionChecks.prepare` found.

    Args:
        ready: partitions that may run once their start positions are committed, with the topic they are replicated to.
        start_positions: of those that have no position yet.
        failures: why the others may not.
    """

    ready: dict[TP, TargetTopic] = field(default_factory=dict)
    start_positions: dict[TP, Run] = field(default_factory=dict)
    failures: list[PartitionError] = field(default_factory=list)


class PartitionChecks:
    """Checks partitions against both clusters before they start. Threading: usable by every task at once."""

    def __init__(
        self, flow: Flow, source: Cluster, target: Cluster, catalog: Catalog, admins: tuple[AdminClient, AdminClient]
    ) -> None:
        self._flow = flow
        self._source = source
        self._target = target
        self._catalog = catalog
        self._source_admin, self._target_admin = admins

    def changed(
        self, tp: TP, topic_id: TopicId, target: TargetTopic | None, snapshot: Snapshot
    ) -> PartitionError | None:
        """Why a partition is no longer the one that was replicated, or its remote topic is another one.

        Args:
            topic_id: of the source topic that was replicated; `NO_ID` when nothing was.
            target: the topic that it was replicated to; None when nothing was.
        """
        topic = snapshot.topics.get(tp.topic)
        op = f"find the topic on {self._source.alias}"
        if topic is None or tp.partition >= topic.partitions:
            hint = "it was deleted, or the DESCRIBE right was revoked; its remote topic is kept"
            return PartitionError(
                "the source partition is gone", op=op, tp=tp, reason=StopReason.SOURCE_GONE, hint=hint
            )
        if not topic_id.same_as(topic.topic_id):
            return _recreated(tp, op, topic.target_topic)
        if target is not None and target.differs(topic.target):
            return self._target_recreated(tp, target, topic.target)
        return None

    def _changed_since(self, tp: TP, positions: Positions, snapshot: Snapshot) -> PartitionError | None:
        """`changed`, for a partition that does not run."""
        newest = positions.newest(tp)
        return self.changed(tp, newest.topic_id if newest else NO_ID, positions.published_target(tp), snapshot)

    def recreated(self, tp: TP, positions: Positions, snapshot: Snapshot) -> PartitionError | None:
        """Why a stopped partition is another topic's than the one that was replicated; None when it is not."""
        failure = self._changed_since(tp, positions, snapshot)
        return failure if failure is not None and failure.reason in RECREATED else None

    def ask_source(self, topics: Collection[str]) -> Answers:
        """Ask the source, without waiting, for the ids of topics."""
        return _ask(self._source_admin, topics)

    def ask_target(self, topics: Collection[str]) -> Answers:
        """Ask the target, without waiting, for the ids of topics."""
        return _ask(self._target_admin, topics)

    def ask_ends(self, tps: Iterable[TP]) -> dict[TP, Future[Any]]:
        """Ask the source, without waiting, for last stable offsets."""
        return ask_offsets(self._source_admin, dict.fromkeys(tps, LATEST), ENDS_TIMEOUT_S)

    def check_source(
        self,
        answers: Answers,
        known: Mapping[TP, bytes],
        running: Mapping[TP, tuple[TopicId, str]],
        deadline: Deadline,
    ) -> None:
        """Check that what was fetched before `ask_source` came from the topics that were replicated so far.

        librdkafka goes on at its offset in a topic that was deleted and created again: if the new topic is as long
        already, records would be missing, silently (invariants A, H). Without an answer, the topic counts as the same.

        Args:
            known: ids of the topics that partitions were fetched from, where the plane knows them.
            running: source partition → (id of its topic, its target topic).

        Raises:
            PartitionError: a topic was created again.
        """
        asked = _ids_in(answers, deadline)
        for tp, (topic_id, target_topic) in running.items():
            found = TopicId(known.get(tp) or asked.get(tp.topic, NO_ID))
            if not topic_id.same_as(found):
                raise _recreated(tp, f"fetch from {self._source.alias}", target_topic)

    def check_target(self, answers: Answers, written: Mapping[TP, TargetTopic], deadline: Deadline) -> list[TP]:
        """Check that what was written before `ask_target` went to the topics that were replicated to so far.

        Returns:
            The partitions for which that is certain; for the others there was no answer.

        Raises:
            PartitionError: a topic was created again.
        """
        found = _ids_in(answers, deadline)
        for tp, target in written.items():
            now = target.now(found)
            if target.differs(now):
                raise self._target_recreated(tp, target, now)
        return [tp for tp, target in written.items() if target.name in found]

    def shorter(self, failure: PartitionError, target: TargetTopic, deadline: Deadline) -> PartitionError:
        """Why a log of the target is too short: it is another topic's, if the id says so; else `failure`."""
        now = target.now(topic_ids(describe_topics(self._target_admin, [target.name], deadline)))
        return self._target_recreated(failure.tp, target, now) if target.differs(now) else failure

    def _target_recreated(self, tp: TP, target: TargetTopic, found: TargetTopic) -> PartitionError:
        text = f"{found} is not the topic that was replicated to, {target}"
        hint = f"it was deleted and recreated: earlier records are missing; {recopy_hint(tp)}"
        op = f"check the topic on {self._target.alias}"
        return PartitionError(text, op=op, tp=tp, reason=StopReason.TARGET_RECREATED, hint=hint)

    def prepare(
        self, tps: list[TP], positions: Positions, snapshot: Snapshot, deadline: Deadline, *, appeared: bool
    ) -> Prepared:
        """Decide for each partition whether it may start, and where.

        Args:
            appeared: the partitions were created while the flow ran: all of their records are replicated, whatever
                `start_from` says (KIP-1106 describes the records that would be lost otherwise).

        Raises:
            KafkaOpError: a cluster gave no answer at all.
        """
        prepared = Prepared()
        old: dict[TP, Run] = {}
        new: list[TP] = []
        for tp in tps:
            newest = positions.newest(tp)
            failure = self._changed_since(tp, positions, snapshot)
            if failure is not None:
                prepared.failures.append(failure)
            elif newest is None:
                new.append(tp)
            else:
                old[tp] = newest
        described = self._described((snapshot.topics[tp.topic].target_topic for tp in old), deadline)
        self._check_targets(old, snapshot, described, prepared, deadline)
        grown = {tp for tp in new if 0 < snapshot.topics[tp.topic].target_partitions <= tp.partition}
        self._find_start_positions(new, set(new) if appeared else grown, snapshot, prepared, deadline)
        described |= self._described({it.name for it in prepared.ready.values()} - described.keys(), deadline)
        self._check_writable(positions, described, prepared)
        prepared.start_positions = {tp: run for tp, run in prepared.start_positions.items() if tp in prepared.ready}
        return prepared

    def _described(self, topics: Iterable[str], deadline: Deadline) -> dict[str, Any]:
        return describe_topics(self._target_admin, topics, deadline, rights=True)

    def _check_writable(self, positions: Positions, described: Mapping[str, Any], prepared: Prepared) -> None:
        """Take out what may not be written, or is not the topic of the records before; the snapshot may be old."""
        ids = topic_ids(described)
        for failure in self._unwritable({tp: it.name for tp, it in prepared.ready.items()}, described):
            prepared.failures.append(failure)
            del prepared.ready[failure.tp]
        for tp, target in list(prepared.ready.items()):
            published = positions.published_target(tp)
            found = TargetTopic(target.name, ids.get(target.name, target.topic_id))
            prepared.ready[tp] = found
            if published is not None and published.differs(found):
                prepared.failures.append(self._target_recreated(tp, published, found))
                del prepared.ready[tp]
            elif published is not None and not found.topic_id.is_known:
                prepared.ready[tp] = published

    def _check_targets(
        self,
        old: Mapping[TP, Run],
        snapshot: Snapshot,
        described: Mapping[str, Any],
        prepared: Prepared,
        deadline: Deadline,
    ) -> None:
        """Check that the target holds what was replicated of partitions with a position.

        A target partition without a leader would hold up every transaction that it is in.
        """
        remote: dict[TP, tuple[TP, SourceTopic]] = {}
        for tp in old:
            topic = snapshot.topics[tp.topic]
            if tp.partition >= topic.target_partitions:
                prepared.failures.append(self._target_lacks(tp, topic))
            elif lacks_leader(described.get(topic.target_topic), tp.partition):
                text, hint = f"{topic.target_topic} has no leader there", "all brokers that hold it are down"
                prepared.failures.append(
                    _stopped(tp, text, f"look at {self._target.alias}", StopReason.TARGET_UNAVAILABLE, hint)
                )
            else:
                remote[TP(topic.target_topic, tp.partition)] = tp, topic
        ends = list_offsets(self._target, self._target_admin, dict.fromkeys(remote, LATEST), deadline, committed=False)
        for target_tp, (tp, topic) in remote.items():
            end = ends[target_tp]
            if isinstance(end, int) and end < old[tp].downstream_next:
                prepared.failures.append(target_log_shorter(tp, topic.target_topic, old[tp], end))
            elif isinstance(end, PartitionError):
                prepared.failures.append(_about(tp, end, end.reason))
            else:  # no answer is no reason to stop: the first flush checks the same
                prepared.ready[tp] = topic.target

    def _target_lacks(self, tp: TP, topic: SourceTopic) -> PartitionError:
        is_gone = topic.target_partitions == 0
        text = (
            f"{topic.target_topic} does not exist"
            if is_gone
            else f"{topic.target_topic} has {topic.target_partitions} partitions"
        )
        reason = StopReason.TARGET_GONE if is_gone else StopReason.TARGET_TOO_FEW_PARTITIONS
        hint = f"records were replicated to it, and would be missing from a new one; {recopy_hint(tp)}"
        return PartitionError(text, op=f"find the topic on {self._target.alias}", tp=tp, reason=reason, hint=hint)

    def _find_start_positions(
        self, new: list[TP], from_earliest: set[TP], snapshot: Snapshot, prepared: Prepared, deadline: Deadline
    ) -> None:
        """Find where partitions without a position begin on both clusters; create their target topics if need be."""
        refused = self._catalog.ensure_targets({tp.topic for tp in new}, deadline)
        in_refused = [tp for tp in new if tp.topic in refused]
        lacking = {tp for tp in in_refused if tp.partition >= snapshot.topics[tp.topic].target_partitions}
        for tp in lacking:
            prepared.failures.append(_not_created(tp, refused[tp.topic], snapshot.topics[tp.topic]))
        allowed = [tp for tp in new if tp not in lacking]
        starts = self._starts(allowed, from_earliest, deadline)
        remote = {tp: TP(snapshot.topics[tp.topic].target_topic, tp.partition) for tp in allowed}
        specs = dict.fromkeys(remote.values(), LATEST)
        ends = list_offsets(self._target, self._target_admin, specs, deadline, committed=False)
        for tp in allowed:
            start, end = starts[tp], ends[remote[tp]]
            if isinstance(start, KafkaOpError):
                prepared.failures.append(_about(tp, start, StopReason.SOURCE_UNAVAILABLE))
            elif isinstance(end, KafkaOpError):
                prepared.failures.append(_about(tp, end, StopReason.TARGET_UNAVAILABLE))
            else:
                topic = snapshot.topics[tp.topic]
                prepared.start_positions[tp] = start_position(start, end, topic.topic_id)
                prepared.ready[tp] = topic.target

    def _starts(self, tps: list[TP], from_earliest: set[TP], deadline: Deadline) -> dict[TP, int | KafkaOpError]:
        """Where partitions without a position begin on the source, by `start_from`."""
        start_from = self._flow.settings.start_from
        if start_from == "earliest":
            spec = EARLIEST
        elif start_from == "latest":
            spec = LATEST
        else:
            spec = OffsetSpec.for_timestamp(int(start_from.timestamp() * 1000))
        specs = {tp: EARLIEST if tp in from_earliest else spec for tp in tps}
        starts = list_offsets(self._source, self._source_admin, specs, deadline)
        later_than_all = {tp: LATEST for tp, offset in starts.items() if offset == -1}
        return starts | list_offsets(self._source, self._source_admin, later_than_all, deadline)

    def batch_limit(self, target_topic: str, deadline: Deadline) -> int | None:
        """The target topic's `max.message.bytes`; None when the target does not say it."""
        resource = ConfigResource(ConfigResource.Type.TOPIC, target_topic)
        futures = self._target_admin.describe_configs([resource], request_timeout=max(0.1, deadline.left_s()))
        result = await_results(futures, deadline)[resource]
        return None if isinstance(result, Exception) else int(result["max.message.bytes"].value)

    def unwritable(self, tps: Mapping[TP, str], deadline: Deadline) -> list[PartitionError]:
        """Which of these partitions (source partition → target topic) may not be written to on the target.

        The broker's refusal of a transaction names no partition.
        """
        return self._unwritable(tps, self._described(tps.values(), deadline))

    def _unwritable(self, tps: Mapping[TP, str], described: Mapping[str, Any]) -> list[PartitionError]:
        refused = {topic for topic, answer in described.items() if self._lacks_write(topic, answer)}
        return [self._target.refused(f"write to {topic}", tp, topic) for tp, topic in tps.items() if topic in refused]

    def _lacks_write(self, topic: str, answer: Any) -> bool:
        """Whether `describe_topics` says that the right to write is missing; no answer says nothing."""
        if isinstance(answer, Exception):
            return self._target.error(answer, op=f"look at {topic}").code == "TOPIC_AUTHORIZATION_FAILED"
        operations = answer.authorized_operations
        return operations is not None and AclOperation.WRITE not in operations

    def truncation(
        self, failure: PartitionError, position: int, topic_id: TopicId, deadline: Deadline
    ) -> tuple[PartitionError, int | None]:
        """Why the source does not have a position: (the failure in full, the first offset to skip to, if any).

        Args:
            topic_id: of the topic that was replicated.
        """
        tp = failure.tp
        ids = topic_ids(describe_topics(self._source_admin, [tp.topic], deadline))
        if not topic_id.same_as(ids.get(tp.topic, NO_ID)):
            return _recreated(tp, failure.op, self._flow.naming.remote_topic(tp.topic)), None
        low = list_offsets(self._source, self._source_admin, {tp: EARLIEST}, deadline)[tp]
        end = list_offsets(self._source, self._source_admin, {tp: LATEST}, deadline, committed=False)[tp]
        if isinstance(low, PartitionError):
            return low, None
        if not isinstance(low, int) or not isinstance(end, int):
            return failure, None
        if position < low:
            text = f"retention deleted {low - position} offsets ({position} to {low - 1}) before they were replicated"
            hint = "on_truncation: skip continues at the log's beginning; or raise retention.ms on the source"
            return _stopped(tp, text, failure.op, StopReason.TRUNCATED, hint), low
        text = f"the source's log ends at {end}, before the replicated position {position}"
        lost = "the source lost records (an unclean election, a restored disk), or the topic was recreated"
        hint = f"{lost}; {recopy_hint(tp)}"
        return _stopped(tp, text, failure.op, StopReason.SOURCE_LOG_SHORTER, hint), None


def _ask(admin: AdminClient, topics: Collection[str]) -> Answers:
    if not topics:
        return {}
    answers: Answers = admin.describe_topics(TopicCollection(sorted(topics)), request_timeout=TOPIC_IDS_TIMEOUT_S)
    return answers


def _ids_in(answers: Answers, deadline: Deadline) -> dict[str, TopicId]:
    """The ids in the answers of `_ask`; topics without an answer are left out."""
    return topic_ids(await_results(answers, Deadline(deadline.slice_s(TOPIC_IDS_TIMEOUT_S))))


def _recreated(tp: TP, op: str, target_topic: str) -> PartitionError:
    text = "the source topic was deleted and recreated: its offsets belong to other records now"
    hint = f"rename the new topic, or delete {target_topic}: then {recopy_hint(tp)}"
    return PartitionError(text, op=op, tp=tp, reason=StopReason.RECREATED, hint=hint)


def _stopped(tp: TP, text: str, op: str, reason: StopReason, hint: str) -> PartitionError:
    return PartitionError(text, op=op, tp=tp, reason=reason, hint=hint)


def _not_created(tp: TP, error: KafkaOpError, topic: SourceTopic) -> PartitionError:
    """Why a partition may not start: its target partition does not exist and could not be created."""
    if topic.target_partitions:
        return _about(tp, error, StopReason.TARGET_TOO_FEW_PARTITIONS)
    is_unauthorized = "AUTHORIZATION" in error.code
    return _about(tp, error, StopReason.TARGET_UNAUTHORIZED if is_unauthorized else StopReason.TARGET_NOT_CREATED)


def _about(tp: TP, error: KafkaOpError, reason: StopReason) -> PartitionError:
    """An error of a topic or a target partition, as one of the source partition."""
    own = error.reason if isinstance(error, PartitionError) else reason
    return PartitionError(str(error), op="start", tp=tp, reason=own, code=error.code)
