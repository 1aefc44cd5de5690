"""Whether a partition may run, and where it begins, by what both clusters say."""

from __future__ import annotations

import base64
from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any, cast

import pytest

from replicator.config import Flow, build
from replicator.copy.partition_checks import PartitionChecks
from replicator.copy.positions import Positions, start_position
from replicator.deadline import Deadline
from replicator.errors import TP, KafkaOpError, PartitionError, RetriableError, StopReason
from replicator.kafka.cluster import AdminClient, Cluster, KafkaError, KafkaException
from replicator.kafka.topics import Catalog, Snapshot, SourceTopic
from replicator.offset_map.sync_format import TargetTopic
from replicator.offset_map.topic_id import NO_ID, TopicId

ORDERS, OTHER = TP("orders", 0), TP("orders", 1)
ID, NEW_ID = TopicId([1] * 16), TopicId([2] * 16)


def failure(reason: StopReason = StopReason.TRUNCATED, tp: TP = ORDERS) -> PartitionError:
    return PartitionError("text", op="fetch", tp=tp, reason=reason, hint="do this")


@pytest.fixture
def checks() -> PartitionChecks:
    """Without clients: what is tested here asks no cluster, or `offsets` below."""
    clusters = {alias: {"bootstrap_servers": "h:1"} for alias in ("east", "west")}
    flow: Flow = build({"clusters": clusters, "flows": {"east->west": {"topics": ["orders"]}}}).flow()
    source = Cluster("east", "source", flow.source_cluster, flow.group)
    target = Cluster("west", "target", flow.target_cluster, flow.group)
    no_client = cast("AdminClient", None)
    return PartitionChecks(flow, source, target, cast("Catalog", None), (no_client, no_client))


def snapshot(topic_id: TopicId = ID, partitions: int = 1, target_id: TopicId = NO_ID) -> Snapshot:
    topic = SourceTopic("orders", topic_id, partitions, 1, "east.orders", partitions, target_id)
    return Snapshot(1, {"orders": topic}, (), 1)


@pytest.mark.parametrize(
    ("tp", "replicated_id", "found", "reason"),
    [
        (ORDERS, ID, snapshot(), None),
        (ORDERS, ID, snapshot(NEW_ID), StopReason.RECREATED),
        (ORDERS, NO_ID, snapshot(NEW_ID), None),
        (ORDERS, ID, snapshot(NO_ID), None),
        (ORDERS, NO_ID, snapshot(), None),
        (OTHER, ID, snapshot(), StopReason.SOURCE_GONE),
        (OTHER, ID, snapshot(partitions=2), None),
        (TP("payments", 0), ID, snapshot(), StopReason.SOURCE_GONE),
    ],
)
def test_a_source_that_changed_is_recognised(
    checks: PartitionChecks, tp: TP, replicated_id: TopicId, found: Snapshot, reason: StopReason | None
) -> None:
    """A: offsets of a recreated topic mean other records. Brokers without topic ids can't tell."""
    error = checks.changed(tp, replicated_id, None, found)
    assert (error and error.reason) == reason
    if error is not None:
        assert (error.tp, bool(error.hint)) == (tp, True)


@pytest.mark.parametrize(
    ("published", "found", "is_other"),
    [(ID, ID, False), (ID, NEW_ID, True), (NO_ID, NEW_ID, False), (ID, NO_ID, False)],
)
def test_a_copy_that_changed_is_recognised(
    checks: PartitionChecks, published: TopicId, found: TopicId, is_other: bool
) -> None:
    """A: also when its log is as long by now. Brokers without topic ids can't tell."""
    error = checks.changed(ORDERS, ID, TargetTopic("east.orders", published), snapshot(target_id=found))
    assert (error is not None) == is_other
    if error is not None:
        assert (error.tp, error.reason) == (ORDERS, StopReason.TARGET_RECREATED)
        assert "east.orders (AgICAgICAgICAgICAgICAg) is not the topic that was replicated to" in str(error)
        assert "replicated to, east.orders (AQEBAQEBAQEBAQEBAQEBAQ)" in str(error)


