"""Brokers with topics, and what they check before they append or answer.

Source: core `ReplicaManager`, `Partition`; KIP-320, KIP-516; KAFKA-20734.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from replicator.errors import TP
from replicator.kafka.cluster import KafkaError
from tests.unit.copy.world.coordinator import Coordinator, Partitions, Transaction
from tests.unit.copy.world.log import Entry, PartitionLog
from tests.unit.copy.world.simulation import Simulation

NO_TOPIC = int(KafkaError.UNKNOWN_TOPIC_OR_PART)
NOT_LEADER = int(KafkaError.NOT_LEADER_FOR_PARTITION)
NOT_ENOUGH = int(KafkaError.NOT_ENOUGH_REPLICAS)
NOT_ENOUGH_AFTER = int(KafkaError.NOT_ENOUGH_REPLICAS_AFTER_APPEND)
OLD_LEADER_EPOCH = int(KafkaError.FENCED_LEADER_EPOCH)
NEW_LEADER_EPOCH = int(KafkaError.UNKNOWN_LEADER_EPOCH)
OUT_OF_RANGE = int(KafkaError.OFFSET_OUT_OF_RANGE)


@dataclass(slots=True)
class Partition:
    """One partition.

    Args:
        home: the broker that leads it whenever it is up.
        is_led: whether one does; it may lack a leader although its broker is up.
        refuses: the error that each Produce request gets instead, if any.
    """

    home: int
    log: PartitionLog = field(default_factory=PartitionLog)
    is_led: bool = True
    refuses: int = 0


@dataclass(slots=True)
class Topic:
    id: bytes
    partitions: list[Partition]


@dataclass(frozen=True, slots=True)
class Lost:
    """Records that a log had and has no more."""

    tp: TP
    entries: list[Entry]


class ModelCluster:
    """See the module.

    Attributes:
        up: the brokers that run.
        verifies: whether brokers ask for the transaction of what they append (KIP-890, from Kafka 3.6 on).
        lost: what logs lost, in order.
    """

    def __init__(self, simulation: Simulation, alias: str, brokers: int = 2) -> None:
        self.simulation = simulation
        self.alias = alias
        self.topics: dict[str, Topic] = {}
        self.brokers = list(range(1, brokers + 1))
        self.up = set(self.brokers)
        self.verifies = False
        self.lost: list[Lost] = []
        self.coordinator = Coordinator(
            simulation, Partitions(self._topic_id, self.has_leader, self._is_down, self._mark)
        )
        self.on_change: list[Callable[[], None]] = []
        """Called when something was appended, or a leader changed: who waits looks again."""
        self.on_broker_down: list[Callable[[int], None]] = []
        self._ids = 0

    # --- topics -------------------------------------------------------------------------------------------------------

    def create(self, name: str, partitions: int) -> None:
        """Create a topic; one of this name may have been there before."""
        self._ids += 1
        topic_id = uuid.uuid5(uuid.NAMESPACE_OID, f"{self.alias}/{name}/{self._ids}").bytes
        homes = [self.brokers[(self._ids + number) % len(self.brokers)] for number in range(partitions)]
        self.topics[name] = Topic(topic_id, [Partition(home) for home in homes])

    def delete(self, name: str) -> None:
        for number, partition in enumerate(self.topics.pop(name).partitions):
            self.lost.append(Lost(TP(name, number), partition.log.entries))
        self._changed()

    def partition(self, tp: TP) -> Partition | None:
        topic = self.topics.get(tp.topic)
        return topic.partitions[tp.partition] if topic is not None and tp.partition < len(topic.partitions) else None

    def log(self, tp: TP) -> PartitionLog:
        partition = self.partition(tp)
        assert partition is not None, tp
        return partition.log

    def tps(self) -> Iterator[TP]:
        return (TP(name, number) for name, topic in self.topics.items() for number in range(len(topic.partitions)))

    def leader(self, tp: TP) -> int | None:
        partition = self.partition(tp)
        return partition.home if partition is not None and partition.is_led and partition.home in self.up else None

    def has_leader(self, tp: TP) -> bool:
        return self.leader(tp) is not None

    def _is_down(self, tp: TP) -> bool:
        partition = self.partition(tp)
        return partition is not None and partition.home not in self.up

    def _topic_id(self, tp: TP) -> bytes | None:
        return self.topics[tp.topic].id if self.partition(tp) is not None else None

    def _mark(self, tp: TP, transaction: Transaction, epoch: int) -> None:
        is_commit = transaction.outcome == "commit"
        self.log(tp).end_transaction(transaction.producer_id, epoch, transaction, commit=is_commit)
        self._changed()

    def _changed(self) -> None:
        for call in list(self.on_change):
            call()

    # --- what happens to brokers and logs -----------------------------------------------------------------------------

    def stop_broker(self, node: int) -> None:
        """A broker crashes; what it leads has no leader until it is back."""
        self.up.discard(node)
        for call in list(self.on_broker_down):
            call(node)

    def start_broker(self, node: int) -> None:
        self.up.add(node)
        for topic in self.topics.values():
            for partition in topic.partitions:
                if partition.home == node:
                    partition.log.new_leader()
        self._changed()

    def lose_leader(self, tp: TP) -> None:
        """The partition has none, although its broker is up."""
        partition = self.partition(tp)
        if partition is not None:
            partition.is_led = False

    def regain_leader(self, tp: TP) -> None:
        partition = self.partition(tp)
        if partition is not None and not partition.is_led:
            partition.is_led = True
            partition.log.new_leader()
            self._changed()

    def move_leader(self, tp: TP) -> None:
        """Another broker leads it, with the same log."""
        partition = self.partition(tp)
        if partition is not None:
            partition.home = self.brokers[self.brokers.index(partition.home) - 1]
            partition.log.new_leader()

    def cut(self, tp: TP, end: int) -> list[Entry]:
        """An unclean election: the log loses its end."""
        entries = self.log(tp).cut(end)
        self.lost.append(Lost(tp, entries))
        self._changed()
        return entries

    def trim(self, tp: TP, start: int) -> None:
        """Retention, or DeleteRecords."""
        self.lost.append(Lost(tp, self.log(tp).trim(start)))

    # --- requests -----------------------------------------------------------------------------------------------------

    def produce(self, node: int, tp: TP, data: bytes) -> tuple[int, int]:
        """One batch: (error code, base offset)."""
        partition = self.partition(tp)
        if partition is None:
            return NO_TOPIC, -1
        if self.leader(tp) != node:
            return NOT_LEADER, -1
        if partition.refuses and partition.refuses != NOT_ENOUGH_AFTER:
            return partition.refuses, -1
        producer_id = int.from_bytes(data[43:51], "big", signed=True)
        transaction = self.coordinator.open_transaction(producer_id, tp)
        if self.verifies and producer_id >= 0 and transaction is None:
            return int(KafkaError.INVALID_TXN_STATE), -1
        code, base = partition.log.append(data, transaction)
        self._changed()
        return (partition.refuses, -1) if not code and partition.refuses else (code, base)

    def fetch_error(self, node: int, tp: TP, offset: int, leader_epoch: int) -> int:
        """Why a fetch is refused; 0: it is not."""
        if self.partition(tp) is None:
            return NO_TOPIC
        if self.leader(tp) != node:
            return NOT_LEADER
        log = self.log(tp)
        if 0 <= leader_epoch != log.epoch:
            return OLD_LEADER_EPOCH if leader_epoch < log.epoch else NEW_LEADER_EPOCH
        return 0 if log.start <= offset <= log.end else OUT_OF_RANGE
