"""One flow in one process: a member of the workers' group, which runs the tasks that Kafka assigns to it.

    connect → syncs topic → catalog thread + group → poll, until stopped → tasks commit or abort → leave the group

The member's consumer reads its tasks' partitions only to see halts and recopies (`syncs.halts`): an idle task writes
nothing, and would not notice that it is fenced.

Kafka's group protocol is the scheduler: nothing here decides which worker runs a task. Before a task fences its former
owner, it asks the group whether this worker still owns it (`membership`).
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Mapping
from typing import Any

from replicator.config import Flow, Settings
from replicator.copy.partition_checks import PartitionChecks
from replicator.copy.task import Task
from replicator.copy.task_context import TaskContext
from replicator.deadline import Deadline, backoff_s
from replicator.errors import ConfigError, ReplicatorError, RetriableError
from replicator.kafka.client_properties import client_id
from replicator.kafka.cluster import (
    OFFSET_END,
    WATCHED,
    AdminClient,
    Cluster,
    Consumer,
    KafkaError,
    KafkaException,
    Message,
    TopicPartition,
    leave_group,
)
from replicator.kafka.topics import Catalog
from replicator.log import get_logger
from replicator.metrics import JobMetrics, Metrics, TaskMetrics
from replicator.names import transactional_id
from replicator.offset_map.sync_format import WireError, task_record
from replicator.planes import Plane, PlaneSettings
from replicator.planes.batches.plane import BatchesPlane
from replicator.planes.records import RecordsPlane
from replicator.planes.select import Choice, choose
from replicator.syncs.reader import ensure_topic
from replicator.worker.background_jobs import BackgroundJobs
from replicator.worker.membership import Membership

POLL_S = 0.05
FOLLOW_LAZILY: Mapping[str, Any] = {"fetch.wait.max.ms": 500, "fetch.min.bytes": 65_536, "queued.min.messages": 1000}
"""The member's consumer reads twice a second, not each commit of its tasks."""
PROBLEM_FADES_S = 30.0
"""The client repeats its errors about the group; one that it has not repeated for so long is over."""
STALLED_AFTER_S = 30.0
STOP_MARGIN_S = 1.0
"""How long a stopping worker waits for a thread that only reads."""
JOBS_TASK = 0
"""The owner of this task runs the flow's background jobs."""


