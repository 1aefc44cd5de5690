"""What a topic holds, as a reader sees it; and small writers for set-up. Independent of the product's clients."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, cast

from confluent_kafka import (
    Consumer,
    IsolationLevel,
    KafkaError,
    KafkaException,
    Message,
    Producer,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._config import AlterConfigOpType, ConfigEntry, ConfigResource
from confluent_kafka.admin._listoffsets import OffsetSpec
from confluent_kafka.cimpl import NewPartitions, NewTopic

from replicator.deadline import Deadline
from tests.support.eventually import eventually

READ_TIMEOUT_S = 60.0
ADMIN_TIMEOUT_S = 60.0
_NOT_LED_YET = frozenset(
    {
        KafkaError.NOT_LEADER_FOR_PARTITION,
        KafkaError.LEADER_NOT_AVAILABLE,
        KafkaError.UNKNOWN_LEADER_EPOCH,  # a broker gives the new leader before that one has taken over
        KafkaError.FENCED_LEADER_EPOCH,
        KafkaError.OFFSET_NOT_AVAILABLE,
    }
)
_NOT_SEEN_YET = frozenset({KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError.LEADER_NOT_AVAILABLE})

Headers = tuple[tuple[str, bytes | None], ...]


class Record(NamedTuple):
    """One record as a consumer got it. No headers is an empty tuple."""

    partition: int
    offset: int
    timestamp_type: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Headers

    @property
    def content(self) -> tuple[int, int, bytes | None, bytes | None, Headers]:
        """What replication keeps: all but the offset and the type of the timestamp."""
        return (self.partition, self.timestamp, self.key, self.value, self.headers)


def read_topic(
    bootstrap_servers: str,
    topic: str,
    *,
    isolation: str = "read_committed",
    client: Mapping[str, Any] | None = None,
    timeout_s: float = READ_TIMEOUT_S,
) -> list[Record]:
    """Every record of a topic, up to the end that was stable when the call began, by partition and offset.

    Args:
        bootstrap_servers: of the cluster.
        topic: must exist.
        isolation: `read_committed`, to the last stable offset, or `read_uncommitted`, to the high watermark.
        client: further librdkafka properties, credentials for example.
        timeout_s: for the whole read.

    Raises:
        AssertionError: the end was not reached in time.
    """
    deadline = Deadline(timeout_s)
    ends = end_offsets(bootstrap_servers, topic, isolation=isolation, client=client)
    waiting = {partition for partition, end in ends.items() if end > 0}
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap_servers,
            "group.id": "tests-read-topic",  # never joined, never committed to
            "enable.auto.commit": False,
            "isolation.level": isolation,
            "enable.partition.eof": True,
            "auto.offset.reset": "error",
            "fetch.wait.max.ms": 50,
            "fetch.queue.backoff.ms": 5,
            **(client or {}),
        }
    )
    records: list[Record] = []
    try:
        _assign_from_start(consumer, topic, sorted(waiting))
        while waiting:
            assert not deadline.expired, f"{topic}: {sorted(waiting)} not read to {ends} within {timeout_s:g} s"
            for message in consumer.consume(2_000, 0.05):
                error = message.error()
                if error is not None and error.code() == KafkaError.GROUP_AUTHORIZATION_FAILED:
                    continue  # librdkafka looks for the coordinator of a group that this reader does not use
                if error is not None and error.code() != KafkaError._PARTITION_EOF:
                    raise KafkaException(error)
                partition, offset = _place(message)
                if error is None:
                    if offset < ends[partition]:
                        records.append(_record(message))
                    offset += 1
                if offset >= ends[partition]:
                    waiting.discard(partition)
    finally:
        consumer.close()
    return sorted(records, key=lambda record: (record.partition, record.offset))


def _assign_from_start(consumer: Consumer, topic: str, partitions: Sequence[int]) -> None:
    """Begin at the log start offsets: they are not 0 where records were deleted."""
    starts = []
    for partition in partitions:
        low, _ = consumer.get_watermark_offsets(TopicPartition(topic, partition), timeout=ADMIN_TIMEOUT_S)
        starts.append(TopicPartition(topic, partition, low))
    consumer.assign(starts)


def _place(message: Message) -> tuple[int, int]:
    partition, offset = message.partition(), message.offset()
    assert partition is not None
    assert offset is not None
    return partition, offset


def _record(message: Message) -> Record:
    timestamp_type, timestamp = message.timestamp()
    partition, offset = _place(message)
    headers = cast("Headers", tuple(message.headers() or ()))
    return Record(partition, offset, timestamp_type, timestamp, message.key(), message.value(), headers)


def end_offsets(
    bootstrap_servers: str, topic: str, *, isolation: str = "read_committed", client: Mapping[str, Any] | None = None
) -> dict[int, int]:
    """Partition → last stable offset, or high watermark for `read_uncommitted`.

    A topic may have been made a moment ago: a broker knows it before it leads it, and not all brokers at once.
    """
    return eventually(lambda: _end_offsets(bootstrap_servers, topic, isolation, client), ADMIN_TIMEOUT_S)


def _end_offsets(
    bootstrap_servers: str, topic: str, isolation: str, client: Mapping[str, Any] | None
) -> dict[int, int]:
    admin = admin_client(bootstrap_servers, client)
    partitions = _partitions(admin, topic)
    level = IsolationLevel.READ_COMMITTED if isolation == "read_committed" else IsolationLevel.READ_UNCOMMITTED
    latest = OffsetSpec.latest()  # type: ignore[no-untyped-call]
    query = {TopicPartition(topic, partition): latest for partition in partitions}
    answers = admin.list_offsets(query, isolation_level=level, request_timeout=ADMIN_TIMEOUT_S)
    try:
        return {tp.partition: answer.result(ADMIN_TIMEOUT_S).offset for tp, answer in answers.items()}
    except KafkaException as error:
        if error.args[0].code() in _NOT_LED_YET:
            raise AssertionError(f"{topic} has no leader yet") from error
        raise


def admin_client(bootstrap_servers: str, client: Mapping[str, Any] | None = None) -> AdminClient:
    """An admin client of its own for each caller."""
    return AdminClient({"bootstrap.servers": bootstrap_servers, **(client or {})})


def leader_of(bootstrap_servers: str, topic: str, partition: int = 0) -> int:
    """Node id of a partition's leader; -1 while it has none."""
    return int(partition_metadata(bootstrap_servers, topic, partition).leader)


