"""The only importer of confluent_kafka: client factories, and the one place where its errors become ours.

Every property that a correct copy depends on is set here and can't be overridden (`config.OWNED_PROPERTIES`).

Source: librdkafka CONFIGURATION.md; `rd_kafka_txn_require_states0` (rdkafka_txnmgr.c) for `transaction_error`.
"""

from __future__ import annotations

import json
import logging
import math
import re
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from types import MappingProxyType
from typing import Any, TypeVar

from confluent_kafka import (
    OFFSET_END,
    Consumer,
    ConsumerGroupTopicPartitions,
    IsolationLevel,
    KafkaError,
    KafkaException,
    Message,
    Producer,
    TopicCollection,
    TopicPartition,
    Uuid,
)
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AclOperation,
    AdminClient,
    ConfigResource,
    NewPartitions,
    NewTopic,
    OffsetSpec,
)

from replicator.config import ClusterSettings
from replicator.deadline import Deadline
from replicator.errors import (
    TP,
    ConfigError,
    FatalError,
    KafkaOpError,
    PartitionError,
    RetriableError,
)
from replicator.kafka.client_properties import client_defaults, client_id, security_properties
from replicator.kafka.error_codes import BY_WEIGHT, REFUSALS, Side, classify, hint, partition_reason
from replicator.offset_map.sync_format import read_uuid
from replicator.offset_map.topic_id import NO_ID, TopicId

__all__ = [
    "EARLIEST",
    "LATEST",
    "OFFSET_END",
    "AclOperation",
    "AdminClient",
    "ConfigResource",
    "Consumer",
    "ConsumerGroupTopicPartitions",
    "IsolationLevel",
    "KafkaError",
    "KafkaException",
    "Message",
    "NewPartitions",
    "NewTopic",
    "OffsetSpec",
    "Producer",
    "TopicCollection",
    "TopicPartition",
    "Uuid",
]

EARLIEST: OffsetSpec = OffsetSpec.earliest()  # type: ignore[no-untyped-call]
LATEST: OffsetSpec = OffsetSpec.latest()  # type: ignore[no-untyped-call]
T = TypeVar("T")

WATCHED: Mapping[str, Any] = {"statistics.interval.ms": 5000}
"""For clients that live long and are polled all the time: they tell when they know no broker any more (`Cluster.lost`).

A cluster that shuts down in good order answers, from its last broker, that it has topics and no brokers. Librdkafka
forgets all of them then, and may never ask the bootstrap servers again, with no error: its issue 5301, open in 2.16.
"""

HEAR_POLL_S = 0.05
HEAR_WITHIN_S = 5.0
"""How long records that are not needed any more may delay the close of a consumer."""
SILENT_POLLS = 2
"""The first may end early, by a callback that takes long; that a member gets something follows on what it loses."""

_SILENT = logging.getLogger("replicator.librdkafka")
_SILENT.addHandler(logging.NullHandler())
_SILENT.propagate = False


def _plain(error: KafkaError) -> str:
    """What happened, without librdkafka's private words; the caller names the cluster and its address."""
    if error.code() == KafkaError._TIMED_OUT:
        return "no answer"
    text = re.sub(r"^\S+:\d+/(?:bootstrap|\d+): ", "", error.str())
    text = re.sub(r"^Connect to \S+ failed: ", "", text)
    return re.sub(r" \(after \d+ms in state .*\)$", "", text)


