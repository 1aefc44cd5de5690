"""Prometheus metrics: base units, labels flow, task, topic (the source's name), partition."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from replicator.errors import TP, StopReason

_PARTITION = ("flow", "topic", "partition")
_TASK = ("flow", "task")
_DUTY = ("flow", "duty")
_GROUPS = ("flow", "state")
TRANSLATIONS = ("exact", "between", "ahead", "expired", "unknown")
DATA_PLANES = ("records", "batches")
GROUP_STATES = ("synced", "active", "moved", "refused")
TASK_STATES = ("starting", "fencing", "restoring", "running", "halted", "backoff", "fenced", "stopped")


class Metrics:
    """Every metric of one process.

    Args:
        registry: where they are registered; a new one by default, so that tests don't share.
    """

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self.registry = registry or CollectorRegistry()
        r = self.registry
        self.records = Counter("replicator_records", "Records committed on the target", _PARTITION, registry=r)
        self.bytes = Counter(
            "replicator_bytes",
            "Bytes committed on the target: of values, or of whole batches, as the data plane counts",
            _PARTITION,
            registry=r,
        )
        self.skipped = Counter(
            "replicator_skipped_records",
            "Source offsets not replicated, by reason (invariant H)",
            (*_PARTITION, "reason"),
            registry=r,
        )
        self.zero_timestamps = Counter(
            "replicator_zero_timestamps", "Records whose timestamp 0 was written as 1", _PARTITION, registry=r
        )
        self.lag_records = Gauge("replicator_lag_records", "Source offsets not yet replicated", _PARTITION, registry=r)
        self.lag_seconds = Gauge(
            "replicator_lag_seconds", "Age of the newest replicated record while behind, else 0", _PARTITION, registry=r
        )
        self.stopped = Gauge(
            "replicator_partition_stopped", "1 while a partition has stopped alone", (*_PARTITION, "reason"), registry=r
        )
        self.partitions = Gauge("replicator_partitions", "Partitions of a task", (*_TASK, "state"), registry=r)
        self.transactions = Counter("replicator_transactions", "Transactions", (*_TASK, "outcome"), registry=r)
        self.transaction_seconds = Histogram(
            "replicator_transaction_seconds", "From the first append to the commit", _TASK,
            buckets=(0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60), registry=r,
        )  # fmt: skip
        self.task_state = Gauge("replicator_task_state", "1 for the state a task is in", (*_TASK, "state"), registry=r)
        self.task_restarts = Counter("replicator_task_restarts", "Starts after an error", (*_TASK, "error"), registry=r)
        self.last_commit_age = Gauge(
            "replicator_last_commit_age_seconds", "Seconds since the task's last commit", _TASK, registry=r
        )
        self.member = Gauge("replicator_worker_ready", "1 while the worker can replicate", ("flow",), registry=r)
        self._data_plane = Gauge(
            "replicator_data_plane", "1 for the data plane that carries the flow", ("flow", "plane"), registry=r
        )
        self.checkpoints = Counter("replicator_checkpoints", "Checkpoints written", ("flow",), registry=r)
        self.group_partitions = Gauge(
            "replicator_group_partitions",
            "Partitions with a committed offset, by how it translates",
            ("flow", "translation"),
            registry=r,
        )
        self.groups = Gauge("replicator_groups", "Groups, by what group sync does with them", _GROUPS, registry=r)
        self.duty_age = Gauge("replicator_duty_age_seconds", "Seconds since a job last succeeded", _DUTY, registry=r)
        self.duty_failures = Counter("replicator_duty_failures", "Failed attempts of a job", _DUTY, registry=r)

    def data_plane(self, flow: str, plane: str) -> None:
        """Which of `DATA_PLANES` carries the flow."""
        for name in DATA_PLANES:
            self._data_plane.labels(flow, name).set(name == plane)


class JobMetrics:
    """The metrics of one flow's duties. Gauges vanish when the duties end here."""

    def __init__(self, metrics: Metrics, flow: str) -> None:
        self._metrics = metrics
        self._flow = flow

    def began(self, duty: str, succeeded_s: Callable[[], float]) -> None:
        """`succeeded_s`: when it last succeeded, or began, on the monotonic clock."""
        age = self._metrics.duty_age.labels(self._flow, duty)
        age.set_function(lambda: time.monotonic() - succeeded_s())

    def ended(self, duty: str) -> None:
        self._metrics.duty_age.remove(self._flow, duty)

    def failed(self, duty: str) -> None:
        self._metrics.duty_failures.labels(self._flow, duty).inc()

    def checkpoints(self, written: int) -> None:
        self._metrics.checkpoints.labels(self._flow).inc(written)

    def translated(self, partitions: Mapping[str, int]) -> None:
        """How many partitions there are of each of `TRANSLATIONS`."""
        for name in TRANSLATIONS:
            self._metrics.group_partitions.labels(self._flow, name).set(partitions.get(name, 0))

    def groups(self, groups: Mapping[str, int]) -> None:
        """How many groups there are in each of `GROUP_STATES`."""
        for name in GROUP_STATES:
            self._metrics.groups.labels(self._flow, name).set(groups.get(name, 0))

    def let_go(self) -> None:
        """The duties ended here: drop what their next owner sets."""
        for gauge, names in ((self._metrics.group_partitions, TRANSLATIONS), (self._metrics.groups, GROUP_STATES)):
            for name in names:
                with contextlib.suppress(KeyError):
                    gauge.remove(self._flow, name)


