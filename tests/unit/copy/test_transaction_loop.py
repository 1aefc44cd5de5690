"""What an error does to the transaction loop, and how it applies what the assignment decides."""

from __future__ import annotations

import pytest

from replicator.copy.transaction_loop import BatchTooLargeError
from replicator.errors import (
    TP,
    AbortTransactionError,
    FatalError,
    LostError,
    PartitionError,
    RetriableError,
    StopReason,
)
from replicator.planes import Fetched
from replicator.protocol.hanging_transactions import HangingSearchResult
from tests.unit.copy.one_task import NEWEST, ORDERS, PAYMENTS, OneTask, Records

TARGET = TP("east.orders", 0)
COMMITTED = ["begin", "append", "flush", "write", "commit"]
ABORTED = ["begin", "append", "flush", "abort", "assign"]


def refused() -> AbortTransactionError:
    return AbortTransactionError("not acknowledged", op="flush")


@pytest.fixture
def task(monkeypatch: pytest.MonkeyPatch) -> OneTask:
    """`orders` runs from position 10; the last look for hanging transactions found none."""
    task = OneTask(monkeypatch)
    task.run(ORDERS)
    task.target.note_trouble()
    task.assignment.look_back()
    task.hanging.asked.clear()
    return task


def records(first: int = 10) -> Records:
    return Records(ORDERS, first, 1)


# --- trouble on the target --------------------------------------------------------------------------------------------


def test_without_trouble_nothing_is_looked_for(task: OneTask) -> None:
    task.plane.failing["flush"] = refused()
    assert task.transact(records()) == ABORTED
    assert task.transact(records()) == COMMITTED
    assert task.hanging.asked == []


def test_after_trouble_the_next_transaction_looks_back(task: OneTask) -> None:
    """However long ago the last commit was, and how long the trouble lasted."""
    task.plane.at["commit"] = task.target.note_trouble
    assert task.transact(records()) == COMMITTED
    assert task.hanging.asked == []
    assert task.transact(records(11)) == COMMITTED
    assert task.hanging.asked == [[TP("replicator.east.syncs", 0), TARGET]]
    assert task.transact(records(12)) == COMMITTED
    assert len(task.hanging.asked) == 1
    task.target.note_trouble()
    task.hanging.found = HangingSearchResult(first_offsets={TARGET: 10})
    seen = len(task.plane.calls)
    with pytest.raises(RetriableError, match="has no end"):
        task.transact(records(13))
    assert task.plane.calls[seen:] == []


def test_trouble_while_a_transaction_is_open_restarts_the_task_after_its_abort(task: OneTask) -> None:
    """The transaction before may have lost markers, and what lies there was aborted with this one."""
    task.plane.at["append"] = task.target.note_trouble
    task.plane.failing["flush"] = refused()
    with pytest.raises(RetriableError, match="not acknowledged"):
        task.transact(records())
    assert task.plane.calls == ["begin", "append", "flush", "abort"]


def test_trouble_while_an_abort_is_written_counts(task: OneTask) -> None:
    """An abort loses markers as a commit does."""
    task.plane.failing["flush"] = refused()
    task.plane.at["assign"] = task.target.note_trouble
    assert task.transact(records()) == ABORTED
    assert task.transact(records()) == COMMITTED
    assert len(task.hanging.asked) == 1


def test_a_partition_that_does_not_answer_stops(task: OneTask) -> None:
    """H: and says so with the next commit; before it starts again, it is asked."""
    task.target.note_trouble()
    task.hanging.found = HangingSearchResult(unanswered={TARGET: "no leader"})
    assert task.transact(records()) == ["remove", "begin", "write", "flush", "commit"]
    assert task.published() == {ORDERS: "target_unavailable"}
    assert task.plane.assigned == {}


def test_a_log_that_lost_its_end_is_noted_although_trouble_restarts_the_task(task: OneTask) -> None:
    """What cuts a log breaks connections, too; and the restarted task finds it longer by what was aborted there (A)."""
    task.plane.ends[TARGET] = 5
    task.plane.at["append"] = task.target.note_trouble
    with pytest.raises(RetriableError):
        task.transact(records())
    assert task.plane.calls == ["begin", "append", "flush", "remove", "abort"]
    lasting = task.states.lasting(ORDERS)
    assert lasting is not None
    assert lasting.reason is StopReason.TARGET_LOG_SHORTER


