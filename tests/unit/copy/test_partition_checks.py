"""Partitions that stop alone: when they are tried again, and what is told of them."""

from __future__ import annotations

import base64
import datetime as dt
from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any, cast

import pytest

from replicator.config import Flow, build
from replicator.copy.partition_checks import PartitionChecks
from replicator.copy.partition_states import MAX_RETRY_INTERVAL_S, PartitionStates
from replicator.copy.positions import Positions, floor_run
from replicator.deadline import Deadline
from replicator.errors import TP, KafkaOpError, PartitionError, RetriableError, StopReason
from replicator.kafka.cluster import AdminClient, Cluster, KafkaError, KafkaException
from replicator.kafka.topics import Catalog, Snapshot, SourceTopic
from replicator.offset_map.sync_format import PARTITION_STATE, ControlRecord, TargetTopic
from replicator.offset_map.topic_id import NO_ID, TopicId

ORDERS, OTHER = TP("orders", 0), TP("orders", 1)
AT = dt.datetime(2026, 1, 31, 6, 0, 0, tzinfo=dt.UTC)
ID, NEW_ID = TopicId([1] * 16), TopicId([2] * 16)


def failure(reason: StopReason = StopReason.TRUNCATED, tp: TP = ORDERS) -> PartitionError:
    return PartitionError("text", op="fetch", tp=tp, reason=reason, hint="do this")


def committed(stops: PartitionStates) -> list[ControlRecord]:
    """What a transaction would carry; and it was committed."""
    news = stops.news()
    stops.told(news)
    return news


def test_retries_wait_twice_as_long_each_time() -> None:
    """From the refresh interval, doubling, up to ten minutes."""
    stops = PartitionStates(30)
    now_s = 1000.0
    waits = []
    for _ in range(8):
        stops.stop(failure(), now_s, AT)
        waits.append(stops.retry_in_s(ORDERS, now_s))
        assert not stops.may_start(ORDERS, now_s + waits[-1] - 0.1)
        assert not stops.any_due(now_s + waits[-1] - 0.1)
        now_s += waits[-1]
        assert stops.may_start(ORDERS, now_s)
        assert stops.any_due(now_s)
        stops.runs(ORDERS)
    assert waits == [30, 60, 120, 240, 480, MAX_RETRY_INTERVAL_S, MAX_RETRY_INTERVAL_S, MAX_RETRY_INTERVAL_S]


def test_progress_makes_the_next_stop_a_first_one() -> None:
    """A partition that merely started is not well yet; one that committed is."""
    stops = PartitionStates(1)
    for expected_s in (1, 2):
        stops.stop(failure(), 0, AT)
        assert stops.retry_in_s(ORDERS, 0) == expected_s
        stops.runs(ORDERS)
    stops.advanced(ORDERS)
    stops.stop(failure(), 0, AT)
    assert stops.retry_in_s(ORDERS, 0) == 1


def test_other_partitions_are_not_held_up() -> None:
    stops = PartitionStates(30)
    stops.stop(failure(), 0, AT)
    assert stops.may_start(OTHER, 0)
    assert (len(stops), stops.retry_in_s(OTHER, 0)) == (1, 0)


def test_a_stop_is_told_once() -> None:
    """H: with its reason, its text and since when; not again while it lasts."""
    stops = PartitionStates(1)
    assert stops.stop(failure(), 0, AT) is True
    (record,) = committed(stops)
    assert (record.kind, record.tp) == (PARTITION_STATE, ORDERS)
    assert record.body == {
        "state": "stopped",
        "reason": "truncated",
        "detail": "fetch of orders[0]: text (do this)",
        "since": "2026-01-31T06:00:00+00:00",
    }
    assert not stops.has_news()
    assert stops.stop(failure(), 5, AT + dt.timedelta(seconds=5)) is False
    assert not stops.has_news()


