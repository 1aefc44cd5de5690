"""The syncs topic: one partition per task, the only place where positions live (invariant B)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import closing
from typing import Generic, TypeVar

from replicator.deadline import Deadline
from replicator.errors import TP, ConfigError
from replicator.kafka.cluster import (
    LATEST,
    AdminClient,
    Cluster,
    KafkaError,
    KafkaException,
    Message,
    NewTopic,
    await_results,
)
from replicator.kafka.log_reader import LogReader
from replicator.kafka.topic_queries import known_offsets, list_topics
from replicator.offset_map.sync_format import (
    SyncRecord,
    decode,
)
from replicator.syncs.state import SyncsState

WANTED_REPLICAS = 3
State = TypeVar("State", bound=SyncsState)


class SyncsReader(Generic[State]):
    """Reads partitions of the syncs topic under read_committed to their stable end, repeatedly.

    Args:
        target: the cluster.
        topic: the syncs topic.
        partitions: which of them.
        state: takes what is read.
    """

    def __init__(self, target: Cluster, topic: str, partitions: Iterable[int], state: State) -> None:
        self.state = state
        self._reader = LogReader(
            target,
            topic,
            partitions,
            lambda message: state.take_at(message.offset() or 0, message.key() or b"", message.value()),
        )

    def read_to_end(self, deadline: Deadline, is_stopped: Callable[[], bool] = lambda: False) -> State:
        """Everything up to the last stable offset of each partition.

        Raises:
            KafkaOpError: as `LogReader.read_to_end`.
            WireError: a record can't be read.
        """
        self._reader.read_to_end(deadline, is_stopped)
        return self.state

    def read_on(
        self, ends: Mapping[int, int], deadline: Deadline, is_stopped: Callable[[], bool] = lambda: False
    ) -> State:
        """Everything up to these offsets (`syncs_ends`).

        Raises:
            KafkaOpError: as `LogReader.read_on`.
        """
        self._reader.read_on(ends, deadline, is_stopped)
        return self.state

    def read_to(self, partition: int) -> int:
        """How far a partition was read, including the transaction markers at its end."""
        return self._reader.read_to(partition)

    def follow(self, wait_s: float) -> State:
        """Read what was added since; waits at most `wait_s` for the first record."""
        self._reader.follow(wait_s)
        return self.state

    def close(self) -> None:
        self._reader.close()


def runs_on(target: Cluster, topic: str, task: int, begin: int, deadline: Deadline) -> list[tuple[int, SyncRecord]]:
    """The runs in a task's partition from offset `begin` on, committed or not, with their offsets.

    Raises:
        KafkaOpError: as `LogReader.read_to_end`.
    """
    found: list[tuple[int, SyncRecord]] = []

    def take(message: Message) -> None:
        record = decode(message.key() or b"", message.value())
        if isinstance(record, SyncRecord):
            found.append((message.offset() or 0, record))

    with closing(LogReader(target, topic, {task: begin}, take, committed=False)) as reader:
        reader.read_to_end(deadline)
    return found


def syncs_ends(
    target: Cluster, admin: AdminClient, topic: str, tasks: int, deadline: Deadline, *, committed: bool = True
) -> dict[int, int]:
    """Where the partitions of the syncs topic end.

    Args:
        committed: the last stable offset; else the high watermark.

    Raises:
        KafkaOpError: a partition did not answer.
    """
    specs = {TP(topic, task): LATEST for task in range(tasks)}
    ends = known_offsets(target, admin, specs, deadline, committed=committed)
    return {tp.partition: end for tp, end in ends.items()}


def ensure_topic(admin: AdminClient, target: Cluster, topic: str, tasks: int, flow: str, deadline: Deadline) -> None:
    """Create the syncs topic if it is not there, and check that it has one partition per task.

    Raises:
        ConfigError: it has another number of partitions than `tasks`.
        KafkaOpError: it can't be created or seen.
    """
    metadata = list_topics(target, admin, deadline)
    if topic not in metadata.topics:
        replicas = min(WANTED_REPLICAS, len(metadata.brokers))
        config = {"cleanup.policy": "compact", "segment.bytes": "16777216", "min.cleanable.dirty.ratio": "0.1"}
        if replicas >= WANTED_REPLICAS:
            config["min.insync.replicas"] = "2"
        futures = admin.create_topics([NewTopic(topic, tasks, replicas, config=config)])
        result = await_results(futures, deadline)[topic]
        exists = isinstance(result, KafkaException) and result.args[0].code() == KafkaError.TOPIC_ALREADY_EXISTS
        if isinstance(result, Exception) and not exists:
            raise target.error(result, op=f"create {topic}", right="CREATE", topic=topic)
        if not exists:
            return
        metadata = list_topics(target, admin, deadline)
    found = len(metadata.topics[topic].partitions) if topic in metadata.topics else 0
    if found not in (0, tasks):
        raise ConfigError(
            f"flows.{flow}.tasks",
            f"{tasks}, but {topic} on {target.alias} has {found} partitions, one per task: set tasks to {found}",
        )
