"""What the syncs topic says of the last transaction, and how a run is taken back."""

from __future__ import annotations

from replicator.errors import TP
from replicator.fates import emptied
from replicator.offsets import Run
from replicator.syncs import TaskState
from replicator.translation import OffsetMap
from replicator.wire import TargetTopic, encode_control, encode_sync, target_record

ORDERS, PAYMENTS = TP("orders", 0), TP("payments", 3)
ID = bytes(range(16))


def run(seq: int, base: int, count: int, *, moves: int = 0) -> Run:
    """`count` records from `base` on, on both sides, and then `moves` offsets without records."""
    return Run(seq, base, base, count, base, base + count + moves, ID, ())


def state_of(*log: tuple[int, TP, Run]) -> TaskState:
    """Syncs at offsets."""
    state = TaskState()
    for offset, tp, it in log:
        state.take_at(offset, *encode_sync(tp, it))
    return state


def test_a_marker_parts_transactions() -> None:
    first, second, third = run(1, 0, 5), run(1, 0, 7), run(2, 5, 3)
    state = state_of((0, ORDERS, first), (1, PAYMENTS, second), (3, ORDERS, third))
    assert state.last == {ORDERS: [third]}
    assert state.next_offset == 4
    assert state_of((0, ORDERS, first), (1, PAYMENTS, second)).last == {ORDERS: [first], PAYMENTS: [second]}


def test_several_runs_of_a_partition_belong_together() -> None:
    first, second = run(1, 0, 5), run(2, 9, 3)
    assert state_of((7, ORDERS, first), (8, ORDERS, second)).last == {ORDERS: [first, second]}


def test_what_came_without_records_does_not_count_but_belongs_to_what_it_follows() -> None:
    first, move, other = run(1, 0, 5), run(2, 5, 0, moves=2), run(1, 0, 0)
    state = state_of((0, ORDERS, first), (2, ORDERS, move), (4, PAYMENTS, other))
    assert state.last == {ORDERS: [first, move]}
    told = target_record(ORDERS, TargetTopic("east.orders", ID))
    state.take_at(6, *encode_control(told))
    assert state.last == {ORDERS: [first, move]}


def test_an_emptied_run_takes_the_place_of_the_one_under_its_number() -> None:
    before, first, second = run(1, 0, 5), run(2, 5, 3), run(3, 10, 4)
    state = state_of((0, ORDERS, before), (2, ORDERS, first), (3, ORDERS, second))
    emptied_runs = [emptied(it, first) for it in state.last[ORDERS]]
    assert [(it.seq, it.count, it.upstream_next, it.downstream_next, it.ordinal_next) for it in emptied_runs] == [
        (2, 0, 5, 5, 5),
        (3, 0, 5, 5, 5),
    ]
    for offset, it in enumerate(emptied_runs, 7):
        state.take_at(offset, *encode_sync(ORDERS, it))
    assert state.newest[ORDERS].upstream_next == 5
    assert state.last == {}, "it is in doubt no more"
    again = run(4, 5, 7)
    state.take_at(10, *encode_sync(ORDERS, again))
    assert (state.newest[ORDERS], state.last) == (again, {ORDERS: [again]})


def test_offsets_are_translated_as_if_an_emptied_run_had_never_been() -> None:
    before, lost = run(1, 0, 5), run(2, 5, 3)
    after = Run(3, 5, 20, 3, 5, 8, ID, ())
    taken_back, never = OffsetMap(), OffsetMap()
    for it in (before, lost, emptied(lost, lost), after):
        taken_back.add(it)
    for it in (before, after):
        never.add(it)
    assert [taken_back.translate(at) for at in range(10)] == [never.translate(at) for at in range(10)]
