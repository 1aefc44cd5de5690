"""Mends runs whose records have another fate than their syncs, before a partition starts.

A transaction that the target left without an end in some partition (`planes.batches.loose_ends`) shares there the fate
of the next one of the same producer. When that is committed, all is well. When it is aborted (the task died in it, and
its next owner fenced it), the abort takes along what lay there before:

    a sync is visible, its records are aborted  the run is emptied: back to where it began, they are copied again
    records are visible, their sync is not      the sync is written again: they are not copied again

Only the last transaction with records can be meant: before another one is begun after trouble, a task looks back
(`Copier`), and whoever begins anew ends what has no end (`loose_ends`).

Invariants:
    A, B: syncs and records of one transaction share one fate, also when the target loses a marker.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import closing
from dataclasses import replace

from replicator.clients import Cluster
from replicator.config import Flow
from replicator.deadline import Deadline
from replicator.errors import TP
from replicator.ledger import Ledger, Runs
from replicator.offsets import Run
from replicator.syncs import TaskState, runs_on
from replicator.target_ends import TargetEnds

PATIENCE_S = 5.0


class Fates:
    """What is in doubt of one task's partitions. Threading: one thread.

    Args:
        task: its number.
    """

    def __init__(self, flow: Flow, target: Cluster, task: int) -> None:
        self._flow = flow
        self._target = target
        self._task = task
        self._told: dict[TP, list[Run]] = {}
        self._hidden: dict[TP, list[Run]] = {}

    def doubt(self, state: TaskState, end: int, deadline: Deadline) -> None:
        """Begin with what the task's partition of the syncs topic says.

        Args:
            end: its stable end; more than a marker after the last record, some transaction was aborted there.

        Raises:
            RetriableError: that could not be read before `deadline`.
        """
        self._told = {tp: list(runs) for tp, runs in state.last.items()}
        self._hidden = self._aborted(state.next_offset, deadline) if end > state.next_offset + 1 else {}

    def _aborted(self, begin: int, deadline: Deadline) -> dict[TP, list[Run]]:
        runs: dict[TP, list[Run]] = {}
        for record in runs_on(self._target, self._flow.syncs_topic, self._task, begin, deadline):
            if record.run.count:
                runs.setdefault(record.tp, []).append(record.run)
        return runs

    def is_open(self, tp: TP) -> bool:
        """Whether it is not known yet what became of a partition's last records."""
        return tp in self._told or tp in self._hidden

    def look(self, tps: Iterable[TP], ledger: Ledger, deadline: Deadline) -> tuple[Runs, set[TP]]:
        """Find out what became of the last records of these partitions.

        Returns:
            Runs that have to be written to make syncs and records one again; the partitions that gave no answer.

        Raises:
            KafkaOpError: the client can't go on.
        """
        runs: Runs = []
        wanted = set(tps)
        last = {tp: [run for run in self._told[tp] if run.count][-1] for tp in wanted & self._told.keys()}
        with closing(TargetEnds(self._target)) as ends:
            met, silent = self._met(ends, last, deadline)
            aborted, unheard = self._aborted_runs({tp: last[tp] for tp, it in met.items() if it is False}, deadline)
            silent |= unheard
            for tp in last.keys() - silent:
                told = self._told.pop(tp)
                if tp in aborted:
                    self._hidden.pop(tp, None)
                    runs += [(tp, emptied(run, told[0])) for run in told]
            newest = {tp: ledger.newest(tp) for tp in wanted}
            while heads := self._heads(wanted - silent, newest):
                met, unheard = self._met(ends, heads, deadline)
                silent |= unheard
                for tp in heads.keys() - unheard:
                    if met[tp]:
                        newest[tp] = self._hidden[tp].pop(0)
                        runs.append((tp, heads[tp]))
                    else:
                        del self._hidden[tp]
        return runs, silent

    def _aborted_runs(self, runs: Mapping[TP, Run], deadline: Deadline) -> tuple[set[TP], set[TP]]:
        """Which of the runs whose last record readers don't see were aborted: the others' records were deleted since.

        Besides: the partitions that gave no answer.
        """
        if not runs:
            return set(), set()
        with closing(TargetEnds(self._target, committed=False)) as ends:
            there, silent = self._met(ends, runs, deadline)
        return {tp for tp, it in there.items() if it}, silent

    def _heads(self, tps: Iterable[TP], newest: Mapping[TP, Run | None]) -> dict[TP, Run]:
        """The first hidden run of each partition that continues its newest one; others are forgotten."""
        heads: dict[TP, Run] = {}
        for tp in tps:
            hidden, known = self._hidden.get(tp), newest[tp]
            if hidden and known is not None and hidden[0].seq == known.seq + 1:
                heads[tp] = hidden[0]
            else:
                self._hidden.pop(tp, None)
        return heads

    def _met(
        self, ends: TargetEnds, runs: Mapping[TP, Run], deadline: Deadline
    ) -> tuple[dict[TP, bool | None], set[TP]]:
        """Whether the last record of each run is there for `ends`; None where the right is missing to look.

        Besides: the partitions that gave no answer.
        """
        met: dict[TP, bool | None] = {}
        sources = {TP(self._flow.naming.remote_topic(tp.topic), tp.partition): tp for tp in runs}
        places = {remote: runs[tp].downstream_next - 1 for remote, tp in sources.items()}
        for remote, first in ends.first(places, Deadline(deadline.slice_s(PATIENCE_S))).items():
            met[sources[remote]] = None if first is None else first == places[remote]
        return met, runs.keys() - met.keys()


def emptied(run: Run, first: Run) -> Run:
    """A run under the same number that takes the position back to where `first` began, without records. Pure."""
    return replace(
        run,
        upstream_base=first.upstream_base,
        downstream_base=first.downstream_base,
        count=0,
        ordinal_base=first.ordinal_base,
        upstream_next=first.upstream_base,
        gaps=(),
    )
