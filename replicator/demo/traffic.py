"""Load and measurement: records are produced to the source at a steady rate, and read from the target.

Latency is measured from outside the product: from the call that hands a record to the source's producer until a
read_committed consumer of the target has it.
"""

from __future__ import annotations

import math
import threading
import time
from array import array

from replicator.deadline import Deadline
from replicator.demo.flights import DemoError, Flights, number_of
from replicator.errors import ReplicatorError, RetriableError
from replicator.kafka.cluster import Cluster, KafkaError, KafkaException, Message, Producer, TopicPartition

TURN_S = 0.005
QUEUE_TIMEOUT_S = 30.0
BATCH_RECORDS = 5_000
WAIT_S = 0.1


class Timeline:
    """When each record was produced, and when it became visible on the target: monotonic clock, 0 for not yet.

    Threading: each array has one writer.
    """

    def __init__(self, records: int) -> None:
        self.produced_s = array("d", bytes(8 * records))
        self.visible_s = array("d", bytes(8 * records))


class Part(threading.Thread):
    """A thread of the demo; `check` raises the error that ended it."""

    def __init__(self, name: str) -> None:
        super().__init__(name=name, daemon=True)
        self._stopping = threading.Event()
        self._failure: Exception | None = None
        self.records = 0
        """How many so far."""

    def run(self) -> None:
        try:
            self._work()
        except Exception as error:
            self._failure = error

    def _work(self) -> None:
        raise NotImplementedError

    def check(self) -> None:
        """Raise what ended the thread, if an error did."""
        if self._failure is not None:
            raise self._failure

    def stop(self, within_s: float) -> None:
        """Ask it to end, and wait for it."""
        self._stopping.set()
        if self.is_alive():
            self.join(within_s)


class Load(Part):
    """Produces all flights at a steady rate.

    Args:
        source: where to.
        topic: exists already.
        flights: what.
        timeline: `produced_s` is filled in.
        rate_per_s: records per second.

    Attributes:
        rate_per_s: may be changed at any time.
        limit: no more than this many are produced until it is raised; the rate stays the same.
    """

    def __init__(self, source: Cluster, topic: str, flights: Flights, timeline: Timeline, rate_per_s: float) -> None:
        super().__init__("load")
        self._source = source
        self._topic = topic
        self._flights = flights
        self._timeline = timeline
        self.rate_per_s = rate_per_s
        self.limit = len(flights)
        self._refused: ReplicatorError | None = None

    @property
    def is_done(self) -> bool:
        """Whether every record was handed over and acknowledged."""
        return not self.is_alive() and self._failure is None and self.records == len(self._flights)

    def _work(self) -> None:
        producer = self._source.producer(
            {
                "linger.ms": 5,
                "compression.type": "lz4",
                "partitioner": "murmur2_random",  # as Java's producer: a key's partition does not depend on the client
                "delivery.report.only.error": True,
            }
        )
        flights = iter(self._flights)
        pace = _Pace(self.rate_per_s)
        while self.records < len(self._flights) and not self._stopping.is_set():
            pace.set(self.rate_per_s, self.records)
            due = pace.due(min(max(self.limit, self.records), len(self._flights)))
            for n in range(self.records, due):
                flight = next(flights)
                self._timeline.produced_s[n] = time.monotonic()
                self._produce(producer, flight.key, flight.value, flight.timestamp_ms)
                self.records = n + 1
            producer.poll(0)
            if self._refused is not None:
                raise self._refused
            self._stopping.wait(TURN_S)
        left = producer.flush(QUEUE_TIMEOUT_S)
        if self._refused is not None:
            raise self._refused
        if left and not self._stopping.is_set():
            raise DemoError(f"{self._source.alias} did not acknowledge {left} records within {QUEUE_TIMEOUT_S:g} s")

    def _produce(self, producer: Producer, key: bytes | None, value: bytes, timestamp_ms: int) -> None:
        deadline = Deadline(QUEUE_TIMEOUT_S)
        while True:
            try:
                producer.produce(self._topic, value, key, on_delivery=self._delivered, timestamp=timestamp_ms)
            except BufferError:
                if deadline.expired:
                    raise DemoError(f"{self._source.alias} accepted no record for {QUEUE_TIMEOUT_S:g} s") from None
                producer.poll(0.05)
            else:
                return

    def _delivered(self, error: KafkaError | None, _: Message) -> None:
        if error is not None:
            self._refused = self._source.error(error, op=f"produce to {self._topic}")


