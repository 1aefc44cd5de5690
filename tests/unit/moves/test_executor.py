"""The executor of moves on two clusters in memory: killed after every step, met by other operators, by consumers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import count

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from replicator.errors import TP, KafkaOpError, RefusedError
from replicator.groups.offsets import OffsetOwner, owner_of
from replicator.moves import executor
from replicator.moves.executor import MoveExecutor, MoveOptions, MoveOutcome
from replicator.moves.model import MoveCommand, Order, RowState, counted
from replicator.syncs.control_records import PartlyDoneError
from tests.unit.moves.two_clusters import EAST_WEST, PARTITIONS, WEST_EAST, Died, FakeOperator, FakeWorld, TwoClusters

ORDERS, COPY = TP("orders", 0), TP("east.orders", 0)
COPY_1 = TP("east.orders", 1)
IDS = count()


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executor, "LOOK_EVERY_S", 0.0)


@dataclass
class Scene:
    """Two clusters, and the command that is to be run on them."""

    command: MoveCommand
    two: TwoClusters = field(default_factory=TwoClusters)
    groups: tuple[str, ...] = ("g",)
    is_all: bool = False
    options: MoveOptions = field(default_factory=lambda: MoveOptions(timeout_s=0.01, accept_data_loss=True))

    def run(self, world: FakeWorld | None = None, operator: FakeOperator | None = None) -> MoveOutcome:
        order = Order(f"move-{next(IDS)}", self.command, EAST_WEST, self.groups, self.is_all)
        return MoveExecutor(world or FakeWorld(self.two), operator or FakeOperator(), self.options).run(order)

    def die_after(self, effects: int) -> bool:
        """Run it until it is killed; whether it was, before its end."""
        try:
            self.run(FakeWorld(self.two, dies_after=effects))
        except Died:
            return True
        return False

    def result(self) -> object:
        """What all of it led to, when group sync has run, too; a move's tag stands for no metadata."""
        duties(self.two)
        found = {
            (cluster, group, tp): (it.next_offset, "" if owner_of(it) is OffsetOwner.MOVE else it.metadata)
            for cluster, groups in self.two.groups.items()
            for group, there in groups.items()
            for tp, it in there.offsets.items()
        }
        return found, sorted(self.two.halted)


def duties(two: TwoClusters) -> None:
    for name in two.flows:
        two.duties(name)


def work(two: TwoClusters, cluster: str, groups: Iterable[str] = ("g",), records: int = 3) -> None:
    """Records everywhere, copied, and a part of them read."""
    for partition in range(PARTITIONS):
        for topic in ("orders", "payments"):
            two.produce(topic, partition, records + partition, has_gap=True)
            two.produce(topic, partition, 1)
    two.replicate_all()
    for group in groups:
        for index, tp in enumerate(two.logs[cluster]):
            two.consume(cluster, tp, 1 + index % 3, group=group)
    duties(two)


def switchover(*groups: str) -> Scene:
    scene = Scene(MoveCommand.SWITCHOVER, groups=groups or ("g",))
    work(scene.two, "east", scene.groups)
    work(scene.two, "east", scene.groups)
    return scene


def failover() -> Scene:
    scene = switchover("g", "h")
    scene.two.is_east_up = False
    scene.command = MoveCommand.FAILOVER
    return scene


def failover_all() -> Scene:
    scene = failover()
    scene.is_all = True
    scene.options = MoveOptions(accept_data_loss=True, halts=True)
    return scene


def failback(*groups: str) -> Scene:
    scene = switchover(*groups)
    assert scene.run().state == "done"
    work(scene.two, "west", scene.groups)
    scene.command = MoveCommand.FAILBACK
    return scene


def failback_of_idle() -> Scene:
    scene = switchover()
    assert scene.run().state == "done"
    scene.command = MoveCommand.FAILBACK
    return scene


def failback_after_failover() -> Scene:
    """The source comes back with commits that no checkpoint told of."""
    scene = switchover()
    for tp in scene.two.logs["east"]:
        scene.two.consume("east", tp, 1)
    scene.two.is_east_up = False
    scene.command = MoveCommand.FAILOVER
    assert scene.run().state == "done"
    scene.two.consume("west", COPY, 2)
    scene.two.is_east_up = True
    scene.command = MoveCommand.FAILBACK
    return scene


