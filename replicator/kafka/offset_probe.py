"""How far a caught-up group may go on the target: past transaction markers, never past a record.

A group that has read all that is replicated goes on after the last record's marker, or tools show a lag of 1 for ever.
The end offset of the target partition can't be asked for that: the markers of one transaction reach its partitions at
different moments, so a newer transaction, whose sync is not visible yet, may lie before that end. What can be trusted
is a read: from the last run's end on, under read_committed, no record was met before this offset.

A consumer behind the end of a log (OFFSET_OUT_OF_RANGE) begins again at the log's first record. So an answer before the
place that was asked for says that the log ends before it, and never that something is there.
"""

from __future__ import annotations

import enum
import time
from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from typing import Any

from replicator.deadline import Deadline
from replicator.errors import TP
from replicator.kafka.cluster import Cluster, KafkaError, KafkaException, Message, topic_partitions

PATIENCE_S = 1.0
LOOK_AGAIN_S = 30.0
"""Aborted transactions leave offsets without records behind: a place that was looked up is looked up again."""
CHUNK = 1000


_ONE_RECORD: Mapping[str, Any] = {
    "auto.offset.reset": "earliest",  # of a log whose beginning retention deleted
    "enable.partition.eof": True,
    "fetch.queue.backoff.ms": 5,
    "fetch.wait.max.ms": 20,
    "fetch.message.max.bytes": 131_072,
    "queued.min.messages": 1,
    "queued.max.messages.kbytes": 16_384,
}
"""librdkafka's properties for reading the first record of many partitions."""


class Presence(enum.Enum):
    """What is at a place of a log."""

    RECORD = "record"
    NO_RECORD = "no record"
    """A marker, a record that does not count, or nothing yet; or retention deleted it."""
    BEHIND_END = "behind end"
    """The log ends before this place."""
    NOT_ALLOWED = "not allowed"
    """The right is missing to look."""


@dataclass(frozen=True, slots=True)
class _Place:
    """No record lies from `start` to before `end`; what lies there."""

    start: int
    end: int
    looked_s: float
    found: Presence = Presence.NO_RECORD


class OffsetProbe:
    """Finds the first record, or the stable end, at or after given places of the target. Threading: one thread.

    Args:
        committed: whether only committed records count.
    """

    def __init__(self, target: Cluster, *, committed: bool = True) -> None:
        self._target = target
        self._committed = committed
        self._consumer = target.consumer(_ONE_RECORD, committed=committed)
        self._known: dict[TP, _Place] = {}
        self._refused: dict[TP, str] = {}

    @property
    def problem(self) -> str:
        """Which right is missing to look; without it a caught-up group shows the lag of a marker."""
        return next(iter(self._refused.values()), "")

    def first_at_or_after(
        self, starts: Mapping[TP, int], deadline: Deadline, is_stopped: Callable[[], bool] = lambda: False
    ) -> Mapping[TP, int]:
        """For each place a place at or after it, with no record between; itself where none was found in time.

        Raises:
            KafkaOpError: the client can't go on.
        """
        now_s = time.monotonic()
        self._refused = {tp: why for tp, why in self._refused.items() if tp in starts}
        unknown: dict[TP, _Place] = {}
        for tp, start in starts.items():
            known = self._known.get(tp)
            if known is None or known.start != start:
                unknown[tp] = _Place(start, start, now_s)
            elif now_s - known.looked_s > LOOK_AGAIN_S:
                unknown[tp] = known
        if unknown:
            patience = Deadline(deadline.slice_s(PATIENCE_S))
            self._look_up(unknown, patience, is_stopped)
        places = {}
        for tp, start in starts.items():
            known = self._known.get(tp)
            places[tp] = known.end if known is not None and known.start == start else start
        return places

    def has_record(self, places: Mapping[TP, int], deadline: Deadline) -> dict[TP, Presence]:
        """What is at each place, of those partitions that give an answer.

        Raises:
            KafkaOpError: the client can't go on.
        """
        silent = self._look_up({tp: _Place(place, place, 0.0) for tp, place in places.items()}, deadline, lambda: False)
        return {tp: self._presence(tp, places[tp]) for tp in places.keys() - silent}

    def _presence(self, tp: TP, place: int) -> Presence:
        """What a look that began at `place` found there."""
        if tp in self._refused:
            return Presence.NOT_ALLOWED
        known = self._known[tp]
        return known.found if known.end == place else Presence.NO_RECORD

    def _look_up(
        self, places: Mapping[TP, _Place], deadline: Deadline, is_stopped: Callable[[], bool]
    ) -> AbstractSet[TP]:
        """Look up places, for `first_at_or_after` and `has_record`; the partitions that gave no answer."""
        waiting = dict(places)
        partitions = topic_partitions((tp, place.end) for tp, place in places.items())
        try:
            self._consumer.assign(partitions)
            while waiting and not deadline.expired and not is_stopped():
                answered = []
                for message in self._consume(deadline.slice_s(0.1)):
                    tp = TP(message.topic() or "", message.partition() or 0)
                    if tp in waiting and self._take(tp, waiting[tp], message):
                        del waiting[tp]
                        answered.append(tp)
                if answered:
                    self._consumer.pause(topic_partitions((tp, 0) for tp in answered))
            self._consumer.resume(partitions)  # or they stay paused when assigned again
            self._consumer.unassign()
        except (KafkaException, SystemError) as cause:
            raise self._target.error(cause, op="read the ends of remote topics", right="READ") from cause
        is_silent = len(waiting) == len(places) and not self._refused and not is_stopped()
        if is_silent:  # it may have lost its brokers for good: `cluster.WATCHED`
            self._consumer.close()
            self._consumer = self._target.consumer(_ONE_RECORD, committed=self._committed)
        for tp, place in waiting.items():  # gave no answer: not asked again at once
            self._known[tp] = replace(place, looked_s=time.monotonic())
        return waiting.keys()

    def _take(self, tp: TP, place: _Place, message: Message) -> bool:
        """Note an answer; False when it is none."""
        error = message.error()
        if error is not None and error.code() != KafkaError._PARTITION_EOF:
            if error.code() == KafkaError.TOPIC_AUTHORIZATION_FAILED:
                failure = self._target.error(error, op="read the end of a remote topic", right="READ", topic=tp.topic)
                self._refused[tp] = str(failure)
                self._known[tp] = replace(place, looked_s=time.monotonic())
            return tp in self._refused
        self._refused.pop(tp, None)
        met = message.offset() or 0
        found = Presence.RECORD if error is None else Presence.NO_RECORD
        if met < place.end:
            found = Presence.BEHIND_END
        self._known[tp] = _Place(place.start, max(place.end, met), time.monotonic(), found)
        return True

    def _consume(self, wait_s: float) -> list[Message]:
        first = self._consumer.consume(1, wait_s)
        return first + self._consumer.consume(CHUNK, 0) if first else first

    def close(self) -> None:
        """Let go of the consumer."""
        self._consumer.close()
