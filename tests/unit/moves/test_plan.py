"""The plan of a move: what each position becomes, and what earlier moves, group sync and members mean for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from replicator.errors import TP
from replicator.groups.offsets import Committed, GroupState, move_tag, tag
from replicator.moves.history import LastMove
from replicator.moves.model import MoveCommand, MovePlan, MoveReason, Order, Row, RowState, Unrefined
from replicator.moves.plan import GroupFacts, MoveFacts, counted_row, missing_rows, plan_move
from replicator.moves.routes import FlowView, Router
from replicator.offset_map.map import Exact, OffsetMap
from replicator.offset_map.runs import Run
from replicator.offset_map.sync_format import TargetTopic
from replicator.offset_map.translate import TargetLog
from replicator.operations.group_report import GroupRow, is_well
from replicator.syncs.state import MapsState
from tests.unit.moves.two_clusters import EAST_WEST, WEST_EAST, a_flow, topic_id

ORDERS, COPY = TP("orders", 0), TP("east.orders", 0)
ORDERS_1, COPY_1 = TP("orders", 1), TP("east.orders", 1)
PAYMENTS, PAYMENTS_COPY = TP("payments", 0), TP("west.payments", 0)
ID = topic_id("orders")
RUNS = (
    Run(1, 100, 0, 0, 0, 100, ID, ()),
    Run(2, 100, 0, 10, 0, 111, ID, ()),
    Run(3, 111, 11, 10, 10, 121, ID, ()),
)
"""orders: 100 to 109 → 0 to 9, a marker at 110; 111 to 120 → 11 to 20; the target's log ends at 22, after a marker."""
THINNED = (RUNS[0], Run(9, 200, 60, 10, 50, 210, ID, ()))
"""Fifty records between the two, and a gap of fifty offsets."""


def a_view(name: str = EAST_WEST, topic: str = "orders", runs: tuple[Run, ...] = RUNS, **settings: Any) -> FlowView:
    syncs = MapsState()
    for partition in (0, 1):
        for run in runs:
            syncs.take_run(TP(topic, partition), replace(run, topic_id=topic_id(topic)))
    return FlowView(a_flow(name, topic, **settings) if settings else FLOWS[name], {topic: topic_id(topic)}, syncs)


FLOWS = {name: a_flow(name, topic) for name, topic in ((EAST_WEST, "orders"), (WEST_EAST, "payments"))}


def a_router(command: MoveCommand = MoveCommand.SWITCHOVER, view: FlowView | None = None) -> Router:
    there, back = view or a_view(), a_view(WEST_EAST, "payments")
    return Router(back, there) if command is MoveCommand.FAILBACK else Router(there, back)


def facts(command: MoveCommand = MoveCommand.SWITCHOVER, it: GroupFacts | None = None, **known: Any) -> MoveFacts:
    origin, destination = ("west", "east") if command is MoveCommand.FAILBACK else ("east", "west")
    groups = {"g": it} if it is not None else {}
    return MoveFacts(origin, destination, **{"groups": groups, "router": a_router(command), **known})


def order(command: MoveCommand = MoveCommand.SWITCHOVER, *groups: str, is_all: bool = False) -> Order:
    return Order("now", command, EAST_WEST, groups or ("g",), is_all)


def plan(command: MoveCommand, it: GroupFacts | None, *, is_all: bool = False, **known: Any) -> MovePlan:
    return plan_move(order(command, is_all=is_all), facts(command, it, **known))


def at(next_offset: int, metadata: str = "") -> Committed:
    return Committed(next_offset, metadata)


def synced(next_offset: int, flow: str = EAST_WEST) -> Committed:
    return Committed(next_offset, tag(flow, next_offset))


def moved(next_offset: int, move_id: str = "earlier") -> Committed:
    return Committed(next_offset, move_tag(move_id, next_offset))


def row_of(command: MoveCommand, origin: Committed, **known: Any) -> Row:
    tp = COPY if command is MoveCommand.FAILBACK else ORDERS
    (row,) = plan(command, GroupFacts(origin_offsets={tp: origin}), **known).rows
    return row


AWAY = (MoveCommand.SWITCHOVER, MoveCommand.FAILOVER)

# --- one position -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", [MoveCommand.SWITCHOVER, MoveCommand.FAILOVER, MoveCommand.RESYNC])
@pytest.mark.parametrize(
    ("origin", "destination", "translation"),
    [
        (100, 0, "exact"),
        (104, 4, "exact"),
        (110, 11, "exact"),
        (120, 20, "exact"),
        (121, 22, "exact"),
        (125, 22, "ahead"),
        (99, 0, "expired"),
    ],
    ids=["first", "inside", "at a marker", "last", "all read", "more read than is replicated", "before everything"],
)
def test_each_position_has_its_place(
    command: MoveCommand, origin: int, destination: int | None, translation: str
) -> None:
    """D: a caught-up group goes past the markers, none past a record."""
    row = row_of(command, at(origin), destination_logs={COPY: TargetLog(read_from=21, read_to=22)})
    assert (row.destination, row.destination_next, row.translation) == (COPY, destination, translation)
    is_stuck = command is MoveCommand.SWITCHOVER
    assert row.must_wait == (translation == "ahead" and is_stuck)
    assert row.is_obstacle == (translation == "expired" and is_stuck)
    assert row.is_planned == (destination is not None)


def test_the_end_that_was_found_for_another_place_is_not_used() -> None:
    """D: the log was read from 21 on, before more was replicated."""
    assert (
        row_of(
            MoveCommand.SWITCHOVER, at(121), destination_logs={COPY: TargetLog(read_from=15, read_to=40)}
        ).destination_next
        == 21
    )


@pytest.mark.parametrize(
    ("origin", "destination"), [(0, 100), (4, 104), (10, 111), (20, 120), (21, 121), (22, 121), (90, 121)]
)
def test_the_way_home_is_the_inverse(origin: int, destination: int) -> None:
    row = row_of(MoveCommand.FAILBACK, at(origin), destination_logs={ORDERS: TargetLog(read_from=121, read_to=500)})
    assert (row.destination, row.destination_next, row.translation, row.is_inverse) == (
        ORDERS,
        destination,
        "exact",
        True,
    )


def test_a_thinned_history_is_an_obstacle_until_it_is_counted() -> None:
    known = {"router": a_router(view=a_view(runs=THINNED))}
    row = row_of(MoveCommand.SWITCHOVER, at(150), **known)
    assert (row.translation, row.destination_next, row.is_obstacle, row.reread_records) == ("between", 0, True, 50)
    assert row.between is not None
    assert row.reason.startswith(MoveReason.THINNED)
    assert not row_of(MoveCommand.FAILOVER, at(150), **known).is_obstacle
    assert not row_of(MoveCommand.RESYNC, at(150), **known).is_obstacle