def partition_metadata(bootstrap_servers: str, topic: str, partition: int = 0) -> Any:
    """Leader, replicas and in-sync replicas of a partition: `leader`, `replicas`, `isrs`."""
    admin = admin_client(bootstrap_servers)
    return eventually(lambda: _partitions(admin, topic).get(partition), ADMIN_TIMEOUT_S)


def leaders_of(bootstrap_servers: str, topic: str) -> dict[int, int]:
    """Partition → node id of its leader; -1 while it has none."""
    admin = admin_client(bootstrap_servers)
    found = eventually(lambda: _partitions(admin, topic), ADMIN_TIMEOUT_S)
    return {partition: int(it.leader) for partition, it in found.items()}


def _partitions(admin: AdminClient, topic: str) -> Mapping[int, Any]:
    """Partition → its metadata, as the broker has them that answers.

    Raises:
        AssertionError: that broker does not know the topic, or not yet.
    """
    metadata = admin.list_topics(topic, timeout=ADMIN_TIMEOUT_S).topics[topic]
    if metadata.error is not None:
        assert metadata.error.code() not in _NOT_SEEN_YET, f"{topic}: {metadata.error}"
        raise KafkaException(metadata.error)
    partitions: Mapping[int, Any] = metadata.partitions
    return partitions


def _each_broker(admin: AdminClient, client: Mapping[str, Any] | None) -> list[AdminClient]:
    """A client for each broker that is up, whose first questions go to that broker.

    librdkafka asks any broker that it is connected to, and connects to others only for what they alone can answer.
    """
    brokers = admin.list_topics("__consumer_offsets", timeout=ADMIN_TIMEOUT_S).brokers.values()
    return [admin_client(f"{it.host}:{it.port}", client) for it in brokers]


def create_topic(
    bootstrap_servers: str,
    topic: str,
    *,
    partitions: int = 1,
    replication_factor: int = -1,
    config: Mapping[str, str] | None = None,
    client: Mapping[str, Any] | None = None,
) -> str:
    """Create a topic and wait until every broker knows it, and a leader of every partition; returns its name.

    A broker that a busy machine held up for seconds may be fenced at the moment: then there are too few.
    """
    admin = admin_client(bootstrap_servers, client)

    def is_created() -> bool:
        new = NewTopic(topic, partitions, replication_factor, config=dict(config or {}))
        try:
            admin.create_topics([new], operation_timeout=ADMIN_TIMEOUT_S)[topic].result(ADMIN_TIMEOUT_S)
        except KafkaException as error:
            if error.args[0].code() == KafkaError.INVALID_REPLICATION_FACTOR:
                raise AssertionError(str(error)) from error
            raise
        return True

    eventually(is_created, ADMIN_TIMEOUT_S)
    _await_leaders(admin, topic, partitions, client)
    return topic