class TaskMetrics:
    """The metrics of one task of one flow. Series of a partition vanish when the task lets go of it."""

    def __init__(self, metrics: Metrics, flow: str, task: int) -> None:
        self._metrics = metrics
        self._flow = flow
        self._task = str(task)
        self._lags: set[TP] = set()
        self._stopped: dict[TP, StopReason] = {}
        self._last_commit_s = time.monotonic()

    def _labels(self, tp: TP) -> tuple[str, str, str]:
        return self._flow, tp.topic, str(tp.partition)

    def state(self, state: str) -> None:
        """The task is in `state`, and in no other."""
        for name in TASK_STATES:
            self._metrics.task_state.labels(self._flow, self._task, name).set(1 if name == state else 0)
        if state == "running":
            self._last_commit_s = time.monotonic()
            age = self._metrics.last_commit_age.labels(self._flow, self._task)
            age.set_function(lambda: time.monotonic() - self._last_commit_s)

    def committed(self, tp: TP, records: int, size_bytes: int) -> None:
        self._metrics.records.labels(*self._labels(tp)).inc(records)
        self._metrics.bytes.labels(*self._labels(tp)).inc(size_bytes)

    def transaction(self, outcome: str, seconds: float) -> None:
        """A transaction ended: ``committed``, ``aborted`` or ``unknown``."""
        self._metrics.transactions.labels(self._flow, self._task, outcome).inc()
        if outcome == "committed":
            self._last_commit_s = time.monotonic()
            self._metrics.transaction_seconds.labels(self._flow, self._task).observe(seconds)

    def restarted(self, error: str) -> None:
        self._metrics.task_restarts.labels(self._flow, self._task, error).inc()

    def skipped(self, tp: TP, records: int, reason: str) -> None:
        self._metrics.skipped.labels(*self._labels(tp), reason).inc(records)

    def zero_timestamps(self, tp: TP, records: int) -> None:
        self._metrics.zero_timestamps.labels(*self._labels(tp)).inc(records)

    def lag(self, tp: TP, records: int, seconds: float) -> None:
        self._lags.add(tp)
        self._metrics.lag_records.labels(*self._labels(tp)).set(records)
        self._metrics.lag_seconds.labels(*self._labels(tp)).set(seconds)

    def partition_stopped(self, tp: TP, reason: StopReason) -> None:
        self.partition_runs(tp)
        self._stopped[tp] = reason
        self._metrics.stopped.labels(*self._labels(tp), reason.value).set(1)

    def partition_runs(self, tp: TP) -> None:
        """The partition is not stopped (any more)."""
        reason = self._stopped.pop(tp, None)
        if reason is not None:
            self._metrics.stopped.remove(*self._labels(tp), reason.value)

    def partitions(self, running: int, stopped: int) -> None:
        self._metrics.partitions.labels(self._flow, self._task, "running").set(running)
        self._metrics.partitions.labels(self._flow, self._task, "stopped").set(stopped)

    def let_go(self) -> None:
        """The task ended here: drop the gauges that its next owner sets."""
        for tp in self._lags:
            self._metrics.lag_records.remove(*self._labels(tp))
            self._metrics.lag_seconds.remove(*self._labels(tp))
        self._lags.clear()
        for tp in list(self._stopped):
            self.partition_runs(tp)
        self.partitions(0, 0)
        self._metrics.last_commit_age.remove(self._flow, self._task)