def test_nothing_replicated_yet_is_waited_for() -> None:
    router = a_router(view=a_view(runs=()))
    row = row_of(MoveCommand.SWITCHOVER, at(5), router=router)
    assert (row.translation, row.must_wait, row.is_obstacle) == ("unknown", True, False)
    assert row.reason.startswith(MoveReason.NOT_REPLICATED_YET)
    assert row_of(MoveCommand.FAILOVER, at(5), router=router).state is RowState.SKIPPED
    assert row_of(MoveCommand.RESYNC, at(5), router=router).state is RowState.SKIPPED


@pytest.mark.parametrize("reason", ["recreated", "source_log_shorter"])
def test_a_source_with_other_records_is_an_obstacle(reason: str) -> None:
    view = a_view()
    view.syncs.stopped[ORDERS] = {"reason": reason}
    for command in (MoveCommand.SWITCHOVER, MoveCommand.FAILBACK):
        row = row_of(command, at(104 if command is MoveCommand.SWITCHOVER else 4), router=a_router(command, view))
        assert (row.translation, row.is_obstacle) == ("unknown", True)
        assert row.reason.startswith(f"{MoveReason.UNTRANSLATABLE}: orders on east no longer holds the records")


def test_a_topic_created_again_has_other_records() -> None:
    view = replace(a_view(), topic_ids={"orders": topic_id("newer")})
    assert row_of(MoveCommand.SWITCHOVER, at(104), router=a_router(view=view)).is_obstacle


@pytest.mark.parametrize(
    ("reason", "translation"),
    [
        ("recreated", "exact"),
        ("source_gone", "exact"),
        ("source_log_shorter", "unknown"),
        ("target_recreated", "unknown"),
    ],
)
def test_a_failover_goes_by_what_was_replicated(reason: str, translation: str) -> None:
    """Whatever the source has now. D: checkpoints of a log that was cut may be of the records that came after."""
    view = replace(a_view(), topic_ids=None)
    view.syncs.stopped[ORDERS] = {"reason": reason}
    it = GroupFacts(origin_offsets={ORDERS: at(104), TP("local", 0): at(7)})
    local, row = plan(MoveCommand.FAILOVER, it, router=Router(view, None), source_ends={}).rows
    assert (row.translation, row.at_risk_records) == (translation, None)
    assert row.is_planned == (translation == "exact")
    assert local.reason.startswith(MoveReason.FILTERED)


def test_a_failover_takes_no_map_that_holds_nothing() -> None:
    """Forgotten by `recopy`, and not copied again yet."""
    view = replace(a_view(runs=()), topic_ids=None)
    view.syncs.stopped[ORDERS] = {"reason": "recreated"}
    row = row_of(MoveCommand.FAILOVER, at(104), router=Router(view, None))
    assert (row.state, row.destination_next) == (RowState.SKIPPED, None)


@pytest.mark.parametrize("command", [MoveCommand.SWITCHOVER, MoveCommand.FAILBACK, MoveCommand.FAILOVER])
def test_a_copy_created_again_has_other_offsets(command: MoveCommand) -> None:
    """D: in both directions; by what a worker published, and by the topic ids when no worker runs."""
    stopped_view = a_view()
    stopped_view.syncs.stopped[ORDERS] = {"reason": "target_recreated"}
    found = replace(a_view(), target_ids={"east.orders": topic_id("newer")})
    found.syncs.targets[ORDERS] = TargetTopic("east.orders", topic_id("older"))
    same = replace(found, target_ids={"east.orders": topic_id("older")})
    origin = at(4 if command is MoveCommand.FAILBACK else 104)
    for view in (stopped_view, found):
        row = row_of(command, origin, router=a_router(command, view))
        assert row.translation == "unknown"
        assert (
            row.reason
            == f"{MoveReason.UNTRANSLATABLE}: east.orders on west is no longer the topic that was replicated to"
        )
    assert row_of(command, origin, router=a_router(command, same)).translation == "exact"


def test_a_partition_that_stands_still_is_not_waited_for() -> None:
    view = a_view()
    view.syncs.stopped[ORDERS] = {"reason": "record_too_large"}
    row = row_of(MoveCommand.SWITCHOVER, at(125), router=a_router(view=view))
    assert (row.must_wait, row.is_obstacle) == (False, True)
    assert "record_too_large" in row.reason
    assert "no worker is running" in row_of(MoveCommand.SWITCHOVER, at(125), not_flowing="no worker is running").reason


def test_topics_that_no_flow_carries_are_left_out() -> None:
    it = GroupFacts(origin_offsets={ORDERS: at(104), TP("local", 3): at(7)})
    for command in (*AWAY, MoveCommand.RESYNC):
        local, orders = plan(command, it).rows
        assert (local.state, local.destination, local.destination_next) == (RowState.SKIPPED, None, None)
        assert local.reason.startswith(MoveReason.FILTERED)
        assert orders.is_planned


def test_a_group_of_which_no_topic_is_carried_is_refused() -> None:
    it = GroupFacts(origin_offsets={TP("local", 3): at(7)})
    assert plan(MoveCommand.SWITCHOVER, it).refusals == ("the flow replicates no topic of the group g",)
    left_out = plan(MoveCommand.SWITCHOVER, it, is_all=True)
    assert not left_out.is_refused
    assert not left_out.planned


def test_partitions_without_a_position_are_told() -> None:
    known = facts(it=GroupFacts(origin_offsets={ORDERS: at(104)}))
    (row,) = missing_rows(known, "g", [ORDERS, ORDERS_1, TP("unused", 0)])
    assert (row.origin, row.destination, row.state) == (ORDERS_1, COPY_1, RowState.SKIPPED)
    assert row.reason.startswith(MoveReason.NEVER_COMMITTED)
    assert row.as_json(is_homeward=False)["upstream_next"] is None


# --- both directions --------------------------------------------------------------------------------------------------


def test_topics_of_both_clusters_go_over_both_flows() -> None:
    """orders by the flow's map, the copy of payments back by the inverse of the other flow's, and home again."""
    there = plan(MoveCommand.SWITCHOVER, GroupFacts(origin_offsets={ORDERS: at(104), PAYMENTS_COPY: at(4)}))
    assert [(it.origin, it.destination, it.destination_next) for it in there.rows] == [
        (ORDERS, COPY, 4),
        (PAYMENTS_COPY, PAYMENTS, 104),
    ]
    home = plan(MoveCommand.FAILBACK, GroupFacts(origin_offsets={COPY: at(4), PAYMENTS: at(104)}))
    assert [(it.origin, it.destination, it.destination_next) for it in home.rows] == [
        (COPY, ORDERS, 104),
        (PAYMENTS, PAYMENTS_COPY, 4),
    ]
    assert [it.is_inverse for it in home.rows] == [True, False]


def test_what_is_not_copied_back_yet_is_waited_for_on_the_way_home() -> None:
    """The flow back replicates it, so that a halted flow there does not matter."""
    it = GroupFacts(origin_offsets={COPY: at(4), PAYMENTS: at(130)})
    found = plan(MoveCommand.FAILBACK, it, halted="the flow east->west is halted")
    assert found.must_wait
    assert not found.is_refused


