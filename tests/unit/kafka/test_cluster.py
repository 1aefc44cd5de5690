"""Error mapping, client properties, and who may import what."""

from __future__ import annotations

import base64
import time
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any, cast

import pytest
from confluent_kafka import Consumer, KafkaError, KafkaException, Producer
from pydantic import SecretStr

import replicator
from replicator.config import OWNED_PROPERTIES, ClusterSettings, SecuritySettings
from replicator.deadline import Deadline
from replicator.errors import (
    TP,
    AbortTransactionError,
    ConfigError,
    FatalError,
    FencedError,
    KafkaOpError,
    PartitionError,
    RetriableError,
    StopReason,
)
from replicator.kafka.client_properties import client_defaults, security_properties
from replicator.kafka.cluster import WATCHED, Cluster, Uuid, await_results, kafka_error, transaction_error, uuid_bytes
from replicator.kafka.error_codes import Side, is_mapped
from replicator.planes import PlaneSettings
from replicator.planes.records import consumer_properties, producer_properties

E = KafkaError
PLAIN = ClusterSettings(bootstrap_servers="127.0.0.1:1")
ORDERS = TP("orders", 3)
PACKAGE = Path(replicator.__file__).parent


def cluster(side: Side = "target", settings: ClusterSettings = PLAIN) -> Cluster:
    return Cluster("west", side, settings, "replicator-east-west")


def every_code() -> dict[str, int]:
    """Every error code that the installed client can report, by the attribute that names it."""
    codes = {
        name: value
        for name, value in vars(KafkaError).items()
        if isinstance(value, int) and name.strip("_").isupper() and value != KafkaError.NO_ERROR
    }
    assert len(codes) > 150
    return codes


def test_every_error_code_of_the_client_is_mapped() -> None:
    """A new client with a new code fails here, and somebody decides what it means."""
    assert sorted(name for name in every_code() if not is_mapped(name)) == []


@pytest.mark.parametrize("side", ["source", "target"])
@pytest.mark.parametrize("tp", [None, ORDERS])
def test_every_error_code_becomes_an_error_of_ours(side: Side, tp: TP | None) -> None:
    """With every flag: one of the classes that decide, with the client's words, and our own operation."""
    for name, code in every_code().items():
        for flags in ((False, False, False), (True, False, False), (False, True, False), (False, False, True)):
            error = cluster(side).error(KafkaError(code, "what it said", *flags), op="do it", tp=tp)
            assert isinstance(error, RetriableError | AbortTransactionError | FatalError | PartitionError), name
            assert "what it said" in str(error)
            assert (error.op, error.tp) == ("do it on west", tp)
            assert error.code == KafkaError(code).name()
            is_fatal, _, must_abort = flags
            if is_fatal:
                assert isinstance(error, FatalError), name
            if must_abort:
                assert isinstance(error, AbortTransactionError | PartitionError), name


RAISED = [
    # what commit, send and init raise, and then what follows: the table of measurements in docs
    (E.INVALID_RECORD, "abort", None, AbortTransactionError),
    (E.MSG_SIZE_TOO_LARGE, "abort", None, AbortTransactionError),
    (E.INVALID_TXN_STATE, "abort", None, AbortTransactionError),
    (E.TRANSACTION_ABORTABLE, "abort", None, AbortTransactionError),
    (E.PRODUCER_FENCED, "abort", None, AbortTransactionError),
    (E.TOPIC_AUTHORIZATION_FAILED, "abort", None, AbortTransactionError),
    (E.UNKNOWN_PRODUCER_ID, "abort", None, AbortTransactionError),
    (E.INVALID_PRODUCER_EPOCH, "fatal", None, FencedError),
    (E.OUT_OF_ORDER_SEQUENCE_NUMBER, "fatal", None, FatalError),
    (E._FENCED, "fatal", None, FencedError),
    (E.PRODUCER_FENCED, "fatal", None, FencedError),
    (E.INVALID_TXN_STATE, "fatal", None, FatalError),
    (E.TRANSACTIONAL_ID_AUTHORIZATION_FAILED, "fatal", None, FatalError),
    (E._FENCED, "", None, FencedError),
    (E.INVALID_PRODUCER_EPOCH, "", None, FencedError),
    (E._STATE, "", None, FatalError),
    (E._TRANSPORT, "", None, RetriableError),
    (E._TIMED_OUT, "retriable", None, RetriableError),
    (E._ALL_BROKERS_DOWN, "", None, RetriableError),
    (E._AUTHENTICATION, "", None, RetriableError),
    (E.NOT_LEADER_FOR_PARTITION, "", None, RetriableError),
    (E.COORDINATOR_LOAD_IN_PROGRESS, "", None, RetriableError),
    (E.CONCURRENT_TRANSACTIONS, "", None, RetriableError),
    (E.TRANSACTION_ABORTABLE, "", None, AbortTransactionError),
    (E._MSG_TIMED_OUT, "", ORDERS, AbortTransactionError),
    (E.TOPIC_AUTHORIZATION_FAILED, "", None, RetriableError),
    (E.INVALID_RECORD, "", ORDERS, PartitionError),
    (E.INVALID_RECORD, "abort", ORDERS, PartitionError),
    (E.INVALID_RECORD, "fatal", ORDERS, FatalError),
    (E._PARTITION_EOF, "", None, FatalError),
]


