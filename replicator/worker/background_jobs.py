"""The background jobs of a flow, run by the owner of task 0: checkpoints, group sync, lag group, heartbeats.

Each job has a thread of its own, so that a job that waits for a cluster delays no other job, and none delays
replication. A job that fails is tried again with backoff; that is a log entry, a metric and a line in `/readyz`, no
more. When task 0 moves, its jobs end; two owners that overlap do no harm (`checkpoints`, `group_sync`).

Log events and the metrics' label call a job `duty`.
"""

from __future__ import annotations

import threading
import time
from typing import Protocol

from replicator.checkpoints.checkpoints import Checkpoints
from replicator.checkpoints.group_sync import GroupSync
from replicator.checkpoints.heartbeats import Heartbeats
from replicator.checkpoints.lag_group import LagGroup
from replicator.config import Flow
from replicator.deadline import REFUSED_RETRY_S, Deadline, StopToken, backoff_s
from replicator.errors import KafkaOpError, ReplicatorError
from replicator.kafka.cluster import AdminClient, Cluster
from replicator.kafka.topics import Catalog
from replicator.log import Logger
from replicator.metrics import JobMetrics

FIRST_RETRY_S = 1.0
RETRY_AT_MOST_S = 30.0


class BackgroundJob(Protocol):
    """A step that is repeated at an interval."""

    name: str
    interval_s: float
    note: str
    """Why the last step was not complete; empty when it was."""

    def step(self, leash: StopToken, timeout_s: float) -> None:
        """Do one step.

        Raises:
            KafkaOpError: the step failed.
        """

    def close(self) -> None:
        """Close the clients."""


class JobThread(threading.Thread):
    """Repeats one job at its interval until `leash` says to finish.

    Args:
        timeout_s: for each request of a step.
    """

    def __init__(self, job: BackgroundJob, timeout_s: float, metrics: JobMetrics, log: Logger) -> None:
        super().__init__(name=job.name, daemon=True)
        self.leash = StopToken()
        self.problem = ""
        """Why the last step failed; empty when it succeeded."""
        self.job = job
        self._timeout_s = timeout_s
        self._metrics = metrics
        self._log = log.bind(duty=job.name)
        self._succeeded_s = time.monotonic()

    def run(self) -> None:
        finishing = self.leash.finishing
        self._metrics.began(self.job.name, lambda: self._succeeded_s)
        waits = backoff_s(FIRST_RETRY_S, RETRY_AT_MOST_S)
        while not finishing.is_set():
            began_s = time.monotonic()
            try:
                self.job.step(self.leash, self._timeout_s)
            except ReplicatorError as error:
                self._wait_after(error, next(waits))
            except Exception as error:
                self.problem = f"unexpected: {error}"
                self._metrics.failed(self.job.name)
                self._log.exception("duty_failed_unexpectedly", hint="this is a bug in replicator; please report it")
                finishing.wait(RETRY_AT_MOST_S)
            else:
                self._succeed()
                waits = backoff_s(FIRST_RETRY_S, RETRY_AT_MOST_S)
                took_s = time.monotonic() - began_s
                finishing.wait(max(self.job.interval_s - took_s, min(took_s, self.job.interval_s)))
        self.job.close()
        self._metrics.ended(self.job.name)

    def _wait_after(self, error: ReplicatorError, wait_s: float) -> None:
        if self.leash.finishing.is_set():
            return
        is_refused = isinstance(error, KafkaOpError) and "AUTHORIZATION" in error.code
        wait_s = REFUSED_RETRY_S if is_refused else wait_s
        report = self._log.debug if str(error) == self.problem else self._log.warning
        report("duty_failed", error=str(error), retry_in_s=wait_s, then="replication continues")
        self.problem = str(error)
        self._metrics.failed(self.job.name)
        self.leash.finishing.wait(wait_s)

    def _succeed(self) -> None:
        if self.problem:
            self._log.info("duty_works_again")
        self.problem = ""
        self._succeeded_s = time.monotonic()


class BackgroundJobs:
    """The background jobs of one flow, from `start` to `finish`.

    Args:
        timeout_s: for each request.
    """

    def __init__(
        self, flow: Flow, clusters: tuple[Cluster, Cluster], admins: tuple[AdminClient, AdminClient], catalog: Catalog,
        timeout_s: float, metrics: JobMetrics, log: Logger,
    ) -> None:  # fmt: skip
        self._metrics = metrics
        self._log = log
        checkpoints = Checkpoints(flow, clusters, admins, catalog, metrics, log)
        jobs: list[BackgroundJob] = [checkpoints, LagGroup(flow, clusters[0], checkpoints, log)]
        if flow.settings.sync_groups:
            jobs.append(GroupSync(flow, clusters[1], checkpoints, catalog, metrics, log))
        if flow.settings.heartbeat_interval_s > 0:
            jobs.append(Heartbeats(flow, clusters[0], admins[0], catalog))
        self._threads = [JobThread(job, timeout_s, metrics, log) for job in jobs]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def problems(self) -> list[str]:
        """The problems, one line per job; none of them stops replication."""
        lines = [(thread.job.name, thread.problem or thread.job.note) for thread in self._threads]
        return [f"{name}: {text}" for name, text in lines if text]

    def finish(self, within_s: float) -> None:
        """End within `within_s`; returns at once."""
        for thread in self._threads:
            thread.leash.finish(within_s)

    def join(self, deadline: Deadline) -> None:
        """Wait for the end; a job that hangs is abandoned, and can do no harm."""
        for thread in self._threads:
            thread.join(deadline.left_s())
            if thread.is_alive():
                self._log.warning("duty_left_behind", duty=thread.job.name)
        self._metrics.let_go()
