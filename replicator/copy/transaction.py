"""One transaction of a task on the target: records, offset syncs and control records, committed together or not at all.

Every transaction of a task is one of these, with records or without:

    begin → append… → flush → commit | abort

`flush` waits until the target has acknowledged every record, so that their offsets there are known, and makes runs of
them. `commit` writes one offset sync per run after the records, and with them everything about the task's partitions
that the syncs topic does not say yet. Only when the commit is done do the positions move, and only then does what was
written count as published.

Invariants:
    A: records are committed only if they came from, and went to, the topics that were replicated before.
    B: a position moves only when the transaction that holds its offset sync, and its records, is committed.
    C: nothing is committed once it is known that another worker owns the task.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from replicator.copy.positions import Positions, TaskRun
from replicator.copy.task_context import TaskTools
from replicator.deadline import Deadline
from replicator.errors import TP, LostError
from replicator.offset_map.sync_format import TargetTopic, encode_control, encode_sync, target_record
from replicator.planes import Batch, Plane


@dataclass(slots=True)
class Written:
    """What a transaction holds of one partition."""

    records: int = 0
    size_bytes: int = 0
    newest_ms: int = -1
    topic_id: bytes = b""

    def add(self, batch: Batch) -> None:
        self.topic_id = batch.topic_id
        self.records += batch.records
        self.size_bytes += batch.size_bytes
        self.newest_ms = batch.max_timestamp_ms


class Transaction:
    """See the module. Threading: the task's thread alone.

    Attributes:
        written: what was appended, by source partition.
        size_bytes: of all that was appended.
    """

    def __init__(self, tools: TaskTools, plane: Plane, positions: Positions) -> None:
        self.written: dict[TP, Written] = {}
        self.size_bytes = 0
        self._tools = tools
        self._checks = tools.context.checks
        self._plane = plane
        self._positions = positions
        self._deadline = tools.transaction_budget()

    def begin(self) -> None:
        """Begin it.

        Raises:
            RetriableError, FatalError: the task has to restart.
        """
        self._plane.begin()

    def append(self, batch: Batch) -> None:
        """Put records into it; waits while the target is slower than the source.

        Raises:
            PartitionError: this batch can't be written.
            AbortTransactionError, FatalError: the transaction is lost.
        """
        tp = batch.tp
        self._positions.appended(tp, batch.first_offset, batch.next_offset)
        self._plane.append(batch, self._positions.target(tp).name, self._deadline)
        self.written.setdefault(tp, Written()).add(batch)
        self.size_bytes += batch.size_bytes

    def flush(self) -> list[TaskRun]:
        """Wait until every record is acknowledged, and return the runs that commit what moved.

        While it waits, both clusters are asked whether the topics are still the ones that were replicated so far.

        Raises:
            PartitionError: the target refused records of one partition, lost records of before, or a topic was created
                again; the transaction has to be aborted.
            AbortTransactionError, FatalError: the transaction is lost.
        """
        if not self.written:
            return self._positions.runs({})
        positions, checks = self._positions, self._checks
        expected = {tp: (positions.topic_id(tp), positions.target(tp).name) for tp in self.written}
        known = {tp: it.topic_id for tp, it in self.written.items() if it.topic_id}
        unconfirmed = positions.unconfirmed(self.written)
        source_answers = checks.ask_source({tp.topic for tp in expected if tp not in known})
        target_answers = checks.ask_target({target.name for target in unconfirmed.values()})
        placements = self._plane.flush(self._deadline)
        checks.check_source(source_answers, known, expected, self._deadline)
        positions.confirm(checks.check_target(target_answers, unconfirmed, self._deadline))
        return positions.runs(placements)

    def commit(self, runs: Iterable[TaskRun], targets: Mapping[TP, TargetTopic] | None = None) -> None:
        """Write the offset syncs and what is not published yet, and commit.

        Args:
            targets: topics that partitions are replicated to from now on.

        Raises:
            LostError: another worker owns the task; nothing is committed.
            AbortTransactionError: not committed; abort.
            FatalError: not committed, or it is not known: the task has to restart, which decides it.
        """
        runs = list(runs)
        unpublished = self._tools.states.unpublished()
        targets = targets or {}
        for tp, run in runs:
            self._write(encode_sync(tp, run))
        for record in [*(target_record(tp, target) for tp, target in targets.items()), *unpublished]:
            self._write(encode_control(record))
        if self._tools.stop_token.lost.is_set():
            raise LostError
        if not self.written:
            self._plane.flush(self._deadline)
        self._plane.commit(self._deadline)
        self._positions.commit(runs)
        self._tools.states.mark_published(unpublished)
        for tp in self.written:
            self._tools.states.advanced(tp)

    def _write(self, record: tuple[bytes, bytes | None]) -> None:
        self._plane.write(self._tools.context.flow.syncs_topic, self._tools.number, *record)

    def abort(self, deadline: Deadline) -> None:
        """Abort it; the positions are the committed ones again. What was to be published stays unpublished.

        Raises:
            RetriableError, FatalError: not aborted, or it is not known: the task has to restart, which decides it.
        """
        self._plane.abort(deadline)
        self._positions.roll_back()
