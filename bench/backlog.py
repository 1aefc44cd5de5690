"""The topics of a measurement: fill the source, see how far the target is, clean up between two runs."""

from __future__ import annotations

import random
import struct
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from replicator.deadline import Deadline
from replicator.errors import ReplicatorError
from replicator.kafka.cluster import (
    AdminClient,
    Consumer,
    IsolationLevel,
    KafkaException,
    NewTopic,
    OffsetSpec,
    Producer,
    TopicPartition,
)

ADMIN_TIMEOUT_S = 60.0
KEY = struct.Struct(">q")
BATCH_BYTES = 200_000
POOL_BYTES = 1 << 20
TAIL_OFFSETS = 8
"""Where the last record of a partition is looked for: before its end there may be transaction markers."""
OWN_TOPICS = ("__consumer_offsets", "__transaction_state")


class BenchError(ReplicatorError):
    """The measurement can't go on; the text says why."""


@dataclass(frozen=True, slots=True)
class Backlog:
    """A source topic full of records. The key of each is its number within the partition.

    Args:
        topic: its name on the source.
        partitions: of the topic.
        per_partition: records in each.
        size_bytes: of key and value together.
    """

    topic: str
    partitions: int
    per_partition: int
    size_bytes: int

    @property
    def records(self) -> int:
        return self.partitions * self.per_partition

    def create(self, bootstrap_servers: str) -> None:
        """Create the topic."""
        admin = AdminClient({"bootstrap.servers": bootstrap_servers, "log_level": 0})
        topic = NewTopic(self.topic, num_partitions=self.partitions, replication_factor=1)
        admin.create_topics([topic])[self.topic].result(ADMIN_TIMEOUT_S)

    def fill(self, bootstrap_servers: str, batch_records: int | None = None) -> None:
        """Write all records, in lz4 batches.

        Args:
            batch_records: the most records in one batch; None: as many as `BATCH_BYTES` holds.

        Raises:
            BenchError: the broker did not take them in time.
        """
        producer = Producer(
            {
                "bootstrap.servers": bootstrap_servers,
                "enable.idempotence": True,
                "compression.type": "lz4",
                "linger.ms": 100,
                "batch.size": BATCH_BYTES,
                "batch.num.messages": batch_records or 100_000,
                "queue.buffering.max.kbytes": 131_072,
                "queue.buffering.max.messages": 1_000_000,
                "sticky.partitioning.linger.ms": 0,
            }
        )
        values = payloads(self.size_bytes - KEY.size)
        produce = producer.produce
        deadline = Deadline(60 + self.records * self.size_bytes / 2_000_000)
        for number in range(self.per_partition):
            key = KEY.pack(number)
            value = values[number % len(values)]
            for partition in range(self.partitions):
                while True:
                    try:
                        produce(self.topic, value, key, partition)
                        break
                    except BufferError:
                        producer.poll(0.1)
                        _check(deadline, f"filling {self.topic}")
        while producer.flush(1.0):
            _check(deadline, f"filling {self.topic}")