def with_metadata() -> Scene:
    scene = Scene(MoveCommand.SWITCHOVER)
    scene.two.group("east").metadata = "AQAAAX"
    work(scene.two, "east")
    return scene


def failback_with_metadata() -> Scene:
    scene = with_metadata()
    assert scene.run().state == "done"
    scene.two.group("west").metadata = "AQAAAX"
    work(scene.two, "west")
    scene.command = MoveCommand.FAILBACK
    return scene


def resync() -> Scene:
    scene = failback()
    scene.command = MoveCommand.RESYNC
    return scene


SCENES = [
    switchover, lambda: switchover("g", "h"), with_metadata, failover, failover_all, failback,
    lambda: failback("g", "h"), failback_of_idle, failback_after_failover, failback_with_metadata, resync,
]  # fmt: skip
IDS_OF_SCENES = [
    "switchover", "switchover of two", "switchover with metadata", "failover", "failover --all", "failback",
    "failback of two", "failback of an idle group", "failback after a failover", "failback with metadata", "resync",
]  # fmt: skip
all_scenes = pytest.mark.parametrize("scene", SCENES, ids=IDS_OF_SCENES)


def deaths(scene: Callable[[], Scene]) -> Iterator[tuple[int, Scene]]:
    """The scene, killed after each effect."""
    for effects in count(1):
        found = scene()
        found.two.writes.clear()
        if not found.die_after(effects):
            break
        yield effects, found
    assert effects > 5, "nothing was killed"


def rows(outcome: MoveOutcome) -> list[tuple[str, TP, RowState]]:
    return [(row.group, row.origin, row.state) for row in outcome.plan.rows]


# --- without a crash --------------------------------------------------------------------------------------------------


@all_scenes
def test_a_command_does_what_its_plan_says(scene: Callable[[], Scene]) -> None:
    """G: it exits 0, and all that was planned is there; run twice, it changes nothing."""
    it = scene()
    operator = FakeOperator()
    world = FakeWorld(it.two)
    outcome = it.run(world, operator)
    assert outcome.state == "done"
    assert operator.approved[0].planned
    assert not [row for row in outcome.plan.rows if row.state in (RowState.PLANNED, RowState.FAILED)]
    assert [name for name, _ in world.hooks] == ["before_move", "after_move"]
    assert [record.state for record in it.two.audit][-2:] == ["started", "done"]
    before = it.two.snapshot()
    assert it.run().state == "done"
    assert it.two.snapshot() == before


def test_a_switchover_moves_every_partition_of_both_directions() -> None:
    it = switchover()
    outcome = it.run()
    assert len(outcome.plan.rows) == 2 * PARTITIONS
    assert {state for _, _, state in rows(outcome)} == {RowState.COMMITTED}
    found = it.two.group("west").offsets
    assert {owner_of(committed) for committed in found.values()} == {OffsetOwner.MOVE}


def test_a_failback_hands_back_what_group_sync_owns() -> None:
    """And group sync goes on: the next disaster finds current offsets."""
    it = failback()
    assert it.run().state == "done"
    west = it.two.group("west").offsets
    assert {tp.topic for tp, committed in west.items() if owner_of(committed) is OffsetOwner.SYNC} == {"east.orders"}
    before = {tp: west[tp] for tp in (COPY, COPY_1)}
    work(it.two, "east")
    assert all(west[tp].next_offset > was.next_offset for tp, was in before.items())
    assert {owner_of(west[tp]) for tp in before} == {OffsetOwner.SYNC}


@pytest.mark.parametrize("metadata", ["", "AQAAAX"])
def test_there_and_back_ten_times_reads_every_record_once(metadata: str) -> None:
    two = TwoClusters()
    for cluster in ("east", "west"):
        two.group(cluster).metadata = metadata
    work(two, "east")
    for _ in range(10):
        assert Scene(MoveCommand.SWITCHOVER, two).run().state == "done"
        work(two, "west")
        assert Scene(MoveCommand.FAILBACK, two).run().state == "done"
        work(two, "east")
    two.consume_all("east")
    assert sorted(two.processed["g"]) == list(range(1, two.produced + 1))


def test_dry_run_changes_nothing() -> None:
    for scene in SCENES:
        it = scene()
        it.options = MoveOptions(dry_run=True)
        before, audit = it.two.snapshot(), list(it.two.audit)
        operator, world = FakeOperator(), FakeWorld(it.two)
        assert it.run(world, operator).state == "planned"
        assert (it.two.snapshot(), it.two.audit, it.two.claimed_by) == (before, audit, it.two.claimed_by)
        assert operator.shown
        assert not operator.approved
        assert not world.hooks