class _Pace:
    """How many records are due by now."""

    def __init__(self, rate_per_s: float) -> None:
        self._rate_per_s = rate_per_s
        self._began_s = time.monotonic()
        self._records = 0

    def set(self, rate_per_s: float, records: int) -> None:
        """From now on at this rate, after so many records; no change if it is the same."""
        if rate_per_s != self._rate_per_s:
            self._rate_per_s, self._began_s, self._records = rate_per_s, time.monotonic(), records

    def due(self, limit: int) -> int:
        """Records due, at most `limit`; time spent at the limit is not caught up on."""
        due = self._records + int((time.monotonic() - self._began_s) * self._rate_per_s) + 1
        if due > limit:
            self._began_s += (due - limit) / self._rate_per_s
        return min(due, limit)


class SlowReader(Part):
    """Reads records from the target as they become visible.

    Args:
        target: where.
        topic: the remote topic; exists already.
        partitions: how many it has.
        timeline: `visible_s` is filled in.
    """

    def __init__(self, target: Cluster, topic: str, partitions: int, timeline: Timeline) -> None:
        super().__init__("watch")
        self._target = target
        self._topic = topic
        self._timeline = timeline
        self._seen_s = [0.0] * partitions
        self._pauses_s = [0.0] * partitions
        self._pauses_since_s = math.inf

    def begin_standstills(self, at_s: float) -> None:
        """Measure from now on how long partitions get no record."""
        self._pauses_since_s = at_s

    def end_standstills(self) -> None:
        """Stop measuring."""
        self._pauses_since_s = math.inf

    @property
    def longest_standstill_s(self) -> float:
        """The longest time between two records of a partition, while that was measured."""
        return max(self._pauses_s)

    def _work(self) -> None:
        consumer = self._target.consumer(
            {"auto.offset.reset": "error", "fetch.queue.backoff.ms": 5, "fetch.wait.max.ms": 100}
        )
        self._seen_s = [time.monotonic()] * len(self._seen_s)  # a partition without records yet counts from now
        try:
            consumer.assign([TopicPartition(self._topic, partition, 0) for partition in range(len(self._seen_s))])
            while not self._stopping.is_set():
                first = consumer.poll(WAIT_S)  # returns with the first record; consume() would wait for more
                if first is not None:
                    messages = [first, *consumer.consume(BATCH_RECORDS, 0)]
                    self._note(messages, time.monotonic())
        except KafkaException as cause:
            raise self._target.error(cause, op=f"read {self._topic}") from cause
        finally:
            consumer.close()

    def _note(self, messages: list[Message], now_s: float) -> None:
        visible_s = self._timeline.visible_s
        partitions = set()
        for message in messages:
            error = message.error()
            if error is not None:
                failure = self._target.error(error, op=f"read {self._topic}")
                if not isinstance(failure, RetriableError):
                    raise failure
                continue
            partitions.add(message.partition())
            n = number_of(message.value())
            if n is not None and n < len(visible_s) and not visible_s[n]:
                visible_s[n] = now_s
                self.records += 1
        for partition in partitions:
            if partition is not None:
                self._moved(partition, now_s)

    def _moved(self, partition: int, now_s: float) -> None:
        """Note how long the partition had got no record."""
        if now_s > self._pauses_since_s:
            pause_s = now_s - self._seen_s[partition]
            self._pauses_s[partition] = max(self._pauses_s[partition], pause_s)
        self._seen_s[partition] = now_s
