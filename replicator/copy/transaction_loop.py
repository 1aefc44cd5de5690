"""The transaction loop: fetches records, commits them in transactions, and applies what the assignment decides.

    fetch → begin → append, and more fetch and append while there is more, up to `transaction_max_bytes` or
    `transaction_max_ms` → flush → offset syncs → commit

An idle flow commits each record at once. A busy one commits large transactions, because records gather while the last
commit is on its way. Positions that only passed over markers or aborted records, and changes of partitions' states, are
committed after 200 ms without records.

What an error does:

    PartitionError         abort; stop that partition alone, with its reason; go on with the others. It is tried again
                           later, unless the error is lasting
    AbortTransactionError  abort; read on from the committed positions; after repeated aborts, wait before the next one
    RetriableError         of an abort: the task restarts, with backoff
    FatalError             the task restarts, with a new producer
    FencedError            the same; when it restarts, the group says whether this worker still owns the task

Threading: the task's thread alone.

Invariants:
    A, B: an abort reads on from the positions that are committed.
"""

from __future__ import annotations

import datetime as dt
import time

from replicator.copy.assignment import Changes, Skip, Start, TaskAssignment
from replicator.copy.positions import Positions
from replicator.copy.task_context import TaskTools
from replicator.copy.task_lag import TaskLag
from replicator.copy.transaction import Transaction
from replicator.errors import (
    TP,
    AbortTransactionError,
    FatalError,
    KafkaOpError,
    LostError,
    PartitionError,
    RetriableError,
    StopReason,
)
from replicator.kafka.topics import Snapshot
from replicator.planes import Fetched, Plane

FETCH_WAIT_S = 0.1
CADENCE_S = 0.015
"""Transactions of a few records begin no sooner after one another: adr/0007."""
BACKLOG_WAIT_S = 0.02
"""How long an open transaction waits for more, where it is known that more is on the source."""
MOVE_DELAY_S = 0.2
"""How long positions that only passed over markers wait for records to be committed with."""
MAINTENANCE_INTERVAL_S = 1.0
OVER_AFTER_S = 5.0
"""Trouble on the target is over when there was none for so long."""
MAX_ABORT_WAIT_S = 10.0
LOST_ABORT_S = 1.0
TOPIC_REFUSED = "TOPIC_AUTHORIZATION_FAILED"
SMALLEST_BATCH_BYTES = 1024
ABORTS_TO_BACKOFF = 3
"""So many in a row, and the task does not count as running any more."""


class BatchTooLargeError(FatalError):
    """The target takes only smaller batches: the task restarts, and makes such.

    Args:
        limit_bytes: the largest that it takes.
    """

    def __init__(self, topic: str, limit_bytes: int, tp: TP) -> None:
        text = f"{topic} accepts no batches of more than {limit_bytes} bytes"
        super().__init__(text, op="produce", tp=tp, hint="the task restarts and makes smaller batches")
        self.limit_bytes = limit_bytes