def test_a_dry_run_says_what_would_keep_it() -> None:
    it = switchover()
    it.options = MoveOptions(dry_run=True)
    assert it.run().texts == ()
    it.two.group("east").members = ("app-1 at 10.0.0.1",)
    it.two.produce("orders", 0, 5)
    it.two.consume("east", ORDERS)
    waits = it.run().texts
    assert waits[0] == "it would wait: the group g has members on east (app-1 at 10.0.0.1); stop them"
    assert waits[1].startswith("it would wait: orders[0] of g: not_replicated_yet: ")
    it.command, it.two.is_east_up = MoveCommand.FAILOVER, False
    assert it.run().texts == (
        "it would be refused: cannot rule out data loss for 2 partitions: east did not report where they end",
        "to move them anyway: --accept-data-loss",
    )
    it.options = MoveOptions(dry_run=True, accept_data_loss=True)
    assert it.run().texts == ()


def test_nothing_is_handed_back_without_a_question() -> None:
    """Also where all the places at home are what they should be: the way home changes the owner on the target."""
    it = failback_of_idle()
    assert it.run().state == "done"
    it.command = MoveCommand.SWITCHOVER
    assert it.run().state == "done"
    it.command = MoveCommand.FAILBACK
    assert refused(it, operator=FakeOperator(says_no=True)) == ("not confirmed",)
    world = FakeWorld(it.two)
    outcome = it.run(world)
    assert {state for _, _, state in rows(outcome)} == {RowState.COMMITTED}
    assert [name for name, _ in world.hooks] == ["before_move", "after_move"]


def test_a_group_that_is_away_shows_where_it_is() -> None:
    """An operator who looks at the plan again must not take the place of the move for that of the group."""
    it = switchover()
    assert it.run().state == "done"
    assert {row.reason.partition("; ")[2] for row in it.run().plan.rows} == {""}
    it.two.consume("west", COPY, 1)
    at = it.two.group("west").offsets[COPY].next_offset
    found = {row.origin: row.reason.partition("; ")[2] for row in it.run().plan.rows}
    assert found[ORDERS] == f"its offset on west is {at}"
    assert set(found.values()) == {"", f"its offset on west is {at}"}


# --- killed -----------------------------------------------------------------------------------------------------------


@all_scenes
@pytest.mark.parametrize("between", [lambda two: None, duties], ids=["nothing", "group sync"])
def test_killed_after_any_step_the_command_is_run_again(
    scene: Callable[[], Scene], between: Callable[[TwoClusters], None]
) -> None:
    """The end is that of one without a crash, and nothing is committed twice with different values."""
    without = scene()
    assert without.run().state == "done"
    for effects, it in deaths(scene):
        between(it.two)
        assert it.run().state == "done", effects
        assert it.result() == without.result(), effects
        assert it.two.audit[-1].state == "done", effects
        values: dict[tuple[str, str, TP], set[int]] = {}
        for cluster, group, tp, committed in it.two.writes:
            values.setdefault((cluster, group, tp), set()).add(committed.next_offset)
        assert all(len(it) == 1 for it in values.values()), effects


@pytest.mark.parametrize("scene", [switchover, failback, failover_all], ids=["switchover", "failback", "failover"])
def test_killed_twice_the_command_is_run_again(scene: Callable[[], Scene]) -> None:
    without = scene()
    assert without.run().state == "done"
    pairs = 0
    for effects, _ in deaths(scene):
        for again in count(1, 3):
            it = scene()
            it.die_after(effects)
            if not it.die_after(again):
                break
            pairs += 1
            assert it.run().state == "done", (effects, again)
            assert it.result() == without.result(), (effects, again)
    assert pairs >= 2 * effects, "not killed twice"


@pytest.mark.parametrize("scene", [switchover, with_metadata, failback, failback_with_metadata])
def test_killed_and_given_up_the_group_goes_on_where_it_was(scene: Callable[[], Scene]) -> None:
    """The consumers are started again where they were, and moved another day: every record is read once."""
    for effects, it in deaths(scene):
        if it.two.audit and it.two.audit[-1].state == "done":  # it was killed after its end
            continue
        origin, destination = ("west", "east") if it.command is MoveCommand.FAILBACK else ("east", "west")
        work(it.two, origin)
        outcome = it.run()
        assert outcome.state == "done", (effects, outcome.texts)
        work(it.two, destination)
        it.two.consume_all(destination)
        assert sorted(it.two.processed["g"]) == list(range(1, it.two.produced + 1)), effects


