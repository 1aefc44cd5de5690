"""Where the groups would go on, on the target, as a reader there sees it: at every moment, and when they do go on.

Read from outside, in the same way for each contender: checkpoints from their topic, which has MirrorMaker 2's format
for all, and the groups' offsets from `__consumer_offsets`, where each commit is a record that appears at once.

Source: group-coordinator `OffsetCommitKey`, `OffsetCommitValue`; connect/mirror-client `Checkpoint`.
"""

from __future__ import annotations

import struct
import threading
import time
from array import array
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Self

from bench.accounts import Seen
from bench.backlog import KEY, BenchError
from replicator.deadline import Deadline
from replicator.kafka.cluster import AdminClient, Consumer, KafkaError, Message, TopicPartition
from replicator.offset_map.mm2_format import decode_checkpoint
from replicator.offset_map.sync_format import read_string

GROUP_OFFSETS = "__consumer_offsets"
TOPICS_TIMEOUT_S = 90.0
READ_TIMEOUT_S = 300.0
LOOK_S = 0.05
Kind = Literal["checkpoint", "group offset"]
_INT16 = struct.Struct(">h")
_INT32 = struct.Struct(">i")
_OFFSET = struct.Struct(">hq")


@dataclass(frozen=True, slots=True)
class Position:
    """One position of a group that appeared on the target."""

    kind: Kind
    group: str
    topic: str
    partition: int
    next_offset: int


def decode(topic: str, key: bytes, value: bytes | None) -> Position | None:
    """What a record of `topic` says of a group's position; None when it says nothing of one."""
    if value is None:
        return None
    if topic != GROUP_OFFSETS:
        checkpoint = decode_checkpoint(key, value)
        tp = checkpoint.tp
        return Position("checkpoint", checkpoint.group, tp.topic, tp.partition, checkpoint.downstream_next)
    if _INT16.unpack_from(key)[0] > 1:  # not an offset: the group itself, or something newer
        return None
    group, at = read_string(key, 2)
    name, at = read_string(key, at)
    return Position("group offset", group, name, _INT32.unpack_from(key, at)[0], _OFFSET.unpack_from(value)[1])


class PositionWatch:
    """Follows the positions of some groups in one topic of the target, in a thread of its own, until `close`.

    Args:
        checkpoints_topic: it and the group offsets must appear within `TOPICS_TIMEOUT_S`.
        groups: whose positions; others are left out.
        topic: as it is called on the target.
    """

    def __init__(
        self, bootstrap_servers: str, checkpoints_topic: str, groups: Collection[str], topic: str, partitions: int
    ) -> None:
        self._topic = topic
        self._seen: dict[tuple[Kind, str], list[list[Seen]]] = {
            (kind, group): [[] for _ in range(partitions)]
            for kind in ("checkpoint", "group offset")
            for group in groups
        }
        self._closing = threading.Event()
        self._failure: BaseException | None = None
        wanted = _partitions(bootstrap_servers, (checkpoints_topic, GROUP_OFFSETS))
        self._consumer = reader(bootstrap_servers, "bench-positions")
        self._consumer.assign(wanted)
        self._thread = threading.Thread(target=self._run, name="positions", daemon=True)

    def start(self) -> Self:
        """Begin at the beginning of both topics."""
        self._thread.start()
        return self

    def seen(self, kind: Kind, group: str) -> Sequence[Sequence[Seen]]:
        """By partition, in order; a position that was written again unchanged is not there a second time."""
        return self._seen[kind, group]

    def newest(self, kind: Kind, group: str) -> dict[int, int]:
        """The last offset of each partition that has one."""
        return {number: looks[-1].next_offset for number, looks in enumerate(self._seen[kind, group]) if looks}

    def changed_s(self, groups: Iterable[str]) -> float:
        """When a position of these groups was seen to change last (monotonic clock); 0 when there is none."""
        looks = [looks for (_, group), all_looks in self._seen.items() if group in groups for looks in all_looks]
        return max((it[-1].at_s for it in looks if it), default=0.0)

    def check(self) -> None:
        """Raise what ended the thread."""
        if self._failure is not None:
            raise BenchError(f"following the positions: {self._failure}") from self._failure

    def close(self) -> None:
        self._closing.set()
        self._thread.join(READ_TIMEOUT_S)
        self._consumer.close()

    def _run(self) -> None:
        try:
            while not self._closing.is_set():
                message = self._consumer.poll(LOOK_S)
                if message is not None and message.error() is None:
                    self._take(message, time.monotonic())
        except BaseException as error:
            self._failure = error

    def _take(self, message: Message, at_s: float) -> None:
        position = decode(message.topic() or "", message.key() or b"", message.value())
        if position is None or position.topic != self._topic or (position.kind, position.group) not in self._seen:
            return
        looks = self._seen[position.kind, position.group][position.partition]
        if not looks or looks[-1].next_offset != position.next_offset:
            looks.append(Seen(at_s, position.next_offset))


