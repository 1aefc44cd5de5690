"""The state that the records of the syncs topic add up to: positions, stopped partitions, halts (invariant B)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, TypeVar

from replicator.errors import TP
from replicator.offset_map.map import OffsetMap
from replicator.offset_map.runs import Run
from replicator.offset_map.sync_format import (
    HALTED,
    PARTITION_STATE,
    RECOPIED,
    TARGET_TOPIC,
    ControlRecord,
    Forgotten,
    TargetTopic,
    decode,
    target_of,
)
from replicator.offset_map.topic_id import NO_ID, TopicId
from replicator.offset_map.translate import ReplicatedPartition

NO_MAP = OffsetMap()
"""Of a partition of which nothing was replicated; never added to."""
Subject = TypeVar("Subject", TP, int)
Fact = TypeVar("Fact", dict[str, Any], TargetTopic)


@dataclass(slots=True)
class SyncsState:
    """The state of the partitions of the syncs topic that were read.

    Args:
        newest: the newest run of every source partition: its position (invariant B).
        stopped: partitions that stopped alone, with ``state``, ``reason``, ``hint`` and ``since``.
        halted: tasks that must not run, with ``reason``, ``id``, ``by`` and ``at`` (`halts`).
        recopied: by task, the last command that deleted runs, with ``id``, ``by`` and ``at`` (`operations.recopy`).
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
            WireError: the record is of another program, or newer than this release.
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
        """Add the record at `offset`, in log order."""
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
    """The state of one task's partition of the syncs topic, with offsets.

    Args:
        last: the partitions that the last transaction with records wrote to. A transaction marker, a gap in the
            offsets, separates two transactions.
        tails: by partition, the runs of the last transaction that wrote records to it, and the runs without records
            that follow; without those that a repair has emptied (`copy.sync_repair`). If two transactions wrote runs
            A, B | C to a partition, its tail is C; after a run D without records it is C, D.
        ends: by partition, the offset after the last record about its runs.
        end: the offset after the last record about any run.
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
    """The state of the syncs topic, with the whole history that it keeps.

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

    def partition(
        self, tp: TP, source_id: TopicId, target_id: TopicId, *, ignores_recreation: bool = False
    ) -> ReplicatedPartition:
        """All that is known of a source partition, to translate with.

        Args:
            source_id, target_id: of the topics that the clusters have now; `NO_ID` where they were not asked.
            ignores_recreation: see `ReplicatedPartition`.
        """
        copied_to = self.targets.get(tp)
        return ReplicatedPartition(
            self.maps.get(tp, NO_MAP),
            source_id,
            NO_ID if copied_to is None else copied_to.topic_id,
            target_id,
            str(self.stopped.get(tp, {}).get("reason", "")),
            ignores_recreation,
        )