@pytest.mark.parametrize("scene", [switchover, with_metadata, failback, failback_with_metadata, failover])
def test_killed_and_believed_done_the_group_keeps_what_it_did_since(scene: Callable[[], Scene]) -> None:
    """F: the consumers were started where the group goes before the command was run again.

    Killed before it was in the audit, nothing tells that work from a use of the group that nobody planned: refused.
    """
    kept = 0
    for effects, it in deaths(scene):
        destination = "east" if it.command is MoveCommand.FAILBACK else "west"
        has_begun = bool(it.two.audit) and it.two.audit[-1].command == it.command
        it.two.is_east_up = True
        there = it.two.group(destination).offsets
        ours = {tp for cluster, _, tp, _ in it.two.writes if cluster == destination}
        ours |= {tp for tp, owner in _owners(it.two, destination).items() if owner is not OffsetOwner.GROUP}
        was = dict(there)
        for tp in ours:
            it.two.consume(destination, tp, 1)
        since = {tp: there[tp] for tp in ours if there[tp] != was[tp]}
        before = it.two.snapshot()
        outcome = it.run()
        if outcome.state == "refused":
            assert not has_begun, (effects, outcome.texts)
            assert it.two.snapshot() == before, effects
            assert "ran there without a move" in outcome.texts[0]
        else:
            assert outcome.state == "done", (effects, outcome.texts)
            assert {tp: there[tp] for tp in since} == since, effects
            kept += len(since)
    assert kept > effects, "the group did nothing"


def _owners(two: TwoClusters, cluster: str) -> dict[TP, OffsetOwner]:
    return {tp: owner_of(it) for tp, it in two.group(cluster).offsets.items()}


@pytest.mark.parametrize("command", [MoveCommand.SWITCHOVER, MoveCommand.FAILOVER])
def test_a_switchover_that_was_killed_is_not_undone_by_a_failover(command: MoveCommand) -> None:
    """F: it had committed everything, the group worked there, and then the source was lost."""
    for effects, it in deaths(switchover):
        if {owner for tp, owner in _owners(it.two, "west").items() if tp.topic == "east.orders"} != {OffsetOwner.MOVE}:
            continue
        it.two.consume("west", COPY)
        it.two.consume("west", COPY_1)
        before = it.two.snapshot()["west"]["g"]
        it.command = command
        it.two.is_east_up = command is MoveCommand.SWITCHOVER
        assert it.run().state == "done", effects
        after = it.two.snapshot()["west"]["g"]
        assert {tp: after[tp] for tp in (COPY, COPY_1)} == {tp: before[tp] for tp in (COPY, COPY_1)}


def test_a_failback_that_was_killed_does_not_let_a_failover_take_the_group_back() -> None:
    """F: nothing was brought home; the group worked on where it was."""
    for effects, it in deaths(failback):
        if OffsetOwner.GROUP not in {
            owner for tp, owner in _owners(it.two, "west").items() if tp.topic == "east.orders"
        }:
            continue
        work(it.two, "west")
        before = it.two.snapshot()
        it.command = MoveCommand.FAILOVER
        it.two.is_east_up = False
        assert it.run().state in ("refused", "done"), effects
        assert it.two.snapshot() == before, effects


# --- refused ----------------------------------------------------------------------------------------------------------


def refused(it: Scene, world: FakeWorld | None = None, operator: FakeOperator | None = None) -> tuple[str, ...]:
    """G: run it; nothing was changed."""
    before, halted, audit = it.two.snapshot(), dict(it.two.halted), list(it.two.audit)
    try:
        outcome = it.run(world, operator)
    except RefusedError as error:
        texts: tuple[str, ...] = (str(error),)
    else:
        assert outcome.state == "refused"
        texts = outcome.texts
    assert (it.two.snapshot(), it.two.halted, it.two.audit) == (before, halted, audit)
    assert texts
    return texts


@all_scenes
def test_a_no_changes_nothing(scene: Callable[[], Scene]) -> None:
    assert refused(scene(), operator=FakeOperator(says_no=True)) == ("not confirmed",)


