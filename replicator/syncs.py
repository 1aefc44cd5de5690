"""The syncs topic: one partition per task, the only place where positions live (invariant B)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from replicator.clients import (
    LATEST,
    AdminClient,
    Cluster,
    KafkaError,
    KafkaException,
    Message,
    NewTopic,
    await_results,
)
from replicator.compacted import CompactedReader
from replicator.deadline import Deadline
from replicator.errors import TP, ConfigError, StopReason
from replicator.offsets import Run
from replicator.topics import known_offsets, list_topics
from replicator.translation import OffsetMap
from replicator.wire import (
    HALTED,
    PARTITION_STATE,
    RECOPIED,
    TARGET_TOPIC,
    ControlRecord,
    Forgotten,
    SyncRecord,
    TargetTopic,
    decode,
    target_of,
)

WANTED_REPLICAS = 3
OTHER_OFFSETS = frozenset({StopReason.RECREATED, StopReason.SOURCE_LOG_SHORTER, StopReason.TARGET_RECREATED})
"""A partition that stopped for one of these has other records at its offsets, on one of the sides, than were copied."""
State = TypeVar("State", bound="SyncsState")
Subject = TypeVar("Subject", TP, int)
Fact = TypeVar("Fact", dict[str, Any], TargetTopic)


@dataclass(slots=True)
class SyncsState:
    """What the read partitions of the syncs topic say.

    Args:
        newest: the newest run of every source partition: its position (invariant B).
        stopped: partitions that stopped alone, with ``state``, ``reason``, ``hint`` and ``since``.
        halted: tasks that must not run, with ``reason``, ``id``, ``by`` and ``at`` (`halts`).
        recopied: by which command runs of a task were deleted last, with ``id``, ``by`` and ``at`` (`recopy`).
        targets: the topic that every partition's downstream offsets belong to.
        records: how many records were read.
        forgotten: how many of them deleted runs.
    """

    newest: dict[TP, Run] = field(default_factory=dict)
    stopped: dict[TP, dict[str, Any]] = field(default_factory=dict)
    halted: dict[int, dict[str, Any]] = field(default_factory=dict)
    recopied: dict[int, dict[str, Any]] = field(default_factory=dict)
    targets: dict[TP, TargetTopic] = field(default_factory=dict)
    records: int = 0
    forgotten: int = 0

    def take(self, key: bytes, value: bytes | None) -> None:
        """Add one record of the log, in log order.

        Raises:
            WireError: it is not ours, or newer than this release.
        """
        self.records += 1
        record = decode(key, value)
        if isinstance(record, ControlRecord):
            self._take_control(record)
        elif isinstance(record, Forgotten):
            self.forgotten += 1
            self.forget(record.tp)
        else:
            self.take_run(record.tp, record.run)

    def take_at(self, offset: int, key: bytes, value: bytes | None) -> None:
        """Add one record of the log, in log order, which lies at `offset`."""
        self.take(key, value)

    def take_run(self, tp: TP, run: Run) -> None:
        """Add one run."""
        known = self.newest.get(tp)
        if known is None or run.seq >= known.seq:
            self.newest[tp] = run

    def forget(self, tp: TP) -> None:
        """Drop the runs of a partition."""
        self.newest.pop(tp, None)

    def _take_control(self, record: ControlRecord) -> None:
        if record.kind == PARTITION_STATE:
            _note(self.stopped, record.tp, record.body)
        elif record.kind == HALTED:
            _note(self.halted, record.tp.partition, record.body)
        elif record.kind == RECOPIED:
            _note(self.recopied, record.tp.partition, record.body)
        elif record.kind == TARGET_TOPIC:
            _note(self.targets, record.tp, target_of(record))


def _note(facts: dict[Subject, Fact], subject: Subject, fact: Fact | None) -> None:
    if fact is None:
        facts.pop(subject, None)
    else:
        facts[subject] = fact


@dataclass(slots=True)
class TaskState(SyncsState):
    """What one task's partition of the syncs topic says, and where.

    Args:
        last: the partitions that the last transaction with records wrote to. Between two transactions lies a marker.
        tails: of each partition, the runs of the last transaction that wrote records to it, and those without records
            that follow. Without those that were emptied (`fates`).
        ends: of each partition, after the last record about its runs.
        end: after the last record about runs.
    """

    last: set[TP] = field(default_factory=set)
    tails: dict[TP, list[Run]] = field(default_factory=dict)
    ends: dict[TP, int] = field(default_factory=dict)
    end: int = 0
    _next: int = 0
    _open: set[TP] = field(default_factory=set)

    def take_at(self, offset: int, key: bytes, value: bytes | None) -> None:
        """Add one record of the log, in log order."""
        if offset != self._next:
            self._open = set()
        self._next = offset + 1
        self.take(key, value)

    def take_run(self, tp: TP, run: Run) -> None:
        """Add one run."""
        SyncsState.take_run(self, tp, run)
        self.end = self.ends[tp] = self._next
        tail = [it for it in self.tails.pop(tp, ()) if it.seq < run.seq]
        if run.count:
            tail = [*tail, run] if tp in self._open else [run]
            self._open.add(tp)
            self.last = self._open
        elif tail:
            tail.append(run)
        if tail:
            self.tails[tp] = tail

    def forget(self, tp: TP) -> None:
        """Drop the runs of a partition."""
        SyncsState.forget(self, tp)
        self.end = self.ends[tp] = self._next
        self.tails.pop(tp, None)


@dataclass(slots=True)
class MapsState(SyncsState):
    """What the syncs topic says, with the whole history that it keeps.

    Args:
        maps: the offset map of every source partition.
    """

    maps: dict[TP, OffsetMap] = field(default_factory=dict)

    def take_run(self, tp: TP, run: Run) -> None:
        """Add one run."""
        SyncsState.take_run(self, tp, run)
        self.maps.setdefault(tp, OffsetMap()).add(run)

    def forget(self, tp: TP) -> None:
        """Drop the runs of a partition."""
        SyncsState.forget(self, tp)
        self.maps.pop(tp, None)


class SyncsReader(Generic[State]):
    """Reads partitions of the syncs topic under read_committed, to their stable end, again and again.

    Args:
        target: the cluster.
        topic: the syncs topic.
        partitions: which of them.
        state: takes what is read.
    """

    def __init__(self, target: Cluster, topic: str, partitions: Iterable[int], state: State) -> None:
        self.state = state
        self._reader = CompactedReader(
            target,
            topic,
            partitions,
            lambda message: state.take_at(message.offset() or 0, message.key() or b"", message.value()),
        )

    def read_to_end(self, deadline: Deadline, is_stopped: Callable[[], bool] = lambda: False) -> State:
        """Everything up to the last stable offset of each partition.

        Raises:
            KafkaOpError: as `CompactedReader.read_to_end`.
            WireError: a record can't be read.
        """
        self._reader.read_to_end(deadline, is_stopped)
        return self.state

    def read_on(
        self, ends: Mapping[int, int], deadline: Deadline, is_stopped: Callable[[], bool] = lambda: False
    ) -> State:
        """Everything up to these offsets (`syncs_ends`).

        Raises:
            KafkaOpError: as `CompactedReader.read_on`.
        """
        self._reader.read_on(ends, deadline, is_stopped)
        return self.state

    def read_to(self, partition: int) -> int:
        """How far a partition was read: past the markers at its end."""
        return self._reader.read_to(partition)

    def follow(self, wait_s: float) -> State:
        """What was added since: waits at most `wait_s` for the first of it."""
        self._reader.follow(wait_s)
        return self.state

    def close(self) -> None:
        self._reader.close()


def runs_on(target: Cluster, topic: str, task: int, begin: int, deadline: Deadline) -> list[tuple[int, SyncRecord]]:
    """The runs in a task's partition of the syncs topic from `begin` on, whatever became of them, and where they are.

    Raises:
        KafkaOpError: as `CompactedReader.read_to_end`.
    """
    found: list[tuple[int, SyncRecord]] = []

    def take(message: Message) -> None:
        record = decode(message.key() or b"", message.value())
        if isinstance(record, SyncRecord):
            found.append((message.offset() or 0, record))

    with closing(CompactedReader(target, topic, {task: begin}, take, committed=False)) as reader:
        reader.read_to_end(deadline)
    return found


def syncs_ends(
    target: Cluster, admin: AdminClient, topic: str, tasks: int, deadline: Deadline, *, committed: bool = True
) -> dict[int, int]:
    """Where the partitions of the syncs topic end.

    Args:
        committed: what is committed; else with what is open.

    Raises:
        KafkaOpError: a partition gave no answer.
    """
    specs = {TP(topic, task): LATEST for task in range(tasks)}
    ends = known_offsets(target, admin, specs, deadline, committed=committed)
    return {tp.partition: end for tp, end in ends.items()}


def ensure_topic(admin: AdminClient, target: Cluster, topic: str, tasks: int, flow: str, deadline: Deadline) -> None:
    """Create the syncs topic if it is not there, and check that it has one partition per task.

    Raises:
        ConfigError: it has another number of partitions than `tasks`.
        KafkaOpError: it can't be created or seen.
    """
    metadata = list_topics(target, admin, deadline)
    if topic not in metadata.topics:
        replicas = min(WANTED_REPLICAS, len(metadata.brokers))
        config = {"cleanup.policy": "compact", "segment.bytes": "16777216", "min.cleanable.dirty.ratio": "0.1"}
        if replicas >= WANTED_REPLICAS:
            config["min.insync.replicas"] = "2"
        futures = admin.create_topics([NewTopic(topic, tasks, replicas, config=config)])
        result = await_results(futures, deadline)[topic]
        exists = isinstance(result, KafkaException) and result.args[0].code() == KafkaError.TOPIC_ALREADY_EXISTS
        if isinstance(result, Exception) and not exists:
            raise target.error(result, op=f"create {topic}", right="CREATE", topic=topic)
        if not exists:
            return
        metadata = list_topics(target, admin, deadline)
    found = len(metadata.topics[topic].partitions) if topic in metadata.topics else 0
    if found not in (0, tasks):
        raise ConfigError(
            f"flows.{flow}.tasks",
            f"{tasks}, but {topic} on {target.alias} has {found} partitions, one per task: set tasks to {found}",
        )
