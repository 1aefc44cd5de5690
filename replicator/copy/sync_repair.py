"""Repairs offset syncs whose transaction was only partly aborted, before a partition starts.

A transaction that hangs in some partition, because the target lost a marker (`protocol.hanging_transactions`), ends
there as the next transaction of the same producer does. If that one is committed, all is well. If it is aborted (the
task died in it, and its next owner fenced it), the abort takes along what lay there before:

    the sync is visible, its records are aborted    the run is emptied: the position goes back to where the run began,
                                                    and the records are replicated again
    the records are visible, their sync is not      the sync is written again: the records are not replicated again

Suspect are the partitions that the last transaction with records wrote to. Before another transaction begins after
trouble on the target, the task looks back (`TaskAssignment.look_back`); a task that restarts ends hanging transactions
first (`transaction_recovery`). A partition that gives no answer does not start. The next transaction publishes that it
is stopped, and what is published as stopped stays suspect.

Invariants:
    A, B: the syncs and the records of one transaction are all committed or all aborted, also where the target lost a
        marker.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import replace

from replicator.config import Flow
from replicator.copy.positions import Positions, TaskRun
from replicator.deadline import Deadline
from replicator.errors import TP
from replicator.kafka.cluster import Cluster
from replicator.kafka.offset_probe import OffsetProbe, Presence
from replicator.offset_map.runs import Run
from replicator.syncs.reader import runs_on
from replicator.syncs.state import TaskState

PATIENCE_S = 5.0


class SyncRepair:
    """Knows which partitions of one task are suspect, and repairs their syncs. Threading: one thread.

    Args:
        task: its number.
    """

    def __init__(self, flow: Flow, target: Cluster, task: int) -> None:
        self._flow = flow
        self._target = target
        self._task = task
        self._visible: dict[TP, list[Run]] = {}
        self._hidden: dict[TP, list[Run]] = {}

    def suspect(self, state: TaskState, end: int, deadline: Deadline) -> None:
        """Find the suspect partitions by the task's partition of the syncs topic.

        Args:
            state: what can be read there.
            end: its stable end. If that is more than a marker after the last run, aborted syncs may lie before it.

        Raises:
            RetriableError: that could not be read before `deadline`.
        """
        suspects = state.last | state.stopped.keys()
        self._visible = {tp: list(state.tails[tp]) for tp in suspects & state.tails.keys()}
        begin = min([state.end, *(state.ends[tp] for tp in state.stopped.keys() & state.ends.keys())])
        self._hidden = {}
        if end <= begin + 1:
            return
        for offset, record in runs_on(self._target, self._flow.syncs_topic, self._task, begin, deadline):
            if offset >= state.ends.get(record.tp, 0):
                self._hidden.setdefault(record.tp, []).append(record.run)

    def is_suspect(self, tp: TP) -> bool:
        """Whether it is not known yet what became of a partition's last records."""
        return tp in self._visible or tp in self._hidden

    def check(self, tps: Iterable[TP], positions: Positions, deadline: Deadline) -> tuple[list[TaskRun], set[TP]]:
        """Find out what became of the last records of these partitions.

        Returns:
            The runs to commit, so that syncs and records agree; the partitions that gave no answer.

        Raises:
            KafkaOpError: the client can't go on.
        """
        wanted = set(tps)
        runs: list[TaskRun] = []
        with closing(OffsetProbe(self._target)) as ends:
            visible = {tp: self._visible[tp] for tp in wanted & self._visible.keys()}
            lost, unanswered = self._lost(visible, ends, deadline)
            for tp in visible.keys() - unanswered:
                del self._visible[tp]
                if tp in lost:
                    self._hidden.pop(tp, None)
                    runs += [(tp, emptied(it, lost[tp])) for it in visible[tp] if it.seq >= lost[tp].seq]
            hidden = {tp: self._hidden[tp] for tp in (wanted - unanswered) & self._hidden.keys()}
            shown, more_unanswered = self._shown(hidden, ends, deadline)
        for tp in hidden.keys() - more_unanswered:
            del self._hidden[tp]
            newest = positions.newest(tp)
            runs += [(tp, it) for it in continued(newest, hidden[tp], shown[tp])] if newest is not None else []
        return runs, unanswered | more_unanswered

    def _lost(
        self, visible: Mapping[TP, Sequence[Run]], ends: OffsetProbe, deadline: Deadline
    ) -> tuple[dict[TP, Run], set[TP]]:
        """The first run of each partition whose records were aborted, where there is one.

        Also: the partitions that gave no answer.
        """
        lost: dict[TP, Run] = {}
        with_records = {tp: [run for run in runs if run.count] for tp, runs in visible.items()}
        met, unanswered = self._met(ends, {tp: runs[-1] for tp, runs in with_records.items()}, deadline)
        aborted, more_unanswered = self._aborted(
            {tp: with_records[tp][-1] for tp, it in met.items() if it is False}, deadline
        )
        unanswered |= more_unanswered
        left = {tp: with_records[tp] for tp in aborted}
        while left:
            met, more_unanswered = self._met(ends, {tp: runs[0] for tp, runs in left.items()}, deadline)
            unanswered |= more_unanswered
            lost.update({tp: left[tp][0] for tp, is_there in met.items() if not is_there})
            left = {tp: left[tp][1:] for tp, is_there in met.items() if is_there and left[tp][1:]}
        return lost, unanswered

    def _aborted(self, runs: Mapping[TP, Run], deadline: Deadline) -> tuple[set[TP], set[TP]]:
        """Which of the runs without a visible last record were aborted; the records of the others were deleted since.

        Also: the partitions that gave no answer.
        """
        if not runs:
            return set(), set()
        with closing(OffsetProbe(self._target, committed=False)) as ends:
            there, unanswered = self._met(ends, runs, deadline)
        return {tp for tp, it in there.items() if it}, unanswered

    def _shown(
        self, hidden: Mapping[TP, Sequence[Run]], ends: OffsetProbe, deadline: Deadline
    ) -> tuple[dict[TP, list[Run]], set[TP]]:
        """Each partition's runs whose records are visible; and the partitions that gave no answer."""
        shown: dict[TP, list[Run]] = {tp: [] for tp in hidden}
        unanswered: set[TP] = set()
        left = {tp: [run for run in runs if run.count] for tp, runs in hidden.items()}
        while left := {tp: runs for tp, runs in left.items() if runs}:
            met, more_unanswered = self._met(ends, {tp: runs[0] for tp, runs in left.items()}, deadline)
            unanswered |= more_unanswered
            for tp, is_there in met.items():
                shown[tp] += left[tp][:1] if is_there else []
            left = {tp: left[tp][1:] for tp in met}
        return shown, unanswered

    def _met(
        self, ends: OffsetProbe, runs: Mapping[TP, Run], deadline: Deadline
    ) -> tuple[dict[TP, bool | None], set[TP]]:
        """Whether the last record of each run is there for `ends`; None where the right is missing to look.

        A log that ends before it does not have it.

        Also: the partitions that gave no answer.
        """
        if not runs:
            return {}, set()
        sources = {TP(self._flow.naming.remote_topic(tp.topic), tp.partition): tp for tp in runs}
        places = {remote: runs[tp].downstream_next - 1 for remote, tp in sources.items()}
        found = ends.has_record(places, Deadline(deadline.slice_s(PATIENCE_S)))
        met = {
            sources[remote]: None if it is Presence.NOT_ALLOWED else it is Presence.RECORD
            for remote, it in found.items()
        }
        return met, runs.keys() - met.keys()


def emptied(run: Run, first: Run) -> Run:
    """A run of the same number without records: it takes the position back to where `first` began. Pure."""
    return replace(
        run,
        upstream_base=first.upstream_base,
        downstream_base=first.downstream_base,
        count=0,
        ordinal_base=first.ordinal_base,
        upstream_next=first.upstream_base,
        gaps=(),
    )


def continued(newest: Run, hidden: Iterable[Run], shown: Collection[Run]) -> list[Run]:
    """The hidden runs that continue a partition's newest run, in log order. Pure.

    Runs of transactions that were aborted as usual may lie between; the next transaction used their numbers again.

    Args:
        hidden: aborted runs behind the newest one; those without records count when one of `shown` follows.
        shown: those of them whose records are visible.
    """
    found: list[Run] = []
    moves: list[Run] = []
    for run in hidden:
        moves = [it for it in moves if it.seq < run.seq]
        if not run.count:
            moves.append(run)
            continue
        chain = [*moves, run]
        if run in shown and [it.seq for it in chain] == list(range(newest.seq + 1, newest.seq + 1 + len(chain))):
            found += chain
            newest = run
        moves = []
    return found
