"""How far each partition of a flow is behind, from what the two clusters hold: no worker has to run.

    position      newest run of the partition in the syncs topic            (target; invariant B)
    end           last stable offset of the source partition                (source)
    owner         member of the workers' group that has the task            (target)
    why stopped   partition-state record in the syncs topic                 (target)
    why halted    halted record in the syncs topic                          (target)

`LagFacts` is what was read, `partition_lags` (pure) what follows from it; `lag_reader.Observer` reads it.
"""

from __future__ import annotations

import enum
import re
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from replicator.config import Flow
from replicator.errors import TP, KafkaOpError, StopReason
from replicator.kafka.topics import Snapshot
from replicator.names import task_of
from replicator.syncs.halts import halt_text
from replicator.syncs.state import SyncsState

NO_WORKER = "no worker"
NO_POSITION = "no position yet"
TREND_LOOKS = 6
STEADY_GROUP_STATES = ("STABLE", "EMPTY", "DEAD", "UNKNOWN")


class State(enum.StrEnum):
    """What a partition does. The values are JSON: never rename one."""

    RUNNING = "running"
    STOPPED = "stopped"
    """The partition stopped alone; the reason says why."""
    HALTED = "halted"
    """Its task must not run: an operator paused the flow, or moved its groups to the target."""
    UNASSIGNED = "unassigned"
    """No worker has its task."""
    NEW = "new"
    """A worker has its task and has not replicated any of it yet."""


@dataclass(frozen=True, slots=True)
class PartitionLag:
    """One source partition. None: unknown at the moment.

    Args:
        worker: ``host/pid`` of the owner of the task; empty without one.
        source_end: the next offset that the source will give to a committed record.
        replicated_next: the position, one after the last replicated offset.
        lag_records: offsets between the two, 0 when they hold no records.
        lag_seconds: age of the first record that is not replicated; 0.0 without lag.
        reason: of every state but running: a code of `StopReason` or why it is halted, a colon, the details; or
            `NO_WORKER`, `NO_POSITION`.
        since: ISO time at which it stopped; empty when it did not.
    """

    tp: TP
    target_topic: str
    task: int
    worker: str
    source_end: int | None
    replicated_next: int | None
    lag_records: int | None
    lag_seconds: float | None
    state: State
    reason: str
    since: str = ""

    def as_json(self) -> dict[str, Any]:
        """The contract of ``lag -o json``."""
        return {
            "topic": self.tp.topic,
            "partition": self.tp.partition,
            "target_topic": self.target_topic,
            "task": self.task,
            "source_end": self.source_end,
            "replicated_next": self.replicated_next,
            "lag_records": self.lag_records,
            "lag_seconds": self.lag_seconds,
            "state": self.state.value,
            "reason": self.reason,
        }

    @property
    def severity(self) -> tuple[bool, int, TP]:
        """Sort key: stopped partitions first, then the largest lag, then by name."""
        return self.state is not State.STOPPED, -(self.lag_records or 0), self.tp


@dataclass(frozen=True, slots=True)
class Workers:
    """The workers' group on the target.

    Args:
        state: Kafka's word for the group, in capitals; ``DEAD`` when there is none.
        tasks: ``host/pid`` of each member → its tasks, ascending.
    """

    state: str = "DEAD"
    tasks: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    @property
    def owners(self) -> dict[int, str]:
        """Task → worker."""
        return {task: worker for worker, tasks in self.tasks.items() for task in tasks}

    @property
    def is_moving(self) -> bool:
        """Whether the group is rebalancing."""
        return self.state not in STEADY_GROUP_STATES


@dataclass(frozen=True, slots=True)
class LagFacts:
    """What was read from the clusters.

    Args:
        tasks: partitions of the syncs topic, or the configured number before it exists.
        topics: the flow's topics; None when the source could not be asked.
        ends: last stable offsets of source partitions, or why one is unknown.
        begins: where partitions without a position would begin, if that is certain.
    """

    flow: Flow
    tasks: int
    topics: Snapshot | None
    syncs: SyncsState
    workers: Workers
    ends: Mapping[TP, int | KafkaOpError] = field(default_factory=dict)
    begins: Mapping[TP, int | KafkaOpError] = field(default_factory=dict)

    def partitions(self) -> set[TP]:
        """Every partition that the flow replicates, including those that the source has lost."""
        known = {*self.syncs.newest, *self.syncs.stopped}
        matching = {name for name in {tp.topic for tp in known} if self.flow.topic_filter.matches(name)}
        found = set(self.topics.partitions()) if self.topics else set()
        return found | {tp for tp in known if tp.topic in matching}

    def is_on_source(self, tp: TP) -> bool:
        """Whether the source has the partition; True if the source could not be asked."""
        if self.topics is None:
            return True
        topic = self.topics.topics.get(tp.topic)
        return topic is not None and tp.partition < topic.partitions


