"""One transaction: what is committed with what, what counts as published, and what an abort leaves."""

from __future__ import annotations

import datetime as dt

import pytest

from replicator.errors import TP, AbortTransactionError, FatalError, LostError, PartitionError, StopReason
from replicator.offset_map.sync_format import ControlRecord, SyncRecord, TargetTopic
from tests.unit.copy.one_task import NEW_ID, ORDERS, PAYMENTS, TARGET_ID, OneTask, Records

AT = dt.datetime(2026, 1, 31, 6, 0, 0, tzinfo=dt.UTC)
LOST = AbortTransactionError("not acknowledged", op="flush")


@pytest.fixture
def task(monkeypatch: pytest.MonkeyPatch) -> OneTask:
    """`orders` runs from position 10, which is offset 10 of its log on the target, too."""
    task = OneTask(monkeypatch)
    task.run(ORDERS)
    return task


def stopped(task: OneTask, tp: TP = PAYMENTS) -> None:
    error = PartitionError("text", op="fetch", tp=tp, reason=StopReason.TRUNCATED)
    task.states.stop(error, 0, AT)


def test_records_and_their_sync_are_committed_together(task: OneTask) -> None:
    """B: the sync follows the records, and the position moves with the commit, not before."""
    transaction = task.transaction()
    transaction.append(Records(ORDERS, 10, 3))
    transaction.append(Records(ORDERS, 13, 2))
    runs = transaction.flush()
    assert task.positions.committed() == {ORDERS: 10}
    transaction.commit(runs)
    assert task.plane.calls == ["begin", "append", "append", "flush", "write", "commit"]
    (sync,) = task.plane.committed
    assert isinstance(sync, SyncRecord)
    run = sync.run
    assert (sync.tp, run.upstream_base, run.upstream_next, run.downstream_base, run.count) == (ORDERS, 10, 15, 10, 5)
    assert task.positions.committed() == {ORDERS: 15}
    written = transaction.written[ORDERS]
    assert (written.records, written.size_bytes, written.newest_ms) == (5, 200, 1_000)
    assert transaction.size_bytes == 200


def test_states_are_published_with_the_next_commit_and_once(task: OneTask) -> None:
    """H: why a partition stopped is in the syncs topic as soon as anything is committed."""
    stopped(task)
    transaction = task.transaction()
    transaction.append(Records(ORDERS, 10, 1))
    transaction.commit(transaction.flush())
    assert [type(it) for it in task.plane.committed] == [SyncRecord, ControlRecord]
    assert task.published() == {PAYMENTS: "truncated"}
    assert not task.states.has_unpublished()
    later = task.transaction()
    later.append(Records(ORDERS, 11, 1))
    later.commit(later.flush())
    assert [type(it) for it in task.plane.committed[2:]] == [SyncRecord]


def test_a_transaction_without_records_holds_start_positions_and_target_topics(task: OneTask) -> None:
    """What is written is flushed before the commit: a refusal of the syncs topic shows there."""
    run = task.positions.newest(ORDERS)
    assert run is not None
    transaction = task.transaction()
    transaction.commit([(PAYMENTS, run)], {PAYMENTS: TargetTopic("east.payments", TARGET_ID)})
    assert task.plane.calls == ["begin", "write", "write", "flush", "commit"]
    assert task.positions.newest(PAYMENTS) == run
    assert task.published() == {PAYMENTS: "east.payments"}


def test_positions_that_passed_over_offsets_are_committed_without_records(task: OneTask) -> None:
    task.positions.passed(ORDERS, 20)
    transaction = task.transaction()
    transaction.commit(transaction.flush())
    assert task.syncs() == [(ORDERS, 20)]
    assert not task.source_topics.asked, "nothing was fetched of it"


@pytest.mark.parametrize("place", ["append", "flush", "commit"])
def test_after_an_abort_all_is_as_before(task: OneTask, place: str) -> None:
    """A, B: the positions are the committed ones, and what was to be published still is."""
    stopped(task)
    task.plane.failing[place] = LOST
    transaction = task.transaction()
    with pytest.raises(AbortTransactionError):  # noqa: PT012
        transaction.append(Records(ORDERS, 10, 3))
        transaction.commit(transaction.flush())
    transaction.abort(task.tools.transaction_budget())
    assert (task.positions.committed(), task.positions.has_moved()) == ({ORDERS: 10}, False)
    assert task.states.has_unpublished()
    assert task.plane.committed == []
    again = task.transaction()
    again.append(Records(ORDERS, 10, 3))
    again.commit(again.flush())
    assert task.syncs() == [(ORDERS, 13)]
    assert task.published() == {PAYMENTS: "truncated"}


def test_nothing_is_committed_once_the_task_is_lost(task: OneTask) -> None:
    """C: another worker owns it, and may have read the positions already."""
    transaction = task.transaction()
    transaction.append(Records(ORDERS, 10, 3))
    runs = transaction.flush()
    task.stop_token.abandon()
    with pytest.raises(LostError):
        transaction.commit(runs)
    assert "commit" not in task.plane.calls
    assert task.positions.committed() == {ORDERS: 10}


def test_records_of_a_topic_that_was_created_again_are_not_committed(task: OneTask) -> None:
    """A: a plane that can't tell which topic it read from leaves that to be asked."""
    task.source_topics.ids["orders"] = NEW_ID
    transaction = task.transaction()
    transaction.append(Records(ORDERS, 10, 3, topic_id=b""))
    with pytest.raises(PartitionError) as caught:
        transaction.flush()
    assert (caught.value.tp, caught.value.reason) == (ORDERS, StopReason.RECREATED)
    transaction.abort(task.tools.transaction_budget())
    asked = list(task.source_topics.asked)
    again = task.transaction()
    again.append(Records(ORDERS, 10, 3, topic_id=NEW_ID))
    with pytest.raises(PartitionError):
        again.flush()
    assert task.source_topics.asked == asked, "the plane said which topic it is"


def test_records_that_went_to_another_topic_are_not_committed(task: OneTask) -> None:
    """A: asked before the first commit of a partition, and after every abort."""
    task.target_topics.ids["east.orders"] = NEW_ID
    transaction = task.transaction()
    transaction.append(Records(ORDERS, 10, 3))
    with pytest.raises(PartitionError) as caught:
        transaction.flush()
    assert caught.value.reason is StopReason.TARGET_RECREATED


def test_a_target_topic_is_confirmed_once(task: OneTask) -> None:
    for first in (10, 11):
        transaction = task.transaction()
        transaction.append(Records(ORDERS, first, 1))
        transaction.commit(transaction.flush())
    assert task.target_topics.asked == ["east.orders"]


def test_a_record_that_comes_again_is_refused(task: OneTask) -> None:
    """A: it would be a duplicate."""
    transaction = task.transaction()
    with pytest.raises(FatalError, match="arrived again"):
        transaction.append(Records(ORDERS, 9, 1))
    assert task.plane.calls == ["begin"]


def test_progress_counts_when_it_is_committed(task: OneTask) -> None:
    """A partition that committed records waits briefly again before its next retry."""
    for wait_s in (30, 60):
        stopped(task, ORDERS)
        assert task.states.retry_in_s(ORDERS, 0) == wait_s
    transaction = task.transaction()
    transaction.append(Records(ORDERS, 10, 1))
    transaction.commit(transaction.flush())
    stopped(task, ORDERS)
    assert task.states.retry_in_s(ORDERS, 0) == 30
