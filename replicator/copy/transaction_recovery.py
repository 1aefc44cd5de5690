"""Ends hanging transactions of a task, before the task decides where it goes on.

A transaction ends with a marker in each of its partitions. If the target loses some of them
(`protocol.hanging_transactions` says when), the syncs of a transaction may be hidden while its records are visible, or
the other way round, and the next transaction would show records twice, or hide them for ever. So each partition without
a marker gets the one that the rest of its transaction has:

    records without a marker, a visible sync covers them              commit
    records without a marker, no visible sync covers them             abort
    syncs without a marker, records of them are visible               commit
    syncs without a marker, and no record of them is visible          abort: the records are replicated again
    syncs without a marker that have no records                       commit

Invariants:
    A, B: the syncs and the records of one transaction are all committed or all aborted, also where the target lost a
        marker.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing

from replicator.config import Flow
from replicator.deadline import Deadline
from replicator.errors import TP, PartitionError, RetriableError, StopReason
from replicator.kafka.cluster import Cluster
from replicator.kafka.offset_probe import OffsetProbe, Presence
from replicator.log import Logger
from replicator.offset_map.runs import Run
from replicator.planes import PlaneSettings
from replicator.protocol.hanging_transactions import HangingSearchResult, HangingTransactions
from replicator.syncs.reader import runs_on

RECOVERY_TIMEOUT_S = 30.0
PROBE_S = 5.0
"""How long partitions are waited for before those without an answer are asked again, by a new client."""
OP = "end hanging transactions"
HINT = "the target lost their markers, most likely when brokers crashed: KAFKA-20734"
REFUSED_HINT = "grant READ on the remote topics, to find transactions that the target did not end"


class TransactionRecovery:
    """Finds and ends hanging transactions of one task. Threading: one thread.

    Args:
        task: its number.
        settings: of its plane.
    """

    def __init__(self, flow: Flow, target: Cluster, task: int, settings: PlaneSettings, log: Logger) -> None:
        self._flow = flow
        self._target = target
        self._syncs = TP(flow.syncs_topic, task)
        self._settings = settings
        self._log = log
        self._unasked: set[TP] = set()
        self._looked_s = -math.inf

    def recover(self, newest: Mapping[TP, Run], deadline: Deadline) -> bool:
        """End the hanging transactions; return whether there were any. Partitions that give no answer are `unasked`.

        To be called after `init_transactions` and after the syncs are read, before anything is written. If there were
        any, the task's producer is fenced by this, and the syncs have to be read again.

        Args:
            newest: the newest visible run of each source partition.

        Raises:
            RetriableError: not everything could be asked or done before `deadline`.
            KafkaOpError: refused.
        """
        sources = {self._remote(tp): tp for tp in newest}
        visible = {remote: newest[tp] for remote, tp in sources.items()}
        with closing(HangingTransactions(self._target, self._settings)) as ends:
            found = self._find(ends, sources, deadline)
            if not found.first_offsets:
                return False
            commits = self._to_commit(found, visible, deadline)
            for tps, commit in ((commits, True), (found.first_offsets.keys() - commits, False)):
                if tps:
                    partitions = {str(tp): found.first_offsets[tp] for tp in sorted(tps)}
                    ends.end(tps, deadline, commit=commit)
                    result = "committed" if commit else "aborted"
                    self._log.warning("transaction_settled", partitions=partitions, result=result, hint=HINT)
        return True

    def is_due(self) -> bool:
        """Whether the target was in trouble since it was last asked: a transaction may have lost markers."""
        return self._target.troubled_s > self._looked_s

    def is_needed(self, tps: Iterable[TP], deadline: Deadline) -> bool:
        """Whether the last transaction of the task hangs in one of these source partitions, or in the syncs topic.

        To be asked between two transactions. Partitions that give no answer are `unasked` then.

        Raises:
            RetriableError: not everything could be asked before `deadline`.
            KafkaOpError: refused.
        """
        with closing(HangingTransactions(self._target, self._settings)) as ends:
            return bool(self._find(ends, {self._remote(tp): tp for tp in tps}, deadline).first_offsets)

    def postpone(self, tps: Iterable[TP]) -> None:
        """Note that source partitions have to be asked before they start again."""
        self._unasked.update(tps)

    def unasked(self, tps: Iterable[TP]) -> list[TP]:
        """Those of the source partitions that have to be asked yet.

        Nothing may be written to them: its marker would end a transaction that may hang there, too.
        """
        return [tp for tp in tps if tp in self._unasked]

    def _find(self, ends: HangingTransactions, sources: Mapping[TP, TP], deadline: Deadline) -> HangingSearchResult:
        """Ask for the syncs and for partitions, which are source partitions by their names on the target."""
        found = ends.find([self._syncs, *sources], deadline)
        for answers in (found.unanswered, found.refused):
            if self._syncs in answers:
                raise RetriableError(f"{self._syncs} does not answer: {answers[self._syncs]}", op=OP)
        if found.refused:
            some = {str(tp): found.refused[tp] for tp in sorted(found.refused)[:5]}
            number = len(found.refused)
            self._log.info("transactions_not_looked_for", partitions=some, number=number, hint=REFUSED_HINT)
        self._unasked.difference_update(sources.values())
        self._unasked.update(sources[tp] for tp in found.unanswered)
        self._looked_s = time.monotonic()
        return found

    def _remote(self, tp: TP) -> TP:
        return TP(self._flow.naming.remote_topic(tp.topic), tp.partition)

    def _to_commit(self, found: HangingSearchResult, visible: Mapping[TP, Run], deadline: Deadline) -> set[TP]:
        """Which of the partitions without a marker get a commit."""
        syncs, begins = self._syncs, found.first_offsets
        hidden = self._hidden_runs(begins[syncs], deadline) if syncs in begins else []
        theirs = {tp for tp, _ in hidden}
        commits = {
            tp
            for tp, begin in begins.items()
            if tp != syncs and tp not in theirs and tp in visible and begin < visible[tp].downstream_next
        }
        with_records = [(tp, run) for tp, run in hidden if run.count]
        ended = [
            (tp, run.downstream_next - 1) for tp, run in with_records if tp not in begins and tp not in found.refused
        ]
        if not with_records or self._is_any_visible(ended, deadline):
            commits |= (theirs | {syncs}) & begins.keys()
        return commits

    def _hidden_runs(self, begin: int, deadline: Deadline) -> list[tuple[TP, Run]]:
        """The runs in the syncs topic from here on, committed or not, by the partition's name on the target."""
        found = runs_on(self._target, self._syncs.topic, self._syncs.partition, begin, deadline)
        return [(self._remote(record.tp), record.run) for _, record in found]

    def _is_any_visible(self, places: Sequence[tuple[TP, int]], deadline: Deadline) -> bool:
        """Whether readers of committed records see one of these, the last of their runs.

        Raises:
            RetriableError: a partition gave no answer before `deadline`, and no other one has its record.
            KafkaOpError: refused.
        """
        waiting = list(places)
        with closing(OffsetProbe(self._target)) as probe:
            while waiting:
                asked = dict(waiting)  # one place of each partition at a time
                found = probe.has_record(asked, Deadline(deadline.slice_s(PROBE_S)))
                if Presence.RECORD in found.values():
                    return True
                if Presence.NOT_ALLOWED in found.values():
                    raise RetriableError(probe.problem, op=OP)
                waiting = [it for it in waiting if it[0] not in found or asked[it[0]] != it[1]]
                if waiting and deadline.expired:
                    raise RetriableError(f"{sorted(tp for tp, _ in waiting)[0]} does not say what it holds", op=OP)
        return False


def no_answer(tp: TP, topic: str, about: str = "whether its last transaction has an end") -> PartitionError:
    """Why a source partition may not run: without this answer, writing could decide what hangs on the target."""
    text = f"the leader of {topic}[{tp.partition}] did not answer {about}"
    return PartitionError(text, op="check the target", tp=tp, reason=StopReason.TARGET_UNAVAILABLE)
