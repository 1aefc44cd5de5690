"""Settles transactions of a task that its target never ended, before the task decides where it goes on.

A transaction ends with a marker in each of its partitions. Where the target lost some of them (`planes.batches.
loose_ends` says when), the syncs of a transaction may be hidden while its records are visible, or the other way round,
and the next transaction would show records twice, or hide them for ever. So what has no end gets the one that the rest
of its transaction has:

    records without an end, a visible sync covers them               commit
    records without an end, no visible sync covers them              abort
    syncs without an end, records of theirs are visible              commit
    syncs without an end, and no record of theirs is visible         abort: they are copied again
    syncs without an end that have no records                        commit

Invariants:
    A, B: syncs and records of one transaction share one fate, also when the target loses a marker.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import closing

from replicator.clients import Cluster
from replicator.compacted import CompactedReader
from replicator.config import Flow
from replicator.deadline import Deadline
from replicator.errors import TP, RetriableError
from replicator.log import Logger
from replicator.offsets import Run
from replicator.planes import PlaneSettings
from replicator.planes.batches.loose_ends import Found, LooseEnds
from replicator.syncs import runs_on

SETTLE_TIMEOUT_S = 30.0
OP = "settle transactions without an end"
HINT = "the target lost their markers, most likely when brokers crashed: KAFKA-20734"
UNKNOWN_HINT = "READ on the remote topics is needed to find transactions that the target did not end"


class Settlement:
    """Settles what transactions of one task left behind. Threading: one thread.

    Args:
        target: of the flow.
        task: its number.
        settings: of its plane.
    """

    def __init__(self, flow: Flow, target: Cluster, task: int, settings: PlaneSettings, log: Logger) -> None:
        self._flow = flow
        self._target = target
        self._syncs = TP(flow.syncs_topic, task)
        self._settings = settings
        self._log = log

    def settle(self, newest: Mapping[TP, Run], deadline: Deadline) -> bool:
        """Give an end to what has none; whether there was anything.

        To be called when the transactional id is taken and the syncs are read, before anything is written. When it was
        needed, the id is taken away from its holder, and the syncs have to be read anew.

        Args:
            newest: the newest visible run of each source partition.

        Raises:
            RetriableError: not everything could be asked or done before `deadline`.
            KafkaOpError: refused.
        """
        visible = {self._remote(tp): run for tp, run in newest.items()}
        with closing(LooseEnds(self._target, self._settings)) as ends:
            found = self._find(ends, visible, deadline)
            if not found.begins:
                return False
            commits = self._to_commit(found.begins, visible, deadline)
            for tps, commit in ((commits, True), (found.begins.keys() - commits, False)):
                if tps:
                    partitions = {str(tp): found.begins[tp] for tp in sorted(tps)}
                    ends.end(tps, deadline, commit=commit)
                    result = "committed" if commit else "aborted"
                    self._log.warning("transaction_settled", partitions=partitions, result=result, hint=HINT)
        return True

    def is_needed(self, tps: Iterable[TP], deadline: Deadline) -> bool:
        """Whether the last transaction of the task has no end in one of these source partitions, or in the syncs.

        To be asked between two transactions.

        Raises:
            RetriableError: not everything could be asked before `deadline`.
            KafkaOpError: refused.
        """
        with closing(LooseEnds(self._target, self._settings)) as ends:
            return bool(self._find(ends, map(self._remote, tps), deadline).begins)

    def _find(self, ends: LooseEnds, tps: Iterable[TP], deadline: Deadline) -> Found:
        found = ends.find([self._syncs, *tps], deadline)
        self._tell_unknown(found.unknown)
        return found

    def _remote(self, tp: TP) -> TP:
        return TP(self._flow.naming.remote_topic(tp.topic), tp.partition)

    def _tell_unknown(self, unknown: Mapping[TP, str]) -> None:
        if self._syncs in unknown:
            raise RetriableError(f"{self._syncs} can't be asked: {unknown[self._syncs]}", op=OP)
        if unknown:
            some = {str(tp): unknown[tp] for tp in sorted(unknown)[:5]}
            self._log.info("transactions_not_looked_for", partitions=some, number=len(unknown), hint=UNKNOWN_HINT)

    def _to_commit(self, begins: Mapping[TP, int], visible: Mapping[TP, Run], deadline: Deadline) -> set[TP]:
        """Which of the partitions without an end get a commit."""
        syncs = self._syncs
        hidden = self._hidden_runs(begins[syncs], deadline) if syncs in begins else []
        theirs = {tp for tp, _ in hidden}
        commits = {
            tp
            for tp, begin in begins.items()
            if tp != syncs and tp not in theirs and tp in visible and begin < visible[tp].downstream_next
        }
        with_records = [(tp, run) for tp, run in hidden if run.count]
        ended = [(tp, run.downstream_next - 1) for tp, run in with_records if tp not in begins]
        if not with_records or any(self._is_visible(tp, offset, deadline) for tp, offset in ended):
            commits |= (theirs | {syncs}) & begins.keys()
        return commits

    def _hidden_runs(self, begin: int, deadline: Deadline) -> list[tuple[TP, Run]]:
        """The runs in the syncs from here on, whatever becomes of them, by the partition's name on the target."""
        found = runs_on(self._target, self._syncs.topic, self._syncs.partition, begin, deadline)
        return [(self._remote(record.tp), record.run) for record in found]

    def _is_visible(self, tp: TP, offset: int, deadline: Deadline) -> bool:
        """Whether readers of committed records see the one at `offset`."""
        met: list[int] = []
        with closing(
            CompactedReader(self._target, tp.topic, {tp.partition: offset}, lambda it: met.append(it.offset() or 0))
        ) as reader:
            reader.read_on({tp.partition: offset + 1}, deadline, lambda: False)
        return offset in met
