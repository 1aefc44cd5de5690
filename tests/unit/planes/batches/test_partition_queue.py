"""Lanes: order, sequences, and what is sent again (invariants A, C)."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from replicator.errors import TP
from replicator.planes.batches.partition_queue import (
    BROKER_CACHE_BATCHES,
    MAX_SEQUENCE,
    PartitionQueue,
    QueuedBatch,
)
from replicator.protocol.record_format.header import RawBatch


def queue(batches: int) -> tuple[PartitionQueue, list[QueuedBatch]]:
    it = PartitionQueue(TP("east.orders", 0), TP("orders", 0))
    it.is_added = True
    items = [QueuedBatch(RawBatch(n, n + 1, 1, (), 0, bytearray()), None) for n in range(batches)]
    it.items.extend(items)
    return it, items


def send_all(it: PartitionQueue) -> list[QueuedBatch]:
    sent = []
    while it.is_sendable:
        sent.append(it.sends())
    return sent


def fail(it: PartitionQueue, item: QueuedBatch) -> None:
    item.is_answered = True
    it.is_broken = True
    it.resume_if_idle()


def place(it: PartitionQueue, item: QueuedBatch) -> None:
    item.is_answered = True
    it.placed(item)
    it.resume_if_idle()


def test_sequences_follow_each_other_and_begin_again_after_the_largest() -> None:
    """As `DefaultRecordBatch.incrementSequence` counts."""
    it, _ = queue(0)
    it.sequence = MAX_SEQUENCE - 1
    assert [it.take(2), it.take(3), it.take(1)] == [MAX_SEQUENCE - 1, 0, 3]
    it.sequence = MAX_SEQUENCE
    assert [it.take(1), it.take(1)] == [MAX_SEQUENCE, 0]


def test_no_more_is_on_its_way_than_a_broker_remembers() -> None:
    it, items = queue(8)
    assert send_all(it) == items[:BROKER_CACHE_BATCHES]
    place(it, items[0])
    assert send_all(it) == items[5:6]


def test_a_broken_lane_waits_for_all_answers_and_sends_again_in_order() -> None:
    it, items = queue(7)
    send_all(it)
    fail(it, items[0])
    assert send_all(it) == []
    for item in items[1:5]:
        fail(it, item)
    assert send_all(it) == items[:5]


def test_placed_batches_are_not_sent_again_but_count() -> None:
    """The answer about the oldest was lost: a sixth batch would make the broker forget it."""
    it, items = queue(9)
    send_all(it)
    fail(it, items[0])
    for item in items[1:5]:
        place(it, item)
    assert send_all(it) == [items[0]]
    place(it, items[0])
    assert send_all(it) == items[5:9]


class Broker:
    """Knows the last `BROKER_CACHE_BATCHES` batches of a partition; refuses every other repetition, and gaps."""

    def __init__(self) -> None:
        self.log: list[QueuedBatch] = []

    def takes(self, item: QueuedBatch, position: int) -> bool:
        """Whether it is in the log now."""
        if item in self.log:
            assert item in self.log[-BROKER_CACHE_BATCHES:], (
                "the broker has forgotten the batch: OUT_OF_ORDER_SEQUENCE_NUMBER"
            )
            return True
        if position != len(self.log):
            return False
        self.log.append(item)
        return True


@given(st.lists(st.tuples(st.booleans(), st.booleans()), max_size=300))
def test_any_losses_leave_the_log_in_order(fate: list[tuple[bool, bool]]) -> None:
    """A: requests that never arrive, and answers that never do."""
    it, items = queue(12)
    broker, fates = Broker(), iter([*fate, *[(True, True)] * 500])
    while it.items:
        sent = send_all(it)
        assert sent, "it stands still"
        arrives = True
        for item in sent:
            request, answer = next(fates)
            arrives = arrives and request  # one connection: what is behind a lost request is lost with it
            is_taken = arrives and broker.takes(item, items.index(item))
            if is_taken and answer:
                place(it, item)
            else:
                fail(it, item)
        if it.is_broken:
            it.resume_if_idle()
    assert broker.log == items