def test_a_stop_that_could_not_be_told_yet_keeps_its_beginning() -> None:
    """While the target takes no transaction, retries of the partition are neither news nor a later beginning."""
    stops = PartitionStates(1)
    assert stops.stop(failure(), 0, AT) is True
    assert stops.stop(failure(), 5, AT + dt.timedelta(seconds=5)) is False
    (record,) = stops.news()
    assert record.body is not None
    assert record.body["since"] == "2026-01-31T06:00:00+00:00"


def test_another_reason_is_news() -> None:
    stops = PartitionStates(1)
    stops.stop(failure(), 0, AT)
    committed(stops)
    assert stops.stop(failure(StopReason.SOURCE_GONE), 5, AT) is True
    (record,) = committed(stops)
    assert record.body is not None
    assert record.body["reason"] == "source_gone"


def test_a_start_ends_what_was_told() -> None:
    """The tombstone goes out once, and only for what is in the log."""
    stops = PartitionStates(1)
    stops.runs(OTHER)
    assert not stops.has_news()
    stops.stop(failure(), 0, AT)
    committed(stops)
    stops.runs(ORDERS)
    assert committed(stops) == [ControlRecord(PARTITION_STATE, ORDERS, None)]
    stops.runs(ORDERS)
    assert not stops.has_news()


def test_a_stop_that_ended_before_it_was_told_is_no_news() -> None:
    stops = PartitionStates(1)
    stops.stop(failure(), 0, AT)
    stops.runs(ORDERS)
    assert not stops.has_news()
    assert len(stops) == 0


def test_a_start_that_failed_before_it_was_told_is_no_news() -> None:
    """Stopped, tried again, stopped again for the same reason: the log says so already."""
    stops = PartitionStates(1)
    stops.stop(failure(), 0, AT)
    committed(stops)
    stops.runs(ORDERS)
    stops.stop(failure(), 2, AT)
    assert not stops.has_news()


def test_news_of_an_aborted_transaction_stays() -> None:
    """B: only what was committed counts as told; what changed meanwhile is told next."""
    stops = PartitionStates(1)
    stops.stop(failure(), 0, AT)
    carried = stops.news()
    assert stops.news() == carried
    stops.stop(failure(StopReason.SOURCE_GONE), 0, AT)
    stops.told(carried)
    (record,) = stops.news()
    assert record.body is not None
    assert record.body["reason"] == "source_gone"


def test_a_new_owner_tries_everything_and_knows_what_was_told() -> None:
    """A partition that a task finds stopped in the log is tried at once; the same reason is not told again."""
    told: dict[TP, dict[str, Any]] = {
        ORDERS: {"state": "stopped", "reason": "truncated"},
        OTHER: {"reason": "recreated"},
    }
    stops = PartitionStates(30)
    stops.stop(failure(), 0, AT)
    stops.begin(told, {ORDERS, OTHER})
    assert stops.may_start(ORDERS, 0)
    assert not stops.has_news()
    assert stops.stop(failure(), 0, AT) is True, "the first time in this process: it is logged"
    assert not stops.has_news()
    stops.runs(OTHER)
    assert stops.news() == [ControlRecord(PARTITION_STATE, OTHER, None)]


def test_what_lasts_is_not_tried_again_by_anybody() -> None:
    """A: a log that lost records looks whole as soon as it grew on; only what was seen before tells."""
    stops = PartitionStates(1)
    assert stops.stop(failure(StopReason.SOURCE_LOG_SHORTER), 0, AT) is True
    (record,) = committed(stops)
    assert record.body is not None
    assert record.body["lasting"] is True
    kept = stops.lasting(ORDERS)
    assert kept is not None
    assert kept.is_lasting
    later = PartitionStates(1)
    later.begin({ORDERS: record.body, OTHER: {"reason": "truncated"}}, {ORDERS, OTHER})
    assert later.lasting(OTHER) is None
    again = later.lasting(ORDERS)
    assert again is not None
    assert (again.reason, again.is_lasting) == (StopReason.SOURCE_LOG_SHORTER, True)
    assert "stopped since 2026-01-31T06:00:00+00:00: fetch of orders[0]: text (do this)" in str(again)
    assert later.stop(again, 0, AT) is True, "the first time in this process: it is logged"
    assert not later.has_news()
    assert later.lasting(ORDERS) is again
    assert later.stop(failure(StopReason.RECREATED), 1, AT) is True, "by its id it is another topic: that is certain"
    assert later.lasting(ORDERS) is not None, "until that is told"
    committed(later)
    assert later.lasting(ORDERS) is None


