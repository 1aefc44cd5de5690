"""Positions of a task: committed and moved, against a model."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from replicator.copy.positions import Positions, floor_run, target_log_shorter
from replicator.errors import TP, FatalError, PartitionError, StopReason
from replicator.offset_map.runs import Placement, Run, gaps_between
from replicator.offset_map.sync_format import TargetTopic
from replicator.offset_map.topic_id import NO_ID, TopicId

TPS = [TP("orders", 0), TP("orders", 1), TP("payments", 0)]
IDS = {tp: TopicId([i] * 16) for i, tp in enumerate(TPS)}
TARGETS = {tp: TargetTopic(f"east.{tp.topic}", TopicId([i + 100] * 16)) for i, tp in enumerate(TPS)}


class LedgerMachine(RuleBasedStateMachine):
    """Appends, passes, commits and aborts in any order; the model keeps every record that was committed."""

    def __init__(self) -> None:
        super().__init__()
        floors = {tp: floor_run(100, 7, IDS[tp]) for tp in TPS}
        self.ledger = Positions(floors, {})
        self.committed = dict.fromkeys(TPS, 100)
        self.moved = dict.fromkeys(TPS, 100)
        self.downstream = dict.fromkeys(TPS, 7)
        self.records = dict.fromkeys(TPS, 0)
        self.newest: dict[TP, Run] = floors
        self.placements: dict[TP, list[Placement]] = {}
        for tp in TPS:
            self.ledger.start(tp, TARGETS[tp], IDS[tp])

    @rule(tp=st.sampled_from(TPS), skip=st.integers(0, 3), steps=st.lists(st.integers(1, 3), max_size=5))
    def append(self, tp: TP, skip: int, steps: list[int]) -> None:
        offsets = [self.moved[tp] + skip]
        for step in steps:
            offsets.append(offsets[-1] + step)
        self.ledger.appended(tp, offsets[0], offsets[-1] + 1)
        self.moved[tp] = offsets[-1] + 1
        landed = sum(p.count for p in self.placements.get(tp, []))
        place = Placement(
            offsets[0], offsets[-1] + 1, len(offsets), gaps_between(offsets), self.downstream[tp] + landed
        )
        self.placements.setdefault(tp, []).append(place)

    @rule(tp=st.sampled_from(TPS), back=st.integers(1, 50))
    def append_again(self, tp: TP, back: int) -> None:
        """A: a record before the position is refused, and changes nothing."""
        with pytest.raises(FatalError, match="came again"):
            self.ledger.appended(tp, self.moved[tp] - back, self.moved[tp] + 10)

    @rule(tp=st.sampled_from(TPS), by=st.integers(-20, 20))
    def pass_over(self, tp: TP, by: int) -> None:
        """Positions never go back: the end of a partition may be told late."""
        self.ledger.passed(tp, self.moved[tp] + by)
        self.moved[tp] += max(0, by)

    @rule()
    def commit(self) -> None:
        runs = self.ledger.runs(self.placements)
        assert {tp for tp, _ in runs} == {tp for tp in TPS if self.moved[tp] != self.committed[tp]}
        for tp, run in runs:
            before = self.newest[tp]
            assert run.seq == before.seq + 1
            assert run.ordinal_base == before.ordinal_next
            assert run.upstream_next == self.moved[tp]
            assert run.topic_id == IDS[tp]
            self.newest[tp] = run
            self.records[tp] += run.count
            self.downstream[tp] = run.downstream_next + (1 if run.count else 0)  # the marker
        self.ledger.commit(runs)
        self.committed = dict(self.moved)
        self.placements = {}

    @rule()
    def abort(self) -> None:
        """B: only committed syncs move a position; the log on the target has grown all the same."""
        for tp, places in self.placements.items():
            self.downstream[tp] += sum(place.count for place in places) + 1
        self.ledger.roll_back()
        self.moved = dict(self.committed)
        self.placements = {}

    @precondition(lambda self: not self.placements and self.moved == self.committed)
    @rule(tp=st.sampled_from(TPS))
    def stop_and_start(self, tp: TP) -> None:
        self.ledger.stop(tp)
        assert not self.ledger.is_running(tp)
        assert self.ledger.newest(tp) == self.newest[tp]
        self.ledger.start(tp, TARGETS[tp], IDS[tp])

    @invariant()
    def positions_are_the_committed_ones(self) -> None:
        assert self.ledger.positions() == self.committed
        assert self.ledger.has_moved() == (self.moved != self.committed)
        assert {tp: self.ledger.newest(tp) for tp in TPS} == self.newest
        assert {tp: self.newest[tp].ordinal_next for tp in TPS} == self.records


TestLedgerMachine = LedgerMachine.TestCase
TestLedgerMachine.settings = settings(max_examples=40, stateful_step_count=25)


def running(newest: Run) -> Positions:
    """A ledger with one running partition."""
    ledger = Positions({TPS[0]: newest}, {})
    ledger.start(TPS[0], TARGETS[TPS[0]], IDS[TPS[0]])
    return ledger


def test_records_before_the_replicated_end_mean_a_cut_target() -> None:
    """A: a target that was recreated or truncated is noticed by the first flush."""
    ledger = running(Run(9, 100, 200, 50, 1000, 150, IDS[TPS[0]], ()))
    ledger.appended(TPS[0], 150, 153)
    with pytest.raises(PartitionError, match="goes on at 0, but 250") as caught:
        ledger.runs({TPS[0]: [Placement(150, 153, 3, (), 0)]})
    assert (caught.value.tp, caught.value.reason) == (TPS[0], StopReason.TARGET_LOG_SHORTER)
    assert "east.orders" in caught.value.hint
    assert caught.value.is_lasting, "what was appended there makes the log longer, and it will look whole"
    assert [run.downstream_base for _, run in ledger.runs({TPS[0]: [Placement(150, 153, 3, (), 250)]})] == [250]


def test_the_error_of_a_cut_target_says_both_ends() -> None:
    error = target_log_shorter(TPS[0], "east.orders", Run(1, 0, 0, 10, 0, 10, NO_ID, ()), 4)
    assert error.reason is StopReason.TARGET_LOG_SHORTER
    assert "4" in str(error)
    assert "10" in str(error)


def test_several_runs_of_one_transaction_leave_the_last_as_the_position() -> None:
    """B: with somebody else's records between ours, all runs are committed, in order."""
    ledger = running(floor_run(0, 0, IDS[TPS[0]]))
    ledger.appended(TPS[0], 0, 4)
    runs = ledger.runs({TPS[0]: [Placement(0, 2, 2, (), 0), Placement(2, 4, 2, (), 5)]})
    assert [(run.seq, run.upstream_next, run.downstream_base) for _, run in runs] == [(2, 2, 0), (3, 4, 5)]
    ledger.commit(runs)
    assert ledger.positions() == {TPS[0]: 4}