@pytest.mark.parametrize(("code", "flag", "tp", "kind"), RAISED)
def test_what_the_client_raises_becomes_the_class_that_decides(
    code: int, flag: str, tp: TP | None, kind: type[KafkaOpError]
) -> None:
    """The client's flags win over the code: fatal, then the partition, then abortable, then retriable."""
    cause = KafkaError(code, "text", flag == "fatal", flag == "retriable", flag == "abort")
    assert type(cluster().error(KafkaException(cause), op="commit", tp=tp)) is kind


@pytest.mark.parametrize(
    ("code", "side", "reason"),
    [
        (E._AUTO_OFFSET_RESET, "source", StopReason.TRUNCATED),
        (E.OFFSET_OUT_OF_RANGE, "source", StopReason.TRUNCATED),
        (E._LOG_TRUNCATION, "source", StopReason.SOURCE_LOG_SHORTER),
        (E.UNKNOWN_TOPIC_OR_PART, "source", StopReason.SOURCE_GONE),
        (E.UNKNOWN_TOPIC_OR_PART, "target", StopReason.TARGET_GONE),
        (E.TOPIC_AUTHORIZATION_FAILED, "source", StopReason.SOURCE_UNAUTHORIZED),
        (E.TOPIC_AUTHORIZATION_FAILED, "target", StopReason.TARGET_UNAUTHORIZED),
        (E._BAD_MSG, "source", StopReason.BAD_RECORD),
        (E._BAD_COMPRESSION, "source", StopReason.BAD_RECORD),
        (E.MSG_SIZE_TOO_LARGE, "target", StopReason.RECORD_TOO_LARGE),
        (E.RECORD_LIST_TOO_LARGE, "target", StopReason.RECORD_TOO_LARGE),
        (E.INVALID_RECORD, "target", StopReason.RECORD_REFUSED),
        (E.INVALID_TIMESTAMP, "target", StopReason.RECORD_REFUSED),
        (E._UNKNOWN_PARTITION, "target", StopReason.TARGET_TOO_FEW_PARTITIONS),
    ],
)
def test_an_error_of_one_partition_has_a_reason(code: int, side: Side, reason: StopReason) -> None:
    error = cluster(side).error(KafkaError(code, "text"), op="fetch", tp=ORDERS)
    assert isinstance(error, PartitionError)
    assert (error.reason, error.tp) == (reason, ORDERS)


@pytest.mark.parametrize("code", [E._AUTO_OFFSET_RESET, E.OFFSET_OUT_OF_RANGE])
def test_a_truncated_source_is_no_matter_of_the_target(code: int) -> None:
    assert not isinstance(cluster().error(KafkaError(code, "text"), op="x", tp=ORDERS), PartitionError)


def test_hints_name_the_cluster_the_group_and_the_right() -> None:
    """The operator is told whom to give what."""
    denied = KafkaError(E.TOPIC_AUTHORIZATION_FAILED)
    assert (
        "READ and DESCRIBE on the topic to the principal of clusters.west"
        in cluster("source").error(denied, op="x").hint
    )
    assert "WRITE and DESCRIBE" in cluster().error(denied, op="x").hint
    assert "grant CREATE on" in cluster().error(denied, op="x", right="CREATE").hint
    for code in (E.GROUP_AUTHORIZATION_FAILED, E.TRANSACTIONAL_ID_AUTHORIZATION_FAILED):
        assert "replicator-east-west" in cluster().error(KafkaError(code), op="x").hint
    assert cluster().error(KafkaError(E._RETRY), op="x").hint == ""


