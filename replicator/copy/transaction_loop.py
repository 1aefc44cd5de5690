"""The transaction loop: fetch, append, flush, syncs, commit; and what an error does to it.

Threading: the task's thread alone.

Invariants:
    A, B: positions move only by committed syncs; an abort goes back to them.
    C: nothing is committed once the task is known to be lost.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, field

from replicator.copy.assignment import TOPIC_REFUSED, TaskAssignment
from replicator.copy.positions import Runs
from replicator.copy.task_context import PARTITION_BUDGET_S, TaskTools
from replicator.copy.transaction_recovery import SETTLE_TIMEOUT_S, TransactionRecovery, silent
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
from replicator.offset_map.sync_format import ControlRecord, encode_control, encode_sync
from replicator.planes import Batch, Fetched, Plane

FETCH_WAIT_S = 0.1
CADENCE_S = 0.015
"""Transactions of a few records begin no sooner after one another: adr/0007."""
BACKLOG_WAIT_S = 0.02
"""How long an open transaction waits for more, where it is known that more is on the source."""
MOVE_DELAY_S = 0.2
"""How long positions that only passed over markers wait for records to travel with."""
MAINTENANCE_INTERVAL_S = 1.0
OVER_AFTER_S = 5.0
"""Trouble on the target is over when there was none for so long."""
MAX_ABORT_WAIT_S = 10.0
SMALLEST_BATCH_BYTES = 1024


class BatchTooLargeError(FatalError):
    """The target takes only smaller batches: the task begins again with such.

    Args:
        limit_bytes: what it takes.
    """

    def __init__(self, topic: str, limit_bytes: int, tp: TP) -> None:
        text = f"{topic} takes no batches of more than {limit_bytes} bytes"
        super().__init__(text, op="produce", tp=tp, hint="the task begins again with batches that fit")
        self.limit_bytes = limit_bytes


@dataclass(slots=True)
class _Written:
    """What the open transaction holds of one partition."""

    records: int = 0
    size_bytes: int = 0
    newest_ms: int = -1
    topic_id: bytes = b""

    def add(self, batch: Batch) -> None:
        self.topic_id = batch.topic_id
        self.records += batch.records
        self.size_bytes += batch.size_bytes
        self.newest_ms = batch.max_timestamp_ms


@dataclass(slots=True)
class _Filled:
    """What the open transaction holds, and which partitions can't be read on after it."""

    written: dict[TP, _Written] = field(default_factory=dict)
    failures: list[PartitionError] = field(default_factory=list)


