"""Measures how far a task's partitions are behind the source, for the metrics."""

from __future__ import annotations

import time
from collections.abc import Mapping

from replicator.copy.stall_detector import StallDetector
from replicator.copy.transaction import Written
from replicator.errors import TP
from replicator.metrics import TaskMetrics


class TaskLag:
    """The lag of one task's partitions, and what was committed of them. Threading: the task's thread alone."""

    def __init__(self, metrics: TaskMetrics, stall_detector: StallDetector) -> None:
        self._metrics = metrics
        self._stall_detector = stall_detector
        self._newest_ms: dict[TP, int] = {}

    def committed(self, written: Mapping[TP, Written]) -> None:
        """Count what a transaction committed."""
        for tp, it in written.items():
            self._metrics.committed(tp, it.records, it.size_bytes)
            self._newest_ms[tp] = it.newest_ms

    def measure(self, positions: Mapping[TP, int], ends: Mapping[TP, int]) -> None:
        """Set the metrics of the running partitions.

        Args:
            ends: the source's end offsets as the plane last saw them; the stall detector may know of later ones.
        """
        now_ms = time.time() * 1000
        for tp, position in positions.items():
            lag = max(0, ends.get(tp, position) - position, self._stall_detector.end(tp) - position)
            newest_ms = self._newest_ms.get(tp, -1)
            behind_s = max(0.0, (now_ms - newest_ms) / 1000) if lag and newest_ms > 0 else 0.0
            self._metrics.lag(tp, lag, behind_s)