class TransactionLoop:
    """Copies the assigned partitions until the task ends or an error restarts it.

    Args:
        positions: of the task's partitions; changed here alone, and by transactions.
        batch_bytes: the largest batch that the plane makes.
    """

    def __init__(
        self, tools: TaskTools, plane: Plane, positions: Positions, assignment: TaskAssignment, batch_bytes: int
    ) -> None:
        self._tools = tools
        self._context = tools.context
        self._settings = tools.context.flow.settings
        self._metrics = tools.metrics
        self._stop_token = tools.stop_token
        self._log = tools.log
        self._plane = plane
        self._positions = positions
        self._states = tools.states
        self._assignment = assignment
        self._lag = TaskLag(tools.metrics, tools.stall_detector)
        self._batch_bytes = batch_bytes
        self._aborts = 0

    def start(self, snapshot: Snapshot) -> None:
        """Start what the task's assignment is when the task starts.

        Raises:
            LostError, KafkaOpError: the task has to restart.
        """
        self._apply(self._assignment.follow(snapshot, appeared=False))

    def run(self) -> None:
        """Copy until the stop token says to finish, or the task is outdated.

        Raises:
            LostError: another worker owns the task; the open transaction is aborted.
            FatalError, RetriableError: the task has to restart.
        """
        maintained_s = moved_s = time.monotonic()
        began_s = 0.0
        while not self._stop_token.finishing.is_set() and not self._tools.outdated.is_set():
            now_s = time.monotonic()
            if now_s - maintained_s >= MAINTENANCE_INTERVAL_S:
                maintained_s = now_s
                self.maintain(now_s)
            fetched = self._plane.fetch(FETCH_WAIT_S)
            if fetched.batches:
                self._gather(fetched, began_s)
                began_s = time.monotonic()
                self.transact(fetched)
                moved_s = time.monotonic()
            else:
                self._pass(fetched.passed)
                moved_s = self._move(moved_s)
            for failure in fetched.failed:
                self._apply(self._assignment.failed(failure))

    def maintain(self, now_s: float) -> None:
        """Follow the topics, measure the lag, look for stalls, and look back once trouble on the target is over.

        Raises:
            StandstillError: nothing comes from the source: the task has to restart.
            RetriableError: a transaction hangs: the task has to restart.
        """
        changes = self._assignment.review()
        self._apply(changes)
        if changes.start:
            self._log.info("partitions_started", partitions=len(changes.start))
        positions = self._positions.committed()
        self._lag.measure(positions, self._plane.source_ends(positions))
        self._metrics.partitions(len(positions), len(self._states))
        self._tools.stall_detector.look(positions, now_s)
        if now_s - self._context.target.troubled_s > OVER_AFTER_S:  # no later transaction may come to look back
            self._apply(self._assignment.look_back())

    def _gather(self, fetched: Fetched, began_s: float) -> None:
        """Wait for more, if the last transaction began only now: each costs both clusters far more than a record."""
        while not (fetched.more or self._stop_token.finishing.is_set()):
            left_s = began_s + CADENCE_S - time.monotonic()
            if left_s <= 0:
                return
            fetched.add(self._plane.fetch(left_s))

    def _move(self, moved_s: float) -> float:
        """Commit positions that passed over offsets without records, and states, once nothing else comes."""
        if not (self._positions.has_moved() or self._states.has_unpublished()):
            return time.monotonic()
        if time.monotonic() - moved_s < MOVE_DELAY_S:
            return moved_s
        self.transact(Fetched())
        return time.monotonic()

    def _pass(self, passed: dict[TP, int]) -> None:
        for tp, next_offset in passed.items():
            self._positions.passed(tp, next_offset)

    # --- one transaction ----------------------------------------------------------------------------------------------

    def transact(self, fetched: Fetched) -> None:
        """Commit what was fetched, and what follows at once; after an abort, read on from the committed positions.

        Raises:
            LostError: another worker owns the task.
            RetriableError, FatalError: the task has to restart.
        """
        began_s = time.monotonic()
        self._apply(self._assignment.look_back())
        transaction = Transaction(self._tools, self._plane, self._positions)
        failures: list[PartitionError] = []
        try:
            transaction.begin()
            self._fill(transaction, fetched, failures)
            transaction.commit(transaction.flush())
            if self._aborts:
                self._aborts = 0
                self._tools.on_aborts("")
            self._lag.committed(transaction.written)
            self._metrics.transaction("committed", time.monotonic() - began_s)
        except PartitionError as error:
            self._fail_partition(transaction, error)
        except AbortTransactionError as error:
            topics = {tp: self._positions.target(tp).name for tp in self._positions.running()}
            self._roll_back(transaction, error)
            if error.code == TOPIC_REFUSED and error.tp is None:
                self._apply(self._assignment.refused(topics))
        except LostError:
            transaction.abort(self._stop_token.budget(LOST_ABORT_S))
            self._metrics.transaction("aborted", 0)
            raise
        except FatalError:
            self._metrics.transaction("unknown", 0)
            raise
        for failure in failures:
            self._apply(self._assignment.failed(failure))

    def _fill(self, transaction: Transaction, fetched: Fetched, failures: list[PartitionError]) -> None:
        """Append what was fetched, and go on while more waits and the transaction has room.

        Args:
            failures: takes what can't be read on, for after the transaction.
        """
        end_s = time.monotonic() + self._settings.transaction_max_ms / 1000
        while True:
            for batch in fetched.batches:
                if self._positions.is_running(batch.tp):  # it may have stopped after this was fetched
                    transaction.append(batch)
            self._pass(fetched.passed)  # after the batches: the end of a partition lies behind its records
            is_full = transaction.size_bytes >= self._settings.transaction_max_bytes or time.monotonic() >= end_s
            if is_full or not fetched.more or self._stop_token.finishing.is_set():
                return
            fetched = self._plane.fetch(BACKLOG_WAIT_S)
            failures += fetched.failed

    def _fail_partition(self, transaction: Transaction, error: PartitionError) -> None:
        """Abort, and stop the partition that an error concerns; or restart with smaller batches, if that is all."""
        if error.is_lasting:  # noted before anything else can fail: after the abort the log will look whole
            self._apply(self._assignment.failed(error))
        self._roll_back(transaction, error)
        if error.reason is StopReason.RECORD_TOO_LARGE:
            self._make_batches_smaller(error.tp)
        for failure in (error, *error.others):
            self._apply(self._assignment.failed(failure))

    def _roll_back(self, transaction: Transaction, error: KafkaOpError) -> None:
        self._metrics.transaction("aborted", 0)
        self._log.warning("transaction_aborted", error=str(error), code=error.code, then="again from the last commit")
        transaction.abort(self._tools.transaction_budget())
        if self._assignment.is_recovery_due():
            # if the transaction before lost markers, this abort took its records along: the restarted task checks that
            # (`sync_repair`)
            raise RetriableError(str(error), op="abort after trouble on the target", code=error.code) from error
        if not isinstance(error, PartitionError):  # the next transaction does without what failed
            self._count_abort(error)
        self._plane.assign(self._positions.committed())

    def _count_abort(self, error: KafkaOpError) -> None:
        """Wait before the next transaction: the first abort is repeated at once, what fails again may need time."""
        self._aborts += 1
        if self._aborts >= ABORTS_TO_BACKOFF:
            self._tools.on_aborts(f"{self._aborts} transactions in a row were aborted: {error}")
        if self._aborts > 1:
            self._stop_token.finishing.wait(min(MAX_ABORT_WAIT_S, 0.05 * 2 ** min(self._aborts, 10)))

    def _make_batches_smaller(self, tp: TP) -> None:
        """Restart with smaller batches, if a batch was too large for the target topic and not a record alone.

        Raises:
            BatchTooLargeError: there is room for that.
        """
        topic = self._positions.target(tp).name
        limit = self._context.checks.batch_limit(topic, self._tools.partition_budget())
        limit_bytes = max(limit or self._batch_bytes // 4, SMALLEST_BATCH_BYTES)
        if limit_bytes < self._batch_bytes:
            raise BatchTooLargeError(topic, limit_bytes, tp)

    # --- what the assignment decides ----------------------------------------------------------------------------------

    def _apply(self, changes: Changes) -> None:
        """Do what the assignment decided; stops come first, so that what is committed publishes them."""
        for failure in changes.stop:
            self._stop(failure)
        if changes.skip is not None:
            self._skip(changes.skip)
        if changes.runs or changes.targets:
            self._publish(changes)
        if changes.start:
            self._start(changes.start)

    def _stop(self, error: PartitionError) -> None:
        """Stop one partition; why is published with the next transaction."""
        tp = error.tp
        if self._positions.is_running(tp):
            self._plane.remove([tp])
            self._positions.stop(tp)
        now_s = time.monotonic()
        is_new = self._states.stop(error, now_s, dt.datetime.now(dt.UTC))
        self._metrics.partition_stopped(tp, error.reason)
        report = self._log.warning if is_new else self._log.debug
        where = {"topic": tp.topic, "partition": tp.partition, "reason": error.reason.value}
        retry = {} if error.is_lasting else {"retry_in_s": self._states.retry_in_s(tp, now_s)}
        report("partition_stopped", **where, error=str(error), **retry)

    def _skip(self, skip: Skip) -> None:
        """Pass over offsets, and say so: they are counted, with the reason (invariant H)."""
        tp, reason, offsets = skip.failure.tp, skip.failure.reason.value, skip.next_offset - skip.first
        where = {"topic": tp.topic, "partition": tp.partition, "first": skip.first, "next": skip.next_offset}
        self._log.warning("records_skipped", **where, offsets=offsets, reason=reason)
        self._positions.passed(tp, skip.next_offset)
        transaction = Transaction(self._tools, self._plane, self._positions)
        transaction.begin()
        transaction.commit(transaction.flush())
        self._metrics.skipped(tp, offsets, reason)
        self._plane.remove([tp])
        self._plane.add(self._positions.committed([tp]))

    def _publish(self, changes: Changes) -> None:
        """Commit offset syncs that come without records, and where partitions are replicated to.

        Raises:
            LostError, KafkaOpError: not committed, or it is not known; the task has to restart.
        """
        transaction = Transaction(self._tools, self._plane, self._positions)
        transaction.begin()
        try:
            transaction.commit(changes.runs, changes.targets)
        except AbortTransactionError as error:
            if error.code == TOPIC_REFUSED:
                self._assignment.refused({})  # says that it is the syncs topic
            raise

    def _start(self, starts: tuple[Start, ...]) -> None:
        for it in starts:
            self._positions.start(it.tp, it.target, it.topic_id)
            self._states.started(it.tp)
            self._metrics.partition_runs(it.tp)
        self._plane.add(self._positions.committed([it.tp for it in starts]))
