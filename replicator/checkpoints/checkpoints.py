"""Checkpoints: what every group committed on the source, translated, in MM2's format on the target.

One pass: follow the syncs topic → list the groups → read what they committed → translate → write what changed → write
the pulse, which tells how fresh all of it is.

How an offset translates stands in `offset_map.translate`; where that finds no place there is no checkpoint.

While a task of the flow is halted, nothing is written: the target belongs to those who moved there.

Two owners of task 0 may overlap for some seconds while it moves. That is harmless: both write what follows from the
same offsets and syncs under the same keys; the older answer is a place that the group had passed already, and the new
owner writes all once more when the overlap is over.

Invariants:
    D: no checkpoint lies past a record that the group has not read; each names the topic that its group has read.
    E: only runs are used whose transaction has committed, so no checkpoint lies past what is committed on the target;
    nor past the end of a log that lost some of that, nor before the beginning of one, as soon as that is known.

Source: connect/mirror `MirrorCheckpointTask`.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from replicator.checkpoints.freshness import encode_pulse, pulse_key
from replicator.checkpoints.topic import CheckpointWriter, read_checkpoints
from replicator.config import Flow
from replicator.deadline import Deadline, StopToken
from replicator.errors import TP, KafkaOpError, RetriableError, StopReason
from replicator.groups.listing import GroupList
from replicator.groups.offsets import Committed, GroupOffsets
from replicator.groups.reader import OffsetsReader
from replicator.groups.select import ClusterGroups
from replicator.kafka.cluster import LATEST, AdminClient, Cluster
from replicator.kafka.log_starts import LogStarts
from replicator.kafka.offset_probe import OffsetProbe
from replicator.kafka.topic_queries import list_offsets
from replicator.kafka.topics import Catalog, Snapshot
from replicator.log import Logger
from replicator.metrics import JobMetrics
from replicator.offset_map.mm2_format import Checkpoint
from replicator.offset_map.topic_id import TopicId
from replicator.offset_map.translate import (
    NO_END,
    UNKNOWN_LOG,
    Mapped,
    NoPlace,
    Placed,
    ReplicatedPartition,
    TargetLog,
    is_at_end,
)
from replicator.syncs.halts import halted_text
from replicator.syncs.reader import SyncsReader, syncs_ends
from replicator.syncs.state import MapsState

FIRST_READ_S = 300.0
"""For the whole history of a large flow; a small one takes milliseconds."""
GROUPS_EVERY_S = 5.0
PULSE_EVERY_S = 0.9
"""At most one a second; a little less, so that each of the passes that are a second apart has one."""
FRESH_S = 1.0
"""How old the answer that the flow is not halted may be when something is written."""
LOGS_PATIENCE_S = 1.0
"""How long partitions that have no leader now may hold up the groups of others."""
LOOKS = 5
"""On a machine where each look takes longer than that, something is written all the same."""
OVERLAP_S = 60.0
"""After this no former owner can be writing any more."""


@dataclass(frozen=True, slots=True)
class MappedOffset:
    """What the map says of a group's committed offset.

    Args:
        committed: on the source.
        topic_id: of the topic that it is of.
    """

    committed: Committed
    topic_id: TopicId
    partition: ReplicatedPartition
    mapped: Mapped


@dataclass(slots=True)
class Translated:
    """The groups' offsets by the maps.

    Args:
        offsets: by group and partition of the target.
        at_end: partitions whose group has read all that is replicated, and the last run's end.
        counts: partitions by kind of translation.
    """

    offsets: dict[tuple[str, TP], MappedOffset] = field(default_factory=dict)
    at_end: dict[TP, int] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)

    @property
    def targets(self) -> set[TP]:
        """The partitions that groups go to."""
        return {tp for _, tp in self.offsets}


def translate_groups(offsets: Mapping[str, GroupOffsets], syncs: MapsState, topics: Snapshot) -> Translated:
    """Translate what groups committed for the flow's topics; other topics are not counted. Pure."""
    result = Translated()
    partitions: dict[TP, ReplicatedPartition] = {}
    for group, committed in offsets.items():
        for tp, it in committed.items():
            topic = topics.topics.get(tp.topic)
            if topic is None:
                continue
            partition = partitions.get(tp)
            if partition is None:
                partition = partitions[tp] = syncs.partition(tp, topic.topic_id, topic.target_id)
            mapped = partition.translate(it.next_offset)
            if isinstance(mapped, NoPlace):
                result.counts["unknown"] += 1
                continue
            result.counts[type(mapped).__name__.lower()] += 1
            target, newest = TP(topic.target_topic, tp.partition), partition.offset_map.newest
            result.offsets[group, target] = MappedOffset(it, topic.topic_id, partition, mapped)
            if newest is not None and is_at_end(mapped):
                result.at_end[target] = newest.downstream_next
    return result