@pytest.mark.parametrize(("place", "is_certain"), [(4, True), (21, True), (22, False)])
def test_records_whose_sync_is_not_committed_yet_are_waited_for_on_the_way_home(place: int, is_certain: bool) -> None:
    """A reader of the target may be past them: the markers of one transaction reach its partitions one by one."""
    it = GroupFacts(origin_offsets={COPY: at(place)})
    unfinished = a_router(MoveCommand.FAILBACK, replace(a_view(), unfinished="a transaction of the flow is open"))
    (row,) = plan(MoveCommand.FAILBACK, it, router=unfinished).rows
    if is_certain:
        assert (row,) == plan(MoveCommand.FAILBACK, it).rows
    else:
        assert (row.must_wait, row.is_obstacle, row.destination_next) == (True, False, None)
        assert row.reason.startswith(f"{MoveReason.NOT_REPLICATED_YET}: a transaction of the flow is open")


def test_without_a_flow_back_its_topics_are_left_out() -> None:
    it = GroupFacts(origin_offsets={ORDERS: at(104), PAYMENTS_COPY: at(4)})
    (orders, payments) = plan(MoveCommand.SWITCHOVER, it, router=Router(a_view(), None)).rows
    assert orders.is_planned
    assert payments.reason.startswith(MoveReason.FILTERED)


def test_resync_leaves_the_other_clusters_topics_alone() -> None:
    it = GroupFacts(origin_offsets={ORDERS: at(104), PAYMENTS_COPY: at(4)}, destination_offsets={PAYMENTS: at(9)})
    found = plan(MoveCommand.RESYNC, it)
    assert found.commits() == {"g": {COPY: synced(4)}}


def test_identity_naming_keeps_the_names() -> None:
    view = a_view(naming="identity")
    assert Router(view, None).route(ORDERS) is not None
    there = plan(MoveCommand.SWITCHOVER, GroupFacts(origin_offsets={ORDERS: at(104)}), router=Router(view, None))
    home = plan(MoveCommand.FAILBACK, GroupFacts(origin_offsets={ORDERS: at(4)}), router=Router(None, view))
    assert [(it.destination, it.destination_next, it.is_inverse) for it in there.rows] == [(ORDERS, 4, False)]
    assert [(it.destination, it.destination_next, it.is_inverse) for it in home.rows] == [(ORDERS, 104, True)]


def test_a_topic_that_left_the_configuration_still_finds_home() -> None:
    view = replace(a_view(), flow=a_flow(EAST_WEST, "something-else"))
    assert Router(view, None).route(ORDERS) is None
    found = Router(None, view).route(COPY)
    assert found is not None
    assert (found.destination, found.upstream) == (ORDERS, ORDERS)


# --- members ----------------------------------------------------------------------------------------------------------

BUSY = GroupState("STABLE", ("app-1 at 10.0.0.1",))


@pytest.mark.parametrize("command", list(MoveCommand))
def test_members_where_the_group_goes_stop_it(command: MoveCommand) -> None:
    """F: the broker would refuse, too; the plan says who they are."""
    tp, destination = (COPY, "east") if command is MoveCommand.FAILBACK else (ORDERS, "west")
    it = GroupFacts(origin_offsets={tp: at(104 if tp is ORDERS else 4)}, destination=BUSY)
    text = f"the group g has members on {destination} (app-1 at 10.0.0.1); stop them"
    assert plan(command, it).refusals == (text,)
    of_all = plan(command, it, is_all=True)
    assert [(row.state, row.reason) for row in of_all.rows] == [(RowState.SKIPPED, f"target_group_active: {text}")]
    assert not of_all.is_refused
    assert not of_all.planned


@pytest.mark.parametrize("command", list(MoveCommand))
def test_members_where_the_group_is_are_waited_for(command: MoveCommand) -> None:
    tp, origin = (COPY, "west") if command is MoveCommand.FAILBACK else (ORDERS, "east")
    it = GroupFacts(origin_offsets={tp: at(104 if tp is ORDERS else 4)}, origin=BUSY)
    found = plan(command, it)
    needs_rest = command in (MoveCommand.SWITCHOVER, MoveCommand.FAILBACK)
    text = f"the group g has members on {origin} (app-1 at 10.0.0.1); stop them"
    assert found.waits == ((text,) if needs_rest else ())
    assert found.must_wait == needs_rest
    assert not found.is_refused


@pytest.mark.parametrize(("state", "is_active"), [("EMPTY", False), ("DEAD", False), ("PREPARING_REBALANCE", True)])
def test_a_group_may_have_members_that_are_not_listed_yet(state: str, is_active: bool) -> None:
    it = GroupFacts(origin_offsets={ORDERS: at(104)}, destination=GroupState(state))
    assert plan(MoveCommand.SWITCHOVER, it).is_refused == is_active


# --- what was done before ---------------------------------------------------------------------------------------------


def last(command: MoveCommand, *, is_done: bool = True, **where: Mapping[TP, int]) -> LastMove:
    return LastMove("earlier", command, is_done, **where)


def states(found: MovePlan) -> list[tuple[TP, str, str]]:
    return [(row.origin, row.state.value, row.reason.partition(":")[0]) for row in found.rows]


@pytest.mark.parametrize("command", AWAY)
@pytest.mark.parametrize("there", [None, synced(3), synced(4)], ids=["nothing", "synced", "synced to the place"])
def test_group_syncs_offsets_are_planned_over(command: MoveCommand, there: Committed | None) -> None:
    it = GroupFacts(origin_offsets={ORDERS: at(104)}, destination_offsets={COPY: there} if there else {})
    assert plan(command, it).commits() == {"g": {COPY: moved(4, "now")}}


@pytest.mark.parametrize("command", AWAY)
@pytest.mark.parametrize("is_all", [False, True])
def test_a_group_that_was_used_there_without_a_move_is_refused(command: MoveCommand, is_all: bool) -> None:
    """F: also when the audit says that it came home."""
    it = GroupFacts(
        origin_offsets={ORDERS: at(104), ORDERS_1: at(104)}, destination_offsets={COPY: at(2), COPY_1: synced(4)}
    )
    for past in (None, last(MoveCommand.FAILBACK), last(MoveCommand.FAILBACK, is_done=False)):
        found = plan(command, replace(it, last_move=past), is_all=is_all)
        assert not found.planned
        assert found.is_refused != is_all
        assert {row.state for row in found.rows} == {RowState.SKIPPED if is_all else RowState.PLANNED}
        text = found.rows[0].reason if is_all else found.refusals[0]
        assert "replicator resync" in text
        assert ("interrupted" in text) == (past is not None and not past.is_done)


@pytest.mark.parametrize("command", AWAY)
@pytest.mark.parametrize("is_all", [False, True])
def test_a_group_that_moved_is_left_out(command: MoveCommand, is_all: bool) -> None:
    """Run twice, the command does nothing; also when the group works on the target since."""
    past = last(MoveCommand.SWITCHOVER, positions={ORDERS: 104}, places={COPY: 4})
    for there in (moved(4), at(4), at(19)):
        it = GroupFacts(
            origin_offsets={ORDERS: at(104)}, destination_offsets={COPY: there}, last_move=past, destination=BUSY
        )
        found = plan(command, it, is_all=is_all)
        assert states(found) == [(ORDERS, "skipped", "moved_already")]
        assert not found.is_refused
        assert "already moved by switchover earlier" in found.rows[0].reason