@all_scenes
def test_a_hook_that_fails_stops_the_move(scene: Callable[[], Scene]) -> None:
    it = scene()
    world = FakeWorld(it.two)
    world.refuses_hook = "before_move"
    assert refused(it, world) == ("hooks.before_move failed",)


@all_scenes
def test_members_where_the_group_goes_refuse_the_move(scene: Callable[[], Scene]) -> None:
    it = scene()
    destination = "east" if it.command is MoveCommand.FAILBACK else "west"
    it.two.group(destination).members = ("app-1 at 10.0.0.1",)
    if it.is_all:
        it.options = MoveOptions(accept_data_loss=True)
        assert it.run().state == "done"
        assert _owners(it.two, destination)[COPY] is OffsetOwner.SYNC
        return
    (text,) = refused(it)
    assert f"members on {destination} (app-1 at 10.0.0.1)" in text


@pytest.mark.parametrize("scene", [switchover, failback])
def test_members_where_the_group_is_are_waited_for_and_then_refuse_it(scene: Callable[[], Scene]) -> None:
    it = scene()
    origin = "west" if it.command is MoveCommand.FAILBACK else "east"
    it.two.group(origin).members = ("app-1 at 10.0.0.1",)
    operator = FakeOperator()
    (text,) = refused(it, operator=operator)
    assert text == f"still the group g has members on {origin} (app-1 at 10.0.0.1); stop them"
    assert operator.said == [f"waiting: the group g has members on {origin} (app-1 at 10.0.0.1); stop them"]


def test_a_move_waits_until_the_group_is_at_rest_and_all_is_replicated() -> None:
    it = switchover()
    it.options = MoveOptions(timeout_s=30)
    it.two.produce("orders", 0, 5)
    it.two.group("east").members = ("app-1 at 10.0.0.1",)
    world, operator = FakeWorld(it.two), FakeOperator()
    looks = 0

    def time_passes() -> None:
        nonlocal looks
        looks += 1
        world.before["look"] = time_passes
        if looks == 3:
            it.two.consume("east", ORDERS)
            it.two.group("east").members = ()
        if looks == 5:
            it.two.replicate(EAST_WEST, 0)

    world.before["look"] = time_passes
    assert it.run(world, operator).state == "done"
    assert [text.split(":")[0] for text in operator.said] == ["waiting", "waiting"]
    assert "not_replicated_yet" in operator.said[1]
    it.two.consume_all("west")
    assert sorted(it.two.processed["g"]) == list(range(1, it.two.produced + 1))


def test_a_group_that_wakes_up_after_the_approval_refuses_the_move() -> None:
    it = switchover()
    world = FakeWorld(it.two)
    world.before["claim"] = lambda: it.two.groups["east"]["g"].__setattr__("members", ("app-1",))
    assert "still the group g has members on east" in refused(it, world)[0]


def test_a_risk_is_refused_unless_it_is_accepted() -> None:
    it = failover()
    it.options = MoveOptions()
    text, hint = refused(it)
    assert "cannot rule out data loss" in text
    assert "--accept-data-loss" in hint
    it.two.is_east_up = True
    it.two.produce("orders", 0, 7)
    assert "up to 14 records are not on the target" in refused(it)[0]  # of two groups
    it.two.replicate_all()
    assert it.run().state == "done"


def test_a_risk_that_comes_up_after_the_approval_is_refused_too() -> None:
    it = switchover()
    it.command, it.options = MoveCommand.FAILOVER, MoveOptions()
    world = FakeWorld(it.two)
    world.before["claim"] = lambda: it.two.produce("orders", 0, 7)
    assert "up to 7 records are not on the target" in refused(it, world)[0]


@pytest.mark.parametrize("command", [MoveCommand.SWITCHOVER, MoveCommand.FAILOVER])
def test_records_that_are_deleted_where_the_group_goes_are_refused_unless_accepted(command: MoveCommand) -> None:
    """It goes on at the beginning of what is left, and misses only what is gone."""
    it = switchover()
    two, gone = it.two, it.two.delete("west", COPY, 4)
    unread = set(gone) - set(two.processed["g"])
    assert unread
    it.command, it.options = command, MoveOptions(timeout_s=0.01)
    before = two.snapshot()
    refused = it.run()
    assert (refused.state, two.snapshot()) == ("refused", before)
    assert refused.texts == (
        f"up to {counted(len(unread), 'record')} {'is' if len(unread) == 1 else 'are'} not on the target",
        "to move them anyway: --accept-data-loss",
    )
    it.options = MoveOptions(timeout_s=0.01, accept_data_loss=True)
    assert it.run().state == "done"
    assert two.groups["west"]["g"].offsets[COPY].next_offset == two.begins["west"][COPY]
    two.consume_all("west")
    assert set(range(1, two.produced + 1)) - set(two.processed["g"]) == unread