class Cluster:
    """One cluster as its clients see it: factories that share the address, the security and the error log.

    Args:
        alias: its name in the configuration, for error texts.
        side: what it is in this flow; decides what an error of a partition means.
        group: the flow's group and prefix of its transactional ids, for error texts.
    """

    def __init__(self, alias: str, side: Side, settings: ClusterSettings, group: str) -> None:
        self.alias = alias
        self.side: Side = side
        self.settings = settings
        self.group = group
        self._last_errors: dict[str, tuple[float, KafkaError]] = {}
        self.brokers: frozenset[tuple[str, str, int]] = frozenset()
        """(cluster id, host, port) of each, known after `connect`. The id alone may be shared: examples get copied."""
        self.troubled_s = -math.inf
        """When a connection was last lost or refused, on the monotonic clock."""
        self.lost = False
        """Whether a `WATCHED` client of it has to be replaced: it knows no broker, and will never find one."""
        self.on_down: Callable[[], None] = lambda: None
        """Called by a client's thread when it lost every broker."""

    def consumer(self, properties: Mapping[str, Any], *, committed: bool = True) -> Consumer:
        """A consumer that commits nothing by itself and reports truncation as an error.

        Args:
            committed: whether it reads under read_committed.
        """
        fixed = {
            "isolation.level": "read_committed" if committed else "read_uncommitted",
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            "allow.auto.create.topics": False,
        }
        return self._make(Consumer, {**properties, **fixed, "group.id": self.group})

    def producer(self, properties: Mapping[str, Any]) -> Producer:
        """An idempotent producer that never makes the broker create a topic: it would have the wrong partitions."""
        return self._make(Producer, {**properties, "enable.idempotence": True, "allow.auto.create.topics": False})

    def admin(self, properties: Mapping[str, Any] = MappingProxyType({})) -> AdminClient:
        """An admin client."""
        return self._make(AdminClient, properties)

    def connect(self, timeout_s: float, properties: Mapping[str, Any] = MappingProxyType({})) -> AdminClient:
        """An admin client of a cluster that answers.

        Args:
            properties: over the client's own.

        Raises:
            RetriableError: it did not within `timeout_s`; the text says why, and what to check.
        """
        admin = self.admin(properties)
        deadline = Deadline(timeout_s)
        answer = admin.describe_cluster(request_timeout=timeout_s)
        while True:
            try:
                found = answer.result(timeout=0.1)
            except (KafkaException, TimeoutError) as error:
                admin.poll(0)  # serves the error callback, which knows why
                if deadline.expired or self._is_hopeless() or isinstance(error, KafkaException):
                    raise self._unreachable(error, timeout_s) from error
            else:
                self.brokers = frozenset((found.cluster_id or "", node.host, node.port) for node in found.nodes)
                return admin

    def _is_hopeless(self) -> bool:
        """Whether waiting longer can't help: the broker answered, and refused."""
        return any(name in self._last_errors for name in REFUSALS)

    def _unreachable(self, error: KafkaException | TimeoutError, timeout_s: float) -> RetriableError:
        cause = kafka_error(error) or KafkaError(KafkaError._TIMED_OUT)
        for name in BY_WEIGHT:
            if name in self._last_errors:
                cause = self._last_errors[name][1]
                break
        where = f"{self.alias} ({self.settings.bootstrap_servers})"
        text = f"{where}: {_plain(cause)}, tried for {timeout_s:g} s"
        if self._is_hopeless():
            text = f"{where} refused the connection: {_plain(cause)}"
        self._last_errors.clear()
        hint = self._hint(cause.name(), "") or self._hint("_TRANSPORT", "")
        return RetriableError(text, op="", hint=hint, code=cause.name())

    def _conf(self, properties: Mapping[str, Any]) -> dict[str, Any]:
        conf = {
            **client_defaults(),
            **self.settings.client,
            **security_properties(self.settings),
            **properties,
            "bootstrap.servers": self.settings.bootstrap_servers,
        }
        conf.setdefault("client.id", client_id())
        return conf

    def _make(self, kind: Callable[..., T], properties: Mapping[str, Any]) -> T:
        try:
            callbacks = {"error_cb": self._remember, "stats_cb": _BrokersLost(self._lose)}
            return kind({**self._conf(properties), **callbacks}, logger=_SILENT)
        except KafkaException as error:
            raise ConfigError(
                f"clusters.{self.alias}", f"librdkafka refuses the client's properties: {error.args[0].str()}"
            ) from error

    def _lose(self) -> None:
        self.lost = True

    def note_trouble(self) -> None:
        """Note that connections of those who write ended, or could not be made."""
        self.troubled_s = time.monotonic()

    def _remember(self, error: KafkaError) -> None:
        self.note_trouble()
        self._last_errors[error.name()] = (self.troubled_s, error)
        if error.code() == KafkaError._ALL_BROKERS_DOWN:
            self.on_down()

    def recent_error(self, within_s: float = 30.0) -> str:
        """Why the cluster can't be reached, if something was heard lately; else an empty string."""
        now = time.monotonic()
        for name in BY_WEIGHT:
            heard = self._last_errors.get(name)
            if heard and now - heard[0] < within_s:
                return f"{self.alias}: {_plain(heard[1])}"
        return ""

    @property
    def principal(self) -> str:
        """Whom the operator has to give a right."""
        user = self.settings.security.username
        return f"User:{user} of clusters.{self.alias}" if user else f"the principal of clusters.{self.alias}"

    def _hint(self, name: str, right: str, topic: str = "", group: str = "") -> str:
        default_right = "READ and DESCRIBE" if self.side == "source" else "WRITE and DESCRIBE"
        values = {"alias": self.alias, "group": group or self.group, "principal": self.principal}
        values["group_right"] = right if group else "READ"
        return hint(name, values | {"topic": topic or "the topic", "right": right or default_right})

    def error(
        self, cause: BaseException | KafkaError, *, op: str, tp: TP | None = None, right: str = "", topic: str = "",
        group: str = "",
    ) -> KafkaOpError:  # fmt: skip
        """The error of this package for one of the client's.

        Args:
            cause: a KafkaError, a KafkaException, or the SystemError that hides one (KafkaException as its cause).
            op: what was being done.
            tp: the partition that it stops, named as on the source or as on this cluster.
            topic: as it is called on this cluster, for the hint.
            group: that it is about, if not the workers'; for the hint.
            right: what the principal would need, if not the usual right of this side.
        """
        error = kafka_error(cause)
        if error is None:
            return FatalError(f"{type(cause).__name__}: {cause}", op=op, tp=tp)
        name = error.name()
        context: Any = {"op": f"{op} on {self.alias}", "hint": self._hint(name, right, topic, group), "code": name}
        flags = {"fatal": error.fatal(), "aborts": error.txn_requires_abort(), "retriable": error.retriable()}
        kind = classify(name, self.side, has_tp=tp is not None, **flags)
        reason = partition_reason(name, self.side)
        if kind is PartitionError and tp is not None and reason is not None:
            return PartitionError(error.str(), tp=tp, reason=reason, **context)
        return kind(error.str(), tp=tp, **context)

    def refused(self, op: str, tp: TP, topic: str) -> PartitionError:
        """A partition's error for a right on `topic` that the cluster says is missing."""
        error = self.error(KafkaError(KafkaError.TOPIC_AUTHORIZATION_FAILED), op=op, tp=tp, topic=topic)
        assert isinstance(error, PartitionError)
        return error