@pytest.mark.parametrize("is_all", [False, True])
def test_a_group_that_moved_and_worked_on_at_home_is_refused(is_all: bool) -> None:
    past = last(MoveCommand.SWITCHOVER, positions={ORDERS: 104}, places={COPY: 4})
    it = GroupFacts(origin_offsets={ORDERS: at(107)}, destination_offsets={COPY: moved(4)}, last_move=past)
    found = plan(MoveCommand.SWITCHOVER, it, is_all=is_all)
    assert not found.planned
    assert found.is_refused != is_all
    assert "has committed on east since" in (found.rows[0].reason if is_all else found.refusals[0])


def test_a_group_that_was_given_back_moves_again() -> None:
    past = last(MoveCommand.SWITCHOVER, positions={ORDERS: 102}, places={COPY: 2})
    it = GroupFacts(origin_offsets={ORDERS: at(104)}, destination_offsets={COPY: synced(4)}, last_move=past)
    assert plan(MoveCommand.SWITCHOVER, it).commits() == {"g": {COPY: moved(4, "now")}}


def test_without_an_audit_the_tag_tells_what_is_done() -> None:
    it = GroupFacts(
        origin_offsets={ORDERS: at(104), ORDERS_1: at(105)}, destination_offsets={COPY: moved(4), COPY_1: moved(3)}
    )
    found = plan(MoveCommand.SWITCHOVER, it)
    assert states(found) == [(ORDERS, "committed", "already committed"), (ORDERS_1, "planned", "")]
    assert found.commits() == {"g": {COPY_1: moved(5, "now")}}


@pytest.mark.parametrize("command", AWAY)
@pytest.mark.parametrize("before", AWAY)
@pytest.mark.parametrize(
    ("origin", "there", "state"),
    [
        (104, None, "planned"),
        (104, synced(3), "planned"),
        (104, moved(4), "committed"),
        (106, moved(4), "planned"),
        (104, at(4), "committed"),
        (104, at(9), "committed"),
        (104, at(9, move_tag("earlier", 4)), "committed"),
        (104, at(2), "skipped"),
    ],
    ids=[
        "not written", "not written over group sync", "written", "written, and gone on at home",
        "written, and the group committed there", "written, and gone on there",
        "written, and gone on there with the metadata that it found", "used there from elsewhere",
    ],
)  # fmt: skip
def test_an_interrupted_move_goes_on(
    command: MoveCommand, before: MoveCommand, origin: int, there: Committed | None, state: str
) -> None:
    """F: whichever of the two ways away it was, what the group committed there since stays."""
    past = last(before, is_done=False, positions={ORDERS: 104}, places={COPY: 4})
    it = GroupFacts(
        origin_offsets={ORDERS: at(origin)}, destination_offsets={COPY: there} if there else {}, last_move=past
    )
    found = plan(command, it)
    assert [row.state.value for row in found.rows] == [state]
    assert not found.is_refused
    if state == "planned":
        assert found.commits() == {"g": {COPY: moved(origin - 100, "now")}}


def test_what_the_group_did_since_stays_where_it_can_not_be_translated_any_more() -> None:
    """F: it went on there after an interrupted switchover, and its old position is an obstacle now."""
    past = last(MoveCommand.SWITCHOVER, is_done=False, positions={ORDERS: 150}, places={COPY: 7})
    it = GroupFacts(origin_offsets={ORDERS: at(150)}, destination_offsets={COPY: at(60)}, last_move=past)
    found = plan(MoveCommand.SWITCHOVER, it, router=a_router(view=a_view(runs=THINNED)))
    assert [row.state for row in found.rows] == [RowState.COMMITTED]
    assert not found.is_refused


def test_only_a_group_that_went_away_comes_home() -> None:
    it = GroupFacts(origin_offsets={COPY: synced(4)}, destination_offsets={ORDERS: at(104)})
    text = "the group g has not moved to west: group sync wrote its offsets there"
    assert plan(MoveCommand.FAILBACK, it).refusals == (text,)
    assert states(plan(MoveCommand.FAILBACK, it, is_all=True)) == [(COPY, "skipped", "moved_already")]
    twice = plan(MoveCommand.FAILBACK, replace(it, last_move=last(MoveCommand.FAILBACK)))
    assert states(twice) == [(COPY, "skipped", "moved_already")]
    assert not twice.is_refused


def test_a_group_that_lives_on_the_target_does_not_go_there() -> None:
    """F: the flow back's group sync wrote what it has on the source, and that is older than what it has itself."""
    it = GroupFacts(origin_offsets={PAYMENTS_COPY: synced(4, WEST_EAST)}, destination_offsets={PAYMENTS: at(109)})
    assert plan(MoveCommand.SWITCHOVER, it).is_refused
    assert states(plan(MoveCommand.SWITCHOVER, it, is_all=True)) == [(PAYMENTS_COPY, "skipped", "moved_already")]
    both = replace(it, origin_offsets={ORDERS: at(104), **it.origin_offsets})
    found = plan(MoveCommand.SWITCHOVER, both)
    assert states(found) == [(ORDERS, "planned", ""), (PAYMENTS_COPY, "skipped", "synced")]
    assert found.commits() == {"g": {COPY: moved(4, "now")}}


def test_the_way_home_goes_over_what_the_group_had_there() -> None:
    """But not where it never committed on the target: what it has at home is its own."""
    it = GroupFacts(
        origin_offsets={COPY: at(9), COPY_1: synced(2)}, destination_offsets={ORDERS: at(104), ORDERS_1: at(104)},
        last_move=last(MoveCommand.SWITCHOVER, positions={ORDERS: 104, ORDERS_1: 104}),
    )  # fmt: skip
    found = plan(MoveCommand.FAILBACK, it)
    assert states(found) == [(COPY, "planned", ""), (COPY_1, "skipped", "synced")]
    assert found.commits() == {"g": {ORDERS: moved(109, "now")}}
    assert found.hand_backs(found.rows) == {"g": {COPY: synced(9)}}


def test_a_group_that_did_nothing_on_the_target_keeps_what_it_has_at_home() -> None:
    """D: after a failover the source came back, and had more than the checkpoints knew."""
    it = GroupFacts(
        origin_offsets={COPY: moved(4), COPY_1: moved(4)}, destination_offsets={ORDERS: at(106), ORDERS_1: at(104)},
        last_move=last(MoveCommand.FAILOVER, positions={ORDERS: 104, ORDERS_1: 104}),
    )  # fmt: skip
    found = plan(MoveCommand.FAILBACK, it)
    assert [(row.state.value, row.destination_next) for row in found.rows] == [("committed", 106), ("planned", 104)]
    assert found.hand_backs(found.rows) == {"g": {COPY: synced(4), COPY_1: synced(4)}}


