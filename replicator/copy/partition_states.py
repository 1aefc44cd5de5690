"""The partitions of a task that stopped alone: why, when each is tried again, and what is not published yet.

Pure: no Kafka, no clock. States are published in the syncs topic, so that `lag` shows them without any worker.

Invariants:
    H: a stopped partition has a reason, and the syncs topic says it until the partition runs again.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from replicator.errors import TP, PartitionError, StopReason
from replicator.offset_map.sync_format import PARTITION_STATE, ControlRecord

MAX_RETRY_INTERVAL_S = 600.0


@dataclass(slots=True)
class _Stop:
    error: PartitionError
    retry_at_s: float


class PartitionStates:
    """The partitions of a task that stopped alone. Times are those of the monotonic clock that the caller reads.

    Args:
        interval_s: wait before the first retry; later ones double it, up to ten minutes. A lasting stop is not retried.
    """

    def __init__(self, interval_s: float) -> None:
        self._interval_s = interval_s
        self._stops: dict[TP, _Stop] = {}
        self._attempts: dict[TP, int] = {}
        self._published: dict[TP, dict[str, Any]] = {}
        self._unpublished: dict[TP, ControlRecord] = {}

    def __len__(self) -> int:
        return len(self._stops)

    def begin(self, published: Mapping[TP, dict[str, Any]], known: Container[TP]) -> None:
        """Begin again with what the syncs topic says.

        Every partition may be tried, but those whose stop is lasting and not published yet.

        Args:
            known: the partitions with a position there.
        """
        self._stops = {
            tp: stop
            for tp, stop in self._stops.items()
            if stop.error.is_lasting and tp in self._unpublished and tp in known
        }
        self._unpublished = {tp: self._unpublished[tp] for tp in self._stops}
        self._published = dict(published)

    def stop(self, error: PartitionError, now_s: float, at: dt.datetime) -> bool:
        """Note that a partition stopped; True when it was not already known to have stopped for this reason."""
        tp = error.tp
        attempts = self._attempts.get(tp, 0)
        self._attempts[tp] = attempts + 1
        wait_s = min(self._interval_s * 2 ** min(attempts, 10), MAX_RETRY_INTERVAL_S)
        before = self._stops.get(tp)
        self._stops[tp] = _Stop(error, now_s + wait_s)
        published = self._published.get(tp, {})
        if published.get("reason") == error.reason.value and bool(published.get("lasting")) == error.is_lasting:
            self._unpublished.pop(tp, None)
            return before is None
        is_same = before is not None and (before.error.reason, before.error.is_lasting) == (
            error.reason,
            error.is_lasting,
        )
        if is_same and tp in self._unpublished:
            return False  # to be published yet, with the time when it began
        body: dict[str, Any] = {
            "state": "stopped",
            "reason": error.reason.value,
            "detail": str(error),
            "since": at.isoformat(timespec="seconds"),
        }
        if error.is_lasting:
            body["lasting"] = True
        self._unpublished[tp] = ControlRecord(PARTITION_STATE, tp, body)
        return True

    def lasting(self, tp: TP) -> PartitionError | None:
        """Why a partition must not be tried, although its logs may look whole by now; None: it may be."""
        stop = self._stops.get(tp)
        if stop is not None and stop.error.is_lasting:
            return stop.error
        published = self._published.get(tp, {})
        if not published.get("lasting"):
            return None
        return PartitionError(
            f"stopped since {published.get('since')}: {published.get('detail')}",
            op="start",
            tp=tp,
            reason=StopReason(published["reason"]),
            is_lasting=True,
        )

    def started(self, tp: TP) -> None:
        """Note that a partition runs; the syncs topic says so with the next commit."""
        self._stops.pop(tp, None)
        self._unpublished.pop(tp, None)
        if tp in self._published:
            self._unpublished[tp] = ControlRecord(PARTITION_STATE, tp, None)

    def advanced(self, tp: TP) -> None:
        """Note that a partition committed records: its next stop is a first one again."""
        if self._attempts:
            self._attempts.pop(tp, None)

    def may_start(self, tp: TP, now_s: float) -> bool:
        """Whether a partition is not stopped, or is due to be tried again."""
        stop = self._stops.get(tp)
        return stop is None or now_s >= stop.retry_at_s

    def reason(self, tp: TP) -> StopReason | None:
        """Why a partition stopped; None: it did not."""
        stop = self._stops.get(tp)
        return None if stop is None else stop.error.reason

    def any_due(self, now_s: float) -> bool:
        return any(now_s >= stop.retry_at_s for stop in self._stops.values())

    def retry_in_s(self, tp: TP, now_s: float) -> float:
        stop = self._stops.get(tp)
        return 0.0 if stop is None else round(max(0.0, stop.retry_at_s - now_s), 1)

    def has_unpublished(self) -> bool:
        return bool(self._unpublished)

    def unpublished(self) -> list[ControlRecord]:
        """The control records that the next transaction has to carry."""
        return list(self._unpublished.values())

    def mark_published(self, records: Iterable[ControlRecord]) -> None:
        """Note that these were committed; what changed meanwhile stays unpublished."""
        for record in records:
            if self._unpublished.get(record.tp) is record:
                del self._unpublished[record.tp]
            if record.body is None:
                self._published.pop(record.tp, None)
            else:
                self._published[record.tp] = record.body