def test_what_was_written_to_another_topic_is_not_committed(checks: PartitionChecks) -> None:
    """A: and a topic without an answer is not taken for the right one."""
    targets = {ORDERS: TargetTopic("east.orders", ID), OTHER: TargetTopic("east.other", ID)}
    answers = {"east.orders": answered_id(ID), "east.other": answered_id(None)}
    assert checks.check_target(answers, targets, Deadline(1)) == [ORDERS]
    assert checks.check_target({}, {}, Deadline(1)) == []
    with pytest.raises(PartitionError, match="is not the topic that was replicated to") as caught:
        checks.check_target({"east.orders": answered_id(NEW_ID)}, targets, Deadline(1))
    assert (caught.value.tp, caught.value.reason) == (ORDERS, StopReason.TARGET_RECREATED)


def answered_id(topic_id: TopicId | None) -> Future[Any]:
    """What the admin client answers of a topic; None: an error."""
    future: Future[Any] = Future()
    if topic_id is None:
        future.set_exception(KafkaException(KafkaError(KafkaError.UNKNOWN_TOPIC_OR_PART)))
    else:
        future.set_result(SimpleNamespace(topic_id=base64.urlsafe_b64encode(topic_id).decode().rstrip("=")))
    return future


@pytest.mark.parametrize(
    ("position", "low", "end", "reason", "says", "may_go_on_at"),
    [
        (10, 40, 100, StopReason.TRUNCATED, r"30 offsets \(10 to 39\)", 40),
        (150, 0, 100, StopReason.SOURCE_LOG_SHORTER, "ends at 100, before the replicated position 150", None),
        (10, RetriableError("x", op="x"), 100, StopReason.TRUNCATED, "text", None),
        (10, failure(StopReason.SOURCE_GONE), 100, StopReason.SOURCE_GONE, "text", None),
    ],
)
def test_a_position_that_the_source_lacks_is_explained(
    checks: PartitionChecks,
    monkeypatch: pytest.MonkeyPatch,
    position: int,
    low: int | KafkaOpError,
    end: int,
    reason: StopReason,
    says: str,
    may_go_on_at: int | None,
) -> None:
    """H: retention that overtook us (with the number of offsets), or a log that lost its end: never skipped."""
    answers = iter([low, end])
    monkeypatch.setattr("replicator.copy.partition_checks.list_offsets", lambda *_, **__: {ORDERS: next(answers)})
    monkeypatch.setattr(
        "replicator.copy.partition_checks.describe_topics", lambda *_, **__: {"orders": answered_id(ID).result()}
    )
    error, found = checks.truncation(failure(), position, ID, Deadline(1))
    assert (error.reason, found) == (reason, may_go_on_at)
    with pytest.raises(PartitionError, match=says):
        raise error


def test_a_position_that_another_topic_lacks_is_no_lost_record(
    checks: PartitionChecks, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The topic was created again a moment ago, and no snapshot knows it yet."""
    monkeypatch.setattr(
        "replicator.copy.partition_checks.describe_topics", lambda *_, **__: {"orders": answered_id(NEW_ID).result()}
    )
    error, found = checks.truncation(failure(), 150, ID, Deadline(1))
    assert (error.reason, error.is_lasting, found) == (StopReason.RECREATED, False, None)


def test_what_lasts_is_another_topic_by_its_id_in_the_end(checks: PartitionChecks) -> None:
    """A partition that stopped for its log's end is looked at again, and named for what it is."""
    positions = Positions({ORDERS: start_position(0, 0, ID)}, {ORDERS: TargetTopic("east.orders", ID)})
    assert checks.recreated(ORDERS, positions, snapshot(ID, target_id=ID)) is None
    for found, reason in (
        (snapshot(NEW_ID, target_id=ID), StopReason.RECREATED),
        (snapshot(ID, target_id=NEW_ID), StopReason.TARGET_RECREATED),
    ):
        error = checks.recreated(ORDERS, positions, found)
        assert error is not None
        assert error.reason is reason
    gone = Snapshot(1, {}, (), 1)
    assert checks.recreated(ORDERS, positions, gone) is None, "it may come back, and its log would look whole"