def test_what_lasts_and_could_not_be_told_is_known_to_the_next_life() -> None:
    """Trouble on the target that cuts a log ends the life that noticed, too."""
    stops = PartitionStates(1)
    stops.stop(failure(StopReason.SOURCE_LOG_SHORTER), 0, AT)
    stops.stop(failure(tp=OTHER), 0, AT)
    (lasting, _) = stops.news()
    stops.begin({}, {ORDERS, OTHER})
    assert stops.lasting(ORDERS) is not None
    assert stops.may_start(OTHER, 0)
    assert stops.news() == [lasting]
    stops.begin({}, {OTHER})
    assert stops.lasting(ORDERS) is None, "it was forgotten, to be copied anew"
    assert not stops.has_news()


def test_what_lasts_and_was_told_is_read_again() -> None:
    """`recopy` deletes what was told."""
    stops = PartitionStates(1)
    stops.stop(failure(StopReason.SOURCE_LOG_SHORTER), 0, AT)
    committed(stops)
    stops.begin({}, {ORDERS})
    assert stops.lasting(ORDERS) is None


def test_that_it_lasts_is_news() -> None:
    """The same reason was told of an end that might have come back; now records were appended behind it."""
    stops = PartitionStates(1)
    shorter = StopReason.TARGET_LOG_SHORTER
    stops.stop(failure(shorter), 0, AT)
    lasting = PartitionError("text", op="check", tp=ORDERS, reason=shorter, is_lasting=True)
    assert stops.stop(lasting, 1, AT) is True
    (record,) = committed(stops)
    assert record.body is not None
    assert record.body["lasting"] is True
    stops.stop(failure(shorter), 2, AT)
    stops.stop(lasting, 3, AT)
    assert not stops.has_news()


# --- Starter ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def starter() -> PartitionChecks:
    """Without clients: what is tested here asks nobody, or `offsets` below."""
    clusters = {alias: {"bootstrap_servers": "h:1"} for alias in ("east", "west")}
    flow: Flow = build({"clusters": clusters, "flows": {"east->west": {"topics": ["orders"]}}}).flow()
    source = Cluster("east", "source", flow.source_cluster, flow.group)
    target = Cluster("west", "target", flow.target_cluster, flow.group)
    nobody = cast("AdminClient", None)
    return PartitionChecks(flow, source, target, cast("Catalog", None), (nobody, nobody))


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
        (ORDERS, b"", snapshot(), None),
        (OTHER, ID, snapshot(), StopReason.SOURCE_GONE),
        (OTHER, ID, snapshot(partitions=2), None),
        (TP("payments", 0), ID, snapshot(), StopReason.SOURCE_GONE),
    ],
)
def test_a_source_that_changed_is_recognised(
    starter: PartitionChecks, tp: TP, replicated_id: TopicId, found: Snapshot, reason: StopReason | None
) -> None:
    """A: offsets of a recreated topic mean other records. Brokers without topic ids can't tell."""
    error = starter.changed(tp, replicated_id, None, found)
    assert (error and error.reason) == reason
    if error is not None:
        assert (error.tp, bool(error.hint)) == (tp, True)