def test_group_sync_begins_where_the_log_does() -> None:
    it = switchover()
    it.two.delete("west", COPY, 4)
    duties(it.two)
    assert it.two.groups["west"]["g"].offsets[COPY].next_offset == 4


def test_a_group_of_all_that_goes_away_refuses_nothing() -> None:
    it = switchover("g", "h")
    it.is_all = True
    del it.two.groups["east"]["h"]
    assert it.run().state == "done"


# --- met by others ----------------------------------------------------------------------------------------------------


@all_scenes
@pytest.mark.parametrize("moment", ["claim", "record started"])
def test_of_two_operators_at_once_one_is_refused(scene: Callable[[], Scene], moment: str) -> None:
    """The other one's whole move comes between."""
    it = scene()
    one, other = FakeWorld(it.two), FakeWorld(it.two)
    one.before[moment] = lambda: states.append(it.run(other).state)
    states: list[str] = []
    if moment == "record started":
        with pytest.raises(RefusedError, match="another operator"):
            it.run(one)
    else:
        assert it.run(one).state == "done"
    assert states == ["done"]
    without = scene()
    assert without.run().state == "done"
    assert it.result() == without.result()


@all_scenes
def test_of_two_operators_in_the_middle_both_do_the_same(scene: Callable[[], Scene]) -> None:
    """The first one can't be called back any more; it says that the audit does not have its result."""
    it = scene()
    one = FakeWorld(it.two)
    states: list[str] = []
    one.before["commit"] = lambda: states.append(it.run().state)
    outcome = it.run(one)
    assert states == ["done"]
    assert outcome.state in ("done", "partly_done")
    assert any("the result is not in the audit" in text for text in outcome.texts)
    without = scene()
    assert without.run().state == "done"
    assert it.result() == without.result()


def test_a_group_that_gets_a_member_in_the_middle_fails() -> None:
    """F: the broker has the last word."""
    it = switchover()
    before = it.two.snapshot()
    world = FakeWorld(it.two)
    world.before["commit"] = lambda: it.two.groups["west"]["g"].__setattr__("members", ("app-1",))
    outcome = it.run(world)
    assert outcome.state == "failed"
    assert {(row.state, row.reason) for row in outcome.plan.rows} == {(RowState.FAILED, "UNKNOWN_MEMBER_ID")}
    assert it.two.snapshot() == before
    it.two.group("west").members = ()
    assert it.run().state == "done"


def test_one_of_two_groups_that_gets_a_member_leaves_it_partly_done() -> None:
    it = switchover("g", "h")
    world = FakeWorld(it.two)
    world.before["commit"] = lambda: it.two.groups["west"]["h"].__setattr__("members", ("app-1",))
    outcome = it.run(world)
    assert outcome.state == "partly_done"
    assert {(group, state) for group, _, state in rows(outcome)} == {
        ("g", RowState.COMMITTED), ("h", RowState.FAILED),
    }  # fmt: skip
    assert it.two.audit[-1].state == "partly_done"
    it.two.group("west", "h").members = ()
    again = it.run()
    assert again.state == "done"
    assert {(group, state) for group, _, state in rows(again)} == {
        ("g", RowState.COMMITTED), ("h", RowState.COMMITTED),
    }  # fmt: skip


@pytest.mark.parametrize("scene", [switchover, failover, failback, resync])
def test_half_of_the_partitions_refused_is_partly_done(scene: Callable[[], Scene]) -> None:
    it = scene()
    without = scene()
    assert without.run().state == "done"
    it.two.refuses = lambda cluster, group, tp: "TOPIC_AUTHORIZATION_FAILED" if tp.partition else ""
    outcome = it.run()
    assert outcome.state == "partly_done"
    failed = [row for row in outcome.plan.rows if row.state is RowState.FAILED]
    assert {row.origin.partition for row in failed} == {1}
    assert {row.reason for row in failed} == {"TOPIC_AUTHORIZATION_FAILED"}
    assert len(failed) == sum(row.destination is not None for row in outcome.plan.rows) / 2
    it.two.refuses = lambda cluster, group, tp: ""
    assert it.run().state == "done"
    assert it.result() == without.result()


