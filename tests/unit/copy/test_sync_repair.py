"""What the syncs topic says of the last transaction, and how a run is taken back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest

from replicator.copy import sync_repair
from replicator.copy.positions import Positions
from replicator.copy.sync_repair import SyncRepair, continued, emptied
from replicator.deadline import Deadline
from replicator.errors import TP, StopReason
from replicator.kafka.offset_probe import Presence
from replicator.offset_map.map import OffsetMap
from replicator.offset_map.runs import Run
from replicator.offset_map.sync_format import (
    HALTED,
    PARTITION_STATE,
    ControlRecord,
    SyncRecord,
    TargetTopic,
    encode_control,
    encode_sync,
    target_record,
    task_tp,
)
from replicator.offset_map.topic_id import TopicId
from replicator.syncs.state import TaskState

ORDERS, PAYMENTS = TP("orders", 0), TP("payments", 3)
ID = TopicId(range(16))


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
    assert state.last == {ORDERS}
    assert state.tails == {ORDERS: [third], PAYMENTS: [second]}
    assert (state.ends, state.end) == ({ORDERS: 4, PAYMENTS: 2}, 4)
    assert state_of((0, ORDERS, first), (1, PAYMENTS, second)).last == {ORDERS, PAYMENTS}


def test_several_runs_of_a_partition_belong_together() -> None:
    first, second = run(1, 0, 5), run(2, 9, 3)
    assert state_of((7, ORDERS, first), (8, ORDERS, second)).tails == {ORDERS: [first, second]}


def test_what_came_without_records_does_not_count_but_belongs_to_what_it_follows() -> None:
    first, move, other = run(1, 0, 5), run(2, 5, 0, moves=2), run(1, 0, 0)
    state = state_of((0, ORDERS, first), (2, ORDERS, move), (4, PAYMENTS, other))
    assert (state.last, state.tails) == ({ORDERS}, {ORDERS: [first, move]})
    target = target_record(ORDERS, TargetTopic("east.orders", ID))
    state.take_at(6, *encode_control(target))
    assert (state.last, state.tails, state.end) == ({ORDERS}, {ORDERS: [first, move]}, 5)


def test_an_emptied_run_takes_the_place_of_the_one_under_its_number() -> None:
    before, first, second = run(1, 0, 5), run(2, 5, 3), run(3, 10, 4)
    state = state_of((0, ORDERS, before), (2, ORDERS, first), (3, ORDERS, second))
    emptied_runs = [emptied(it, first) for it in state.tails[ORDERS]]
    assert [(it.seq, it.count, it.upstream_next, it.downstream_next, it.ordinal_next) for it in emptied_runs] == [
        (2, 0, 5, 5, 5),
        (3, 0, 5, 5, 5),
    ]
    for offset, it in enumerate(emptied_runs, 7):
        state.take_at(offset, *encode_sync(ORDERS, it))
    assert state.newest[ORDERS].upstream_next == 5
    assert state.tails == {}, "it is not suspect any more"
    again = run(4, 5, 7)
    state.take_at(10, *encode_sync(ORDERS, again))
    assert (state.newest[ORDERS], state.tails) == (again, {ORDERS: [again]})


def test_a_run_under_a_number_that_was_takes_its_place() -> None:
    """Of a transaction that was aborted, but in the syncs, where the marker was lost and the next one's showed it."""
    before, aborted, again = run(1, 0, 5), run(2, 5, 3), Run(2, 5, 20, 4, 5, 9, ID, ())
    state = state_of((0, ORDERS, before), (2, ORDERS, aborted), (3, ORDERS, again))
    assert (state.newest[ORDERS], state.tails) == (again, {ORDERS: [again]})


def test_what_was_forgotten_is_not_suspect() -> None:
    state = state_of((0, ORDERS, run(1, 0, 5)), (1, PAYMENTS, run(1, 0, 5)))
    state.take_at(3, encode_sync(ORDERS, run(1, 0, 5))[0], None)
    assert (set(state.tails), state.ends) == ({PAYMENTS}, {ORDERS: 4, PAYMENTS: 2})