class _BrokersLost:
    """Takes the statistics of one client; calls back when it knew no broker twice in a row."""

    def __init__(self, then: Callable[[], None]) -> None:
        self._then = then
        self._was_without = False

    def __call__(self, statistics: str) -> None:
        brokers = json.loads(statistics)["brokers"].values()
        is_without = not any(it["source"] in {"configured", "learned"} for it in brokers)
        if is_without and self._was_without:
            self._then()
        self._was_without = is_without


def kafka_error(cause: BaseException | KafkaError) -> KafkaError | None:
    """The KafkaError inside an exception of the client, also inside the SystemError that a callback's drain raises."""
    if isinstance(cause, KafkaError):
        return cause
    for exception in (cause, cause.__cause__, cause.__context__):
        if isinstance(exception, KafkaException) and exception.args and isinstance(exception.args[0], KafkaError):
            return exception.args[0]
    return None


def transaction_error(producer: Producer) -> KafkaException | None:
    """The error that made the open transaction abortable or the producer fatal; None while all is well.

    In an open transaction `begin_transaction` changes nothing: librdkafka answers with the error that caused the
    abortable or fatal state, and with ``_STATE`` when there is none. Not for a hot loop: each answer leaks 180 bytes
    in the client, and when asked inside an ``except`` block, all that the exception's frames hold.
    """
    try:
        producer.begin_transaction()
    except KafkaException as error:
        return None if error.args[0].code() == KafkaError._STATE else error
    return None


def group_metadata(group: str) -> Any:
    """What `Producer.send_offsets_to_transaction` wants to know of a group of which the caller is no member.

    Only a consumer can say it; this one knows no broker.
    """
    return Consumer({"group.id": group, "log_level": 0}, logger=_SILENT).consumer_group_metadata()


def leave_group(consumer: Consumer) -> None:
    """Close a member of a cooperative group, so that it leaves, after it received every rebalance so far.

    Its partitions are paused, so that silence tells that nothing is pending; records that it gets here are dropped.

    A consumer that is closed earlier gets two rebalance callbacks while it closes: for the pending change, and for the
    loss of all partitions. Its answer to the first may end its membership; its answer to the second can then wait for
    ever, with the interpreter's lock held, so that the whole process hangs. (To unsubscribe first does not help: a
    member that does so before the pending change arrived may stay a member until its session times out.)

    Source: `rd_kafka_cgrp_op_serve` (rdkafka_cgrp.c) destroys what comes after the end without an answer; issue 4884 of
    librdkafka, open in 2.16.

    Raises:
        KafkaException: of a callback; the consumer is closed all the same.
    """
    deadline = Deadline(HEAR_WITHIN_S)
    silent = 0
    try:
        while silent < SILENT_POLLS and not deadline.expired:
            consumer.pause(consumer.assignment())  # each time: a rebalance may just have added some
            silent = silent + 1 if consumer.poll(HEAR_POLL_S) is None else 0
    finally:
        consumer.close()


def await_results(futures: Mapping[Any, Future[Any]], deadline: Deadline) -> dict[Any, Any]:
    """What each admin future gave: its result, or its exception (KafkaException, TimeoutError) as a value.

    A deadline that another thread shortens meanwhile is heeded.
    """
    outcome: dict[Any, Any] = {}
    grace = Deadline(0.1)
    for key, future in futures.items():
        while key not in outcome:
            is_last = deadline.expired and grace.expired
            try:
                outcome[key] = future.result(timeout=0 if is_last else 0.1)
            except KafkaException as error:
                outcome[key] = error
            except TimeoutError as error:
                if is_last:
                    outcome[key] = error
    return outcome


def uuid_bytes(uuid: Uuid | None) -> TopicId:
    """A topic id as 16 bytes; zeros when the broker is too old to have one."""
    return NO_ID if uuid is None else read_uuid(str(uuid))


def topic_partitions(positions: Iterable[tuple[TP, int]]) -> list[TopicPartition]:
    """Positions in the client's type."""
    return [TopicPartition(tp.topic, tp.partition, offset) for tp, offset in positions]