def test_the_error_is_found_inside_what_python_raises() -> None:
    """A callback's drain raises SystemError, with the client's exception as its cause."""
    inner = KafkaException(KafkaError(E._FENCED, "fenced", True))
    wrapped = SystemError("returned a result with an exception set")
    wrapped.__cause__ = inner
    assert isinstance(cluster().error(wrapped, op="flush"), FencedError)
    assert kafka_error(inner) is inner.args[0]
    assert kafka_error(ValueError("x")) is None
    unknown = cluster().error(ValueError("strange"), op="flush", tp=ORDERS)
    assert isinstance(unknown, FatalError)
    assert "ValueError: strange" in str(unknown)


class FakeProducer:
    """Answers `begin_transaction` as librdkafka does in each state."""

    def __init__(self, error: KafkaError | None) -> None:
        self._error = error

    def begin_transaction(self) -> None:
        if self._error is not None:
            raise KafkaException(self._error)


def test_an_open_transaction_tells_its_error() -> None:
    """`_STATE` means that all is well: a transaction is open already."""
    assert transaction_error(cast("Producer", FakeProducer(KafkaError(E._STATE)))) is None
    assert transaction_error(cast("Producer", FakeProducer(None))) is None
    fenced = transaction_error(cast("Producer", FakeProducer(KafkaError(E._FENCED, "x", True))))
    assert fenced is not None
    assert fenced.args[0].code() == E._FENCED


def test_an_unreachable_cluster_is_named() -> None:
    """Within its deadline; with the address, and where it is set."""
    with pytest.raises(RetriableError, match=r"^west \(127\.0\.0\.1:1\): .*, tried for 0\.3 s") as caught:
        cluster().connect(0.3)
    assert "clusters.west.bootstrap_servers" in caught.value.hint
    assert "/bootstrap" not in str(caught.value)
    assert caught.value.for_terminal.splitlines()[1].startswith("hint: check that the brokers of clusters.west")


@pytest.mark.parametrize("make", [Cluster.consumer, Cluster.admin])
@pytest.mark.parametrize(("servers", "is_lost"), [("", True), ("127.0.0.1:1,127.0.0.1:2", False)])
def test_a_client_that_knows_no_broker_is_told_and_one_that_reaches_none_is_not(
    make: Callable[[Cluster, dict[str, Any]], Any], servers: str, is_lost: bool
) -> None:
    """Librdkafka forgets every broker when a cluster that shuts down says that it has none."""
    it = cluster(settings=PLAIN.model_copy(update={"bootstrap_servers": servers}))
    client = make(it, {**WATCHED, "statistics.interval.ms": 20})
    for _ in range(50):
        client.poll(0.02)
        if it.lost:
            break
    assert it.lost is is_lost


def test_properties_that_librdkafka_refuses_are_a_mistake_in_the_configuration() -> None:
    for name, value in (("no.such.property", "1"), ("fetch.wait.max.ms", "-5")):
        wrong = ClusterSettings(bootstrap_servers="h:1", client={name: value})
        with pytest.raises(ConfigError, match=r"clusters\.west: librdkafka refuses"):
            cluster(settings=wrong).consumer({})


class Made:
    """Stands for the client's class, and keeps what it was given."""

    def __init__(self, conf: dict[str, Any], **_: Any) -> None:
        self.conf = conf


