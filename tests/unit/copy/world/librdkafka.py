"""What librdkafka's clients give to `kafka/`: consumers and admin clients of the model's clusters.

A consumer whose position a log does not have begins at `auto.offset.reset`: with ``earliest`` at the first record of
the log, with ``error`` it says so. An end-of-partition event carries the position, which may be after markers.

Source: librdkafka `rd_kafka_fetch_reply_handle`, `rd_kafka_offset_reset`.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace
from typing import Any

from replicator.config import ClusterSettings
from replicator.errors import TP
from replicator.kafka.cluster import (
    AdminClient,
    Cluster,
    Consumer,
    IsolationLevel,
    KafkaError,
    KafkaException,
    TopicPartition,
)
from replicator.kafka.error_codes import Side
from tests.unit.copy.world.cluster import ModelCluster
from tests.unit.copy.world.log import Stored
from tests.unit.copy.world.simulation import LONG_S

LATENCY_S = 0.001
POLL_S = 0.01
NO_POSITION = 0
EARLIEST_VALUE, LATEST_VALUE = -2, -1


@dataclass(frozen=True, slots=True)
class WorldMessage:
    """A record, or what a consumer says of a partition."""

    tp: TP
    at: int
    record: Stored | None = None
    problem: KafkaError | None = None

    def topic(self) -> str:
        return self.tp.topic

    def partition(self) -> int:
        return self.tp.partition

    def offset(self) -> int:
        return self.at

    def key(self) -> bytes | None:
        return self.record.key if self.record else None

    def value(self) -> bytes | None:
        return self.record.value if self.record else None

    def error(self) -> KafkaError | None:
        return self.problem


class WorldConsumer:
    """As confluent_kafka's Consumer with manual assignment."""

    def __init__(self, model: ModelCluster, conf: Mapping[str, Any]) -> None:
        self._model = model
        self._is_committed = conf["isolation.level"] == "read_committed"
        self._reset = conf["auto.offset.reset"]
        self._positions: dict[TP, int] = {}
        self._paused: set[TP] = set()
        self._said_end: dict[TP, int] = {}

    def assign(self, partitions: Iterable[TopicPartition]) -> None:
        self._positions = {TP(it.topic, it.partition): it.offset for it in partitions}
        self._said_end.clear()

    def unassign(self) -> None:
        self._positions.clear()

    def pause(self, partitions: Iterable[TopicPartition]) -> None:
        self._paused |= {TP(it.topic, it.partition) for it in partitions}

    def resume(self, partitions: Iterable[TopicPartition]) -> None:
        self._paused -= {TP(it.topic, it.partition) for it in partitions}

    def close(self) -> None:
        self._positions.clear()

    def consume(self, number: int, timeout: float) -> list[WorldMessage]:
        simulation = self._model.simulation
        end_s = simulation.now_s + timeout
        if timeout:
            simulation.effects += 1
            simulation.sleep(min(LATENCY_S, timeout))
        while True:
            found: list[WorldMessage] = []
            for tp in self._positions:
                if tp not in self._paused and len(found) < number:
                    found += self._fetch(tp, number - len(found))
            if found or simulation.now_s >= end_s:
                return found
            simulation.sleep(min(POLL_S, end_s - simulation.now_s))

    def _fetch(self, tp: TP, number: int) -> list[WorldMessage]:
        if not self._model.has_leader(tp):
            return []
        log = self._model.log(tp)
        position = self._positions[tp]
        if not log.start <= position <= log.end:
            if self._reset == "error":
                return [WorldMessage(tp, position, problem=KafkaError(KafkaError._AUTO_OFFSET_RESET))]
            position = log.start if self._reset == "earliest" else log.end
            self._positions[tp] = position
        found: list[WorldMessage] = []
        for _, record in log.visible(position, committed=self._is_committed):
            if len(found) == number:
                return found
            found.append(WorldMessage(tp, record.offset, record))
            self._positions[tp] = record.offset + 1
        end = log.stable if self._is_committed else log.end
        if len(found) < number:
            self._positions[tp] = position = max(self._positions[tp], end)
            if self._said_end.get(tp) != position:
                self._said_end[tp] = position
                found.append(WorldMessage(tp, position, problem=KafkaError(KafkaError._PARTITION_EOF)))
        return found

    def list_topics(self, topic: str, timeout: float) -> Any:
        self._model.simulation.sleep(min(LATENCY_S, timeout))
        error = None if topic in self._model.topics else KafkaError(KafkaError.UNKNOWN_TOPIC_OR_PART)
        return SimpleNamespace(topics={topic: SimpleNamespace(error=error)})