@dataclass(slots=True)
class Arrival:
    """What a group met on the target.

    Args:
        positions: the offsets it had there, by partition; one that it had none for is left out.
        first: (offset, number) of the first record, by partition.
        at_end: partitions without a further record.
        first_s: from `began_s` of `arrive` to the first record; None when there was none to read.
    """

    positions: dict[int, int] = field(default_factory=dict)
    first: dict[int, tuple[int, int]] = field(default_factory=dict)
    at_end: set[int] = field(default_factory=set)
    first_s: float | None = None


def arrive(
    bootstrap_servers: str, groups: Iterable[str], topic: str, partitions: int, began_s: float, within_s: float
) -> dict[str, Arrival]:
    """One consumer of each group starts on the target, and stops at the first record, or the end, of each partition.

    A group that has read everything may find no record.

    Args:
        began_s: when the move began (monotonic clock).

    Raises:
        BenchError: not within `within_s`.
    """
    found = {group: Arrival() for group in groups}
    deadline = Deadline(within_s)
    consumers = {group: reader(bootstrap_servers, group) for group in found}
    for consumer in consumers.values():
        consumer.subscribe([topic])
    try:
        while consumers:
            for group, consumer in list(consumers.items()):
                arrival = found[group]
                for message in consumer.consume(100, 0.01):
                    _meet(arrival, message, time.monotonic() - began_s)
                if arrival.first.keys() | arrival.at_end == set(range(partitions)):
                    arrival.positions = _committed(consumer, topic, partitions, deadline)
                    consumers.pop(group).close()
            if deadline.expired:
                raise BenchError(f"{', '.join(consumers)}: no record on the target within {within_s:g} s")
    finally:
        for consumer in consumers.values():
            consumer.close()
    return found


def _meet(arrival: Arrival, message: Message, at_s: float) -> None:
    partition, error = message.partition() or 0, message.error()
    if error is None:
        arrival.first.setdefault(partition, (message.offset() or 0, KEY.unpack(message.key() or b"")[0]))
        arrival.first_s = at_s if arrival.first_s is None else arrival.first_s
    elif error.code() == KafkaError._PARTITION_EOF:
        arrival.at_end.add(partition)


def _committed(consumer: Consumer, topic: str, partitions: int, deadline: Deadline) -> dict[int, int]:
    """What the group began with: its consumer commits nothing, and no other member may while it is there."""
    wanted = [TopicPartition(topic, number) for number in range(partitions)]
    found = consumer.committed(wanted, timeout=max(1.0, deadline.left_s()))
    return {it.partition: it.offset for it in found if it.offset >= 0}


def read_offsets(bootstrap_servers: str, topic: str, partitions: int) -> list[Sequence[int]]:
    """By partition, the offsets of the records 0, 1, 2…, as a read_committed reader of the target finds them.

    Raises:
        BenchError: a record is there twice, or one is missing, or they are not in order.
    """
    found: list[array[int]] = [array("q") for _ in range(partitions)]
    consumer = reader(bootstrap_servers, "bench-read")
    consumer.assign([TopicPartition(topic, number, 0) for number in range(partitions)])
    waiting = set(range(partitions))
    deadline = Deadline(READ_TIMEOUT_S)
    while waiting:
        if deadline.expired:
            raise BenchError(f"{topic} was not read within {READ_TIMEOUT_S:g} s")
        for message in consumer.consume(10_000, 0.1):
            partition = message.partition() or 0
            error = message.error()
            if error is not None:
                waiting -= {partition} if error.code() == KafkaError._PARTITION_EOF else set()
                continue
            number = KEY.unpack(message.key() or b"")[0]
            if number != len(found[partition]):
                place = f"{topic}-{partition} at offset {message.offset()}"
                raise BenchError(
                    f"not replicated exactly once: record {number} where {len(found[partition])} is due: {place}"
                )
            found[partition].append(message.offset() or 0)
    consumer.close()
    return list(found)


def _partitions(bootstrap_servers: str, topics: Collection[str]) -> list[TopicPartition]:
    """All partitions of these topics, from their beginnings, as soon as the topics exist."""
    admin = AdminClient({"bootstrap.servers": bootstrap_servers, "log_level": 0})
    deadline = Deadline(TOPICS_TIMEOUT_S)
    while True:
        known: Mapping[str, Any] = admin.list_topics(timeout=10).topics
        if all(topic in known and known[topic].partitions for topic in topics):
            return [TopicPartition(topic, number, 0) for topic in topics for number in known[topic].partitions]
        if deadline.expired:
            raise BenchError(f"not on the target within {deadline.seconds:g} s: {', '.join(set(topics) - set(known))}")
        time.sleep(0.2)


def reader(bootstrap_servers: str, group: str) -> Consumer:
    """A read_committed consumer that commits nothing."""
    return Consumer(
        {
            "bootstrap.servers": bootstrap_servers,
            "group.id": group,
            "enable.auto.commit": False,
            "auto.offset.reset": "earliest",
            "isolation.level": "read_committed",
            "enable.partition.eof": True,
            "fetch.wait.max.ms": 20,
            "queued.max.messages.kbytes": 16_384,
            "log_level": 0,
        }
    )