def payloads(size_bytes: int) -> list[bytes]:
    """Values that compress about two to one: half noise, half text that repeats."""
    noise = random.Random(1).randbytes(POOL_BYTES)
    half = size_bytes // 2
    text = (b'{"carrier":"UA","origin":"EWR","dest":"IAH","distance":1400,' * (half // 60 + 1))[: size_bytes - half]
    count = min(997, POOL_BYTES // max(1, half))
    return [noise[index * half : (index + 1) * half] + text for index in range(count)]


def _check(deadline: Deadline, doing: str) -> None:
    if deadline.expired:
        raise BenchError(f"{doing} took longer than {deadline.seconds:.0f} s")


class Watch:
    """How much of a backlog a read_committed reader of the target sees. Costs the contender nothing.

    Args:
        bootstrap_servers: of the target.
        backlogs: what should arrive, by the name of the topic on the target.
    """

    def __init__(self, bootstrap_servers: str, backlogs: Mapping[str, Backlog]) -> None:
        conf: dict[str, str | int | float | bool] = {"bootstrap.servers": bootstrap_servers, "log_level": 0}
        self._admin = AdminClient(conf)
        self._consumer = Consumer(
            conf
            | {
                "group.id": "bench-watch",
                "enable.auto.commit": False,
                "isolation.level": "read_committed",
                "enable.partition.eof": True,
                "fetch.wait.max.ms": 20,
                "fetch.message.max.bytes": 10_000_000,
            }
        )
        self._backlogs = backlogs
        self._exist: set[str] = set()
        self._arrived: set[tuple[str, int]] = set()

    def ends(self) -> dict[tuple[str, int], int]:
        """The last stable offset of every partition that exists; markers count, hundreds among millions."""
        missing = self._backlogs.keys() - self._exist
        if missing:
            topics = self._admin.list_topics(timeout=10).topics
            self._exist |= {name for name in missing if name in topics and topics[name].error is None}
        wanted = [(name, number) for name in self._exist for number in range(self._backlogs[name].partitions)]
        if not wanted:
            return {}
        request = {TopicPartition(*tp): OffsetSpec.latest() for tp in wanted}  # type: ignore[no-untyped-call]
        futures = self._admin.list_offsets(request, isolation_level=IsolationLevel.READ_COMMITTED, request_timeout=10.0)
        found: dict[tuple[str, int], int] = {}
        deadline = Deadline(10)  # for all of them: a broker that was stopped meanwhile may answer none
        for tp, future in futures.items():
            try:
                found[tp.topic, tp.partition] = future.result(deadline.left_s()).offset
            except (KafkaException, TimeoutError):
                self._exist.discard(
                    tp.topic
                )  # being created, or its leader changed: the next look asks for the leaders first
        return found

    def is_complete(self, ends: Mapping[tuple[str, int], int]) -> bool:
        """Whether the last record of every partition can be read."""
        expected = {
            (name, partition): backlog.per_partition - 1
            for name, backlog in self._backlogs.items()
            for partition in range(backlog.partitions)
        }
        if any(ends.get(tp, 0) <= last for tp, last in expected.items()):
            return False
        waiting = expected.keys() - self._arrived
        self._consumer.assign([TopicPartition(*tp, max(0, ends[tp] - TAIL_OFFSETS)) for tp in waiting])
        deadline = Deadline(5)
        while waiting and not deadline.expired:
            for message in self._consumer.consume(1000, 0.02):
                tp = (str(message.topic()), int(message.partition() or 0))
                if message.error() is not None:
                    waiting.discard(tp)
                elif KEY.unpack(message.key() or b"")[0] == expected[tp]:
                    self._arrived.add(tp)
        self._consumer.unassign()
        return self._arrived == expected.keys()

    def count(self, within_s: float = 300) -> int:
        """Read everything, read_committed, and count the records."""
        starts = [TopicPartition(*tp, 0) for tp in self.ends()]
        self._consumer.assign(starts)
        waiting = {(start.topic, start.partition) for start in starts}
        records = 0
        deadline = Deadline(within_s)
        while waiting:
            _check(deadline, "counting the records on the target")
            for message in self._consumer.consume(10_000, 0.1):
                if message.error() is None:
                    records += 1
                else:
                    waiting.discard((str(message.topic()), int(message.partition() or 0)))
        self._consumer.unassign()
        return records

    def close(self) -> None:
        self._consumer.close()


def clean_up(bootstrap_servers: str, keep: Iterable[str]) -> None:
    """Delete every topic but `keep` and the broker's own, and every group without members; wait until they are gone.

    Raises:
        BenchError: they did not go.
    """
    admin = AdminClient({"bootstrap.servers": bootstrap_servers, "log_level": 0})
    kept = {*keep, *OWN_TOPICS}
    deadline = Deadline(ADMIN_TIMEOUT_S)
    while doomed := [name for name in admin.list_topics(timeout=10).topics if name not in kept]:
        for future in admin.delete_topics(doomed).values():
            try:
                future.result(ADMIN_TIMEOUT_S)
            except KafkaException:
                continue  # gone already
        _check(deadline, f"deleting {', '.join(doomed)}")
        time.sleep(0.2)
    groups = [group.group_id for group in admin.list_consumer_groups(request_timeout=10.0).result(30.0).valid]
    if groups:
        for deletion in admin.delete_consumer_groups(groups, request_timeout=10.0).values():
            try:
                deletion.result(30.0)
            except KafkaException:
                continue  # the session of its last member has not ended yet, or it is gone
