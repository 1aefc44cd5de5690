"""When records became visible on the target, next to when they were written on the source, by their own timestamps.

One process writes, reads and looks at one clock, so the difference is the age of a record when a read_committed reader
gets it: from the call that hands it to the source's producer, on the way of which it waits for its batch, too.
"""

from __future__ import annotations

import time
from array import array
from collections.abc import Iterable
from typing import NamedTuple

from bench.backlog import BenchError
from bench.load import Worker
from bench.positions import reader
from replicator.deadline import Deadline
from replicator.kafka.cluster import AdminClient, TopicPartition

TOPIC_TIMEOUT_S = 120.0
WAIT_S = 0.05
AT_ONCE = 2000


class Arrival(NamedTuple):
    """One record: its partition, when it was written and when it was read (ms since 1970)."""

    partition: int
    written_ms: int
    read_ms: int


class Arrivals:
    """Reads a topic in a thread of its own until `close`.

    Args:
        topic: waited for until it is there.
    """

    def __init__(self, bootstrap_servers: str, topic: str, partitions: int) -> None:
        self._all = array("q")
        """Three numbers for each record, as in `Arrival`."""
        _await_topic(bootstrap_servers, topic, partitions)
        self._consumer = reader(bootstrap_servers, "bench-arrivals")
        self._consumer.assign([TopicPartition(topic, number, 0) for number in range(partitions)])
        self._worker = Worker("reading what arrives", 0.0, self._read)
        self._worker.start()

    def __len__(self) -> int:
        return len(self._all) // 3

    def check(self) -> None:
        """Raise what ended it."""
        self._worker.check()

    def close(self) -> None:
        self._worker.stop()
        self._consumer.close()

    def since(self, position: int) -> list[Arrival]:
        """All but the first `position` that were read, in order."""
        numbers = iter(self._all[position * 3 : len(self) * 3])
        return list(map(Arrival, numbers, numbers, numbers))

    def _read(self) -> None:
        first = self._consumer.poll(WAIT_S)
        if first is None:
            return
        read_ms = int(time.time() * 1000)
        for message in (first, *self._consumer.consume(AT_ONCE, 0)):
            if message.error() is None:
                self._all.extend((message.partition() or 0, message.timestamp()[1], read_ms))


def ages_ms(arrivals: Iterable[Arrival], began_ms: int, until_ms: int) -> list[int]:
    """How old each record was that was written from the one time until before the other."""
    return [it.read_ms - it.written_ms for it in arrivals if began_ms <= it.written_ms < until_ms]


def note_first_reads(reads_ms: list[int | None], arrivals: Iterable[Arrival], began_ms: int) -> None:
    """By partition, when the first record that was written at `began_ms` or later was read; what is known stays."""
    for it in arrivals:
        if reads_ms[it.partition] is None and it.written_ms >= began_ms:
            reads_ms[it.partition] = it.read_ms


def _await_topic(bootstrap_servers: str, topic: str, partitions: int) -> None:
    admin = AdminClient({"bootstrap.servers": bootstrap_servers, "log_level": 0})
    deadline = Deadline(TOPIC_TIMEOUT_S)
    while True:
        known = admin.list_topics(timeout=10).topics.get(topic)
        if known is not None and len(known.partitions) == partitions:
            return
        if deadline.expired:
            raise BenchError(f"{topic} is not on the target within {deadline.seconds:g} s")
        time.sleep(0.1)
