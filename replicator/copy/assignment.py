"""The assignment of a task: which of its partitions run, from where, and why the others are stopped.

It follows the flow's topics from one snapshot to the next, and asks both clusters before a partition starts. It only
decides. What has to be done about it is returned as `Changes`; the transaction loop applies them.

Threading: the task's thread alone.

Invariants:
    B: a partition without a position gets one, as its first offset sync, before its first record is fetched.
    H: a partition that can't go on stops alone, with a reason in the log, a metric and the syncs topic.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from replicator.copy.positions import Positions, TaskRun
from replicator.copy.task_context import TaskTools
from replicator.copy.transaction_recovery import RECOVERY_TIMEOUT_S, TransactionRecovery, no_answer
from replicator.deadline import Deadline
from replicator.errors import TP, PartitionError, RetriableError, StopReason
from replicator.kafka.topics import Snapshot
from replicator.names import task_of
from replicator.offset_map.sync_format import TargetTopic
from replicator.offset_map.topic_id import TopicId

REPAIRED_HINT = "the target lost markers of the last transaction, most likely when brokers crashed: KAFKA-20734"
GONE = frozenset({StopReason.SOURCE_GONE, StopReason.TARGET_GONE})


@dataclass(frozen=True, slots=True)
class Start:
    """A partition that may run from its position on.

    Args:
        target: the topic that it is replicated to.
        topic_id: of its source topic.
    """

    tp: TP
    target: TargetTopic
    topic_id: TopicId


@dataclass(frozen=True, slots=True)
class Skip:
    """Source offsets that retention deleted, and that may be skipped.

    Args:
        failure: the partition, and why the offsets can't be read.
        first: the partition's position.
        next_offset: where it goes on.
    """

    failure: PartitionError
    first: int
    next_offset: int


@dataclass(frozen=True, slots=True)
class Changes:
    """What has to be done, in this order.

    Args:
        stop: partitions to be stopped, running or not, and why.
        skip: offsets to pass over.
        runs: offset syncs to commit, without records of theirs.
        targets: topics that partitions are replicated to from now on, to be committed with them.
        start: partitions to run, once all of this is committed.
    """

    stop: tuple[PartitionError, ...] = ()
    skip: Skip | None = None
    runs: tuple[TaskRun, ...] = ()
    targets: Mapping[TP, TargetTopic] = field(default_factory=dict)
    start: tuple[Start, ...] = ()


NOTHING = Changes()


class TaskAssignment:
    """See the module. It reads the positions and the partition states, and changes neither.

    Args:
        positions: what the syncs topic holds, and which partitions run.
        recovery: knows which target partitions have to be asked for hanging transactions.
    """

    def __init__(self, tools: TaskTools, positions: Positions, recovery: TransactionRecovery) -> None:
        self._tools = tools
        self._flow = tools.context.flow
        self._checks = tools.context.checks
        self._states = tools.states
        self._positions = positions
        self._recovery = recovery
        self._followed = 0

    # --- what should run ----------------------------------------------------------------------------------------------

    def review(self) -> Changes:
        """Decide again, if the topics have changed or a stopped partition is due to be tried again."""
        snapshot = self._tools.context.catalog.snapshot
        if snapshot.number == self._followed and not self._states.any_due(time.monotonic()):
            return NOTHING
        return self.follow(snapshot, appeared=True)

    def follow(self, snapshot: Snapshot, *, appeared: bool) -> Changes:
        """Decide by these topics: start what is new or due again, stop what is gone or was created again.

        Args:
            appeared: partitions without a position came into being while the task ran.

        Raises:
            RetriableError: a hanging transaction of the task was found; the task has to restart.
            KafkaOpError: a cluster gave no answer at all.
        """
        self._followed = snapshot.number
        stop = self._changed(snapshot)
        wanted = []
        for tp in self._wanted(snapshot):
            lasting = self._states.lasting(tp)
            if lasting is None:
                wanted.append(tp)
            else:
                stop.append(self._checks.recreated(tp, self._positions, snapshot) or lasting)
        if not wanted:
            return Changes(stop=tuple(stop))
        deadline = self._tools.transaction_budget()
        found = self._checks.prepare(wanted, self._positions, snapshot, deadline, appeared=appeared)
        ready = found.ready
        stop += found.failures
        stop += self._hold_back_unasked(ready, deadline)
        repairs, failures = self._repair(ready, deadline)
        return Changes(
            stop=(*stop, *failures),
            runs=(*repairs, *((tp, run) for tp, run in found.start_positions.items() if tp in ready)),
            targets={tp: target for tp, target in ready.items() if target != self._positions.published_target(tp)},
            start=tuple(Start(tp, target, snapshot.topics[tp.topic].topic_id) for tp, target in ready.items()),
        )

    def _changed(self, snapshot: Snapshot) -> list[PartitionError]:
        """Why running partitions may not go on."""
        positions = self._positions
        running = positions.running()
        found = [self._checks.changed(tp, positions.topic_id(tp), positions.target(tp), snapshot) for tp in running]
        return [failure for failure in found if failure is not None]

    def _wanted(self, snapshot: Snapshot) -> list[TP]:
        """What should run and does not: on the source, or known from before and still configured."""
        tasks = self._flow.settings.tasks
        own = {tp for tp in snapshot.partitions() if task_of(tp.topic, tp.partition, tasks) == self._tools.number}
        own |= {tp for tp in self._positions.known() if self._flow.topic_filter.matches(tp.topic)}
        now_s = time.monotonic()
        stopped = [tp for tp in own if not self._positions.is_running(tp)]
        return [tp for tp in stopped if self._states.may_start(tp, now_s) or self._is_back(tp, snapshot)]

    def _is_back(self, tp: TP, snapshot: Snapshot) -> bool:
        """Whether a partition stopped because its topic was gone, and it is there again: that need not wait."""
        topic = snapshot.topics.get(tp.topic)
        reason = self._states.reason(tp)
        if topic is None or reason not in GONE:
            return False
        return tp.partition < (topic.partitions if reason is StopReason.SOURCE_GONE else topic.target_partitions)

    def _hold_back_unasked(self, ready: dict[TP, TargetTopic], deadline: Deadline) -> list[PartitionError]:
        """Take partitions out of `ready` that do not say whether they hold a hanging transaction of the task.

        Raises:
            RetriableError: one does.
        """
        unasked = self._recovery.unasked(ready)
        if not unasked:
            return []
        if self._recovery.is_needed(unasked, deadline):
            raise RetriableError("a hanging transaction of this task was found", op="start partitions")
        return [no_answer(tp, ready.pop(tp).name) for tp in self._recovery.unasked(unasked)]

    def _repair(self, ready: dict[TP, TargetTopic], deadline: Deadline) -> tuple[list[TaskRun], list[PartitionError]]:
        """Offset syncs that repair what an incomplete abort left behind in those that may start.

        Besides: why partitions, which are taken out of `ready`, may not: nothing is known of their last records.
        """
        suspects = [tp for tp in ready if self._tools.sync_repair.is_suspect(tp)]
        if not suspects:
            return [], []
        runs, unanswered = self._tools.sync_repair.check(suspects, self._positions, deadline)
        if runs:
            positions = {str(tp): run.upstream_next for tp, run in runs}
            self._tools.log.warning("transaction_mended", positions=positions, hint=REPAIRED_HINT)
        return runs, [no_answer(tp, ready.pop(tp).name, "what became of the last records") for tp in unanswered]

    # --- what an error means ------------------------------------------------------------------------------------------

    def failed(self, failure: PartitionError) -> Changes:
        """Decide about a running partition that can't go on: skip what retention deleted, if so configured, or stop."""
        tp = failure.tp
        if not self._positions.is_running(tp):
            return NOTHING
        if failure.reason is StopReason.TRUNCATED:
            position = self._positions.committed([tp])[tp]
            budget = self._tools.partition_budget()
            failure, low = self._checks.truncation(failure, position, self._positions.topic_id(tp), budget)
            may_skip = self._flow.settings.on_truncation == "skip" and failure.reason is StopReason.TRUNCATED
            if may_skip and low is not None:
                return Changes(skip=Skip(failure, position, low))
        elif failure.reason is StopReason.TARGET_LOG_SHORTER:
            failure = self._checks.shorter(failure, self._positions.target(tp), self._tools.partition_budget())
        self._tools.context.catalog.ask_refresh()
        return Changes(stop=(failure,))

    def refused(self, target_topics: Mapping[TP, str]) -> Changes:
        """Stop the partitions whose target topics may not be written to: the refusal of a transaction names none.

        Args:
            target_topics: by source partition.

        Raises:
            RetriableError: the syncs topic may not be written to: nothing can go on.
        """
        syncs = self._flow.syncs_topic
        topics = {TP(syncs, self._tools.number): syncs, **target_topics}
        failures = self._checks.unwritable(topics, self._tools.partition_budget())
        for failure in failures:
            if failure.tp.topic == syncs:
                raise RetriableError(str(failure), op="write the positions", code=failure.code)
        return Changes(stop=tuple(failures))

    # --- what trouble on the target means -----------------------------------------------------------------------------

    def is_recovery_due(self) -> bool:
        """Whether the target was in trouble since it was last asked for hanging transactions."""
        return self._recovery.is_due()

    def look_back(self) -> Changes:
        """Ask for hanging transactions of the task, if the target was in trouble since it was last asked.

        Partitions that give no answer stop: before they start again, they are asked.

        Raises:
            RetriableError: there is one, or that could not be found out: the task has to restart.
        """
        if not self.is_recovery_due():
            return NOTHING
        running = self._positions.running()
        self._recovery.postpone(set(self._positions.known()) - set(running))
        if self._recovery.is_needed(running, self._tools.stop_token.budget(RECOVERY_TIMEOUT_S)):
            raise RetriableError("the last transaction has no end in some partition", op="begin a transaction")
        unasked = self._recovery.unasked(running)
        return Changes(stop=tuple(no_answer(tp, self._positions.target(tp).name) for tp in unasked))
