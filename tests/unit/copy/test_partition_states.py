"""Partitions that stop alone: when they are tried again, and what is published of them."""

from __future__ import annotations

import datetime as dt
from typing import Any

from replicator.copy.partition_states import MAX_RETRY_INTERVAL_S, PartitionStates
from replicator.errors import TP, PartitionError, StopReason
from replicator.offset_map.sync_format import PARTITION_STATE, ControlRecord

ORDERS, OTHER = TP("orders", 0), TP("orders", 1)
AT = dt.datetime(2026, 1, 31, 6, 0, 0, tzinfo=dt.UTC)


def failure(reason: StopReason = StopReason.TRUNCATED, tp: TP = ORDERS) -> PartitionError:
    return PartitionError("text", op="fetch", tp=tp, reason=reason, hint="do this")


def committed(states: PartitionStates) -> list[ControlRecord]:
    """What a transaction would carry; and it was committed."""
    unpublished = states.unpublished()
    states.mark_published(unpublished)
    return unpublished


def test_retries_wait_twice_as_long_each_time() -> None:
    """From the refresh interval, doubling, up to ten minutes."""
    states = PartitionStates(30)
    now_s = 1000.0
    waits = []
    for _ in range(8):
        states.stop(failure(), now_s, AT)
        waits.append(states.retry_in_s(ORDERS, now_s))
        assert not states.may_start(ORDERS, now_s + waits[-1] - 0.1)
        assert not states.any_due(now_s + waits[-1] - 0.1)
        now_s += waits[-1]
        assert states.may_start(ORDERS, now_s)
        assert states.any_due(now_s)
        states.started(ORDERS)
    assert waits == [30, 60, 120, 240, 480, MAX_RETRY_INTERVAL_S, MAX_RETRY_INTERVAL_S, MAX_RETRY_INTERVAL_S]


def test_progress_makes_the_next_stop_a_first_one() -> None:
    """A partition that merely started is not well yet; one that committed is."""
    states = PartitionStates(1)
    for expected_s in (1, 2):
        states.stop(failure(), 0, AT)
        assert states.retry_in_s(ORDERS, 0) == expected_s
        states.started(ORDERS)
    states.advanced(ORDERS)
    states.stop(failure(), 0, AT)
    assert states.retry_in_s(ORDERS, 0) == 1


def test_other_partitions_are_not_held_up() -> None:
    states = PartitionStates(30)
    states.stop(failure(), 0, AT)
    assert states.may_start(OTHER, 0)
    assert (len(states), states.retry_in_s(OTHER, 0)) == (1, 0)


def test_a_stop_is_published_once() -> None:
    """H: with its reason, its text and since when; not again while it lasts."""
    states = PartitionStates(1)
    assert states.stop(failure(), 0, AT) is True
    (record,) = committed(states)
    assert (record.kind, record.tp) == (PARTITION_STATE, ORDERS)
    assert record.body == {
        "state": "stopped",
        "reason": "truncated",
        "detail": "fetch of orders[0]: text (do this)",
        "since": "2026-01-31T06:00:00+00:00",
    }
    assert not states.has_unpublished()
    assert states.stop(failure(), 5, AT + dt.timedelta(seconds=5)) is False
    assert not states.has_unpublished()


def test_a_stop_that_is_not_published_yet_keeps_its_beginning() -> None:
    """While the target takes no transaction, retries of the partition are neither published nor a later beginning."""
    states = PartitionStates(1)
    assert states.stop(failure(), 0, AT) is True
    assert states.stop(failure(), 5, AT + dt.timedelta(seconds=5)) is False
    (record,) = states.unpublished()
    assert record.body is not None
    assert record.body["since"] == "2026-01-31T06:00:00+00:00"


def test_another_reason_is_published() -> None:
    states = PartitionStates(1)
    states.stop(failure(), 0, AT)
    committed(states)
    assert states.stop(failure(StopReason.SOURCE_GONE), 5, AT) is True
    (record,) = committed(states)
    assert record.body is not None
    assert record.body["reason"] == "source_gone"


def test_a_start_ends_what_was_published() -> None:
    """The tombstone goes out once, and only for what is in the log."""
    states = PartitionStates(1)
    states.started(OTHER)
    assert not states.has_unpublished()
    states.stop(failure(), 0, AT)
    committed(states)
    states.started(ORDERS)
    assert committed(states) == [ControlRecord(PARTITION_STATE, ORDERS, None)]
    states.started(ORDERS)
    assert not states.has_unpublished()