def test_a_group_that_is_not_wholly_home_is_not_handed_back() -> None:
    """Else nothing would tell that it has to come home yet."""
    it = failback()
    it.two.refuses = lambda cluster, group, tp: "TOPIC_AUTHORIZATION_FAILED" if tp.topic == "west.payments" else ""
    assert it.run().state == "partly_done"
    assert OffsetOwner.SYNC not in _owners(it.two, "west").values()
    it.two.refuses = lambda cluster, group, tp: ""
    outcome = it.run()
    assert outcome.state == "done"
    assert {state for _, _, state in rows(outcome)} == {RowState.COMMITTED}


def test_consumers_that_start_before_the_reading_back_do_not_make_it_fail() -> None:
    it = switchover()
    world = FakeWorld(it.two)
    world.before["offsets"] = lambda: it.two.consume_all("west")
    outcome = it.run(world)
    assert outcome.state == "done"
    assert "the group has already read past this offset" in {row.reason for row in outcome.plan.rows}


def test_a_commit_that_is_not_there_has_failed() -> None:
    """G: an answer of the broker is no proof."""
    it = switchover()
    world = FakeWorld(it.two)
    world.before["offsets"] = lambda: it.two.groups["west"]["g"].offsets.__delitem__(COPY)
    outcome = it.run(world)
    assert outcome.state == "partly_done"
    (row,) = (row for row in outcome.plan.rows if row.state is RowState.FAILED)
    assert row.reason.startswith("read back nothing")
    assert it.run().state == "done"


def test_a_consumer_that_still_runs_on_the_old_cluster_is_told() -> None:
    it = switchover()
    world = FakeWorld(it.two)
    world.before["commit"] = lambda: it.two.consume("east", ORDERS, 1)
    outcome = it.run(world)
    assert outcome.state == "done"
    assert outcome.texts == ("the group g committed on the cluster it left during the move: stop its consumers there",)


def test_what_the_group_did_during_a_failback_is_not_handed_back() -> None:
    """F: group sync would write over it."""
    it = failback("g", "h")
    world = FakeWorld(it.two)
    world.before["commit"] = lambda: it.two.consume("west", COPY, 1)
    before = it.two.group("west").offsets[COPY].next_offset
    outcome = it.run(world)
    assert outcome.state == "partly_done"
    assert outcome.texts == (
        "the group g committed on the target during the failback; next: `replicator resync g`",
    )  # fmt: skip
    assert it.two.group("west").offsets[COPY].next_offset > before
    assert OffsetOwner.SYNC not in _owners(it.two, "west").values()
    assert owner_of(it.two.group("west", "h").offsets[COPY]) is OffsetOwner.SYNC


def test_a_hand_back_that_is_refused_is_told() -> None:
    it = failback()
    it.two.refuses = lambda cluster, group, tp: "GROUP_AUTHORIZATION_FAILED" if cluster == "west" else ""
    outcome = it.run()
    assert outcome.state == "partly_done"
    assert outcome.texts == (
        "the offsets of g were not handed back to group sync: GROUP_AUTHORIZATION_FAILED; next: `replicator resync g`",
    )
    it.two.refuses = lambda cluster, group, tp: ""
    assert it.run().state == "done"
    assert _owners(it.two, "west")[COPY] is OffsetOwner.SYNC


# --- errors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("moment", ["commit", "offsets"])
def test_a_cluster_that_does_not_answer_any_more_has_failed_the_move(moment: str) -> None:
    it = switchover()
    world = FakeWorld(it.two)

    def fail() -> None:
        raise KafkaOpError("no answer", op="commit")

    world.before[moment] = fail
    outcome = it.run(world)
    assert outcome.state == "failed"
    assert outcome.texts[-1] == "run the command again: it continues where this one stopped"
    assert it.two.audit[-1].state == "failed"
    assert it.run().state == "done"


def test_what_fails_after_the_halt_is_partly_done() -> None:
    """The flow stands still: the exit code says so, and that the same command goes on."""
    it = failover_all()
    world = FakeWorld(it.two)

    def fail() -> None:
        raise KafkaOpError("no answer", op="commit")

    world.before["commit"] = fail
    outcome = it.run(world)
    assert outcome.state == "partly_done"
    assert outcome.texts[-1] == "run the command again: it continues where this one stopped"
    assert it.run().state == "done"


