"""One task, in a thread of its own, from the moment this worker owns it until another one does.

The steps when the worker gets the task, and again after every error that restarts it:

    1. ask the group whether this worker still owns the task       a zombie must not fence its successor (ADR 0001)
    2. `plane.open`, which is `init_transactions`: it fences the last owner and ends its transaction
    3. read the task's partition of the syncs topic, read_committed, to its stable end
       - the target lost a marker, so that a transaction hangs in some partition: end it, and begin again at 1
         (`transaction_recovery`, ADR 0008)
       - the task is halted (`syncs.halts`): close the plane, wait until the halt is lifted, and begin again at 1
    4. take every position from there; commit a start position for each partition that has none      (`assignment`)
    5. assign the partitions to the plane, and copy      (`transaction_loop`)

Reading before fencing would be the bug: the last owner could commit between the two, and its records would be
replicated twice. After step 2 all markers of the last owner's transactions are written, so the end that step 3 reads to
is stable.

A start position is an offset sync without records, in a transaction of its own, committed before anything is fetched:
`start_from: latest` has to mean the same offset after a crash.

An idle task writes nothing, so it would not notice that a command (a halt, `recopy`) wrote to the syncs topic as the
task, after an `init_transactions` under the task's id. The worker's group member reads the syncs topic from its end and
says so (`Task.mark_outdated`).

Invariants:
    C: nothing is appended before step 2 returned, and nothing after a newer owner's step 2.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from contextlib import closing
from typing import Any

from replicator.copy.assignment import TaskAssignment
from replicator.copy.partition_states import PartitionStates
from replicator.copy.positions import Positions
from replicator.copy.stall_detector import StallDetector
from replicator.copy.sync_repair import SyncRepair
from replicator.copy.task_context import TaskContext, TaskTools
from replicator.copy.transaction_loop import BatchTooLargeError, TransactionLoop
from replicator.copy.transaction_recovery import RECOVERY_TIMEOUT_S, TransactionRecovery
from replicator.deadline import Deadline, StopToken, backoff_s
from replicator.errors import FencedError, LostError, ReplicatorError, RetriableError
from replicator.kafka.topics import Snapshot
from replicator.metrics import TaskMetrics
from replicator.planes import BATCH_BYTES, Plane
from replicator.syncs.halts import halted_text
from replicator.syncs.reader import SyncsReader
from replicator.syncs.state import SyncsState, TaskState

CONFIRM_TIMEOUT_S = 10.0
OPEN_TIMEOUT_S = 10.0
"""Fencing takes milliseconds; a client that has not done it by then is replaced by a new one."""
CATALOG_TIMEOUT_S = 60.0
RESTORE_TIMEOUT_S = 120.0
LIFTED_WITHIN_S = 0.2
"""How often a halted task checks whether it has to finish."""
STEADY_AFTER_S = 30.0
"""A task that ran for so long starts again as quickly as after a first failure."""
FENCED_HINT = "a newer owner has the task, or the transaction timed out on the broker; nothing of it was written"


class Task(threading.Thread):
    """Runs until its stop token says to finish. An error restarts it from step 1, with backoff; none ends it.

    Args:
        number: the task, and its partition of the syncs topic.

    Attributes:
        state: one of `metrics.TASK_STATES`.
        stop_token: for its owner, to end it.
    """

    def __init__(self, number: int, context: TaskContext, metrics: TaskMetrics) -> None:
        super().__init__(name=f"task-{number}", daemon=True)
        self.number = number
        self.state = "starting"
        self.problem = ""
        """Why the task does not run; empty when it does."""
        self.stop_token = StopToken()
        self._context = context
        self._flow = context.flow
        self._log = context.log.bind(task=number)
        self._metrics = metrics
        self._tools = TaskTools(
            number=number,
            context=context,
            metrics=metrics,
            stop_token=self.stop_token,
            log=self._log,
            states=PartitionStates(self._flow.settings.refresh_topics_interval_s),
            stall_detector=StallDetector(context.checks.ask_ends, context.catalog.ask_refresh),
            sync_repair=SyncRepair(self._flow, context.target, number),
            on_aborts=self._on_aborts,
        )
        self._batch_bytes = BATCH_BYTES

    def run(self) -> None:
        finishing = self.stop_token.finishing
        waits = backoff_s(0.25, 10.0)
        while not finishing.is_set():
            began_s = time.monotonic()
            try:
                self._live()
            except LostError:
                self._log.info("task_lost")
            except ReplicatorError as error:
                self._report(error)
                self.problem = str(error)
                if time.monotonic() - began_s > STEADY_AFTER_S:
                    waits = backoff_s(0.25, 10.0)
                self._set_state("fenced" if isinstance(error, FencedError) else "backoff")
                finishing.wait(next(waits))
            except Exception as error:
                self.problem = f"{type(error).__name__}: {error}"
                self._log.exception("task_failed_unexpectedly", hint="this is a bug in replicator; please report it")
                self._metrics.restarted("unexpected")
                self._set_state("backoff")
                finishing.wait(next(waits))
        self._set_state("stopped")
        self._metrics.let_go()

    def _report(self, error: ReplicatorError) -> None:
        if isinstance(error, BatchTooLargeError):
            self._batch_bytes = error.limit_bytes
        if self.stop_token.finishing.is_set():
            self._log.info("task_let_go", error=str(error))
        elif isinstance(error, FencedError):
            self._log.warning("task_fenced", error=str(error), hint=FENCED_HINT)
        else:
            self._log.warning("task_restarts", error=str(error), kind=type(error).__name__)
        self._metrics.restarted(type(error).__name__)

    def _set_state(self, state: str) -> None:
        self.state = state
        self._metrics.state(state)

    def _on_aborts(self, problem: str) -> None:
        """The loop goes on trying, but a task that only aborts does not run."""
        self.problem = problem
        state = "backoff" if problem else "running"
        if state != self.state:
            self._set_state(state)

    def _live(self) -> None:
        """Take steps 1 to 5, and copy until the task ends, is halted, or an error restarts it."""
        self._set_state("fencing")
        self._tools.outdated.clear()  # before the restore: `mark_outdated` comes again for what is written after it
        budget = self.stop_token.budget
        if not self._context.confirm(self.number, budget(CONFIRM_TIMEOUT_S), self.stop_token.finishing.is_set):
            raise RetriableError("the group does not confirm that this worker owns the task", op="own the task")
        settings = self._context.plane_settings(self.number, self._batch_bytes)
        plane = self._context.make_plane(settings, self._metrics)
        try:
            plane.open(budget(OPEN_TIMEOUT_S))
            self._set_state("restoring")
            state = self._restore()
            recovery = TransactionRecovery(self._flow, self._context.target, self.number, settings, self._log)
            if recovery.recover(state.newest, budget(RECOVERY_TIMEOUT_S)):
                raise RetriableError("hanging transactions were found and ended: the task restarts", op="recover")
            halt = state.halted.get(self.number)
            if halt is None:
                self._copy(plane, state, recovery)
        finally:
            plane.close()
        if halt is not None:
            self._stand_by(halt)

    def mark_outdated(self) -> None:
        """Restart the task, because a command wrote as this task; an idle one would not notice that it is fenced."""
        self._tools.outdated.set()

    def _stand_by(self, halt: Mapping[str, Any]) -> None:
        """Wait, without a producer, until the halt is lifted or the task has to finish."""
        self.problem = halted_text(self._flow.name, {self.number: halt})
        self._set_state("halted")
        self._log.warning("task_halted", **{name: halt.get(name) for name in ("reason", "id", "by", "at")})
        finishing = self.stop_token.finishing
        with closing(self._reader()) as reader:
            state = reader.read_to_end(self.stop_token.budget(RESTORE_TIMEOUT_S), finishing.is_set)
            while self.number in state.halted and not finishing.is_set():
                reader.follow(LIFTED_WITHIN_S)
        if not finishing.is_set():
            self._log.info("task_resumes")

    def _copy(self, plane: Plane, state: SyncsState, recovery: TransactionRecovery) -> None:
        plane.assign({})
        positions = Positions(state.newest, state.targets)
        self._tools.stall_detector.begin()
        assignment = TaskAssignment(self._tools, positions, recovery)
        loop = TransactionLoop(self._tools, plane, positions, assignment, self._batch_bytes)
        loop.start(self._await_catalog(state))
        self._set_state("running")
        self.problem = ""
        self._log.info("task_runs", partitions=len(positions.running()), stopped=len(self._tools.states))
        loop.run()

    def _reader(self) -> SyncsReader[TaskState]:
        return SyncsReader(self._context.target, self._flow.syncs_topic, [self.number], TaskState())

    def _restore(self) -> SyncsState:
        began_s = time.monotonic()
        with closing(self._reader()) as reader:
            state = reader.read_to_end(self.stop_token.budget(RESTORE_TIMEOUT_S), self.stop_token.finishing.is_set)
            end = reader.read_to(self.number)
        self._tools.sync_repair.suspect(state, end, self.stop_token.budget(RESTORE_TIMEOUT_S))
        self._tools.states.begin(state.stopped, state.newest)
        seconds = round(time.monotonic() - began_s, 3)
        self._log.info("task_restored", positions=len(state.newest), syncs=state.records, seconds=seconds)
        return state

    def _await_catalog(self, state: SyncsState) -> Snapshot:
        deadline = self.stop_token.budget(CATALOG_TIMEOUT_S)
        catalog = self._context.catalog
        while not self.stop_token.finishing.is_set():
            snapshot = catalog.wait_for(1, Deadline(0.2))
            if snapshot is not None:
                return catalog.refresh(deadline) if self._is_behind(snapshot, state) else snapshot
            if deadline.expired:
                raise RetriableError("the topics of the clusters are not known yet", op="list topics")
        raise LostError

    def _is_behind(self, snapshot: Snapshot, state: SyncsState) -> bool:
        """Whether the last owner knew partitions that `snapshot` lacks: it may be older than they are."""
        if state.forgotten:
            return True
        for tp in state.newest:
            topic = snapshot.topics.get(tp.topic)
            is_there = topic is not None and tp.partition < min(topic.partitions, topic.target_partitions)
            if not is_there and self._flow.topic_filter.matches(tp.topic):
                return True
        return False