@pytest.mark.parametrize(
    ("told", "found", "is_other"), [(ID, ID, False), (ID, NEW_ID, True), (NO_ID, NEW_ID, False), (ID, NO_ID, False)]
)
def test_a_copy_that_changed_is_recognised(
    starter: PartitionChecks, told: TopicId, found: TopicId, is_other: bool
) -> None:
    """A: also when its log is as long by now. Brokers without topic ids can't tell."""
    error = starter.changed(ORDERS, ID, TargetTopic("east.orders", told), snapshot(target_id=found))
    assert (error is not None) == is_other
    if error is not None:
        assert (error.tp, error.reason) == (ORDERS, StopReason.TARGET_RECREATED)
        assert "east.orders (AgICAgICAgICAgICAgICAg) is not the topic that was replicated to" in str(error)
        assert "that was east.orders (AQEBAQEBAQEBAQEBAQEBAQ)" in str(error)


def test_what_was_written_to_another_topic_is_not_committed(starter: PartitionChecks) -> None:
    """A: and a topic that nobody tells of is not taken for the right one."""
    targets = {ORDERS: TargetTopic("east.orders", ID), OTHER: TargetTopic("east.other", ID)}
    answers = {"east.orders": told_id(ID), "east.other": told_id(None)}
    assert starter.check_target(answers, targets, Deadline(1)) == [ORDERS]
    assert starter.check_target({}, {}, Deadline(1)) == []
    with pytest.raises(PartitionError, match="is not the topic that was replicated to") as caught:
        starter.check_target({"east.orders": told_id(NEW_ID)}, targets, Deadline(1))
    assert (caught.value.tp, caught.value.reason) == (ORDERS, StopReason.TARGET_RECREATED)


def told_id(topic_id: bytes | None) -> Future[Any]:
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
        (150, 0, 100, StopReason.SOURCE_LOG_SHORTER, "up to 150; it ends at 100 now", None),
        (10, RetriableError("x", op="x"), 100, StopReason.TRUNCATED, "text", None),
        (10, failure(StopReason.SOURCE_GONE), 100, StopReason.SOURCE_GONE, "text", None),
    ],
)
def test_a_position_that_the_source_lacks_is_explained(
    starter: PartitionChecks,
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
        "replicator.copy.partition_checks.describe_topics", lambda *_, **__: {"orders": told_id(ID).result()}
    )
    error, found = starter.truncation(failure(), position, ID, Deadline(1))
    assert (error.reason, found) == (reason, may_go_on_at)
    with pytest.raises(PartitionError, match=says):
        raise error


def test_a_position_that_another_topic_lacks_is_no_lost_record(
    starter: PartitionChecks, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The topic was created again a moment ago, and no snapshot knows it yet."""
    monkeypatch.setattr(
        "replicator.copy.partition_checks.describe_topics", lambda *_, **__: {"orders": told_id(NEW_ID).result()}
    )
    error, found = starter.truncation(failure(), 150, ID, Deadline(1))
    assert (error.reason, error.is_lasting, found) == (StopReason.RECREATED, False, None)


def test_what_lasts_is_another_topic_by_its_id_in_the_end(starter: PartitionChecks) -> None:
    """A partition that stopped for its log's end is looked at again, and named for what it is."""
    ledger = Positions({ORDERS: floor_run(0, 0, ID)}, {ORDERS: TargetTopic("east.orders", ID)})
    assert starter.recreated(ORDERS, ledger, snapshot(ID, target_id=ID)) is None
    for found, reason in (
        (snapshot(NEW_ID, target_id=ID), StopReason.RECREATED),
        (snapshot(ID, target_id=NEW_ID), StopReason.TARGET_RECREATED),
    ):
        error = starter.recreated(ORDERS, ledger, found)
        assert error is not None
        assert error.reason is reason
    gone = Snapshot(1, {}, (), 1)
    assert starter.recreated(ORDERS, ledger, gone) is None, "it may come back, and its log would look whole"