def test_a_group_that_keeps_the_metadata_of_a_move_goes_on_from_where_it_is() -> None:
    """F: a client may commit with the metadata that it finds: the tag speaks of another offset then."""
    it = GroupFacts(
        origin_offsets={COPY: at(9, move_tag("earlier", 4))}, destination_offsets={ORDERS: at(106)},
        last_move=last(MoveCommand.FAILOVER, positions={ORDERS: 104}),
    )  # fmt: skip
    assert plan(MoveCommand.FAILBACK, it).commits() == {"g": {ORDERS: moved(109, "now")}}


@pytest.mark.parametrize(
    ("origin", "home", "state"),
    [
        (at(9), at(104), "planned"),
        (at(9), None, "planned"),
        (at(9), moved(109), "committed"),
        (at(12), moved(109), "planned"),
        (at(9), at(115), "committed"),
        (synced(9), moved(109), "committed"),
        (synced(9), at(115), "committed"),
    ],
    ids=[
        "not written", "nothing there", "written", "written, and gone on on the target", "written, and gone on at home",
        "handed back", "handed back, and gone on at home",
    ],
)  # fmt: skip
def test_an_interrupted_failback_goes_on(origin: Committed, home: Committed | None, state: str) -> None:
    past = last(MoveCommand.FAILBACK, is_done=False, positions={ORDERS: 109}, places={COPY: 9})
    it = GroupFacts(origin_offsets={COPY: origin}, destination_offsets={ORDERS: home} if home else {}, last_move=past)
    found = plan(MoveCommand.FAILBACK, it)
    assert [row.state.value for row in found.rows] == [state]
    assert not found.is_refused


def test_a_group_of_the_targets_topics_alone_comes_home_by_the_audit() -> None:
    """Nothing tells it from a group that lives on the target, but that it was moved there."""
    it = GroupFacts(origin_offsets={PAYMENTS: at(104)}, destination_offsets={PAYMENTS_COPY: at(2)})
    assert plan(MoveCommand.FAILBACK, it).is_refused
    assert plan(MoveCommand.FAILBACK, replace(it, last_move=last(MoveCommand.SWITCHOVER))).planned
    again = plan(MoveCommand.FAILBACK, replace(it, last_move=last(MoveCommand.FAILBACK)))
    assert states(again) == [(PAYMENTS, "skipped", "moved_already")]


def test_a_group_of_the_targets_topics_alone_does_not_move_twice() -> None:
    past = last(MoveCommand.SWITCHOVER, positions={PAYMENTS_COPY: 4}, places={PAYMENTS: 104})
    it = GroupFacts(origin_offsets={PAYMENTS_COPY: at(4)}, destination_offsets={PAYMENTS: at(108)}, last_move=past)
    assert states(plan(MoveCommand.SWITCHOVER, it)) == [(PAYMENTS_COPY, "skipped", "moved_already")]
    came_home = replace(it, origin_offsets={PAYMENTS_COPY: at(9)})
    assert plan(MoveCommand.SWITCHOVER, came_home).commits() == {"g": {PAYMENTS: moved(109, "now")}}


# --- metadata ---------------------------------------------------------------------------------------------------------


def test_a_place_that_an_earlier_move_left_on_the_target_takes_nothing_back() -> None:
    """F: a failover left it where it was; the group read on at home before, and nothing on the target since."""
    origin, home = {PAYMENTS: moved(100), COPY: at(20)}, {PAYMENTS_COPY: at(15), ORDERS: at(104)}
    past = last(MoveCommand.FAILOVER, positions={ORDERS: 104}, places={COPY: 4})
    found = plan(MoveCommand.FAILBACK, GroupFacts(origin_offsets=origin, destination_offsets=home, last_move=past))
    assert states(found)[1] == (
        PAYMENTS,
        "committed",
        "the group committed nothing new on west; its offset on east stays",
    )
    assert found.commits()["g"].keys() == {ORDERS}


def test_a_groups_own_metadata_goes_with_it_and_comes_back() -> None:
    """Stream processors keep their partition time in it; the tags of moves and of group sync are not the group's."""
    there = plan(MoveCommand.SWITCHOVER, GroupFacts(origin_offsets={ORDERS: at(104, "AQAAAX")})).commits()["g"]
    assert there == {COPY: at(4, "AQAAAX")}
    home = plan(MoveCommand.FAILBACK, GroupFacts(origin_offsets=there)).commits()["g"]
    assert home == {ORDERS: at(104, "AQAAAX")}
    for own in (moved(104), at(104)):
        assert plan(MoveCommand.SWITCHOVER, GroupFacts(origin_offsets={ORDERS: own})).commits() == {
            "g": {COPY: moved(4, "now")}
        }


def test_a_commit_with_the_groups_metadata_is_recognised() -> None:
    """It carries no tag, so that the offset has to tell: the one that we would write, or wrote by the audit."""
    it = GroupFacts(origin_offsets={ORDERS: at(104, "AQAAAX")}, destination_offsets={COPY: at(4, "AQAAAX")})
    assert states(plan(MoveCommand.SWITCHOVER, it)) == [(ORDERS, "committed", "already committed")]
    past = last(MoveCommand.SWITCHOVER, is_done=False, positions={ORDERS: 104}, places={COPY: 4})
    went_on = replace(it, origin_offsets={ORDERS: at(107, "AQAAAY")}, last_move=past)
    assert plan(MoveCommand.SWITCHOVER, went_on).commits() == {"g": {COPY: at(7, "AQAAAY")}}


def test_resync_gives_everything_to_group_sync() -> None:
    origin = {ORDERS: at(104, "AQAAAX"), ORDERS_1: at(125)}
    it = GroupFacts(origin_offsets=origin, destination_offsets={COPY: at(20)}, origin=BUSY)
    found = plan(MoveCommand.RESYNC, it, destination_logs={COPY_1: TargetLog(read_from=21, read_to=22)})
    assert found.commits() == {"g": {COPY: synced(4), COPY_1: synced(22)}}
    assert found.rows[0].reason == "was 20"
    assert found.rows[1].reason.startswith(f"{MoveReason.NOT_REPLICATED_YET}: ")
    assert found.rows[1].reason.endswith("; was not committed")


def test_resync_takes_over_what_the_group_has_on_the_target_alone() -> None:
    """F: one offset of the group's own, and group sync would never touch any of them again. It stays where it is."""
    it = GroupFacts(
        origin_offsets={ORDERS: at(104)}, destination_offsets={COPY: at(20), COPY_1: at(7), PAYMENTS: at(9)}
    )
    found = plan(MoveCommand.RESYNC, it)
    assert found.commits() == {"g": {COPY: synced(4), COPY_1: synced(7)}}
    assert [(row.origin, row.known_origin_next) for row in found.rows] == [(ORDERS, 104), (ORDERS_1, None)]
    assert found.rows[1].reason == f"{MoveReason.KEPT_PLACE}: the group has no offset on east; its offset on west stays"
    done = replace(it, destination_offsets={COPY: synced(4), COPY_1: synced(7)})
    assert plan(MoveCommand.RESYNC, done).commits() == {"g": {COPY: synced(4)}}
    busy = plan(MoveCommand.RESYNC, replace(it, origin_offsets={}, destination=BUSY))
    assert busy.refusals == ("the group g has no committed offsets on east",)
    (text,) = plan(MoveCommand.RESYNC, replace(done, destination_offsets={COPY_1: at(7)}, destination=BUSY)).refusals
    assert text.startswith("the group g has members on west")


