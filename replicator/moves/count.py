"""Exact offsets where the map's history is sparse: the records of the stretch are counted on the clusters.

    translate says   Between(low, high, skip)               the place is somewhere in [low, high)
    skip unknown     read the stretch on the origin         how many of its records lie before the position
    then             read [low, high) on the destination    its record number `skip`, from 0, is the first one not read

The origin is the cluster that is translated from. Both reads are read_committed, and reach to the end of the stretch:
only when each finds as many records as the map says were replicated does counting prove anything.

Invariants:
    D: where it says exact, it is; except for a stretch that lost exactly as many replicated records, from its middle,
       as another producer wrote into it: that takes compaction and a foreign producer, and counting can't show it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from replicator.deadline import Deadline
from replicator.errors import TP, KafkaOpError, RetriableError
from replicator.kafka.cluster import Cluster, Consumer, KafkaError, KafkaException, Message, topic_partitions
from replicator.kafka.log_reader import READ_AHEAD, READ_CHUNK, is_final, topic_exists
from replicator.moves.model import Unrefined
from replicator.offset_map.map import Between, Exact, refine_on_destination, skip_on_origin

T = TypeVar("T")

OP = "count records"
POLL_S = 0.2
"""How long a read may wait, and how often progress is reported."""
ANSWER_S = 5.0
"""How long a cluster may take to say whether it has a topic."""
END_PATIENCE_S = 2.0
"""A transaction's marker reaches its partitions one by one: an end before the stretch's may move in a moment."""


class Refiner:
    """Counts the records of stretches, one after the other. Threading: one thread, which must call `close`.

    Args:
        origin: the cluster translated from; None when it can't be reached.
        destination: the cluster translated to.
        max_records: the longest stretch that is counted, in replicated records; 0: none is.
        progress: called with (records counted, records to count), at least twice a second.
        origin_s: of an origin that can be done without: how long all counting on it may take together, and what it
            refuses is not counted; None where it is needed.
    """

    def __init__(
        self, origin: Cluster | None, destination: Cluster, max_records: int,
        progress: Callable[[int, int], None] = lambda done, total: None, origin_s: float | None = None,
    ) -> None:  # fmt: skip
        self._origin = None if origin is None else _Reader(origin)
        self._destination = _Reader(destination)
        self._max_records = max_records
        self._progress = progress
        self._origin_left_s = origin_s

    def refine(
        self, origin_tp: TP, destination_tp: TP, position: int, between: Between, deadline: Deadline
    ) -> Exact | Unrefined:
        """Where a group that has read everything before `position` on the origin goes on, on the destination.

        Args:
            origin_tp, destination_tp: the partition, as each cluster calls it.
            between: what the map says of `position`.

        Raises:
            KafkaOpError: a cluster refuses the read; one that gives no answer is waited for until `deadline`.
        """
        if between.records > self._max_records:
            return Unrefined(f"refine_max_records allows {self._max_records:,}")
        report = _Report(self._progress, between.records * (2 if between.skip is None else 1))
        skip = between.skip
        if skip is None:
            counted = self._skip(origin_tp, position, between, report, deadline)
            if isinstance(counted, Unrefined):
                return counted
            skip = counted
        if not self._destination.exists(destination_tp.topic, deadline):
            return Unrefined(f"{self._destination.cluster.alias} no longer has the topic {destination_tp.topic}")
        span = _Span(destination_tp, between.low, between.high, between.records)
        stretch = _Stretch(self._destination, span, report, deadline)
        place = refine_on_destination(between, skip, stretch)
        return Unrefined(stretch.problem()) if place is None else place

    def _skip(self, tp: TP, position: int, between: Between, report: _Report, deadline: Deadline) -> int | Unrefined:
        """How many records of the stretch the group has read, by what the origin holds."""
        if self._origin is None:
            return Unrefined("the cluster that holds these records is unreachable")
        if self._origin_left_s is None:
            return _skip_on(self._origin, tp, position, between, report, deadline)
        if self._origin_left_s <= 0:
            return Unrefined(f"{self._origin.cluster.alias} took too long to count other partitions")
        deadline = Deadline(deadline.slice_s(self._origin_left_s))
        try:
            return _skip_on(self._origin, tp, position, between, report, deadline)
        except KafkaOpError as error:
            return Unrefined(str(error))
        finally:
            self._origin_left_s = deadline.left_s()

    def close(self) -> None:
        """Let go of the consumers."""
        for reader in (self._origin, self._destination):
            if reader is not None:
                reader.close()


def _skip_on(
    origin: _Reader, tp: TP, position: int, between: Between, report: _Report, deadline: Deadline
) -> int | Unrefined:
    if not origin.exists(tp.topic, deadline):
        return Unrefined(f"{origin.cluster.alias} no longer has the topic {tp.topic}")
    span = _Span(tp, between.origin_low, between.origin_high, between.records)
    stretch = _Stretch(origin, span, report, deadline)
    skip = skip_on_origin(between, position, stretch)
    return Unrefined(stretch.problem()) if skip is None else skip


@dataclass(frozen=True, slots=True)
class _Span:
    """Offsets ``[low, high)`` of a partition, where the map knows of so many `records`."""

    tp: TP
    low: int
    high: int
    records: int

    def __str__(self) -> str:
        return f"offsets {self.low} to {self.high - 1} of {self.tp}"


class _Report:
    """Tells progress, not too often."""

    def __init__(self, progress: Callable[[int, int], None], total: int) -> None:
        self._progress = progress
        self._total = total
        self._done = 0
        self._told_s = -POLL_S

    def counted(self, records: int) -> None:
        self._done = min(self._done + records, self._total)
        if time.monotonic() - self._told_s >= POLL_S or self._done == self._total:
            self._told_s = time.monotonic()
            self._progress(self._done, self._total)


class _Reader:
    """A consumer of one cluster, made when it is needed."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self._consumer: Consumer | None = None

    def exists(self, topic: str, deadline: Deadline) -> bool:
        """Whether the cluster has the topic, or gives no answer: a topic that is gone is not worth the whole deadline.

        Raises:
            KafkaOpError: not allowed to know.
        """
        if self._consumer is None:
            self._consumer = self.cluster.consumer(READ_AHEAD)
        try:
            return topic_exists(self.cluster, self._consumer, topic, Deadline(deadline.slice_s(ANSWER_S)))
        except RetriableError:
            return True

    def begin(self, span: _Span) -> None:
        """Read from the span's beginning on. `exists` comes first."""
        self._call(lambda consumer: consumer.assign(topic_partitions([(span.tp, span.low)])))

    def consume(self, wait_s: float) -> list[Message]:
        """What has arrived; waits up to `wait_s` for the first of it."""
        first = self._call(lambda consumer: consumer.consume(1, wait_s))
        return first + self._call(lambda consumer: consumer.consume(READ_CHUNK, 0)) if first else first

    def end(self) -> None:
        """Read no further."""
        self._call(lambda consumer: consumer.unassign())

    def _call(self, call: Callable[[Consumer], T]) -> T:
        assert self._consumer is not None, "exists comes first"
        try:
            return call(self._consumer)
        except (KafkaException, SystemError) as cause:
            raise self.cluster.error(cause, op=OP, right="READ") from cause

    def close(self) -> None:
        if self._consumer is not None:
            self._consumer.close()