class FlowWorker(threading.Thread):
    """Runs one flow in this process until `stop`.

    Args:
        flow: what to replicate.
        settings: of the process.
        metrics: of the process.
    """

    def __init__(self, flow: Flow, settings: Settings, metrics: Metrics) -> None:
        super().__init__(name=flow.name, daemon=True)
        self._flow = flow
        self._settings = settings
        self._metrics = metrics
        self._log = get_logger(flow=flow.name)
        self._stopping = threading.Event()
        self._source = Cluster(flow.source, "source", flow.source_cluster, flow.group)
        self._target = Cluster(flow.target, "target", flow.target_cluster, flow.group)
        self._membership = Membership(self._target, flow.syncs_topic)
        self._tasks: dict[int, Task] = {}
        self._admins: tuple[AdminClient, AdminClient] | None = None
        self._jobs: BackgroundJobs | None = None
        self._context: TaskContext | None = None
        self._choice = Choice("")
        self._polled_s = time.monotonic()
        self._joined = False
        self._leaves = False
        self._problem = "connecting"
        self._problem_s = 0.0
        self.failure: ReplicatorError | None = None
        """Why the worker ended by itself; None while it runs and after a stop."""

    # --- called by other threads --------------------------------------------------------------------------------------

    def stop(self) -> None:
        """Ask the worker to commit or abort, leave the group, and end."""
        self._stopping.set()

    def is_alive_inside(self) -> bool:
        """Whether the polling loop runs (for ``/livez``): it may wait, or have ended, but must not hang."""
        limit_s = STALLED_AFTER_S + self._settings.worker.shutdown_timeout_s + 2 * self._settings.connect_timeout_s
        return self.failure is not None or time.monotonic() - self._polled_s < limit_s

    def not_ready(self) -> str:
        """Why the worker can't replicate right now; empty when it can."""
        if self._problem:
            return self._problem
        if halted := [task.problem for task in list(self._tasks.values()) if task.state == "halted"]:
            return halted[0]
        if self._context is not None and self._context.catalog.problem:
            return self._context.catalog.problem
        if not self._joined:
            return f"joining the group {self._flow.group} on {self._flow.target}"
        waiting = {task.number: task.state for task in list(self._tasks.values()) if task.state != "running"}
        if waiting:
            states = ", ".join(f"{number} {state}" for number, state in sorted(waiting.items()))
            problems = [task.problem for task in list(self._tasks.values()) if task.problem]
            why = self._source.recent_error() or self._target.recent_error() or "; ".join(problems[:1])
            return f"tasks not running: {states}" + (f" ({why})" if why else "")
        return ""

    def notes(self) -> list[str]:
        """Problems of background jobs, which do not stop replication."""
        jobs = self._jobs
        return jobs.problems() if jobs is not None else []

    # --- the thread ---------------------------------------------------------------------------------------------------

    def run(self) -> None:
        self._metrics.member.labels(self._flow.name).set_function(lambda: 0.0 if self.not_ready() else 1.0)
        waits = backoff_s(0.5, 10.0)
        while not self._stopping.is_set():
            self._polled_s = time.monotonic()
            try:
                self._work()
            except ConfigError as error:
                self.failure = error
                self._problem = str(error)
                self._log.error("worker_refused_to_run", error=str(error))
                return
            except ReplicatorError as error:
                wait_s = next(waits)
                self._problem = str(error)
                self._log.error("worker_not_ready", error=str(error), retry_in_s=wait_s)
                self._stopping.wait(wait_s)
            except Exception as error:
                self._problem = f"unexpected: {error}"
                self._log.exception("worker_failed_unexpectedly", hint="this is a bug in replicator; please report it")
                self._stopping.wait(next(waits))
        self._log.info("worker_stopped")

    def _work(self) -> None:
        """Connect, and stay in the group until stopped."""
        admins = self._connect()
        if admins is None:
            return
        flow = self._flow
        timeout_s = self._settings.connect_timeout_s
        self._source.lost = self._target.lost = False
        catalog = Catalog(flow, self._source, self._target, admins, self._log)
        self._source.on_down = self._target.on_down = catalog.ask_refresh
        ended = threading.Event()
        keeper = threading.Thread(target=catalog.keep_fresh, args=(ended, timeout_s), name="topics", daemon=True)
        keeper.start()
        try:
            self._choice = choose(flow, (self._source, self._target), timeout_s)
            self._log.info("data_plane_chosen", plane=self._choice.kind, reason=self._choice.reason)
            self._metrics.data_plane(flow.name, self._choice.kind)
            ensure_topic(admins[1], self._target, flow.syncs_topic, flow.settings.tasks, flow.name, Deadline(timeout_s))
            self._context = self._make_context(catalog, admins)
            self._admins = admins
            self._problem = ""
            self._be_member()
        finally:
            ended.set()
            keeper.join(STOP_MARGIN_S if self._stopping.is_set() else timeout_s)  # a cluster may hang; a stop must not

    def _connect(self) -> tuple[AdminClient, AdminClient] | None:
        """Admin clients of both clusters, connected in parallel; None when stopped meanwhile.

        Raises:
            KafkaOpError: one of them does not answer; the text names it.
        """
        found: dict[str, AdminClient | ReplicatorError] = {}

        def connect(cluster: Cluster) -> None:
            try:
                found[cluster.alias] = cluster.connect(self._settings.connect_timeout_s, WATCHED)
            except ReplicatorError as error:
                found[cluster.alias] = error

        clusters = (self._source, self._target)
        threads = [threading.Thread(target=connect, args=(cluster,), daemon=True) for cluster in clusters]
        for thread in threads:
            thread.start()
        deadline = Deadline(self._settings.connect_timeout_s + 5)
        while any(thread.is_alive() for thread in threads) and not deadline.expired:
            if self._stopping.wait(0.02):
                return None
        admins = []
        for cluster in clusters:
            result = found.get(cluster.alias)
            if isinstance(result, AdminClient):
                admins.append(result)
            else:
                raise result or ConfigError(f"clusters.{cluster.alias}", "the client did not answer")
        if self._source.brokers & self._target.brokers:
            text = f"clusters.{self._flow.source} and clusters.{self._flow.target} are the same Kafka cluster"
            raise ConfigError(f"flows.{self._flow.name}", f"{text}; the flow would replicate its own records endlessly")
        return admins[0], admins[1]

    def _make_context(self, catalog: Catalog, admins: tuple[AdminClient, AdminClient]) -> TaskContext:
        return TaskContext(
            flow=self._flow,
            source=self._source,
            target=self._target,
            catalog=catalog,
            checks=PartitionChecks(self._flow, self._source, self._target, catalog, admins),
            log=self._log,
            confirm=self._membership.confirm,
            plane_settings=self._plane_settings,
            make_plane=self._make_plane,
        )

    def _plane_settings(self, task: int, batch_bytes: int) -> PlaneSettings:
        flow = self._flow
        return PlaneSettings(
            transactional_id=transactional_id(flow.source, flow.target, task),
            transaction_timeout_s=flow.settings.transaction_timeout_s,
            compression=flow.settings.compression,
            buffer_bytes=self._settings.worker.buffer_bytes // flow.settings.tasks,
            batch_bytes=batch_bytes,
        )

    def _make_plane(self, settings: PlaneSettings, metrics: TaskMetrics) -> Plane:
        if self._choice.kind == "batches":
            return BatchesPlane(self._source, self._target, settings)
        return RecordsPlane(self._source, self._target, settings, metrics.zero_timestamps)

    def _be_member(self) -> None:
        session_ms = int(self._settings.worker.session_timeout_s * 1000)
        consumer = self._target.consumer(
            {
                "client.id": client_id(),
                "partition.assignment.strategy": "cooperative-sticky",
                "session.timeout.ms": session_ms,
                "heartbeat.interval.ms": min(1000, max(100, session_ms // 4)),  # by it members learn of a rebalance
                "auto.offset.reset": "latest",
                **FOLLOW_LAZILY,
                **WATCHED,
                "on_commit": self._membership.committed,
            }
        )
        consumer.subscribe(
            [self._flow.syncs_topic], on_assign=self._assigned, on_revoke=self._revoked, on_lost=self._lost
        )
        self._log.info("worker_joins", group=self._flow.group, member=client_id())
        try:
            while not self._stopping.is_set():
                self._polled_s = time.monotonic()
                self._poll(consumer)
                self._membership.serve(consumer)
                self._look_after_clients()
        finally:
            self._leave(consumer)

    def _leave(self, consumer: Consumer) -> None:
        self._leaves = True
        try:
            self._finish(dict(self._tasks))
            leave_group(consumer)
        except KafkaException as cause:
            raise self._target.error(cause, op=f"leave {self._flow.group}") from cause
        finally:
            self._joined = self._leaves = False

    def _look_after_clients(self) -> None:
        """Check that the clients that live as long as the membership still know a broker.

        Raises:
            RetriableError: one does not, and never will again: all clients have to be created again.
        """
        for admin in self._admins or ():
            admin.poll(0)  # delivers its statistics
        for cluster in (self._source, self._target):
            if cluster.lost:
                text = f"a client lost its brokers: {cluster.alias} reported none while it was shutting down"
                raise RetriableError(text, op=f"ask {cluster.alias}", hint="the worker reconnects with new clients")

    def _poll(self, consumer: Consumer) -> None:
        try:
            message = consumer.poll(POLL_S)
        except (KafkaException, SystemError) as cause:
            raise self._target.error(cause, op=f"stay in the group {self._flow.group}") from cause
        error = message.error() if message is not None else None
        if message is not None and error is None:
            self._look_for_commands(message)
        if error is not None:
            topic = self._flow.syncs_topic
            failure = self._target.error(error, op=f"stay in the group {self._flow.group}", right="READ", topic=topic)
            is_new_topic = error.code() == KafkaError.UNKNOWN_TOPIC_OR_PART
            if not is_new_topic and not isinstance(failure, RetriableError):
                raise failure
            problem = "" if is_new_topic else str(failure)
            if problem and problem != self._problem:
                self._log.warning("worker_not_ready", error=problem)
            self._problem, self._problem_s = problem, time.monotonic()
        elif self._problem and time.monotonic() - self._problem_s > PROBLEM_FADES_S:
            self._problem = ""

    def _look_for_commands(self, message: Message) -> None:
        """Stop a task of this worker that a command has written to, to halt it or to delete its runs.

        Reading begins at the end of the log shortly after the assignment; what was written before that is read by the
        task itself, or fences it.
        """
        record = None
        with contextlib.suppress(WireError):  # the task reads it when it starts, and reports it
            record = task_record(message.key() or b"", message.value())
        task = self._tasks.get(message.partition() or 0)
        if record is not None and record.body is not None and task is not None:
            task.mark_outdated()

    def _assigned(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        assert self._context is not None
        consumer.incremental_assign([TopicPartition(it.topic, it.partition, OFFSET_END) for it in partitions])
        if self._leaves:
            return
        self._joined = True
        self._problem = ""
        self._log.info("tasks_assigned", tasks=sorted(p.partition for p in partitions))
        for partition in partitions:
            metrics = TaskMetrics(self._metrics, self._flow.name, partition.partition)
            task = Task(partition.partition, self._context, metrics)
            self._tasks[partition.partition] = task
            task.start()
            if partition.partition == JOBS_TASK:
                self._start_jobs(self._context)

    def _start_jobs(self, context: TaskContext) -> None:
        assert self._admins is not None
        clusters = (self._source, self._target)
        metrics = JobMetrics(self._metrics, self._flow.name)
        timeout_s = self._settings.connect_timeout_s
        self._jobs = BackgroundJobs(self._flow, clusters, self._admins, context.catalog, timeout_s, metrics, self._log)
        self._jobs.start()

    def _revoked(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self._log.info("tasks_revoked", tasks=sorted(p.partition for p in partitions))
        self._finish(self._taken(partitions))
        consumer.incremental_unassign(partitions)

    def _lost(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self._log.warning("tasks_lost", tasks=sorted(p.partition for p in partitions), hint="the session timed out")
        tasks = self._taken(partitions)
        for task in tasks.values():
            task.stop_token.abandon()
        self._finish(tasks)
        consumer.incremental_unassign(partitions)

    def _taken(self, partitions: list[TopicPartition]) -> dict[int, Task]:
        numbers = [p.partition for p in partitions if p.partition in self._tasks]
        return {number: self._tasks.pop(number) for number in numbers}

    def _finish(self, tasks: dict[int, Task]) -> None:
        """Stop these tasks together, within one deadline; a task that hangs is fenced by its next owner."""
        timeout_s = self._settings.worker.shutdown_timeout_s
        deadline = Deadline(timeout_s)
        jobs = self._jobs if JOBS_TASK in tasks else None
        if jobs is not None:
            self._jobs = None
            jobs.finish(timeout_s)
        for task in tasks.values():
            task.stop_token.finish(timeout_s)
        for number, task in tasks.items():
            task.join(deadline.left_s())
            self._tasks.pop(number, None)
            if task.is_alive():
                self._log.warning("task_left_behind", task=number, hint="its next owner aborts its transaction")
        if jobs is not None:
            jobs.join(deadline)