@pytest.mark.parametrize(
    ("it", "is_disputed"),
    [
        (GroupFacts(origin_offsets={ORDERS: at(104)}, destination_offsets={COPY: at(15)}), True),
        (GroupFacts(origin_offsets={ORDERS: at(104)}, destination=GroupState("STABLE", ("m",))), True),
        (
            GroupFacts(
                origin_offsets={ORDERS: at(110)},
                destination_offsets={COPY: moved(4)},
                last_move=last(MoveCommand.SWITCHOVER, positions={ORDERS: 104}),
            ),
            True,
        ),
        (
            GroupFacts(
                origin_offsets={ORDERS: at(104)},
                destination_offsets={COPY: at(15)},
                last_move=last(MoveCommand.SWITCHOVER, positions={ORDERS: 104}),
            ),
            False,
        ),
        (GroupFacts(origin_offsets={ORDERS: synced(104)}), False),
        (GroupFacts(origin_offsets={ORDERS: at(104)}, destination_offsets={COPY: synced(4)}), False),
    ],
    ids=["used on both", "members", "moved, and worked on", "works where it went", "lives there", "at home"],
)
def test_a_group_that_is_left_out_may_be_a_dispute(it: GroupFacts, is_disputed: bool) -> None:
    """Then `check` is not well: a failover of all would leave it where it is not wanted."""
    (row,) = plan(MoveCommand.FAILOVER, it, is_all=True).rows
    assert row.is_disputed == is_disputed
    assert is_well(row) == (not is_disputed)
    rows = [GroupRow(it, None, False, False, synced=True) for it in (row, replace(row, group="h", is_disputed=True))]
    assert min(rows, key=lambda it: it.severity).row.is_disputed  # in front, where somebody sees it


# --- risk -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("origin", "reread", "ends", "at_risk"),
    [
        (104, 16, {ORDERS: 121}, 0),
        (121, 0, {ORDERS: 121}, 0),
        (121, 0, {ORDERS: 130}, 9),
        (121, 0, None, None),
        (125, 4, {ORDERS: 130}, 9),
        (125, 4, None, None),
        (97, 20, None, None),
        (97, 20, {ORDERS: 130}, 12),
    ],
)
def test_a_failover_says_what_it_costs(
    origin: int, reread: int | None, ends: Mapping[TP, int] | None, at_risk: int | None
) -> None:
    row = row_of(MoveCommand.FAILOVER, at(origin), source_ends=ends)
    assert (row.reread_records, row.at_risk_records) == (reread, at_risk)
    it = GroupFacts(origin_offsets={ORDERS: at(origin), ORDERS_1: at(121)})
    found = plan(MoveCommand.FAILOVER, it, source_ends=None if ends is None else {**ends, ORDERS_1: 121})
    assert found.may_lose == (at_risk != 0)


CUT_AT = 14
"""Of the copy: records 3 to 6 of the last run's ten are gone, and all behind them."""


@pytest.mark.parametrize(
    ("origin", "destination", "translation", "reread", "at_risk"),
    [
        (104, 4, "exact", 9, 7),
        (114, 14, "exact", 0, 7),
        (117, 14, "ahead", 0, 4),
        (121, 14, "ahead", 0, 0),
        (125, 14, "ahead", 4, 0),
    ],
    ids=["before it", "there", "behind it", "all read", "more read than was replicated"],
)
def test_a_failover_goes_to_the_end_of_a_copy_that_was_cut(
    origin: int, destination: int, translation: str, reread: int, at_risk: int
) -> None:
    """Past the end of its log a consumer's own reset would decide. What the target lost is lost with the source."""
    row = row_of(
        MoveCommand.FAILOVER, at(origin), destination_logs={COPY: TargetLog(end=CUT_AT)}, source_ends={ORDERS: 121}
    )
    assert (row.destination_next, row.translation, row.is_planned) == (destination, translation, True)
    assert (row.reread_records, row.at_risk_records) == (reread, at_risk)
    assert row.reason.startswith(MoveReason.LOG_SHORTER) == (translation == "ahead")


def test_a_switchover_behind_the_end_of_a_copy_that_was_cut_is_refused() -> None:
    row = row_of(MoveCommand.SWITCHOVER, at(117), destination_logs={COPY: TargetLog(end=CUT_AT)})
    assert row.is_obstacle
    assert row.reason == (
        f"{MoveReason.LOG_SHORTER}: {COPY} on west lost records: it ends at 14, before the group's 17"
    )
    assert not row_of(MoveCommand.SWITCHOVER, at(113), destination_logs={COPY: TargetLog(end=CUT_AT)}).is_obstacle
    stuck = row_of(MoveCommand.SWITCHOVER, at(125), destination_logs={COPY: TargetLog(end=CUT_AT)})
    assert (stuck.is_obstacle, stuck.must_wait) == (True, False)


def test_the_way_home_behind_the_end_of_a_source_that_was_cut_is_refused() -> None:
    row = row_of(MoveCommand.FAILBACK, at(20), destination_logs={ORDERS: TargetLog(end=118)})
    assert row.is_obstacle
    assert row.reason.endswith("orders[0] on east lost records: it ends at 118, before the group's 120")


def test_group_sync_gets_no_place_behind_the_end_of_a_copy_that_was_cut() -> None:
    assert (
        row_of(MoveCommand.RESYNC, at(117), destination_logs={COPY: TargetLog(end=CUT_AT)}).destination_next == CUT_AT
    )


# --- records that retention deleted where the group goes --------------------------------------------------------------

PURGED = {COPY: TargetLog(begin=14, end=22)}
"""Of the copy: the ten records of the first run are gone, and three of the ten of the last one."""


@pytest.mark.parametrize(
    ("origin", "place", "deleted"),
    [(100, 14, 13), (104, 14, 9), (110, 14, 3), (113, 14, 1), (114, 14, 0), (115, 15, 0), (121, 21, 0), (125, 21, 0)],
)
@pytest.mark.parametrize("command", [*AWAY, MoveCommand.RESYNC])
def test_no_place_lies_before_the_beginning_of_the_log(
    command: MoveCommand, origin: int, place: int, deleted: int
) -> None:
    """A consumer that begins there finds nothing, and with ``auto.offset.reset=latest`` skips all that is left."""
    row = row_of(command, at(origin), source_ends={ORDERS: 121}, destination_logs=PURGED)
    assert (row.destination_next, row.at_risk_records) == (place, deleted)
    assert row.is_planned
    assert row.reason.startswith(MoveReason.DELETED_ON_TARGET) == (deleted > 0)
    assert row.translation == ("expired" if deleted else "ahead" if origin == 125 else "exact")
    if command is MoveCommand.FAILOVER:
        assert row.reread_records == {14: 7, 15: 6, 21: 0}[place] + max(0, origin - 121)


