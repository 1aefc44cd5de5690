"""What a task works with: what all tasks of a worker have in common, and what one task keeps over its restarts."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from replicator.config import Flow
from replicator.copy.partition_checks import PartitionChecks
from replicator.copy.partition_states import PartitionStates
from replicator.copy.stall_detector import StallDetector
from replicator.copy.sync_repair import SyncRepair
from replicator.deadline import Deadline, StopToken
from replicator.kafka.cluster import Cluster
from replicator.kafka.topics import Catalog
from replicator.log import Logger
from replicator.metrics import TaskMetrics
from replicator.planes import Plane, PlaneSettings

PARTITION_BUDGET_S = 10.0
"""What the questions about one partition that failed may take."""


@dataclass(frozen=True, slots=True)
class TaskContext:
    """What all tasks of a worker have in common.

    Args:
        confirm: asks the group, within a deadline and until stopped, whether this worker still owns a task.
        plane_settings: makes the settings of a task's plane: (task, largest batch in bytes) → settings.
        make_plane: makes a data plane with such settings.
    """

    flow: Flow
    source: Cluster
    target: Cluster
    catalog: Catalog
    checks: PartitionChecks
    log: Logger
    confirm: Callable[[int, Deadline, Callable[[], bool]], bool]
    plane_settings: Callable[[int, int], PlaneSettings]
    make_plane: Callable[[PlaneSettings, TaskMetrics], Plane]


@dataclass(frozen=True, slots=True)
class TaskTools:
    """What one task keeps as long as this worker owns it, over its restarts.

    Args:
        number: the task, and its partition of the syncs topic.
        states: the partitions that stopped alone: why, and when each is tried again.
        stall_detector: notices partitions of which the plane brings nothing.
        sync_repair: finds out what became of the last transaction's records.
        on_aborts: called with what keeps the task from committing, and with an empty text when it commits again.
        outdated: a command wrote to the task's partition of the syncs topic; the task has to restart, to read that.
    """

    number: int
    context: TaskContext
    metrics: TaskMetrics
    stop_token: StopToken
    log: Logger
    states: PartitionStates
    stall_detector: StallDetector
    sync_repair: SyncRepair
    on_aborts: Callable[[str], None]
    outdated: threading.Event = field(default_factory=threading.Event)

    def transaction_budget(self) -> Deadline:
        """A deadline for one transaction, before the broker aborts it."""
        return self.stop_token.budget(self.context.flow.settings.transaction_budget_s)

    def partition_budget(self) -> Deadline:
        """A deadline for the questions about one partition that failed."""
        return self.stop_token.budget(PARTITION_BUDGET_S)