def test_offsets_are_translated_as_if_an_emptied_run_had_never_been() -> None:
    before, lost = run(1, 0, 5), run(2, 5, 3)
    after = Run(3, 5, 20, 3, 5, 8, ID, ())
    taken_back, never = OffsetMap(), OffsetMap()
    for it in (before, lost, emptied(lost, lost), after):
        taken_back.add(it)
    for it in (before, after):
        never.add(it)
    assert [taken_back.translate(at) for at in range(10)] == [never.translate(at) for at in range(10)]


# --- what continues a newest run --------------------------------------------------------------------------------------


def test_what_readers_see_continues_the_newest_run() -> None:
    newest, first, second = run(3, 0, 5), run(4, 5, 3), run(5, 8, 2)
    assert continued(newest, [first, second], [first, second]) == [first, second]
    assert continued(newest, [first, second], [first]) == [first]
    assert continued(newest, [first, second], [second]) == [], "something is missing between"


def test_transactions_that_were_aborted_in_the_ordinary_way_may_lie_between() -> None:
    newest, aborted, shown = run(3, 0, 5), run(4, 5, 3), Run(4, 5, 30, 4, 5, 9, ID, ())
    assert continued(newest, [aborted, shown], [shown]) == [shown]
    assert continued(newest, [aborted, aborted, shown, aborted], [shown]) == [shown]


def test_runs_without_records_count_when_records_follow() -> None:
    newest, move, shown = run(3, 0, 5), run(4, 5, 0, moves=2), run(5, 7, 3)
    assert continued(newest, [move], []) == []
    assert continued(newest, [move, shown], [shown]) == [move, shown]
    assert continued(newest, [move, run(5, 7, 9), move, shown], [shown]) == [move, shown]


# --- the looks --------------------------------------------------------------------------------------------------------


@dataclass
class Target:
    """What readers of a target find: as `OffsetProbe` and `runs_on`.

    Args:
        visible: records by the places that readers of committed ones see.
        aborted: those that only others see.
        mute: partitions without an answer.
        hidden: the runs of the syncs that are not committed, and their offsets.
    """

    visible: set[tuple[TP, int]] = field(default_factory=set)
    aborted: set[tuple[TP, int]] = field(default_factory=set)
    mute: set[TP] = field(default_factory=set)
    hidden: list[tuple[int, SyncRecord]] = field(default_factory=list)

    def add(self, *runs: tuple[TP, Run], is_aborted: bool = False) -> None:
        for tp, it in runs:
            places = {(remote(tp), offset) for offset in range(it.downstream_base, it.downstream_next)}
            (self.aborted if is_aborted else self.visible).update(places)

    def ends(self, _: Any, *, committed: bool = True) -> SimpleNamespace:
        there = self.visible if committed else self.visible | self.aborted

        def presence(tp: TP, place: int) -> Presence:
            if (tp, place) in there:
                return Presence.RECORD
            ends = [offset for at, offset in self.visible | self.aborted if at == tp]
            return Presence.NO_RECORD if place <= max(ends, default=-1) + 1 else Presence.BEHIND_END

        def has_record(places: Mapping[TP, int], _: Deadline) -> dict[TP, Presence]:
            return {tp: presence(tp, place) for tp, place in places.items() if tp not in self.mute}

        return SimpleNamespace(has_record=has_record, close=lambda: None)

    def runs_on(self, _target: Any, _topic: str, _task: int, begin: int, _: Deadline) -> list[tuple[int, SyncRecord]]:
        return [(offset, record) for offset, record in self.hidden if offset >= begin]


def remote(tp: TP) -> TP:
    return TP(f"east.{tp.topic}", tp.partition)


@pytest.fixture
def target(monkeypatch: pytest.MonkeyPatch) -> Target:
    found = Target()
    monkeypatch.setattr(sync_repair, "OffsetProbe", found.ends)
    monkeypatch.setattr(sync_repair, "runs_on", found.runs_on)
    return found


def look(state: TaskState, end: int, tps: Iterable[TP] = (ORDERS, PAYMENTS)) -> tuple[list[tuple[TP, Run]], set[TP]]:
    """What the task finds that starts with this state."""
    naming = SimpleNamespace(remote_topic=lambda topic: remote(TP(topic, 0)).topic)
    flow: Any = SimpleNamespace(naming=naming, syncs_topic="syncs")
    repair = SyncRepair(flow, None, 0)  # type: ignore[arg-type]
    repair.suspect(state, end, Deadline(1))
    wanted = [tp for tp in tps if repair.is_suspect(tp)]
    return repair.check(wanted, Positions(state.newest, {}), Deadline(1)) if wanted else ([], set())