def test_a_log_whose_beginning_holds_only_markers_is_whole() -> None:
    """Between the runs, at 10, lies a marker: who reads on from there misses nothing."""
    row = row_of(MoveCommand.SWITCHOVER, at(110), destination_logs={COPY: TargetLog(begin=11, end=22)})
    assert (row.destination_next, row.translation, row.at_risk_records, row.reason) == (11, "exact", 0, "")


def test_the_row_says_what_is_deleted() -> None:
    row = row_of(MoveCommand.SWITCHOVER, at(104), destination_logs=PURGED)
    where = f"{COPY} on west begins at 14, after the group's 4"
    assert row.reason == f"{MoveReason.DELETED_ON_TARGET}: {where}: at most 9 unread records deleted there"
    assert not is_well(row), "`check` and `groups` show it"


@pytest.mark.parametrize("command", [*AWAY, MoveCommand.FAILBACK])
def test_deleted_records_have_to_be_accepted(command: MoveCommand) -> None:
    """On the cluster that the group leaves they may still be: it could catch up there first."""
    origin, tp = (at(4), COPY) if command is MoveCommand.FAILBACK else (at(104), ORDERS)
    known = {ORDERS: TargetLog(begin=107, end=121)} if command is MoveCommand.FAILBACK else PURGED
    it = GroupFacts(origin_offsets={tp: origin})
    found = plan(command, it, destination_logs=known, source_ends={ORDERS: 121})
    assert found.may_lose
    assert not found.is_refused
    assert [row.at_risk_records for row in found.rows] == [3 if command is MoveCommand.FAILBACK else 9]
    assert not plan(command, it, source_ends={ORDERS: 121}).may_lose


def test_a_resync_loses_nothing() -> None:
    """The group stays where it is; group sync owns the beginning of what is left."""
    found = plan(MoveCommand.RESYNC, GroupFacts(origin_offsets={ORDERS: at(104)}), destination_logs=PURGED)
    assert not found.may_lose
    assert found.commits() == {"g": {COPY: synced(14)}}


def test_a_thinned_stretch_of_which_records_are_deleted_is_not_counted() -> None:
    known = {"router": a_router(view=a_view(runs=THINNED)), "destination_logs": {COPY: TargetLog(begin=20, end=71)}}
    row = row_of(MoveCommand.SWITCHOVER, at(150), **known)
    assert (row.destination_next, row.translation, row.between, row.at_risk_records) == (20, "expired", None, 20)
    assert row.is_obstacle, "the place of the group may lie further on"


def test_counting_in_a_failover_says_what_may_be_read_again() -> None:
    """As of a place that the map has itself: all that lies behind it."""
    known = facts(
        MoveCommand.FAILOVER, GroupFacts(origin_offsets={ORDERS: at(150)}), router=a_router(view=a_view(runs=THINNED))
    )
    (row,) = plan_move(order(MoveCommand.FAILOVER), known).rows
    for command, bound in ((MoveCommand.FAILOVER, 10), (MoveCommand.SWITCHOVER, 0)):
        found = counted_row(order(command), known, row, Exact(60))
        assert (found.destination_next, found.translation, found.reread_records) == (60, "exact", bound)
    assert counted_row(order(), known, row, Unrefined("no")).reason.endswith(", but no")


def test_a_cut_copy_that_does_not_say_where_it_ends_has_no_place() -> None:
    view = a_view()
    view.syncs.stopped[ORDERS] = {"reason": "target_log_shorter"}
    row = row_of(MoveCommand.SWITCHOVER, at(104), router=a_router(view=view))
    assert (row.destination_next, row.is_obstacle) == (None, True)
    assert row.reason == f"{MoveReason.LOG_SHORTER}: east.orders on west lost records, and its end is not known"
    assert row_of(MoveCommand.FAILOVER, at(104), router=a_router(view=view)).state is RowState.SKIPPED


def test_a_failover_tells_of_topics_that_came_from_the_target() -> None:
    """Where the group was in their copies, the source knew; the group goes on where it last was on the target."""
    it = GroupFacts(
        origin_offsets={ORDERS: at(104)}, destination_offsets={COPY: synced(4), PAYMENTS: at(7), TP("other", 0): at(1)}
    )
    found = plan(MoveCommand.FAILOVER, it, back=FLOWS[WEST_EAST], source_ends={ORDERS: 121})
    assert states(found) == [(ORDERS, "planned", ""), (PAYMENTS_COPY, "skipped", "kept_place")]
    kept = found.rows[1]
    assert "continues at 7, its last offset on west; what it has read on east since is unknown" in kept.reason
    assert (kept.destination, kept.reread_records, kept.at_risk_records) == (PAYMENTS, None, 0)
    assert kept.as_json(is_homeward=False)["target_topic"] == "payments"
    assert not found.may_lose
    assert found.commits().keys() == {"g"}
    assert found.commits()["g"].keys() == {COPY}
    gone = replace(it, destination_offsets={COPY: moved(4), PAYMENTS: at(7)}, last_move=last(MoveCommand.FAILOVER))
    assert PAYMENTS_COPY not in [row.origin for row in plan(MoveCommand.FAILOVER, gone, back=FLOWS[WEST_EAST]).rows]
    assert PAYMENTS_COPY not in [row.origin for row in plan(MoveCommand.FAILOVER, it).rows]


def test_other_moves_lose_nothing_or_are_refused() -> None:
    for command in (MoveCommand.SWITCHOVER, MoveCommand.RESYNC):
        assert not plan(command, GroupFacts(origin_offsets={ORDERS: at(104)})).may_lose


def test_a_failover_with_nothing_to_commit_loses_nothing() -> None:
    past = last(MoveCommand.FAILOVER, positions={ORDERS: 104}, places={COPY: 4})
    it = GroupFacts(origin_offsets={ORDERS: at(104)}, destination_offsets={COPY: moved(4)}, last_move=past)
    assert not plan(MoveCommand.FAILOVER, it).may_lose


def test_a_failover_of_groups_of_which_none_is_known_may_lose_their_places() -> None:
    assert plan(MoveCommand.FAILOVER, None, is_all=True).may_lose


# --- refusals ---------------------------------------------------------------------------------------------------------


def test_a_halted_flow_is_not_waited_for() -> None:
    halted = "the flow east->west is halted"
    behind, exact = GroupFacts(origin_offsets={ORDERS: at(125)}), GroupFacts(origin_offsets={ORDERS: at(104)})
    assert plan(MoveCommand.SWITCHOVER, behind, halted=halted).is_refused
    assert not plan(MoveCommand.SWITCHOVER, exact, halted=halted).is_refused
    assert not plan(MoveCommand.FAILOVER, behind, halted=halted).is_refused


@pytest.mark.parametrize("command", list(MoveCommand))
def test_an_unknown_group_is_refused(command: MoveCommand) -> None:
    for it in (None, GroupFacts()):
        (text,) = plan(command, it).refusals
        assert "the group g" in text
    gone = plan(command, GroupFacts(), is_all=True)  # deleted since all were listed
    assert not gone.is_refused
    assert not gone.rows


