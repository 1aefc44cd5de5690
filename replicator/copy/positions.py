"""The positions of one task's partitions: as committed, and as moved by the open transaction. No Kafka, no clock.

Invariants:
    A: a partition only ever advances; a batch that starts before the position is refused.
    B: committed positions come from runs that were committed, and from nothing else.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from replicator.errors import TP, FatalError, PartitionError, StopReason
from replicator.offset_map.runs import Placement, Run, RunBuilder
from replicator.offset_map.sync_format import TargetTopic
from replicator.offset_map.topic_id import TopicId

TaskRun = tuple[TP, Run]
"""A run, and the source partition it belongs to."""


class _Entry:
    """One partition."""

    __slots__ = ("is_confirmed", "moved_to", "newest", "target", "topic_id")

    def __init__(self, target: TargetTopic, topic_id: TopicId, newest: Run) -> None:
        self.target = target
        self.topic_id = topic_id
        self.newest = newest
        self.moved_to = newest.upstream_next
        self.is_confirmed = False


class Positions:
    """See the module. Threading: one thread.

    Args:
        newest: the newest committed run of every partition of the task (from the syncs topic).
        targets: the topics that their downstream offsets belong to (from there, too).
    """

    def __init__(self, newest: Mapping[TP, Run], targets: Mapping[TP, TargetTopic]) -> None:
        self._newest = dict(newest)
        self._targets = dict(targets)
        self._entries: dict[TP, _Entry] = {}

    def newest(self, tp: TP) -> Run | None:
        """The newest committed run; None: this partition never had a position."""
        return self._newest.get(tp)

    def known(self) -> Iterable[TP]:
        """Every partition with a position, running or not."""
        return self._newest.keys()

    def published_target(self, tp: TP) -> TargetTopic | None:
        """The topic that the partition's downstream offsets belong to, as the syncs topic says; None: it says none."""
        return self._targets.get(tp)

    def start(self, tp: TP, target: TargetTopic, topic_id: TopicId) -> None:
        """Start a partition at its committed position.

        Args:
            target: its topic on the target, as committed.
        """
        self._targets[tp] = target
        self._entries[tp] = _Entry(target, topic_id, self._newest[tp])

    def stop(self, tp: TP) -> None:
        """Stop one partition; what it moved in the open transaction must have been committed or rolled back."""
        self._entries.pop(tp, None)

    def is_running(self, tp: TP) -> bool:
        return tp in self._entries

    def running(self) -> list[TP]:
        return list(self._entries)

    def committed(self, tps: Iterable[TP] | None = None) -> dict[TP, int]:
        """Committed positions of the running partitions (or of `tps` among them)."""
        wanted = self._entries if tps is None else tps
        return {tp: self._entries[tp].newest.upstream_next for tp in wanted}

    def topic_id(self, tp: TP) -> TopicId:
        return self._entries[tp].topic_id

    def target(self, tp: TP) -> TargetTopic:
        return self._entries[tp].target

    def unconfirmed(self, tps: Iterable[TP]) -> dict[TP, TargetTopic]:
        """Those of the running partitions whose target topic may have been created again unnoticed.

        Records of an aborted transaction make its log longer, so the offsets of the next ones do not show it.
        """
        return {tp: self._entries[tp].target for tp in tps if not self._entries[tp].is_confirmed}

    def confirm(self, tps: Iterable[TP]) -> None:
        """Note that records went to the topic that the records before were replicated to."""
        for tp in tps:
            self._entries[tp].is_confirmed = True

    def appended(self, tp: TP, first_offset: int, next_offset: int) -> None:
        """Note that records were put into the open transaction.

        Raises:
            FatalError: they begin before the position: they would be duplicates (invariant A).
        """
        entry = self._entries[tp]
        if first_offset < entry.moved_to:
            text = f"record {first_offset} arrived again, after position {entry.moved_to}"
            raise FatalError(text, op="append", tp=tp, hint="this is a bug in replicator; please report it")
        entry.moved_to = next_offset

    def passed(self, tp: TP, next_offset: int) -> None:
        """Note that the source has no committed record from the position to `next_offset`."""
        entry = self._entries.get(tp)
        if entry is not None:
            entry.moved_to = max(entry.moved_to, next_offset)

    def has_moved(self) -> bool:
        """Whether any position differs from the committed one."""
        return any(entry.moved_to != entry.newest.upstream_next for entry in self._entries.values())

    def runs(self, placements: Mapping[TP, list[Placement]]) -> list[TaskRun]:
        """The runs that commit what moved since the last commit.

        Raises:
            PartitionError: records landed before the end of what was replicated earlier: the target's log was cut.
        """
        runs: list[TaskRun] = []
        for tp, entry in self._entries.items():
            places = placements.get(tp, [])
            if entry.moved_to == entry.newest.upstream_next and not places:
                continue
            if places and places[0].downstream_base < entry.newest.downstream_next:
                base = places[0].downstream_base
                raise target_log_shorter(tp, entry.target.name, entry.newest, base, is_lasting=True)
            builder = RunBuilder(entry.newest.seq, entry.newest.ordinal_next, entry.topic_id)
            runs += [(tp, run) for run in builder.build(places, entry.moved_to, entry.newest.downstream_next)]
        return runs

    def commit(self, runs: Iterable[TaskRun]) -> None:
        """Note that `runs` were committed."""
        for tp, run in runs:
            self._newest[tp] = run
            entry = self._entries.get(tp)
            if entry is not None:
                entry.newest = run

    def roll_back(self) -> None:
        """Forget what the open transaction moved."""
        for entry in self._entries.values():
            entry.moved_to = entry.newest.upstream_next
            entry.is_confirmed = False


def target_log_shorter(
    tp: TP, target_topic: str, newest: Run, found: int, *, is_lasting: bool = False
) -> PartitionError:
    """Why a partition stops: the target's log ends before the end of what was replicated to it.

    Args:
        is_lasting: records were appended behind that end, so the log will look whole.
    """
    return PartitionError(
        f"the target's log continues at {found}, but {newest.downstream_next} offsets were replicated to it",
        op="check the target",
        tp=tp,
        reason=StopReason.TARGET_LOG_SHORTER,
        hint=f"{target_topic} was deleted and recreated, or lost its end; {recopy_hint(tp)}",
        is_lasting=is_lasting,
    )


def recopy_hint(tp: TP) -> str:
    """What an operator does about a remote topic that can't be continued."""
    return f"`replicator recopy {tp.topic}` re-replicates it"


def start_position(upstream: int, downstream: int, topic_id: TopicId) -> Run:
    """The first run of a partition: no records, only where it begins on both clusters."""
    return RunBuilder(0, 0, topic_id).build((), upstream, downstream)[0]
