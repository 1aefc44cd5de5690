"""A partition, read to its end."""

from __future__ import annotations

from types import TracebackType
from typing import Self, cast

from replicator.deadline import Deadline
from replicator.demo.compare import Headers, Record
from replicator.demo.flights import DemoError
from replicator.errors import TP, RetriableError
from replicator.kafka.cluster import Cluster, KafkaError, Message, TopicPartition

BATCH_RECORDS = 5_000
WAIT_S = 0.05
READ_AHEAD_BYTES = 32 * 1024 * 1024


class TopicReader:
    """Reads whole partitions of one cluster, committed records only, one partition after the other."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._consumer = cluster.consumer(
            {
                "enable.partition.eof": True,
                "auto.offset.reset": "earliest",  # the comparison finds what was deleted
                "fetch.queue.backoff.ms": 5,
                "fetch.wait.max.ms": 50,
                "queued.max.messages.kbytes": READ_AHEAD_BYTES // 1024,
            }
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._consumer.close()

    def read(self, tp: TP, deadline: Deadline) -> list[Record]:
        """Every committed record of `tp`, in offset order.

        Raises:
            KafkaOpError: the partition can't be read.
            DemoError: its end was not reached in time.
        """
        self._consumer.assign([TopicPartition(tp.topic, tp.partition, 0)])
        records: list[Record] = []
        while not deadline.expired:
            for message in self._consumer.consume(BATCH_RECORDS, WAIT_S):
                error = message.error()
                if error is None:
                    records.append(to_record(message))
                elif error.code() == KafkaError._PARTITION_EOF:
                    return records
                else:
                    failure = self._cluster.error(error, op="read", tp=tp)
                    if not isinstance(failure, RetriableError):
                        raise failure
        raise DemoError(f"{tp} on {self._cluster.alias} could not be read to its end within {deadline.seconds:g} s")


def to_record(message: Message) -> Record:
    """The parts that are compared."""
    headers = cast("Headers", tuple(message.headers() or ()))
    return Record(message.key(), message.value(), headers, message.timestamp()[1])
