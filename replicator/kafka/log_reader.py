"""Reading partitions of a compacted topic to their stable end, and on from there."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from replicator.deadline import Deadline
from replicator.errors import KafkaOpError, RetriableError
from replicator.kafka.cluster import WATCHED, Cluster, Consumer, KafkaError, KafkaException, Message, TopicPartition

READ_CHUNK = 10_000
READ_AHEAD: Mapping[str, Any] = {
    "auto.offset.reset": "earliest",
    "enable.partition.eof": True,
    "fetch.queue.backoff.ms": 5,
    "fetch.wait.max.ms": 20,
    "queued.min.messages": 50_000,
    "queued.max.messages.kbytes": 16_384,
    **WATCHED,
}
"""librdkafka's properties for reading a long stretch of a log fast, within 16 MiB."""


class LogReader:
    """Reads partitions of one topic. Threading: one thread.

    Args:
        cluster: where the topic is.
        partitions: which of them, from their beginning; a mapping tells for each where else to begin.
        take: called with each record, in log order per partition; what it raises ends the read.
        committed: whether it reads under read_committed.
    """

    def __init__(
        self,
        cluster: Cluster,
        topic: str,
        partitions: Iterable[int] | Mapping[int, int],
        take: Callable[[Message], None],
        *,
        committed: bool = True,
    ) -> None:
        self._cluster = cluster
        self._topic = topic
        self._pending = set(partitions)
        self._give = take
        self._consumer = cluster.consumer(READ_AHEAD, committed=committed)
        begins = partitions if isinstance(partitions, Mapping) else dict.fromkeys(self._pending, 0)
        self._read_to: dict[int, int] = dict(begins)
        self._consumer.assign([TopicPartition(topic, p, offset) for p, offset in begins.items()])

    def exists(self, deadline: Deadline) -> bool:
        """Whether the cluster has the topic; unlike in a list of all, one that may not be seen is an error.

        Raises:
            KafkaOpError: no answer, or not allowed to know.
        """
        return topic_exists(self._cluster, self._consumer, self._topic, deadline)

    def read_to_end(self, deadline: Deadline, is_stopped: Callable[[], bool] = lambda: False) -> None:
        """Everything up to the last stable offset of each partition, or to its high watermark.

        Raises:
            RetriableError: not reached within `deadline`, or stopped.
            KafkaOpError: not allowed, or the client can't go on.
        """
        while self._pending:
            if deadline.expired or is_stopped():
                text = f"partitions {sorted(self._pending)} not read to their end within {deadline.seconds:g} s"
                raise RetriableError(text, op=f"read {self._topic}", hint=self._cluster.recent_error())
            self.follow(0.2)

    def read_on(self, ends: Mapping[int, int], deadline: Deadline, is_stopped: Callable[[], bool]) -> None:
        """Everything up to these offsets, for which the cluster was asked after the read was wanted.

        `follow` alone can't tell that there is nothing new: a client that was stopped has not asked yet. Between two
        calls nothing is fetched, so `follow` gives nothing after this.

        Raises:
            RetriableError: not reached within `deadline`, or stopped.
            KafkaOpError: as `read_to_end`.
        """
        late = self._before(ends)
        if not late:
            return
        try:
            self._consumer.assign([TopicPartition(self._topic, p, self._read_to[p]) for p in late])
            while late := self._before(ends):
                if deadline.expired or is_stopped():
                    text = f"partitions {late} not read to what is committed within {deadline.seconds:g} s"
                    raise RetriableError(text, op=f"read {self._topic}", hint=self._cluster.recent_error())
                self.follow(0.05)
            self._consumer.unassign()  # a reader at the end of its log asks the broker again every 20 ms
        except (KafkaException, SystemError) as cause:
            raise self._cluster.error(cause, op=f"read {self._topic}") from cause

    def _before(self, ends: Mapping[int, int]) -> list[int]:
        return [partition for partition, end in ends.items() if self._read_to[partition] < end]

    def read_to(self, partition: int) -> int:
        """How far a partition was read: past the markers at its end."""
        return self._read_to[partition]

    def follow(self, wait_s: float) -> None:
        """What was added since: waits at most `wait_s` for the first of it.

        Raises:
            KafkaOpError: as `read_to_end`.
        """
        for message in self._consume(wait_s):
            self._take(message)

    def _consume(self, wait_s: float) -> list[Message]:
        try:
            first = self._consumer.consume(1, wait_s)
            return first + self._consumer.consume(READ_CHUNK, 0) if first else first
        except (KafkaException, SystemError) as cause:
            raise self._cluster.error(cause, op=f"read {self._topic}") from cause

    def _take(self, message: Message) -> None:
        error = message.error()
        partition, offset = message.partition() or 0, message.offset()
        if error is None:
            self._give(message)
            self._read_to[partition] = (offset or 0) + 1
        elif error.code() == KafkaError._PARTITION_EOF:
            self._pending.discard(partition)
            self._read_to[partition] = max(self._read_to[partition], offset or 0)  # past the markers
        else:
            failure = self._cluster.error(error, op=f"read {self._topic}", right="READ", topic=self._topic)
            if is_final(failure):
                raise failure

    def close(self) -> None:
        """Let go of the consumer."""
        self._consumer.close()


def topic_exists(cluster: Cluster, consumer: Consumer, topic: str, deadline: Deadline) -> bool:
    """See `LogReader.exists`."""
    op = f"look for {topic}"
    try:
        metadata = consumer.list_topics(topic, timeout=max(0.1, deadline.left_s()))
    except KafkaException as cause:
        raise cluster.error(cause, op=op) from cause
    error = metadata.topics[topic].error
    if error is None or error.code() == KafkaError.LEADER_NOT_AVAILABLE:
        return True
    if error.code() == KafkaError.UNKNOWN_TOPIC_OR_PART:
        return False
    raise cluster.error(error, op=op, right="READ", topic=topic)


def is_final(error: KafkaOpError) -> bool:
    """Whether an error in a consumer's stream is not over in a moment. A group's right is not needed to read."""
    return not isinstance(error, RetriableError) or error.code == "TOPIC_AUTHORIZATION_FAILED"