def test_a_group_that_can_not_be_read_is_not_touched() -> None:
    """F: nobody knows what it has there."""
    it = GroupFacts(origin_offsets={ORDERS: at(104)}, problem="READ is missing")
    for is_all in (False, True):
        found = plan(MoveCommand.FAILOVER, it, is_all=is_all)
        assert found.refusals == ("READ is missing",)
        assert not found.planned
        assert not found.commits()


def test_one_obstacle_refuses_the_whole_plan() -> None:
    """G: half of what was asked for is not done."""
    found = plan(MoveCommand.SWITCHOVER, GroupFacts(origin_offsets={ORDERS: at(104), ORDERS_1: at(99)}))
    assert found.is_refused
    assert not found.commits()


def test_each_group_is_judged_by_itself() -> None:
    groups = {
        "busy": GroupFacts(origin_offsets={ORDERS: at(104)}, destination=BUSY),
        "free": GroupFacts(origin_offsets={ORDERS: at(105)}),
        "moved": GroupFacts(
            origin_offsets={ORDERS: at(104)}, destination_offsets={COPY: at(9)},
            last_move=last(MoveCommand.SWITCHOVER, positions={ORDERS: 104}),
        ),
    }  # fmt: skip
    found = plan_move(order(MoveCommand.SWITCHOVER, *groups, is_all=True), facts(groups=groups))
    assert [(row.group, row.state.value) for row in found.rows] == [
        ("busy", "skipped"), ("free", "planned"), ("moved", "skipped"),
    ]  # fmt: skip
    assert found.commits() == {"free": {COPY: moved(5, "now")}}


# --- JSON -------------------------------------------------------------------------------------------------------------


def test_the_json_of_a_move() -> None:
    """A contract: other programs read it."""
    found = plan(MoveCommand.SWITCHOVER, GroupFacts(origin_offsets={ORDERS: at(104), TP("zz", 1): at(3)}))
    assert found.as_json("planned") == {
        "id": "now", "command": "switchover", "flow": EAST_WEST, "state": "planned",
        "partitions": [
            {
                "group": "g", "topic": "orders", "partition": 0, "target_topic": "east.orders", "upstream_next": 104,
                "downstream_next": 4, "translation": "exact", "reread_records": 0, "at_risk_records": 0,
                "state": "planned", "reason": "",
            },
            {
                "group": "g", "topic": "zz", "partition": 1, "target_topic": None, "upstream_next": 3,
                "downstream_next": None, "translation": "unknown", "reread_records": 0, "at_risk_records": 0,
                "state": "skipped", "reason": "filtered: the flow does not replicate zz",
            },
        ],
    }  # fmt: skip


def test_the_json_names_the_flows_source_first_on_the_way_home_too() -> None:
    it = GroupFacts(origin_offsets={COPY: at(4), PAYMENTS: at(104)})
    rows = plan(MoveCommand.FAILBACK, it).as_json("done")["partitions"]
    named = ("topic", "upstream_next", "target_topic", "downstream_next")
    assert [tuple(row[key] for key in named) for row in rows] == [
        ("orders", 104, "east.orders", 4), ("west.payments", 4, "payments", 104),
    ]  # fmt: skip


def test_the_states_and_reasons_in_json_are_never_renamed() -> None:
    assert {it.value for it in RowState} == {"planned", "committed", "skipped", "failed"}
    assert {it.value for it in MoveCommand} == {"switchover", "failover", "failback", "resync"}
    assert {it.value for it in MoveReason} == {
        "never_committed", "filtered", "not_replicated_yet", "expired", "thinned", "untranslatable",
        "log_shorter", "deleted_on_target", "source_group_active", "target_group_active", "moved_already", "synced",
        "kept_place", "flow_halted", "source_unreachable",
    }  # fmt: skip


# --- any of it --------------------------------------------------------------------------------------------------------

OFFSETS = st.integers(0, 130)
COMMITS = st.builds(
    lambda kind, next_offset: kind(next_offset),
    st.sampled_from([at, moved, synced, lambda it: synced(it, WEST_EAST), lambda it: at(it, "AQAAAX")]),
    OFFSETS,
)
LASTS = st.none() | st.builds(
    lambda command, is_done, up, down: LastMove("earlier", command, is_done, {ORDERS: up}, {COPY: down}),
    st.sampled_from([MoveCommand.SWITCHOVER, MoveCommand.FAILOVER, MoveCommand.FAILBACK]), st.booleans(),
    OFFSETS, OFFSETS,
)  # fmt: skip


@settings(max_examples=200)
@given(
    command=st.sampled_from(list(MoveCommand)), is_all=st.booleans(), past=LASTS,
    runs=st.sampled_from([RUNS, THINNED, ()]),
    origin=st.dictionaries(st.sampled_from([ORDERS, COPY, PAYMENTS, PAYMENTS_COPY]), COMMITS, min_size=1),
    destination=st.dictionaries(st.sampled_from([ORDERS, COPY, PAYMENTS, PAYMENTS_COPY]), COMMITS),
    members=st.sampled_from([GroupState("EMPTY"), BUSY]),
)  # fmt: skip
def test_no_plan_breaks_an_invariant(
    command: MoveCommand, is_all: bool, past: LastMove | None, runs: tuple[Run, ...], origin: dict[TP, Committed],
    destination: dict[TP, Committed], members: GroupState,
) -> None:  # fmt: skip
    """D, F, G for facts of any kind, also for those that should never come together."""
    router = a_router(command, a_view(runs=runs))
    it = GroupFacts(origin_offsets=origin, destination_offsets=destination, destination=members, last_move=past)
    found = plan(command, it, is_all=is_all, router=router)
    kept = [row for row in found.rows if row.known_origin_next is None]
    assert len(found.rows) == len(origin) + len(kept)
    assert all(
        row.found == destination[COPY] and row.destination_next == row.found.next_offset for row in kept
    )  # where it is
    assert not kept or (command is MoveCommand.RESYNC and ORDERS not in origin)
    for row in found.planned:
        assert row.destination is not None
        assert row.destination_next is not None
        assert not members.is_active  # F
        route = router.route(row.origin)
        assert route is not None
        place = route.offset_map
        if row.translation == "exact":
            assert not _skips(place, row)  # D
        if row.found is None or command in (MoveCommand.FAILBACK, MoveCommand.RESYNC) or row.is_inverse:
            continue
        is_own = row.found == at(row.found.next_offset) or row.found.metadata == "AQAAAX"
        is_placed = past is not None and past.places.get(row.destination) == row.found.next_offset
        assert not is_own or is_placed  # F
    if found.is_refused:
        assert not found.commits()  # G


def _skips(offset_map: OffsetMap, row: Row) -> bool:
    """Whether a replicated record that the group has not read lies before the place, as far as the runs tell."""
    pairs = [(run.upstream_base + at, run.downstream_base + at) for run in offset_map for at in range(run.count)]
    if row.is_inverse:
        pairs = [(down, up) for up, down in pairs]
    return any(origin >= row.origin_next and destination < (row.destination_next or 0) for origin, destination in pairs)
