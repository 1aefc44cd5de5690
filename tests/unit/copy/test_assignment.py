"""What the assignment decides: which partitions start, from where, and which stop. It changes nothing by itself."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest

from replicator.copy import partition_checks
from replicator.copy.assignment import NOTHING, Start
from replicator.copy.positions import start_position
from replicator.errors import TP, PartitionError, RetriableError, StopReason
from replicator.kafka.topics import Snapshot
from replicator.offset_map.sync_format import TargetTopic
from replicator.offset_map.topic_id import TopicId
from replicator.protocol.hanging_transactions import HangingSearchResult
from tests.unit.copy.one_task import ID, ORDERS, PAYMENTS, TARGET_ID, OneTask

AT = dt.datetime(2026, 1, 31, 6, 0, 0, tzinfo=dt.UTC)
EAST_ORDERS, EAST_PAYMENTS = TargetTopic("east.orders", TARGET_ID), TargetTopic("east.payments", TARGET_ID)


@pytest.fixture
def task(monkeypatch: pytest.MonkeyPatch) -> OneTask:
    """`orders` has the position 10 and does not run; `payments` has none: its log goes from 3, its copy ends at 7."""
    offsets = {PAYMENTS: 3, TP("east.payments", 0): 7, TP("east.orders", 0): 10}
    monkeypatch.setattr(
        partition_checks, "list_offsets", lambda _c, _a, specs, _d, **_: {tp: offsets[tp] for tp in specs}
    )
    return OneTask(monkeypatch)


def test_what_may_start_comes_with_what_has_to_be_committed_before(task: OneTask) -> None:
    """B: a start position for what has none, and the target topics that the syncs topic does not say yet."""
    changes = task.assignment.follow(task.snapshot, appeared=False)
    assert changes.stop == ()
    assert set(changes.start) == {Start(ORDERS, EAST_ORDERS, ID), Start(PAYMENTS, EAST_PAYMENTS, ID)}
    assert changes.runs == ((PAYMENTS, start_position(3, 7, ID)),)
    assert changes.targets == {ORDERS: EAST_ORDERS, PAYMENTS: EAST_PAYMENTS}
    assert task.positions.running() == []
    assert task.plane.calls == []


def test_the_loop_commits_start_positions_before_it_fetches(task: OneTask) -> None:
    """B: and only what is committed starts."""
    task.plane.failing["commit"] = RetriableError("no answer", op="commit")
    with pytest.raises(RetriableError):
        task.loop.start(task.snapshot)
    assert (task.positions.running(), task.plane.assigned) == ([], {})
    task.plane.abort(task.tools.transaction_budget())
    seen = len(task.plane.calls)
    task.loop.start(task.snapshot)
    assert task.plane.calls[seen:] == ["begin", "write", "write", "write", "flush", "commit", "add"]
    assert task.syncs() == [(PAYMENTS, 3)]
    assert task.plane.assigned == {ORDERS: 10, PAYMENTS: 3}
    assert task.assignment.review() == NOTHING, "the topics have not changed since"


def test_a_target_topic_that_is_published_is_not_published_again(task: OneTask) -> None:
    task.loop.start(task.snapshot)
    task.positions.stop(ORDERS)
    changes = task.assignment.follow(task.snapshot, appeared=True)
    assert [it.tp for it in changes.start] == [ORDERS]
    assert (changes.runs, changes.targets) == ((), {})


def test_a_running_partition_whose_topic_is_gone_stops(task: OneTask) -> None:
    """H: alone, with its reason; and the assignment leaves it running until the loop stops it."""
    task.loop.start(task.snapshot)
    gone = Snapshot(2, {"orders": task.snapshot.topics["orders"]}, (), 1)
    changes = task.assignment.follow(gone, appeared=True)
    assert [(it.tp, it.reason) for it in changes.stop] == [(PAYMENTS, StopReason.SOURCE_GONE)]
    assert changes.start == ()
    assert task.positions.is_running(PAYMENTS)


def test_a_lasting_stop_is_not_tried_again(task: OneTask) -> None:
    """A: the log may look whole again by what was aborted there."""
    lasting = PartitionError("cut", op="x", tp=ORDERS, reason=StopReason.TARGET_LOG_SHORTER, is_lasting=True)
    task.states.stop(lasting, -1_000_000, AT)
    changes = task.assignment.follow(task.snapshot, appeared=False)
    assert changes.stop == (lasting,)
    assert [it.tp for it in changes.start] == [PAYMENTS]


def test_partitions_that_may_hold_a_hanging_transaction_are_asked_before_they_start(task: OneTask) -> None:
    """A: a partition that was stopped while the target was in trouble; what is written would decide about it."""
    task.target.note_trouble()
    assert task.assignment.look_back() == NOTHING
    task.hanging.found = HangingSearchResult(unanswered={TP("east.orders", 0): "no leader"})
    changes = task.assignment.follow(task.snapshot, appeared=False)
    assert [(it.tp, it.reason) for it in changes.stop] == [(ORDERS, StopReason.TARGET_UNAVAILABLE)]
    assert [it.tp for it in changes.start] == [PAYMENTS]
    assert ORDERS not in changes.targets
    task.hanging.found = HangingSearchResult(first_offsets={TP("east.orders", 0): 10})
    with pytest.raises(RetriableError, match="hanging transaction"):
        task.assignment.follow(task.snapshot, appeared=False)
    task.hanging.found = HangingSearchResult()
    assert ORDERS in [it.tp for it in task.assignment.follow(task.snapshot, appeared=False).start]


@pytest.mark.parametrize("is_silent", [True, False])
def test_syncs_of_a_partly_aborted_transaction_are_repaired_before_the_start(
    task: OneTask, monkeypatch: pytest.MonkeyPatch, is_silent: bool
) -> None:
    """A, B: the repair is committed with the start; where the target gives no answer, the partition stops."""
    emptied = start_position(5, 5, ID)
    check: Any = lambda *_: ([], {ORDERS}) if is_silent else ([(ORDERS, emptied)], set())  # noqa: E731
    monkeypatch.setattr(task.tools.sync_repair, "is_suspect", lambda tp: tp == ORDERS)
    monkeypatch.setattr(task.tools.sync_repair, "check", check)
    task.loop.start(task.snapshot)
    if is_silent:
        assert task.published()[ORDERS] == "target_unavailable"
        assert task.plane.assigned == {PAYMENTS: 3}
    else:
        assert task.syncs() == [(ORDERS, 5), (PAYMENTS, 3)]
        assert task.plane.assigned == {ORDERS: 5, PAYMENTS: 3}


def test_a_failure_of_a_partition_that_does_not_run_changes_nothing(task: OneTask) -> None:
    failure = PartitionError("late", op="fetch", tp=ORDERS, reason=StopReason.TRUNCATED)
    assert task.assignment.failed(failure) == NOTHING
    assert task.refreshes == 0


def test_a_cut_target_log_is_another_topic_if_the_target_says_so(task: OneTask) -> None:
    task.run(ORDERS)
    task.target_topics.ids["east.orders"] = TopicId([7] * 16)
    failure = PartitionError("cut", op="flush", tp=ORDERS, reason=StopReason.TARGET_LOG_SHORTER)
    (found,) = task.assignment.failed(failure).stop
    assert found.reason is StopReason.TARGET_RECREATED
    assert task.refreshes == 1


def test_a_refused_transaction_stops_what_may_not_be_written(task: OneTask, monkeypatch: pytest.MonkeyPatch) -> None:
    """The broker's refusal names no topic; where the syncs topic is refused, nothing can go on."""
    refused = PartitionError("no right", op="write", tp=ORDERS, reason=StopReason.TARGET_UNAUTHORIZED)
    monkeypatch.setattr(task.checks, "unwritable", lambda *_: [refused])
    assert task.assignment.refused({ORDERS: "east.orders"}).stop == (refused,)
    syncs = PartitionError("no", op="write", tp=TP("replicator.east.syncs", 0), reason=StopReason.TARGET_UNAUTHORIZED)
    monkeypatch.setattr(task.checks, "unwritable", lambda *_: [refused, syncs])
    with pytest.raises(RetriableError):
        task.assignment.refused({ORDERS: "east.orders"})
