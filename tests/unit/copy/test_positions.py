"""Positions of a task: committed and moved, against a model."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from replicator.copy.positions import Positions, start_position, target_log_shorter
from replicator.errors import TP, FatalError, PartitionError, StopReason
from replicator.offset_map.runs import Placement, Run, gaps_between
from replicator.offset_map.sync_format import TargetTopic
from replicator.offset_map.topic_id import NO_ID, TopicId

TPS = [TP("orders", 0), TP("orders", 1), TP("payments", 0)]
IDS = {tp: TopicId([i] * 16) for i, tp in enumerate(TPS)}
TARGETS = {tp: TargetTopic(f"east.{tp.topic}", TopicId([i + 100] * 16)) for i, tp in enumerate(TPS)}


class PositionsMachine(RuleBasedStateMachine):
    """Appends, passes, commits and aborts in any order; the model keeps every record that was committed."""

    def __init__(self) -> None:
        super().__init__()
        start_positions = {tp: start_position(100, 7, IDS[tp]) for tp in TPS}
        self.positions = Positions(start_positions, {})
        self.committed = dict.fromkeys(TPS, 100)
        self.moved = dict.fromkeys(TPS, 100)
        self.downstream = dict.fromkeys(TPS, 7)
        self.records = dict.fromkeys(TPS, 0)
        self.newest: dict[TP, Run] = start_positions
        self.placements: dict[TP, list[Placement]] = {}
        for tp in TPS:
            self.positions.start(tp, TARGETS[tp], IDS[tp])

    @rule(tp=st.sampled_from(TPS), skip=st.integers(0, 3), steps=st.lists(st.integers(1, 3), max_size=5))
    def append(self, tp: TP, skip: int, steps: list[int]) -> None:
        offsets = [self.moved[tp] + skip]
        for step in steps:
            offsets.append(offsets[-1] + step)
        self.positions.appended(tp, offsets[0], offsets[-1] + 1)
        self.moved[tp] = offsets[-1] + 1
        landed = sum(p.count for p in self.placements.get(tp, []))
        place = Placement(
            offsets[0], offsets[-1] + 1, len(offsets), gaps_between(offsets), self.downstream[tp] + landed
        )
        self.placements.setdefault(tp, []).append(place)

    @rule(tp=st.sampled_from(TPS), back=st.integers(1, 50))
    def append_again(self, tp: TP, back: int) -> None:
        """A: a record before the position is refused, and changes nothing."""
        with pytest.raises(FatalError, match="arrived again"):
            self.positions.appended(tp, self.moved[tp] - back, self.moved[tp] + 10)

    @rule(tp=st.sampled_from(TPS), by=st.integers(-20, 20))
    def pass_over(self, tp: TP, by: int) -> None:
        """Positions never go back: the end of a partition may be reported late."""
        self.positions.passed(tp, self.moved[tp] + by)
        self.moved[tp] += max(0, by)

    @rule()
    def commit(self) -> None:
        runs = self.positions.runs(self.placements)
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
        self.positions.commit(runs)
        self.committed = dict(self.moved)
        self.placements = {}

    @rule()
    def abort(self) -> None:
        """B: only committed syncs move a position; the log on the target has grown all the same."""
        for tp, places in self.placements.items():
            self.downstream[tp] += sum(place.count for place in places) + 1
        self.positions.roll_back()
        self.moved = dict(self.committed)
        self.placements = {}

    @precondition(lambda self: not self.placements and self.moved == self.committed)
    @rule(tp=st.sampled_from(TPS))
    def stop_and_start(self, tp: TP) -> None:
        self.positions.stop(tp)
        assert not self.positions.is_running(tp)
        assert self.positions.newest(tp) == self.newest[tp]
        self.positions.start(tp, TARGETS[tp], IDS[tp])

    @invariant()
    def positions_are_the_committed_ones(self) -> None:
        assert self.positions.committed() == self.committed
        assert self.positions.has_moved() == (self.moved != self.committed)
        assert {tp: self.positions.newest(tp) for tp in TPS} == self.newest
        assert {tp: self.newest[tp].ordinal_next for tp in TPS} == self.records


TestPositionsMachine = PositionsMachine.TestCase
TestPositionsMachine.settings = settings(max_examples=40, stateful_step_count=25)


def running(newest: Run) -> Positions:
    """Positions with one running partition."""
    positions = Positions({TPS[0]: newest}, {})
    positions.start(TPS[0], TARGETS[TPS[0]], IDS[TPS[0]])
    return positions


def test_records_before_the_replicated_end_mean_a_cut_target() -> None:
    """A: a target that was recreated or truncated is noticed by the first flush."""
    positions = running(Run(9, 100, 200, 50, 1000, 150, IDS[TPS[0]], ()))
    positions.appended(TPS[0], 150, 153)
    with pytest.raises(PartitionError, match="continues at 0, but 250") as caught:
        positions.runs({TPS[0]: [Placement(150, 153, 3, (), 0)]})
    assert (caught.value.tp, caught.value.reason) == (TPS[0], StopReason.TARGET_LOG_SHORTER)
    assert "east.orders" in caught.value.hint
    assert caught.value.is_lasting, "what was appended there makes the log longer, and it will look whole"
    assert [run.downstream_base for _, run in positions.runs({TPS[0]: [Placement(150, 153, 3, (), 250)]})] == [250]


def test_the_error_of_a_cut_target_says_both_ends() -> None:
    error = target_log_shorter(TPS[0], "east.orders", Run(1, 0, 0, 10, 0, 10, NO_ID, ()), 4)
    assert error.reason is StopReason.TARGET_LOG_SHORTER
    assert "4" in str(error)
    assert "10" in str(error)


def test_several_runs_of_one_transaction_leave_the_last_as_the_position() -> None:
    """B: with another writer's records between those of the task, all runs are committed, in order."""
    positions = running(start_position(0, 0, IDS[TPS[0]]))
    positions.appended(TPS[0], 0, 4)
    runs = positions.runs({TPS[0]: [Placement(0, 2, 2, (), 0), Placement(2, 4, 2, (), 5)]})
    assert [(run.seq, run.upstream_next, run.downstream_base) for _, run in runs] == [(2, 2, 0), (3, 4, 5)]
    positions.commit(runs)
    assert positions.committed() == {TPS[0]: 4}