class WorldFuture:
    """As a Future of confluent_kafka's, in virtual time."""

    def __init__(self, model: ModelCluster, delay_s: float, find: Callable[[], Any]) -> None:
        self._simulation = model.simulation
        self._is_done = False
        self._found: Any = None
        process = self._simulation.current

        def arrive() -> None:
            self._is_done = True
            self._found = find()
            self._simulation.effects += 1
            self._simulation.wake(process)

        self._simulation.later(delay_s, arrive)

    def done(self) -> bool:
        return self._is_done

    def exception(self) -> Exception | None:
        return self._found if isinstance(self._found, Exception) else None

    def result(self, timeout: float = LONG_S) -> Any:
        end_s = self._simulation.now_s + timeout
        while not self._is_done and self._simulation.now_s < end_s:
            self._simulation.wait(end_s - self._simulation.now_s)
        if not self._is_done:
            raise TimeoutError
        if isinstance(self._found, Exception):
            raise self._found
        return self._found


class _Uuid:
    def __init__(self, topic_id: bytes) -> None:
        self._text = base64.urlsafe_b64encode(topic_id).decode().rstrip("=")

    def __str__(self) -> str:
        return self._text


def _failed(code: int) -> KafkaException:
    return KafkaException(KafkaError(code))


class WorldAdmin:
    """As confluent_kafka's AdminClient, for what `kafka/` asks of it."""

    def __init__(self, model: ModelCluster) -> None:
        self._model = model

    def _future(self, find: Callable[[], Any], timeout_s: float, *, is_late: bool = False) -> WorldFuture:
        if is_late or not self._model.up:
            return WorldFuture(self._model, timeout_s, lambda: _failed(KafkaError._TIMED_OUT))
        return WorldFuture(self._model, LATENCY_S, find)

    def list_topics(self, timeout: float) -> Any:
        simulation = self._model.simulation
        simulation.effects += 1
        if not self._model.up:
            simulation.sleep(timeout)
            raise _failed(KafkaError._TRANSPORT)
        simulation.sleep(LATENCY_S)
        topics = {
            name: SimpleNamespace(partitions=dict(enumerate(topic.partitions)), error=None)
            for name, topic in self._model.topics.items()
        }
        return SimpleNamespace(topics=topics, brokers=dict.fromkeys(self._model.up))

    def describe_topics(self, topics: Any, request_timeout: float, **_: Any) -> dict[str, WorldFuture]:
        return {name: self._future(partial(self._described, name), request_timeout) for name in topics.topic_names}

    def _described(self, name: str) -> Any:
        topic = self._model.topics.get(name)
        if topic is None:
            return _failed(KafkaError.UNKNOWN_TOPIC_OR_PART)
        parts = []
        for number in range(len(topic.partitions)):
            node = self._model.leader(TP(name, number))
            leader = None if node is None else SimpleNamespace(id=node)
            parts.append(SimpleNamespace(id=number, leader=leader, replicas=[1], isr=[1]))
        return SimpleNamespace(topic_id=_Uuid(topic.id), partitions=parts, authorized_operations=None)

    def list_offsets(
        self, request: Mapping[TopicPartition, Any], isolation_level: IsolationLevel, request_timeout: float
    ) -> dict[TopicPartition, WorldFuture]:
        """One partition without a leader holds up all answers."""
        tps = [TP(it.topic, it.partition) for it in request]
        lacks = any(self._model.partition(tp) is not None and not self._model.has_leader(tp) for tp in tps)
        is_committed = isolation_level == IsolationLevel.READ_COMMITTED
        return {
            it: self._future(
                partial(self._offset, tp, spec, is_committed=is_committed),
                request_timeout,
                is_late=lacks,
            )
            for (it, spec), tp in zip(request.items(), tps, strict=True)
        }

    def _offset(self, tp: TP, spec: Any, *, is_committed: bool) -> Any:
        if self._model.partition(tp) is None:
            return _failed(KafkaError.UNKNOWN_TOPIC_OR_PART)
        log = self._model.log(tp)
        offset = {EARLIEST_VALUE: log.start, LATEST_VALUE: log.stable if is_committed else log.end}[int(spec._value)]
        return SimpleNamespace(offset=offset)

    def create_topics(self, topics: Iterable[Any], **options: Any) -> dict[str, WorldFuture]:
        def create(new: Any) -> Any:
            if new.topic in self._model.topics:
                return _failed(KafkaError.TOPIC_ALREADY_EXISTS)
            self._model.create(new.topic, new.num_partitions)
            return None

        return {it.topic: self._future(partial(create, it), options.get("request_timeout", 10.0)) for it in topics}

    def describe_configs(self, resources: Iterable[Any], request_timeout: float) -> dict[Any, WorldFuture]:
        limit = {"max.message.bytes": SimpleNamespace(name="max.message.bytes", value="1048588", source=5)}
        return {it: self._future(lambda: limit, request_timeout) for it in resources}


class WorldCluster(Cluster):
    """`kafka.cluster.Cluster` with the model's clients."""

    def __init__(self, model: ModelCluster, side: Side, settings: ClusterSettings, group: str) -> None:
        super().__init__(model.alias, side, settings, group)
        self.model = model

    def _make(self, kind: Callable[..., Any], properties: Mapping[str, Any]) -> Any:
        assert kind is Consumer, kind
        return WorldConsumer(self.model, properties)

    def admin(self, properties: Mapping[str, Any] = {}) -> AdminClient:
        return WorldAdmin(self.model)  # type: ignore[return-value]