@pytest.fixture
def no_clients(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("Consumer", "Producer", "AdminClient"):
        monkeypatch.setattr(f"replicator.kafka.cluster.{name}", Made)


def conf_of(client: Consumer | Producer) -> dict[str, Any]:
    return cast("Made", client).conf


@pytest.mark.usefixtures("no_clients")
def test_what_a_correct_copy_depends_on_is_set() -> None:
    """A: read_committed, no commits of the client's own, no jump on truncation, idempotence."""
    tuned = ClusterSettings(bootstrap_servers="h:1", client={"socket.timeout.ms": 5000, "reconnect.backoff.ms": 7})
    plane = PlaneSettings("replicator-east-west-0", 60, "zstd", 64 << 20)
    consumer = conf_of(cluster(settings=tuned).consumer(consumer_properties(plane)))
    producer = conf_of(cluster(settings=tuned).producer(producer_properties(plane)))
    assert consumer["isolation.level"] == "read_committed"
    assert consumer["enable.auto.commit"] is False
    assert consumer["enable.auto.offset.store"] is False
    assert consumer["allow.auto.create.topics"] is False
    assert consumer["auto.offset.reset"] == "error"
    assert consumer["check.crcs"] is True
    assert consumer["group.id"] == "replicator-east-west"
    assert producer["enable.idempotence"] is True
    assert producer["transactional.id"] == "replicator-east-west-0"
    assert producer["transaction.timeout.ms"] == 60_000
    assert producer["compression.type"] == "zstd"
    for conf in (consumer, producer):
        assert conf["bootstrap.servers"] == "h:1"
        assert (conf["socket.timeout.ms"], conf["reconnect.backoff.ms"]) == (5000, 7), "the configuration's win"
        assert conf["client.id"].startswith("replicator@")


@pytest.mark.parametrize("buffer_bytes", [1 << 20, 8 << 20, 32 << 20, 1 << 30])
def test_queues_are_bounded_by_the_tasks_memory(buffer_bytes: int) -> None:
    """Fetcher and producer together stay within the share, down to the smallest that a broker's records need."""
    plane = PlaneSettings("t", 60, "lz4", buffer_bytes)
    consumer, producer = consumer_properties(plane), producer_properties(plane)
    queued = consumer["queued.max.messages.kbytes"] * 1024 + producer["queue.buffering.max.kbytes"] * 1024
    assert queued + min(consumer["fetch.max.bytes"], buffer_bytes // 4) <= max(buffer_bytes, 6 << 20)
    assert consumer["fetch.message.max.bytes"] <= max(1 << 20, buffer_bytes // 4)


def test_no_property_of_ours_can_be_overridden() -> None:
    """Every property that is set for correctness is refused in a `client` block."""
    assert {"isolation.level", "enable.idempotence", "transactional.id", "auto.offset.reset"} <= set(OWNED_PROPERTIES)
    assert {"bootstrap.servers", "group.id", "security.protocol", "sasl.password"} <= set(OWNED_PROPERTIES)
    assert not set(client_defaults()) & set(OWNED_PROPERTIES)


def test_security_in_librdkafkas_words() -> None:
    """Only what is given; the host name of a broker is checked unless that is turned off."""
    security = SecuritySettings(
        protocol="SASL_SSL", mechanism="SCRAM-SHA-512", username="u", password=SecretStr("p"), verify_hostname=False
    )
    assert security_properties(ClusterSettings(bootstrap_servers="h:1", security=security)) == {
        "security.protocol": "SASL_SSL",
        "sasl.mechanisms": "SCRAM-SHA-512",
        "sasl.username": "u",
        "sasl.password": "p",
        "ssl.endpoint.identification.algorithm": "none",
    }
    assert security_properties(PLAIN) == {"security.protocol": "PLAINTEXT"}
    tls = ClusterSettings(bootstrap_servers="h:1", security=SecuritySettings(protocol="SSL"))
    assert security_properties(tls)["ssl.endpoint.identification.algorithm"] == "https"


def test_admin_results_come_as_values() -> None:
    """One failure does not hide the others, and one that never comes ends with the deadline."""
    good, bad, never = Future[int](), Future[int](), Future[int]()
    good.set_result(1)
    bad.set_exception(KafkaException(KafkaError(E._TRANSPORT)))
    outcome = await_results({"good": good, "bad": bad, "never": never}, Deadline(0))
    assert outcome["good"] == 1
    assert isinstance(outcome["bad"], KafkaException)
    assert isinstance(outcome["never"], TimeoutError)


def test_topic_ids_are_sixteen_bytes() -> None:
    raw = bytes(range(200, 216))
    text = base64.urlsafe_b64encode(raw).rstrip(b"=").decode()
    assert uuid_bytes(cast("Uuid", text)) == raw
    assert uuid_bytes(None) == bytes(16)


# --- who may import what ----------------------------------------------------------------------------------------------


def test_unanswered_results_share_one_deadline() -> None:
    """A broker that answers none of a thousand questions costs the deadline once, not once for each."""
    futures: dict[int, Future[None]] = {number: Future() for number in range(1000)}
    began_s = time.monotonic()
    outcome = await_results(futures, Deadline(0.2))
    assert time.monotonic() - began_s < 5
    assert all(isinstance(result, TimeoutError) for result in outcome.values())
    assert len(outcome) == 1000