def _await_leaders(admin: AdminClient, topic: str, partitions: int, client: Mapping[str, Any] | None = None) -> None:
    """Wait until every broker knows so many partitions of the topic, and a leader of each."""

    def has_leaders(broker: AdminClient) -> bool:
        found = _partitions(broker, topic)
        return len(found) == partitions and all(it.leader >= 0 for it in found.values())

    for broker in _each_broker(admin, client):
        eventually(partial(has_leaders, broker), ADMIN_TIMEOUT_S)


def grow_topic(bootstrap_servers: str, topic: str, partitions: int) -> None:
    """Make a topic larger, and wait until every broker knows it, and a leader of every partition."""
    admin = admin_client(bootstrap_servers)
    admin.create_partitions([NewPartitions(topic, partitions)])[topic].result(ADMIN_TIMEOUT_S)
    _await_leaders(admin, topic, partitions)


def alter_topic_config(
    bootstrap_servers: str, topic: str, config: Mapping[str, str], *, client: Mapping[str, Any] | None = None
) -> None:
    """Set these configs of a topic, leaving the others as they are."""
    entries = [ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET) for name, value in config.items()]
    resource = ConfigResource(ConfigResource.Type.TOPIC, topic, incremental_configs=entries)
    admin = admin_client(bootstrap_servers, client)
    admin.incremental_alter_configs([resource])[resource].result(ADMIN_TIMEOUT_S)


def delete_topic(bootstrap_servers: str, topic: str) -> None:
    """Delete a topic and wait until every broker has forgotten it."""
    admin = admin_client(bootstrap_servers)
    admin.delete_topics([topic])[topic].result(ADMIN_TIMEOUT_S)
    for broker in _each_broker(admin, None):
        eventually(partial(_does_not_know, broker, topic), ADMIN_TIMEOUT_S)


def _does_not_know(admin: AdminClient, topic: str) -> bool:
    return topic not in admin.list_topics(timeout=ADMIN_TIMEOUT_S).topics  # asked for by name, a broker may create it


def has_topic(bootstrap_servers: str, topic: str) -> bool:
    """Whether a broker of the cluster knows the topic."""
    return not _does_not_know(admin_client(bootstrap_servers), topic)


class NewRecord(NamedTuple):
    """One record to write; a timestamp of None is now, a partition of -1 is librdkafka's choice."""

    value: bytes | None
    key: bytes | None = None
    partition: int = 0
    timestamp: int | None = None
    headers: Sequence[tuple[str, bytes | None]] = ()


def produce(
    bootstrap_servers: str,
    topic: str,
    records: Iterable[NewRecord | bytes],
    *,
    client: Mapping[str, Any] | None = None,
) -> None:
    """Write records in order, idempotently, and wait until they are all acknowledged; plain bytes go to partition 0.

    Raises:
        AssertionError: not all were acknowledged in time.
        KafkaException: one was refused.
    """
    errors: list[KafkaError] = []

    def note(error: KafkaError | None, _: Message) -> None:
        if error is not None:
            errors.append(error)

    producer = Producer({"bootstrap.servers": bootstrap_servers, "enable.idempotence": True, **(client or {})})
    for item in records:
        record = NewRecord(item) if isinstance(item, bytes) else item
        enqueue(producer, topic, record, note)
    left = producer.flush(READ_TIMEOUT_S)
    assert left == 0, f"{left} records for {topic} were not acknowledged within {READ_TIMEOUT_S:g} s"
    if errors:
        raise KafkaException(errors[0])


def enqueue(producer: Producer, topic: str, record: NewRecord, on_delivery: Any = None) -> None:
    """Hand one record to a producer, waiting while its queue is full."""
    options: dict[str, Any] = {"partition": record.partition, "on_delivery": on_delivery}
    if record.timestamp is not None:
        options["timestamp"] = record.timestamp
    if record.headers:
        options["headers"] = list(record.headers)
    deadline = Deadline(READ_TIMEOUT_S)
    while True:
        try:
            producer.produce(topic, record.value, record.key, **options)
        except BufferError:
            assert not deadline.expired, f"the queue for {topic} stayed full"
            producer.poll(0.1)
        else:
            return
