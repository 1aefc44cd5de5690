"""A task's share of the source's partitions: which run, from where, and which stand still.

Follows the flow's topics from one snapshot to the next. Threading: the task's thread alone.

Invariants:
    B: where a new partition begins is committed, as its first sync, before its first record is fetched.
    H: a partition that can't go on stops alone, with a reason in the log, a metric and the syncs topic.
"""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Mapping

from replicator.copy.partition_states import PartitionStates
from replicator.copy.positions import Positions, Runs, floor_run
from replicator.copy.task_context import PARTITION_BUDGET_S, TaskTools
from replicator.copy.transaction_recovery import TransactionRecovery, silent
from replicator.deadline import Deadline
from replicator.errors import TP, AbortTransactionError, LostError, PartitionError, RetriableError, StopReason
from replicator.kafka.topics import Snapshot
from replicator.names import task_of
from replicator.offset_map.sync_format import TargetTopic, encode_control, encode_sync, target_record
from replicator.planes import Plane

TOPIC_REFUSED = "TOPIC_AUTHORIZATION_FAILED"
MENDED_HINT = "the target lost markers of the last transaction, most likely when brokers crashed: KAFKA-20734"
GONE = frozenset({StopReason.SOURCE_GONE, StopReason.TARGET_GONE})


class TaskAssignment:
    """See the module.

    Args:
        plane: where partitions are assigned.
        ledger: the positions that the syncs topic holds.
        stops: what stood still when the task last ran here, to space the retries.
        settlement: knows which partitions have to be asked for transactions without an end.
    """

    def __init__(
        self, tools: TaskTools, plane: Plane, ledger: Positions, stops: PartitionStates, settlement: TransactionRecovery
    ) -> None:
        self.ledger = ledger
        self.stops = stops
        self._tools = tools
        self._flow = tools.context.flow
        self._checks = tools.context.checks
        self._plane = plane
        self._fates = tools.sync_repair
        self._settlement = settlement
        self._followed = 0
        self._newest_ms: dict[TP, int] = {}

    def maintain(self) -> None:
        """Follow a new snapshot, try again what is due, measure the lag, and see that the source is heard.

        Raises:
            StandstillError: it is not: the task has to begin again.
        """
        snapshot = self._tools.context.catalog.snapshot
        if snapshot.number != self._followed or self.stops.any_due(time.monotonic()):
            self.follow(snapshot, appeared=True)
        positions = self.ledger.positions()
        self._measure(positions)
        self._tools.stall_detector.look(positions, time.monotonic())

    def follow(self, snapshot: Snapshot, *, appeared: bool) -> None:
        """Start what is new or due again, stop what vanished or was created again.

        Args:
            appeared: what is new came into being while the task ran.
        """
        self._followed = snapshot.number
        for tp in self.ledger.running():
            failure = self._checks.changed(tp, self.ledger.topic_id(tp), self.ledger.target(tp), snapshot)
            if failure is not None:
                self.stop(failure)
        wanted = []
        for tp in self._wanted(snapshot):
            lasting = self.stops.lasting(tp)
            if lasting is None:
                wanted.append(tp)
            else:
                self.stop(self._checks.recreated(tp, self.ledger, snapshot) or lasting)
        if not wanted:
            return
        budget = self._tools.stop_token.budget(self._flow.settings.transaction_timeout_s)
        found = self._checks.prepare(wanted, self.ledger, snapshot, budget, appeared=appeared)
        for failure in found.failures:  # before anything is committed: that tells it
            self.stop(failure)
        self._ask_for_ends(found.ready, budget)
        self._settle_fates(found.ready, budget)
        self._commit(
            [(tp, floor_run(upstream, downstream, id_)) for tp, upstream, downstream, id_ in found.floors],
            {tp: target for tp, target in found.ready.items() if target != self.ledger.told_target(tp)},
        )
        for tp, target in found.ready.items():
            self.ledger.start(tp, target, snapshot.topics[tp.topic].topic_id)
            self.stops.runs(tp)
            self._tools.metrics.partition_runs(tp)
        if found.ready:
            self._plane.add(self.ledger.positions(found.ready))
            if appeared:
                self._tools.log.info("partitions_started", partitions=len(found.ready))

    def _ask_for_ends(self, ready: dict[TP, TargetTopic], deadline: Deadline) -> None:
        """Leave out of those that may start what does not say whether a transaction of ours lies open there.

        Raises:
            RetriableError: one does: the task begins again.
        """
        unasked = self._settlement.unasked(ready)
        if not unasked:
            return
        if self._settlement.is_needed(unasked, deadline):
            raise RetriableError("a transaction of ours has no end in some partition", op="start partitions")
        for tp in self._settlement.unasked(unasked):
            self.stop(silent(tp, ready.pop(tp).name))

    def _settle_fates(self, ready: dict[TP, TargetTopic], deadline: Deadline) -> None:
        """Make syncs and records of the last transaction one again, in those that may start."""
        doubted = [tp for tp in ready if self._fates.is_open(tp)]
        if not doubted:
            return
        runs, unheard = self._fates.look(doubted, self.ledger, deadline)
        for tp in unheard:
            self.stop(silent(tp, ready.pop(tp).name, "what became of the last records"))
        if runs:
            positions = {str(tp): run.upstream_next for tp, run in runs}
            self._tools.log.warning("transaction_mended", positions=positions, hint=MENDED_HINT)
            self._commit(runs, {})

    def _wanted(self, snapshot: Snapshot) -> list[TP]:
        """What should run and does not: on the source, or known from before and still configured."""
        tasks = self._flow.settings.tasks
        ours = {tp for tp in snapshot.partitions() if task_of(tp.topic, tp.partition, tasks) == self._tools.number}
        ours |= {tp for tp in self.ledger.known() if self._flow.topic_filter.matches(tp.topic)}
        now_s = time.monotonic()
        standing = [tp for tp in ours if not self.ledger.is_running(tp)]
        return [tp for tp in standing if self.stops.may_start(tp, now_s) or self._is_back(tp, snapshot)]

    def _is_back(self, tp: TP, snapshot: Snapshot) -> bool:
        """Whether a partition stopped because its topic was gone, and it is there again: that need not wait."""
        topic = snapshot.topics.get(tp.topic)
        reason = self.stops.reason(tp)
        if topic is None or reason not in GONE:
            return False
        return tp.partition < (topic.partitions if reason is StopReason.SOURCE_GONE else topic.target_partitions)

    def _commit(self, runs: Runs, targets: Mapping[TP, TargetTopic]) -> None:
        """Commit syncs that come without records, and where partitions are replicated to; and the news with them.

        Raises:
            LostError: the task was taken meanwhile; nothing is committed.
            KafkaOpError: the transaction failed; the task begins again.
        """
        if not runs and not targets:
            return
        deadline = self._tools.stop_token.budget(self._flow.settings.transaction_timeout_s)
        news = self.stops.news()
        self._plane.begin()
        for tp, run in runs:
            self._plane.write(self._flow.syncs_topic, self._tools.number, *encode_sync(tp, run))
        for tp, target in targets.items():
            self._plane.write(self._flow.syncs_topic, self._tools.number, *encode_control(target_record(tp, target)))
        for record in news:
            self._plane.write(self._flow.syncs_topic, self._tools.number, *encode_control(record))
        if self._tools.stop_token.lost.is_set():
            raise LostError
        try:
            self._plane.flush(deadline)
            self._plane.commit(deadline)
        except AbortTransactionError as error:
            if error.code == TOPIC_REFUSED:
                self.stop_refused({})
            raise
        self.ledger.commit(runs)
        self.stops.told(news)

    def failed(self, failure: PartitionError) -> None:
        """A partition can't go on: skip what retention took if so configured, else stop it alone, and say why."""
        if not self.ledger.is_running(failure.tp):
            return
        if failure.reason is StopReason.TRUNCATED:
            position = self.ledger.positions([failure.tp])[failure.tp]
            budget = self._tools.stop_token.budget(PARTITION_BUDGET_S)
            failure, low = self._checks.truncation(failure, position, self.ledger.topic_id(failure.tp), budget)
            may_skip = self._flow.settings.on_truncation == "skip" and failure.reason is StopReason.TRUNCATED
            if may_skip and low is not None:
                self._skip(failure, position, low)
                return
        elif failure.reason is StopReason.TARGET_LOG_SHORTER:
            budget = self._tools.stop_token.budget(PARTITION_BUDGET_S)
            failure = self._checks.shorter(failure, self.ledger.target(failure.tp), budget)
        self.stop(failure)
        self._tools.context.catalog.ask_refresh()

    def _skip(self, failure: PartitionError, position: int, low: int) -> None:
        tp = failure.tp
        where = {"topic": tp.topic, "partition": tp.partition, "first": position, "next": low}
        self._tools.log.warning("records_skipped", **where, offsets=low - position, reason=failure.reason.value)
        self.ledger.passed(tp, low)
        self._commit(self.ledger.runs({}), {})
        self._tools.metrics.skipped(tp, low - position, failure.reason.value)
        self._plane.remove([tp])
        self._plane.add(self.ledger.positions([tp]))

    def stop(self, error: PartitionError) -> None:
        """Stop one partition, and note what has to be told of it."""
        tp = error.tp
        if self.ledger.is_running(tp):
            self._plane.remove([tp])
            self.ledger.stop(tp)
        now_s = time.monotonic()
        is_news = self.stops.stop(error, now_s, dt.datetime.now(dt.UTC))
        self._tools.metrics.partition_stopped(tp, error.reason)
        report = self._tools.log.warning if is_news else self._tools.log.debug
        where = {"topic": tp.topic, "partition": tp.partition, "reason": error.reason.value}
        retry = {} if error.is_lasting else {"retry_in_s": self.stops.retry_in_s(tp, now_s)}
        report("partition_stopped", **where, error=str(error), **retry)

    def stop_refused(self, target_topics: Mapping[TP, str]) -> None:
        """Stop the partitions whose target topics we may not write to: a refused transaction names none.

        Raises:
            RetriableError: the topic of the syncs is among them: nothing can go on.
        """
        syncs = self._flow.syncs_topic
        topics = {TP(syncs, self._tools.number): syncs, **target_topics}
        for failure in self._checks.unwritable(topics, self._tools.stop_token.budget(PARTITION_BUDGET_S)):
            if failure.tp.topic == syncs:
                raise RetriableError(str(failure), op="write the positions", code=failure.code)
            self.stop(failure)

    def advanced(self, tp: TP, newest_ms: int) -> None:
        """Note that records of a partition were committed, the newest with this timestamp."""
        self._newest_ms[tp] = newest_ms
        self.stops.advanced(tp)

    def _measure(self, positions: Mapping[TP, int]) -> None:
        ends = self._plane.source_ends(positions)
        now_ms = time.time() * 1000
        for tp, position in positions.items():
            lag = max(0, ends.get(tp, position) - position, self._tools.stall_detector.end(tp) - position)
            newest_ms = self._newest_ms.get(tp, -1)
            behind_s = max(0.0, (now_ms - newest_ms) / 1000) if lag and newest_ms > 0 else 0.0
            self._tools.metrics.lag(tp, lag, behind_s)
        self._tools.metrics.partitions(len(positions), len(self.stops))