def test_only_running_partitions_have_positions() -> None:
    """One that stopped keeps its committed run, moves no more, and is not written."""
    ledger = running(floor_run(5, 0, NO_ID))
    assert (ledger.target(TPS[0]), ledger.topic_id(TPS[0])) == (TARGETS[TPS[0]], IDS[TPS[0]])
    ledger.stop(TPS[0])
    ledger.passed(TPS[0], 50)
    assert (ledger.positions(), ledger.running(), ledger.has_moved(), ledger.runs({})) == ({}, [], False, [])
    assert list(ledger.known()) == [TPS[0]]
    assert ledger.newest(TPS[1]) is None


def test_a_floor_is_a_position_without_records() -> None:
    assert floor_run(40, 12, IDS[TPS[0]]) == Run(1, 40, 12, 0, 0, 40, IDS[TPS[0]], ())


def test_after_an_abort_the_target_topic_is_asked_for_again() -> None:
    """A: the aborted records may have landed in a new topic, whose log is longer by them."""
    tp = TPS[0]
    ledger = running(floor_run(0, 0, IDS[tp]))
    assert ledger.unconfirmed([tp]) == {tp: TARGETS[tp]}
    ledger.confirm([tp])
    ledger.appended(tp, 0, 3)
    ledger.commit(ledger.runs({tp: [Placement(0, 3, 3, (), 0)]}))
    assert ledger.unconfirmed([tp]) == {}
    ledger.roll_back()
    assert ledger.unconfirmed([tp]) == {tp: TARGETS[tp]}
    ledger.confirm([tp])
    ledger.stop(tp)
    ledger.start(tp, TARGETS[tp], IDS[tp])
    assert ledger.unconfirmed([tp]) == {tp: TARGETS[tp]}


def test_where_partitions_are_replicated_to_is_kept_while_they_stand_still() -> None:
    newest = floor_run(0, 0, IDS[TPS[0]])
    ledger = Positions({TPS[0]: newest, TPS[1]: newest}, {TPS[0]: TARGETS[TPS[0]]})
    assert (ledger.told_target(TPS[0]), ledger.told_target(TPS[1])) == (TARGETS[TPS[0]], None)
    ledger.start(TPS[1], TARGETS[TPS[1]], IDS[TPS[1]])
    ledger.stop(TPS[1])
    assert ledger.told_target(TPS[1]) == TARGETS[TPS[1]]