class _Stretch:
    """The record offsets of a span, in order; iterated once.

    It ends early when it found one record too many: further ones would not change the answer.
    """

    def __init__(self, reader: _Reader, span: _Span, report: _Report, deadline: Deadline) -> None:
        self._reader = reader
        self._span = span
        self._report = report
        self._deadline = deadline
        self._found = 0
        self._is_read = False
        self._log_end: int | None = None
        self._patience = deadline

    def __iter__(self) -> Iterator[int]:
        self._reader.begin(self._span)
        try:
            while not (self._is_read or self._found > self._span.records or self._patience.expired):
                offsets = list(self._offsets(self._reader.consume(self._patience.slice_s(POLL_S))))
                self._found += len(offsets)
                self._report.counted(len(offsets))
                yield from offsets
        finally:
            self._reader.end()

    def _offsets(self, messages: Iterable[Message]) -> Iterator[int]:
        low, high = self._span.low, self._span.high
        for message in messages:
            error, offset = message.error(), message.offset() or 0
            if error is None and low <= offset < high:
                yield offset
            elif error is None and offset >= high:
                self._is_read = True
            elif error is None:
                self._end_of_log(offset, 0)  # it ends before the span, so that the client went back to its beginning
            elif error.code() == KafkaError._PARTITION_EOF:
                self._end_of_log(offset, END_PATIENCE_S)
            else:
                self._fail(error)

    def _end_of_log(self, offset: int, patience_s: float) -> None:
        self._is_read = offset >= self._span.high
        if self._log_end is None:
            self._log_end = offset
            self._patience = Deadline(self._deadline.slice_s(patience_s))

    def _fail(self, error: KafkaError) -> None:
        """Raise what is not over in a moment."""
        tp = self._span.tp
        failure = self._reader.cluster.error(error, op=OP, tp=tp, right="READ", topic=tp.topic)
        if is_final(failure):
            raise failure

    def problem(self) -> str:
        """Why it does not prove anything."""
        span, alias = self._span, self._reader.cluster.alias
        held = f"{alias} holds {self._found} records at {span}, and {span.records} were replicated"
        if self._found > span.records:
            return f"{alias} holds other records among the {span.records} replicated ones at {span}"
        if self._is_read:
            return f"{held}: retention or compaction deleted the others"
        if self._log_end is not None:
            return f"{held}: the readable log ends at {self._log_end}"
        heard = self._reader.cluster.recent_error()
        return f"{held}, not counted within {self._deadline.seconds:g} s" + (f" ({heard})" if heard else "")