@pytest.mark.parametrize(("done", "state"), [((), "failed"), ((1,), "partly_done")])
def test_a_halt_of_some_tasks_is_partly_done(done: tuple[int, ...], state: str) -> None:
    it = failover_all()
    world = FakeWorld(it.two)

    def fail() -> None:
        raise PartlyDoneError("halt", done, {0: KafkaOpError("no answer", op="halt")})

    world.before["halt"] = fail
    assert it.run(world).state == state


def test_a_refusal_after_the_halt_commits_nothing() -> None:
    """G: it can't be said that nothing was changed."""
    it = failover_all()
    before = it.two.snapshot()
    world = FakeWorld(it.two)
    world.before["halt"] = lambda: it.two.unreadable.update(h="READ is missing")
    outcome = it.run(world)
    assert outcome.state == "partly_done"
    assert outcome.texts == ("READ is missing",)
    assert it.two.snapshot() == before
    assert it.two.halted
    it.two.unreadable.clear()
    assert it.run().state == "done"


def test_the_last_hook_and_the_last_record_do_not_undo_a_move() -> None:
    it = switchover()
    world = FakeWorld(it.two)
    world.refuses_hook = "after_move"
    world.before["record done"] = lambda: setattr(it.two, "claimed_by", None)
    outcome = it.run(world)
    assert outcome.state == "done"
    assert outcome.texts[0] == "hooks.after_move failed"
    assert outcome.texts[1].startswith("the result is not in the audit: another operator")
    assert it.run().state == "done"


def test_hooks_get_the_plan_and_the_result() -> None:
    it = switchover()
    world = FakeWorld(it.two)
    it.run(world)
    (_, before), (_, after) = world.hooks
    assert (before["state"], after["state"]) == ("planned", "done")
    assert {row["state"] for row in before["partitions"]} == {"planned"}
    assert {row["state"] for row in after["partitions"]} == {"committed"}


# --- any history ------------------------------------------------------------------------------------------------------

ACTIONS = ("produce", "replicate", "consume", "duties", "switchover", "failback", "resync")
STEPS = st.lists(st.tuples(st.sampled_from(ACTIONS), st.integers(0, 30)), max_size=30)


class History:
    """A group whose consumers run where the last command that ended well put them; commands are killed at random."""

    def __init__(self, metadata: str) -> None:
        self.two = TwoClusters()
        self.cluster = "east"
        for cluster in ("east", "west"):
            self.two.group(cluster).metadata = metadata

    def step(self, action: str, number: int) -> None:
        if action == "produce":
            topic = ("orders", "payments")[number % 2]
            self.two.produce(topic, number // 2 % PARTITIONS, 1 + number // 4, has_gap=number % 3 == 0)
        elif action == "replicate":
            self.two.replicate((EAST_WEST, WEST_EAST)[number % 2], number // 2 % PARTITIONS, 1 + number // 4)
        elif action == "consume":
            tps = list(self.two.logs[self.cluster])
            self.two.consume(self.cluster, tps[number % len(tps)], 1 + number // 4, past_markers=number % 2 == 0)
        elif action == "duties":
            self.two.duties((EAST_WEST, WEST_EAST)[number % 2])
        elif action == "resync":
            if self.cluster == "east":
                self.move(MoveCommand.RESYNC, number)
        else:
            self.move(MoveCommand(action), number)

    def move(self, command: MoveCommand, dies_after: int) -> None:
        scene = Scene(command, self.two)
        before = self.two.snapshot()
        try:
            state = scene.run(FakeWorld(self.two, dies_after=dies_after or -1)).state
        except Died:
            return
        assert state in ("done", "refused")
        if state == "refused":
            assert self.two.snapshot() == before  # G
        elif command is not MoveCommand.RESYNC:
            self.cluster = "west" if command is MoveCommand.SWITCHOVER else "east"


@settings(max_examples=150)
@given(steps=STEPS, metadata=st.sampled_from(["", "AQAAAX"]))
def test_in_any_history_every_record_is_read_once(steps: list[tuple[str, int]], metadata: str) -> None:
    """D, F: consumers run only where the last command that exited 0 put them; commands die anywhere."""
    history = History(metadata)
    for action, number in steps:
        history.step(action, number)
    two = history.two
    two.replicate_all()
    two.consume_all(history.cluster)
    assert sorted(two.processed.get("g", [])) == list(range(1, two.produced + 1))
