"""What the owner of task 0 does beside its task: checkpoints, group offset sync, positions, heartbeats.

Each duty has a thread of its own, so that one that waits for a cluster holds no other up, and none holds replication
up. A duty that fails is tried again with backoff; that is a log entry, a metric and a line in `/readyz`, no more. When
task 0 moves, the duties end with it; two owners that overlap do no harm (`checkpoints`, `group_sync`).
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
    """Something to do again and again."""

    name: str
    interval_s: float
    note: str
    """What keeps it from doing all of it; empty when nothing does."""

    def step(self, leash: StopToken, timeout_s: float) -> None:
        """Do it once.

        Raises:
            KafkaOpError: it was not possible.
        """

    def close(self) -> None:
        """Let go of clients."""


class JobThread(threading.Thread):
    """Does one duty at its interval until `leash` says to finish.

    Args:
        timeout_s: for each request of a step.
    """

    def __init__(self, duty: BackgroundJob, timeout_s: float, metrics: JobMetrics, log: Logger) -> None:
        super().__init__(name=duty.name, daemon=True)
        self.leash = StopToken()
        self.problem = ""
        """Why it does not succeed; empty when it does."""
        self.duty = duty
        self._timeout_s = timeout_s
        self._metrics = metrics
        self._log = log.bind(duty=duty.name)
        self._succeeded_s = time.monotonic()

    def run(self) -> None:
        finishing = self.leash.finishing
        self._metrics.began(self.duty.name, lambda: self._succeeded_s)
        waits = backoff_s(FIRST_RETRY_S, RETRY_AT_MOST_S)
        while not finishing.is_set():
            began_s = time.monotonic()
            try:
                self.duty.step(self.leash, self._timeout_s)
            except ReplicatorError as error:
                self._wait_after(error, next(waits))
            except Exception as error:
                self.problem = f"unexpected: {error}"
                self._metrics.failed(self.duty.name)
                self._log.exception("duty_failed_unexpectedly", hint="a fault of this program: please report it")
                finishing.wait(RETRY_AT_MOST_S)
            else:
                self._succeed()
                waits = backoff_s(FIRST_RETRY_S, RETRY_AT_MOST_S)
                took_s = time.monotonic() - began_s
                finishing.wait(max(self.duty.interval_s - took_s, min(took_s, self.duty.interval_s)))
        self.duty.close()
        self._metrics.ended(self.duty.name)

    def _wait_after(self, error: ReplicatorError, wait_s: float) -> None:
        if self.leash.finishing.is_set():
            return
        is_refused = isinstance(error, KafkaOpError) and "AUTHORIZATION" in error.code
        wait_s = REFUSED_RETRY_S if is_refused else wait_s
        report = self._log.debug if str(error) == self.problem else self._log.warning
        report("duty_failed", error=str(error), retry_in_s=wait_s, then="replication goes on")
        self.problem = str(error)
        self._metrics.failed(self.duty.name)
        self.leash.finishing.wait(wait_s)

    def _succeed(self) -> None:
        if self.problem:
            self._log.info("duty_works_again")
        self.problem = ""
        self._succeeded_s = time.monotonic()


class BackgroundJobs:
    """The duties of one flow, from `start` to `finish`.

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
        duties: list[BackgroundJob] = [checkpoints, LagGroup(flow, clusters[0], checkpoints, log)]
        if flow.settings.sync_groups:
            duties.append(GroupSync(flow, clusters[1], checkpoints, catalog, metrics, log))
        if flow.settings.heartbeat_interval_s > 0:
            duties.append(Heartbeats(flow, clusters[0], admins[0], catalog))
        self._threads = [JobThread(duty, timeout_s, metrics, log) for duty in duties]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def problems(self) -> list[str]:
        """What does not work, one line for each duty; none of it stops replication."""
        lines = [(thread.duty.name, thread.problem or thread.duty.note) for thread in self._threads]
        return [f"{name}: {text}" for name, text in lines if text]

    def finish(self, within_s: float) -> None:
        """End within `within_s`; returns at once."""
        for thread in self._threads:
            thread.leash.finish(within_s)

    def join(self, deadline: Deadline) -> None:
        """Wait for the end; a duty that hangs is left behind, and can do no harm."""
        for thread in self._threads:
            thread.join(deadline.left_s())
            if thread.is_alive():
                self._log.warning("duty_left_behind", duty=thread.duty.name)
        self._metrics.let_go()