# --- errors -----------------------------------------------------------------------------------------------------------


def test_a_partition_error_stops_that_partition_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """H: the records of the others are read again, and committed with the reason."""
    task = OneTask(monkeypatch, {ORDERS: NEWEST, PAYMENTS: NEWEST})
    task.run(ORDERS, PAYMENTS)
    task.plane.failing["flush"] = PartitionError("no", op="flush", tp=ORDERS, reason=StopReason.BAD_RECORD)
    calls = task.transact(records(), Records(PAYMENTS, 10, 2))
    assert calls == ["begin", "append", "append", "flush", "abort", "assign", "remove"]
    assert task.plane.assigned == {PAYMENTS: 10}
    assert task.refreshes == 1
    task.transact(records(), Records(PAYMENTS, 10, 2))
    assert task.syncs() == [(PAYMENTS, 12)]
    assert task.published() == {ORDERS: "bad_record"}
    assert task.counted("replicator_transactions_total", task="0", outcome="aborted") == 1
    labels = {"topic": "orders", "partition": "0", "reason": "bad_record"}
    assert task.counted("replicator_partition_stopped", **labels) == 1


def test_a_batch_that_is_too_large_restarts_the_task_with_smaller_ones(
    task: OneTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(task.checks, "batch_limit", lambda *_: 500_000)
    error = PartitionError("no", op="flush", tp=ORDERS, reason=StopReason.RECORD_TOO_LARGE)
    task.plane.failing["flush"] = error
    with pytest.raises(BatchTooLargeError) as caught:
        task.transact(records())
    assert caught.value.limit_bytes == 500_000
    assert task.plane.assigned == {ORDERS: 10}, "the partition does not stop"
    monkeypatch.setattr(task.checks, "batch_limit", lambda *_: 2_000_000)
    task.plane.failing["flush"] = error
    assert task.transact(records())[-1] == "remove"
    assert task.plane.assigned == {}, "a record alone is too large: the partition stops"


@pytest.mark.parametrize(("error", "outcome"), [(LostError(), "aborted"), (FatalError("x", op="x"), "unknown")])
def test_what_ends_the_task_is_counted(task: OneTask, error: Exception, outcome: str) -> None:
    """C: of a lost task the open transaction is aborted; after a fatal error only the next owner can settle it."""
    task.plane.failing["commit"] = error
    with pytest.raises(type(error)):
        task.transact(records())
    assert ("abort" in task.plane.calls) == (outcome == "aborted")
    assert task.counted("replicator_transactions_total", task="0", outcome=outcome) == 1
    assert task.plane.committed == []


def test_what_fails_while_a_transaction_fills_stops_after_it(task: OneTask) -> None:
    """Its records before the failure are committed."""
    failure = PartitionError("damaged", op="fetch", tp=ORDERS, reason=StopReason.BAD_RECORD)
    task.plane.fetched = [Fetched([records(11)], failed=[failure])]
    task.loop.transact(Fetched([records(10)], more=True))
    assert task.syncs() == [(ORDERS, 12)]
    assert task.plane.calls[-2:] == ["commit", "remove"]


def test_records_of_a_partition_that_stopped_meanwhile_are_left_out(task: OneTask) -> None:
    task.transact(records(), Records(PAYMENTS, 0, 5))
    assert task.syncs() == [(ORDERS, 11)]


# --- what the assignment decides --------------------------------------------------------------------------------------


def test_what_retention_deleted_is_skipped_where_that_is_configured(monkeypatch: pytest.MonkeyPatch) -> None:
    """H: counted and logged, and the partition goes on where the source's log begins."""
    task = OneTask(monkeypatch, on_truncation="skip")
    task.run(ORDERS)
    found = PartitionError("deleted", op="fetch", tp=ORDERS, reason=StopReason.TRUNCATED)
    monkeypatch.setattr(task.checks, "truncation", lambda *_: (found, 40))
    task.plane.failing["flush"] = found
    task.transact(records())
    assert task.syncs() == [(ORDERS, 40)]
    assert task.plane.assigned == {ORDERS: 40}
    (event,) = [it for it in task.events if it["event"] == "records_skipped"]
    assert (event["first"], event["next"], event["offsets"], event["reason"]) == (10, 40, 30, "truncated")
    labels = {"topic": "orders", "partition": "0", "reason": "truncated"}
    assert task.counted("replicator_skipped_records_total", **labels) == 30