def hide(target: Target, offset: int, tp: TP, it: Run) -> None:
    target.hidden.append((offset, SyncRecord(tp, it)))


def test_of_several_runs_only_what_was_aborted_is_taken_back(target: Target) -> None:
    """Two transactions that share a marker in the syncs; the records of the second one lost theirs."""
    first, second = run(2, 10, 5), run(3, 15, 5)
    state = state_of((0, ORDERS, run(1, 10, 0)), (2, ORDERS, first), (3, ORDERS, second))
    target.add((ORDERS, first))
    target.add((ORDERS, second), is_aborted=True)
    assert look(state, 5) == ([(ORDERS, emptied(second, second))], set())
    target.visible.clear()
    target.add((ORDERS, first), is_aborted=True)
    assert look(state, 5)[0] == [(ORDERS, emptied(first, first)), (ORDERS, emptied(second, first))]


def test_a_suspect_without_an_answer_stays_suspect(target: Target) -> None:
    """One partition gives no answer and is published as stopped; another one goes on; a new owner reads the log."""
    orders, payments = run(2, 10, 5), run(2, 10, 5)
    state = state_of(
        (0, ORDERS, run(1, 10, 0)), (1, PAYMENTS, run(1, 10, 0)), (3, ORDERS, orders), (4, PAYMENTS, payments)
    )
    target.add((ORDERS, orders), (PAYMENTS, payments), is_aborted=True)
    target.mute.add(remote(PAYMENTS))
    assert look(state, 6) == ([(ORDERS, emptied(orders, orders))], {PAYMENTS})
    reason = StopReason.TARGET_UNAVAILABLE.value
    state.take_at(6, *encode_sync(ORDERS, emptied(orders, orders)))
    state.take_at(7, *encode_control(ControlRecord(PARTITION_STATE, PAYMENTS, {"state": "stopped", "reason": reason})))
    again = Run(3, 10, 30, 5, 10, 15, ID, ())
    state.take_at(9, *encode_sync(ORDERS, again))
    target.add((ORDERS, again))
    target.mute.clear()
    assert look(state, 11) == ([(PAYMENTS, emptied(payments, payments))], set())


def test_hidden_runs_of_a_stopped_partition_are_found_by_the_next_owner(target: Target) -> None:
    kept = run(2, 10, 5)
    state = state_of((0, ORDERS, run(1, 10, 0)), (1, PAYMENTS, run(1, 10, 0)))
    hide(target, 3, PAYMENTS, kept)
    target.add((PAYMENTS, kept))
    stopped = ControlRecord(PARTITION_STATE, PAYMENTS, {"state": "stopped", "reason": "target_unavailable"})
    state.take_at(6, *encode_control(stopped))
    state.take_at(8, *encode_sync(ORDERS, run(2, 10, 3)))
    target.add((ORDERS, run(2, 10, 3)))
    assert look(state, 10) == ([(PAYMENTS, kept)], set())


def test_a_record_of_a_command_hides_no_hidden_runs(target: Target) -> None:
    """A command that halts the task aborts what is open, and commits its record behind it."""
    kept = run(2, 10, 5)
    state = state_of((0, ORDERS, run(1, 10, 0)))
    hide(target, 2, ORDERS, kept)
    target.add((ORDERS, kept))
    state.take_at(4, *encode_control(ControlRecord(HALTED, task_tp(0), {"reason": "paused"})))
    assert look(state, 6) == ([(ORDERS, kept)], set())


def test_where_all_is_well_nothing_is_written(target: Target) -> None:
    """Also where records were deleted since, and where ordinary aborts lie behind the last run."""
    orders, deleted, aborted = run(2, 10, 5), run(2, 10, 5), run(3, 15, 5)
    state = state_of((2, ORDERS, orders), (3, PAYMENTS, deleted))
    hide(target, 5, ORDERS, aborted)
    target.add((ORDERS, orders))
    target.add((ORDERS, aborted), is_aborted=True)
    assert look(state, 7) == ([], set())