def test_only_running_partitions_have_positions() -> None:
    """One that stopped keeps its committed run, moves no more, and is not written."""
    positions = running(start_position(5, 0, NO_ID))
    assert (positions.target(TPS[0]), positions.topic_id(TPS[0])) == (TARGETS[TPS[0]], IDS[TPS[0]])
    positions.stop(TPS[0])
    positions.passed(TPS[0], 50)
    assert (positions.committed(), positions.running(), positions.has_moved(), positions.runs({})) == (
        {},
        [],
        False,
        [],
    )
    assert list(positions.known()) == [TPS[0]]
    assert positions.newest(TPS[1]) is None


def test_a_start_position_is_a_position_without_records() -> None:
    assert start_position(40, 12, IDS[TPS[0]]) == Run(1, 40, 12, 0, 0, 40, IDS[TPS[0]], ())


def test_after_an_abort_the_target_topic_is_asked_for_again() -> None:
    """A: the aborted records may have landed in a new topic, whose log is longer by them."""
    tp = TPS[0]
    positions = running(start_position(0, 0, IDS[tp]))
    assert positions.unconfirmed([tp]) == {tp: TARGETS[tp]}
    positions.confirm([tp])
    positions.appended(tp, 0, 3)
    positions.commit(positions.runs({tp: [Placement(0, 3, 3, (), 0)]}))
    assert positions.unconfirmed([tp]) == {}
    positions.roll_back()
    assert positions.unconfirmed([tp]) == {tp: TARGETS[tp]}
    positions.confirm([tp])
    positions.stop(tp)
    positions.start(tp, TARGETS[tp], IDS[tp])
    assert positions.unconfirmed([tp]) == {tp: TARGETS[tp]}


def test_where_partitions_are_replicated_to_is_kept_while_they_are_stopped() -> None:
    newest = start_position(0, 0, IDS[TPS[0]])
    positions = Positions({TPS[0]: newest, TPS[1]: newest}, {TPS[0]: TARGETS[TPS[0]]})
    assert (positions.published_target(TPS[0]), positions.published_target(TPS[1])) == (TARGETS[TPS[0]], None)
    positions.start(TPS[1], TARGETS[TPS[1]], IDS[TPS[1]])
    positions.stop(TPS[1])
    assert positions.published_target(TPS[1]) == TARGETS[TPS[1]]