class TransactionLoop:
    """Copies a share until the task finishes or an error ends this life of it.

    Args:
        batch_bytes: the largest batch that the plane makes.
    """

    def __init__(
        self, tools: TaskTools, plane: Plane, share: TaskAssignment, settlement: TransactionRecovery, batch_bytes: int
    ) -> None:
        self._context = tools.context
        self._settings = tools.context.flow.settings
        self._syncs_topic = tools.context.flow.syncs_topic
        self._number = tools.number
        self._metrics = tools.metrics
        self._stop_token = tools.stop_token
        self._outdated = tools.outdated
        self._log = tools.log
        self._plane = plane
        self._share = share
        self._ledger = share.ledger
        self._stops = share.stops
        self._settlement = settlement
        self._batch_bytes = batch_bytes
        self._aborts = 0

    def run(self) -> None:
        """Copy until the stop token says to finish, or the task is outdated.

        Raises:
            LostError: the task was taken; the open transaction is aborted.
            FatalError, RetriableError: the task has to begin again.
        """
        maintained_s = moved_s = time.monotonic()
        began_s = 0.0
        while not self._stop_token.finishing.is_set() and not self._outdated.is_set():
            now_s = time.monotonic()
            if now_s - maintained_s >= MAINTENANCE_INTERVAL_S:
                maintained_s = now_s
                self._share.maintain()
                if now_s - self._context.target.troubled_s > OVER_AFTER_S:  # what nothing follows needs its end, too
                    self._look_back()
            fetched = self._plane.fetch(FETCH_WAIT_S)
            if fetched.batches:
                self._gather(fetched, began_s)
                began_s = time.monotonic()
                self._transaction(fetched)
                moved_s = time.monotonic()
            else:
                self._pass(fetched.passed)
                moved_s = self._move(moved_s)
            for failure in fetched.failed:
                self._share.failed(failure)

    def _gather(self, fetched: Fetched, began_s: float) -> None:
        """Wait for more, if the last transaction began only now: each costs both clusters far more than a record."""
        while not (fetched.more or self._stop_token.finishing.is_set()):
            left_s = began_s + CADENCE_S - time.monotonic()
            if left_s <= 0:
                return
            fetched.add(self._plane.fetch(left_s))

    def _move(self, moved_s: float) -> float:
        """Commit positions that passed over offsets without records, and news, once nothing else comes."""
        if not (self._ledger.has_moved() or self._stops.has_news()):
            return time.monotonic()
        if time.monotonic() - moved_s < MOVE_DELAY_S:
            return moved_s
        self._transaction(Fetched())
        return time.monotonic()

    def _wanted(self, batches: Iterable[Batch]) -> list[Batch]:
        """Without those of partitions that stopped after they were fetched."""
        return [batch for batch in batches if self._ledger.is_running(batch.tp)]

    def _pass(self, passed: dict[TP, int]) -> None:
        for tp, next_offset in passed.items():
            self._ledger.passed(tp, next_offset)

    def _transaction(self, fetched: Fetched) -> None:
        """Commit what was fetched and follows at once; an abortable error rolls back to the committed syncs."""
        began_s = time.monotonic()
        self._look_back()
        filled = _Filled()
        try:
            self._fill_and_commit(fetched, filled)
            self._metrics.transaction("committed", time.monotonic() - began_s)
        except PartitionError as error:
            if error.is_lasting:  # noted before anything else can fail: the log will look whole
                self._share.failed(error)
            self._roll_back(error)
            if error.reason is StopReason.RECORD_TOO_LARGE:
                self._make_batches_smaller(error.tp)
            self._share.failed(error)
        except AbortTransactionError as error:
            topics = {tp: self._ledger.target(tp).name for tp in self._ledger.running()}
            self._roll_back(error)
            if error.code == TOPIC_REFUSED and error.tp is None:
                self._share.stop_refused(topics)
        except LostError:
            self._plane.abort(self._stop_token.budget(1.0))
            self._metrics.transaction("aborted", 0)
            raise
        except FatalError:
            self._metrics.transaction("unknown", 0)
            raise
        for failure in filled.failures:
            self._share.failed(failure)

    def _look_back(self) -> None:
        """Look for the last transaction's ends, if the target was in trouble since they were looked for.

        Partitions that give no answer stop: before they start again, they are asked.

        Raises:
            RetriableError: it has none in some partition, or that could not be found out: the task begins again.
        """
        if not self._settlement.is_due():
            return
        running = self._ledger.running()
        self._settlement.postpone(set(self._ledger.known()) - set(running))
        if self._settlement.is_needed(running, self._stop_token.budget(SETTLE_TIMEOUT_S)):
            raise RetriableError("the last transaction has no end in some partition", op="begin a transaction")
        for tp in self._settlement.unasked(running):
            self._share.stop(silent(tp, self._ledger.target(tp).name))

    def _fill_and_commit(self, fetched: Fetched, filled: _Filled) -> None:
        deadline = self._stop_token.budget(self._settings.transaction_timeout_s)
        self._plane.begin()
        self._fill(fetched, filled)
        # are these still the topics that were replicated so far? The plane knows, or the source is asked, meanwhile
        checks = self._context.checks
        expected = {tp: (self._ledger.topic_id(tp), self._ledger.target(tp).name) for tp in filled.written}
        known = {tp: written.topic_id for tp, written in filled.written.items() if written.topic_id}
        unconfirmed = self._ledger.unconfirmed(filled.written)
        answers = checks.ask_source({tp.topic for tp in expected if tp not in known})
        target_answers = checks.ask_target({target.name for target in unconfirmed.values()})
        placements = self._plane.flush(deadline)
        checks.check_source(answers, known, expected, deadline)
        self._ledger.confirm(checks.check_target(target_answers, unconfirmed, deadline))
        runs = self._ledger.runs(placements)
        news = self._stops.news()
        self._write(runs, news)
        if self._stop_token.lost.is_set():
            raise LostError
        self._plane.commit(deadline)
        self._aborts = 0
        self._ledger.commit(runs)
        self._stops.told(news)
        for tp, written in filled.written.items():
            self._metrics.committed(tp, written.records, written.size_bytes)
            self._share.advanced(tp, written.newest_ms)

    def _fill(self, fetched: Fetched, filled: _Filled) -> None:
        """Append what was fetched, and go on while more waits and the transaction has room."""
        deadline = self._stop_token.budget(self._settings.transaction_timeout_s)
        end_s = time.monotonic() + self._settings.transaction_max_ms / 1000
        size_bytes = 0
        while True:
            for batch in self._wanted(fetched.batches):
                self._ledger.appended(batch.tp, batch.first_offset, batch.next_offset)
                self._plane.append(batch, self._ledger.target(batch.tp).name, deadline)
                filled.written.setdefault(batch.tp, _Written()).add(batch)
                size_bytes += batch.size_bytes
            self._pass(fetched.passed)  # after the batches: the end of a partition lies behind its records
            is_full = size_bytes >= self._settings.transaction_max_bytes or time.monotonic() >= end_s
            if is_full or not fetched.more or self._stop_token.finishing.is_set():
                return
            fetched = self._plane.fetch(BACKLOG_WAIT_S)
            filled.failures += fetched.failed

    def _write(self, runs: Runs, news: list[ControlRecord]) -> None:
        """Put the syncs and the news into the transaction, after the records."""
        for tp, run in runs:
            self._plane.write(self._syncs_topic, self._number, *encode_sync(tp, run))
        for record in news:
            self._plane.write(self._syncs_topic, self._number, *encode_control(record))

    def _roll_back(self, error: KafkaOpError) -> None:
        self._metrics.transaction("aborted", 0)
        self._log.warning("transaction_aborted", error=str(error), code=error.code, then="again from the last commit")
        self._plane.abort(self._stop_token.budget(self._settings.transaction_timeout_s))
        if self._settlement.is_due():
            # what the transaction before left without an end was aborted with this one: the next life looks (`fates`)
            raise RetriableError(str(error), op="begin anew after trouble on the target", code=error.code) from error
        self._ledger.roll_back()
        self._aborts += 1
        if self._aborts > 1:  # the first abort is repeated at once; what fails again may need time
            self._stop_token.finishing.wait(min(MAX_ABORT_WAIT_S, 0.05 * 2 ** min(self._aborts, 10)))
        self._plane.assign(self._ledger.positions())

    def _make_batches_smaller(self, tp: TP) -> None:
        """Begin again with smaller batches, if a batch was too large for the target topic and not a record alone.

        Raises:
            BatchTooLargeError: there is room for that.
        """
        topic = self._ledger.target(tp).name
        asked = self._context.checks.batch_limit(topic, self._stop_token.budget(PARTITION_BUDGET_S))
        limit_bytes = max(asked or self._batch_bytes // 4, SMALLEST_BATCH_BYTES)
        if limit_bytes < self._batch_bytes:
            raise BatchTooLargeError(topic, limit_bytes, tp)