@dataclass(frozen=True, slots=True)
class Lag:
    """The flow's partitions, the worst first, and its workers.

    Args:
        halted: why the flow is halted, in words; empty when it is not.
    """

    flow: str
    partitions: tuple[PartitionLag, ...]
    workers: Workers
    unmatched: tuple[str, ...] = ()
    halted: str = ""

    @property
    def total_records(self) -> int:
        """The sum of the lags; a partition whose lag is unknown counts as 0."""
        return sum(it.lag_records or 0 for it in self.partitions)

    @property
    def oldest_seconds(self) -> float | None:
        """The largest known age; None when a partition lags and no age is known."""
        known = [it.lag_seconds for it in self.partitions if it.lag_seconds is not None]
        return max(known) if known and (max(known) > 0 or not self.total_records) else None

    def count(self, state: State) -> int:
        """Partitions in `state`."""
        return sum(it.state is state for it in self.partitions)

    def as_json(self, top: int | None = None) -> dict[str, Any]:
        """The contract of ``lag -o json``; `top` shortens the list, never the total."""
        rows = [it.as_json() for it in self.partitions[:top]]
        return {"flow": self.flow, "partitions": rows, "total_lag_records": self.total_records}


def partition_lags(facts: LagFacts, topic: re.Pattern[str] | None = None) -> list[PartitionLag]:
    """One entry per partition, the worst first; ages are 0.0 or not known yet.

    Args:
        topic: only the source topics whose name it is found in.
    """
    owners = facts.workers.owners
    wanted = (tp for tp in facts.partitions() if topic is None or topic.search(tp.topic))
    return sorted((_partition_lag(facts, tp, owners) for tp in wanted), key=lambda it: it.severity)


def _partition_lag(facts: LagFacts, tp: TP, owners: Mapping[int, str]) -> PartitionLag:
    run = facts.syncs.newest.get(tp)
    end = facts.ends.get(tp)
    begin = run.upstream_next if run else facts.begins.get(tp)
    records = max(0, end - begin) if isinstance(end, int) and isinstance(begin, int) else None
    task = task_of(tp.topic, tp.partition, facts.tasks)
    state, reason, since = _state(facts, tp, task, task in owners)
    return PartitionLag(
        tp=tp,
        target_topic=facts.flow.naming.remote_topic(tp.topic),
        task=task,
        worker=owners.get(task, ""),
        source_end=end if isinstance(end, int) else None,
        replicated_next=run.upstream_next if run else None,
        lag_records=records,
        lag_seconds=0.0 if records == 0 else None,
        state=state,
        reason=reason,
        since=since,
    )


def _state(facts: LagFacts, tp: TP, task: int, is_owned: bool) -> tuple[State, str, str]:
    """(state, reason, since)."""
    stop = facts.syncs.stopped.get(tp)
    if stop is not None:
        return State.STOPPED, f"{stop.get('reason', 'unknown')}: {stop.get('detail', '')}", str(stop.get("since", ""))
    if not facts.is_on_source(tp):
        return State.STOPPED, f"{StopReason.SOURCE_GONE}: {tp} is not on {facts.flow.source}", ""
    halt = facts.syncs.halted.get(task)
    if halt is not None:
        return State.HALTED, halt_text(halt), ""
    if not is_owned:
        waits = f"{NO_WORKER}: the group {facts.flow.group} is rebalancing"
        return State.UNASSIGNED, waits if facts.workers.is_moving else NO_WORKER, ""
    if tp not in facts.syncs.newest:
        return State.NEW, NO_POSITION, ""
    end = facts.ends.get(tp)
    return State.RUNNING, f"source end unknown: {end}" if isinstance(end, KafkaOpError) else "", ""


def unreplicated(lags: Iterable[PartitionLag], at_most: int) -> dict[TP, int]:
    """The positions of the first `at_most` partitions with lag, to look up the age of the records there."""
    behind = [(it.tp, it.source_end - it.lag_records) for it in lags if it.source_end and it.lag_records]
    return dict(behind[:at_most])


class Trend:
    """How fast the lag grows or falls, over several looks: a single one moves with each transaction."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int]] = deque(maxlen=TREND_LOOKS)

    def note(self, now_s: float, records: int) -> None:
        """The lag now."""
        self._seen.append((now_s, records))

    @property
    def per_s(self) -> float:
        """Records per second; negative while the lag falls, 0 until it was seen twice."""
        if len(self._seen) < 2:
            return 0.0
        (first_s, before), (last_s, now) = self._seen[0], self._seen[-1]
        return (now - before) / max(last_s - first_s, 1e-9)