def test_a_stop_that_ended_before_it_was_published_is_not() -> None:
    states = PartitionStates(1)
    states.stop(failure(), 0, AT)
    states.started(ORDERS)
    assert not states.has_unpublished()
    assert len(states) == 0


def test_a_start_that_failed_before_it_was_published_is_not() -> None:
    """Stopped, tried again, stopped again for the same reason: the log says so already."""
    states = PartitionStates(1)
    states.stop(failure(), 0, AT)
    committed(states)
    states.started(ORDERS)
    states.stop(failure(), 2, AT)
    assert not states.has_unpublished()


def test_what_an_aborted_transaction_carried_stays_unpublished() -> None:
    """B: only what was committed counts as published; what changed meanwhile is published next."""
    states = PartitionStates(1)
    states.stop(failure(), 0, AT)
    carried = states.unpublished()
    assert states.unpublished() == carried
    states.stop(failure(StopReason.SOURCE_GONE), 0, AT)
    states.mark_published(carried)
    (record,) = states.unpublished()
    assert record.body is not None
    assert record.body["reason"] == "source_gone"


def test_a_new_owner_tries_everything_and_knows_what_was_published() -> None:
    """A partition that a task finds stopped in the log is tried at once; the same reason is not published again."""
    published: dict[TP, dict[str, Any]] = {
        ORDERS: {"state": "stopped", "reason": "truncated"},
        OTHER: {"reason": "recreated"},
    }
    states = PartitionStates(30)
    states.stop(failure(), 0, AT)
    states.begin(published, {ORDERS, OTHER})
    assert states.may_start(ORDERS, 0)
    assert not states.has_unpublished()
    assert states.stop(failure(), 0, AT) is True, "the first time in this process: it is logged"
    assert not states.has_unpublished()
    states.started(OTHER)
    assert states.unpublished() == [ControlRecord(PARTITION_STATE, OTHER, None)]


def test_what_lasts_is_not_tried_again_by_any_owner() -> None:
    """A: a log that lost records looks whole as soon as it grew on; only what was seen before tells."""
    states = PartitionStates(1)
    assert states.stop(failure(StopReason.SOURCE_LOG_SHORTER), 0, AT) is True
    (record,) = committed(states)
    assert record.body is not None
    assert record.body["lasting"] is True
    kept = states.lasting(ORDERS)
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
    assert not later.has_unpublished()
    assert later.lasting(ORDERS) is again
    assert later.stop(failure(StopReason.RECREATED), 1, AT) is True, "by its id it is another topic: that is certain"
    assert later.lasting(ORDERS) is not None, "until that is published"
    committed(later)
    assert later.lasting(ORDERS) is None


def test_what_lasts_and_is_not_published_is_known_after_a_restart() -> None:
    """Trouble on the target that cuts a log restarts the task that noticed, too."""
    states = PartitionStates(1)
    states.stop(failure(StopReason.SOURCE_LOG_SHORTER), 0, AT)
    states.stop(failure(tp=OTHER), 0, AT)
    (lasting, _) = states.unpublished()
    states.begin({}, {ORDERS, OTHER})
    assert states.lasting(ORDERS) is not None
    assert states.may_start(OTHER, 0)
    assert states.unpublished() == [lasting]
    states.begin({}, {OTHER})
    assert states.lasting(ORDERS) is None, "it was forgotten, to be re-replicated"
    assert not states.has_unpublished()


def test_what_lasts_and_was_published_is_read_again() -> None:
    """`recopy` deletes what was published."""
    states = PartitionStates(1)
    states.stop(failure(StopReason.SOURCE_LOG_SHORTER), 0, AT)
    committed(states)
    states.begin({}, {ORDERS})
    assert states.lasting(ORDERS) is None


def test_that_it_lasts_is_published() -> None:
    """The same reason was published of an end that might have come back; now records were appended behind it."""
    states = PartitionStates(1)
    shorter = StopReason.TARGET_LOG_SHORTER
    states.stop(failure(shorter), 0, AT)
    lasting = PartitionError("text", op="check", tp=ORDERS, reason=shorter, is_lasting=True)
    assert states.stop(lasting, 1, AT) is True
    (record,) = committed(states)
    assert record.body is not None
    assert record.body["lasting"] is True
    states.stop(failure(shorter), 2, AT)
    states.stop(lasting, 3, AT)
    assert not states.has_unpublished()