def placed(translated: Translated, logs: Mapping[TP, TargetLog]) -> dict[tuple[str, TP], Checkpoint]:
    """The checkpoints: where each group goes on, within the logs that the target has. Pure.

    Args:
        logs: where they begin and end, as far as that is known.
    """
    found = {}
    for (group, tp), it in translated.offsets.items():
        place = it.partition.place(it.mapped, logs.get(tp, UNKNOWN_LOG))
        if isinstance(place, Placed):
            upstream_next, metadata = it.committed.next_offset, it.committed.metadata
            found[group, tp] = Checkpoint(group, tp, upstream_next, place.next_offset, metadata, it.topic_id)
    return found


def positions_of(syncs: MapsState, topics: Snapshot) -> dict[TP, int]:
    """How far each partition that the source has is replicated. Pure."""
    positions = {}
    for tp in topics.partitions():
        topic = topics.topics[tp.topic]
        partition = syncs.partition(tp, topic.topic_id, topic.target_id)
        newest = partition.offset_map.newest
        if newest is not None and partition.is_usable:
            positions[tp] = newest.upstream_next
    return positions


class Checkpoints:
    """The duty: keeps `<source>.checkpoints.internal` up to date. Threading: `step` and `close` by one thread.

    Args:
        admins: of source and target.
    """

    name = "checkpoints"

    def __init__(
        self, flow: Flow, clusters: tuple[Cluster, Cluster], admins: tuple[AdminClient, AdminClient], catalog: Catalog,
        metrics: JobMetrics, log: Logger,
    ) -> None:  # fmt: skip
        self.interval_s = flow.settings.checkpoint_interval_s
        self.note = ""
        self.current: Mapping[tuple[str, TP], Checkpoint] = {}
        """What the last pass found; replaced as a whole, so that other threads may read it."""
        self.positions: Mapping[TP, int] = {}
        """How far each source partition is replicated; replaced as a whole, too."""
        self.passes = 0
        self.halted = ""
        """Why the flow is halted, in words: then nothing is written. Empty when it is not."""
        self._flow = flow
        source, self._target = clusters
        self._target_admin = admins[1]
        self._catalog = catalog
        self._metrics = metrics
        self._log = log
        self._client = ClusterGroups(source)
        self._groups = GroupList(self._client, flow.group_filter.matches, GROUPS_EVERY_S, log)
        self._remembers = False
        self._offsets = OffsetsReader(self._client, log)
        self._topic = flow.naming.checkpoints_topic
        self._reader: SyncsReader[MapsState] | None = None
        self._followed_s = 0.0
        self._forgotten = 0
        """How many copies were given up (`recopy`) when `_ends`, `_starts` and `_written` began."""
        self._ends: OffsetProbe | None = None
        self._ends_problem = ""
        self._starts = LogStarts(self._target, self._target_admin)
        self._writer: CheckpointWriter | None = None
        self._written: dict[tuple[str, TP], Checkpoint] = {}
        self._rewrite_s = time.monotonic() + OVERLAP_S
        self._pulse_key = pulse_key(flow.group, flow.syncs_topic)
        self._pulse_s = time.monotonic() - PULSE_EVERY_S
        self._known_ms: dict[str, int] = {}
        """When the last pass began that has a group's offsets."""

    def step(self, leash: StopToken, timeout_s: float) -> None:
        """One pass.

        Raises:
            KafkaOpError: it failed; what was known before stays.
        """
        syncs = self._follow(leash, timeout_s)
        if self._is_halted(syncs):
            return
        self._begin_anew_after_recopy(syncs.forgotten)
        budget = leash.budget(timeout_s)
        topics = self._catalog.wait_for(1, budget)
        if topics is None:
            raise RetriableError("the topics of the clusters are not known yet", op="list topics")
        self.positions = positions_of(syncs, topics)
        self._remember(leash)
        groups = self._groups.get(budget)
        began_ms = int(time.time() * 1000)
        offsets = self._offsets.read(sorted(groups), budget)
        self._groups.take(offsets, self._offsets)
        translated = translate_groups(offsets, syncs, topics)
        found = placed(translated, self._target_logs(translated, syncs, topics, leash, timeout_s))
        unread = self._offsets.unsure | (groups - offsets.keys())  # what is known of them stays
        self.current = {**{key: it for key, it in self.current.items() if key[0] in unread}, **found}
        self._metrics.translated(translated.counts)
        if not self._may_write(leash, timeout_s):
            return
        self._write(found, leash, timeout_s)
        untold = "" if self._groups.is_complete else "not every broker of the source lists its groups"
        if not untold:
            self._known_ms = known_times(self._known_ms, groups, self._offsets.unsure, began_ms)
            late = {group: self._known_ms.get(group) for group in self._offsets.unsure}
            if not self._may_write(leash, timeout_s):
                return
            untold = self._beat(began_ms, late, leash.budget(timeout_s))
        unreadable = next((str(it) for it in self._offsets.failures.values()), "")
        self.note = unreadable or self._ends_problem or untold
        self.passes += 1

    def _may_write(self, leash: StopToken, timeout_s: float) -> bool:
        """Whether the flow is not halted now: the process may have been stopped since it looked, or while it looked."""
        looks = 0
        while not self.halted and looks < LOOKS and time.monotonic() - self._followed_s > FRESH_S:
            self._is_halted(self._follow(leash, timeout_s))
            looks += 1
        return not self.halted

    def _is_halted(self, syncs: MapsState) -> bool:
        self.halted = halted_text(self._flow.name, syncs.halted)
        if self.halted:
            self.note = f"nothing is written: {self.halted}"
        return bool(self.halted)

    def _follow(self, leash: StopToken, timeout_s: float) -> MapsState:
        """The syncs topic, up to what is committed now.

        The end is asked for each time: a client that was stopped for a while has nothing new to give when it wakes up.
        It is asked for first: a cluster that is away fails the step then, and does not hold up a read that may be long.
        """
        self._followed_s = time.monotonic()
        topic, tasks = self._flow.syncs_topic, self._flow.settings.tasks
        ends = syncs_ends(self._target, self._target_admin, topic, tasks, leash.budget(timeout_s))
        if self._reader is None:
            self._reader = SyncsReader(self._target, topic, range(tasks), MapsState())
        try:
            return self._reader.read_on(ends, leash.budget(FIRST_READ_S), leash.finishing.is_set)
        except KafkaOpError:
            self._reader.close()
            self._reader = None
            raise

    def _remember(self, leash: StopToken) -> None:
        """Begin with the groups that have a checkpoint: one that a list lacks must not be reported as up to date.

        What can't be read by right is done without: only while coordinators move do lists lack anything.
        """
        if self._remembers:
            return
        try:
            found = read_checkpoints(self._target, self._flow, leash.budget(FIRST_READ_S))
            known, problem = found.groups, found.unreadable
        except KafkaOpError as error:
            if "AUTHORIZATION" not in error.code:
                raise
            known, problem = set(), str(error)
        if problem:
            self._log.warning("checkpoints_not_readable", error=problem, then="only groups that are listed are known")
        self._groups.add(filter(self._flow.group_filter.matches, known))
        self._remembers = True

    def _begin_anew_after_recopy(self, forgotten: int) -> None:
        """What was seen of topics before is not what they hold now, and the checkpoints may be others."""
        if forgotten == self._forgotten:
            return
        self._forgotten = forgotten
        self._written.clear()
        if self._ends is not None:
            self._ends.close()
            self._ends = None
        self._starts = LogStarts(self._target, self._target_admin)

    def _target_logs(
        self, translated: Translated, syncs: MapsState, topics: Snapshot, leash: StopToken, timeout_s: float
    ) -> Mapping[TP, TargetLog]:
        """Where the logs begin and end that groups go to."""
        targets = translated.targets
        read = self._find_ends(translated, leash, timeout_s)
        budget = leash.budget(timeout_s)
        begins = self._starts.find(targets, Deadline(budget.slice_s(LOGS_PATIENCE_S)))
        ends = self._ends_of_cut(syncs, topics, budget)
        return {
            tp: TargetLog(
                begins.get(tp, 0), ends.get(tp, NO_END), translated.at_end.get(tp, 0), read.get(tp, 0)
            )
            for tp in targets
        }  # fmt: skip

    def _find_ends(self, translated: Translated, leash: StopToken, timeout_s: float) -> Mapping[TP, int]:
        """How far the logs hold no record, for groups that have read all."""
        if self._ends is None:
            self._ends = OffsetProbe(self._target)
        ends = self._ends.first_at_or_after(translated.at_end, leash.budget(timeout_s), leash.finishing.is_set)
        if self._ends.problem and self._ends.problem != self._ends_problem:
            self._log.warning("remote_topic_not_readable", error=self._ends.problem, then="groups show a lag of 1")
        self._ends_problem = self._ends.problem
        return ends

    def _ends_of_cut(self, syncs: MapsState, topics: Snapshot, budget: Deadline) -> Mapping[TP, int]:
        """Where the logs end that are known to have lost records, of those that answer in time."""
        specs = {
            TP(topics.topics[tp.topic].target_topic, tp.partition): LATEST
            for tp, stop in syncs.stopped.items()
            if stop.get("reason") == StopReason.TARGET_LOG_SHORTER and tp.topic in topics.topics
        }
        patience = Deadline(budget.slice_s(LOGS_PATIENCE_S))
        ends = list_offsets(self._target, self._target_admin, specs, patience, committed=False)
        return {tp: end for tp, end in ends.items() if isinstance(end, int)}

    def _write(self, found: Mapping[tuple[str, TP], Checkpoint], leash: StopToken, timeout_s: float) -> None:
        if time.monotonic() > self._rewrite_s:
            self._rewrite_s = float("inf")
            self._written.clear()
        changed = changes(found, self._written)
        if not changed:
            return
        self._send(changed.values(), leash.budget(timeout_s))
        self._metrics.checkpoints(len(changed))

    def _beat(self, began_ms: int, late: Mapping[str, int | None], budget: Deadline) -> str:
        """Write how fresh the checkpoints are, after all of them; return why not, or an empty string."""
        if time.monotonic() - self._pulse_s < PULSE_EVERY_S:
            return ""
        pulse = encode_pulse(self._pulse_key, began_ms, late)
        if pulse is None:
            return f"{len(late)} groups could not be read; the age of the checkpoints is not published"
        self._pulse_s = time.monotonic()
        self._send([pulse], budget)
        return ""

    def _send(self, changed: Iterable[Checkpoint], budget: Deadline) -> None:
        try:
            if self._writer is None:
                self._writer = CheckpointWriter(self._target, self._target_admin, self._topic, budget)
            self._writer.write(changed, budget, self._note_written)
        except KafkaOpError:  # the topic may be gone: begin again with all of it
            self._writer = None
            self._written.clear()
            raise

    def _note_written(self, checkpoint: Checkpoint) -> None:
        self._written[checkpoint.group, checkpoint.tp] = checkpoint

    def close(self) -> None:
        """Let go of the clients."""
        if self._reader is not None:
            self._reader.close()
        if self._ends is not None:
            self._ends.close()
        self._client.close()
        self._writer = None


def changes(
    found: Mapping[tuple[str, TP], Checkpoint], written: Mapping[tuple[str, TP], Checkpoint]
) -> dict[tuple[str, TP], Checkpoint]:
    """What differs from what was written last."""
    return {key: it for key, it in found.items() if written.get(key) != it}


def known_times(
    before: Mapping[str, int], groups: Collection[str], unsure: Collection[str], began_ms: int
) -> dict[str, int]:
    """Up to when the offsets of each group are known, after a pass that has those of all but `unsure`. Pure."""
    return {
        group: before[group] if group in unsure else began_ms
        for group in groups
        if group not in unsure or group in before
    }
