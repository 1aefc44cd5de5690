"""The exception tree and its texts."""

from __future__ import annotations

import pytest

from replicator.errors import (
    TP,
    AbortTransactionError,
    ConfigError,
    FatalError,
    FencedError,
    KafkaOpError,
    PartitionError,
    RefusedError,
    ReplicatorError,
    RetriableError,
    StopReason,
)

EXCLUSIVE = [RetriableError, AbortTransactionError, FatalError, PartitionError]


def test_every_error_is_one_of_ours() -> None:
    """One `except ReplicatorError` catches everything that is raised on purpose."""
    for kind in (ConfigError, RefusedError, KafkaOpError, *EXCLUSIVE, FencedError):
        assert issubclass(kind, ReplicatorError)


@pytest.mark.parametrize("kind", EXCLUSIVE)
def test_the_classes_that_decide_exclude_each_other(kind: type[KafkaOpError]) -> None:
    """The transaction loop's `except` clauses have one meaning each, in any order."""
    assert issubclass(kind, KafkaOpError)
    assert [other for other in EXCLUSIVE if issubclass(kind, other)] == [kind]


def test_fenced_is_fatal() -> None:
    assert issubclass(FencedError, FatalError)


def test_a_kafka_error_tells_what_where_why_and_what_to_do() -> None:
    """The text has the operation, the partition, the cause and the hint; the parts stay readable."""
    error = RetriableError("timed out", op="commit", tp=TP("orders", 3), hint="wait", code="REQUEST_TIMED_OUT")
    assert str(error) == "commit of orders[3]: timed out (wait)"
    assert (error.op, error.tp, error.hint, error.code) == ("commit", TP("orders", 3), "wait", "REQUEST_TIMED_OUT")
    assert str(FatalError("gone", op="fetch")) == "fetch: gone"


def test_a_partition_error_has_a_partition_and_a_reason() -> None:
    error = PartitionError("cut", op="fetch", tp=TP("a", 0), reason=StopReason.TRUNCATED)
    assert (error.tp, error.reason, str(error)) == (TP("a", 0), StopReason.TRUNCATED, "fetch of a[0]: cut")


def test_a_config_error_names_the_key() -> None:
    assert str(ConfigError("flows.a->b.tasks", "0 is too few")) == "flows.a->b.tasks: 0 is too few"
    assert str(ConfigError("", "no file")) == "no file"


def test_stop_reasons_keep_their_values() -> None:
    """They are in the syncs topic, in metrics and in JSON: a renamed one would be unknown to its readers."""
    known = {
        "truncated", "source_log_shorter", "recreated", "source_gone", "source_unauthorized", "source_unavailable",
        "target_gone", "target_not_created", "target_unavailable", "target_too_few_partitions", "target_log_shorter",
        "target_recreated",
        "target_unauthorized", "record_too_large", "record_refused", "bad_record",
    }  # fmt: skip
    assert known <= {reason.value for reason in StopReason}
    assert all(reason.value == reason.name.lower() for reason in StopReason)
