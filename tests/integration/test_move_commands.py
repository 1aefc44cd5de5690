"""The commands that move groups, and those that say what would happen: what can be wrong, and how they end.

Commands run in the test's process, as its worker does, unless a signal or two operators at once need processes. Groups
have no members, unless a test is about members. Invariants D, F, G.
"""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer, TopicPartition

from replicator.checkpoints import checkpoints as checkpoints_duty
from replicator.deadline import Deadline
from replicator.embedded import EmbeddedCluster
from replicator.errors import TP
from replicator.groups.client import GroupClient
from replicator.groups.listing import group_states
from replicator.groups.offsets import tag
from replicator.groups.reader import LATE_AFTER_S
from replicator.moves.model import MoveCommand, Order
from replicator.moves.plan import plan_move
from replicator.names import groups_id
from replicator.offset_map.map import Between, OffsetMap
from replicator.offset_map.mm2_format import Checkpoint, encode_checkpoint
from replicator.offset_map.sync_format import encode_sync
from tests.support.brokers import UniqueName
from tests.support.commands import Command
from tests.support.compare import read_syncs
from tests.support.desk import RECORDS, SOON_S, Desk, states
from tests.support.eventually import eventually
from tests.support.flows import FlowBench, flow_benches
from tests.support.groups import Member, checkpoints, commit, committed, offsets
from tests.support.records import NewRecord, admin_client, create_topic, delete_topic, end_offsets, produce

pytestmark = pytest.mark.xdist_group("desk")


@pytest.fixture(scope="module")
def desk(source: EmbeddedCluster, target: EmbeddedCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    """A flow that runs, shared by the tests that do it no harm; each has groups of its own."""
    with pytest.MonkeyPatch.context() as patch, flow_benches() as benches:
        patch.setattr(checkpoints_duty, "GROUPS_EVERY_S", 0.1)
        yield Desk(benches(source, target), tmp_path_factory.mktemp("desk")).open()


@pytest.fixture
def own_desk(
    source: EmbeddedCluster, target: EmbeddedCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Desk]:
    """A flow that a test may break; it is not open yet."""
    monkeypatch.setattr(checkpoints_duty, "GROUPS_EVERY_S", 0.1)
    with flow_benches() as benches:
        yield Desk(benches(source, target), tmp_path)


# --- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["switchover", "failover", "failback", "resync"])
def test_names_that_fit_no_group_are_refused(desk: Desk, command: str) -> None:
    """Told with the groups that there are."""
    group = desk.group("known", 1)
    said = desk.refuses(command, group, "nob.dy", "--yes")
    assert "no group 'nob.dy'" in said
    assert f"flows.{desk.flow.name}.groups" in said
    assert group in said
    assert "it is not a valid regular expression: missing )" in desk.refuses(command, "billing(", "--yes")


@pytest.mark.parametrize("arguments", [[], ["billing", "--all"], ["billing", "--timeout", "0"]])
def test_a_wrong_command_line_is_told_before_anything_is_reached(desk: Desk, arguments: list[str]) -> None:
    done = desk.run("switchover", *arguments, code=2, down=desk.flow.target_alias)
    assert done.stdout == ""
    assert "--all" in done.stderr or "--timeout" in done.stderr


def test_nothing_is_done_without_a_yes(desk: Desk) -> None:
    group = desk.group("asked", 10, 10)
    assert "no terminal to confirm on; pass --yes" in desk.refuses("switchover", group, group=group)


def test_a_dry_run_prints_the_plan_and_changes_nothing(desk: Desk) -> None:
    group = desk.group("dry", 10, 20)
    before = desk.traces(group)
    document = desk.run("switchover", group, "--dry-run", "-o", "json").json()
    assert (document["state"], states(document)) == ("planned", [("exact", "planned")] * 2)
    assert [row["upstream_next"] for row in document["partitions"]] == [10, 20]
    assert desk.traces(group) == before
    table = desk.run("switchover", f"d.y-{desk.run_id}", "--dry-run").stdout
    assert group in table
    assert f"on {desk.flow.target_alias}" in table


def test_a_source_that_is_gone_is_no_switchover(desk: Desk) -> None:
    said = desk.refuses("switchover", "billing", "--yes", down=desk.flow.alias)
    assert f"{desk.flow.alias} (127.0.0.1:" in said
    assert "use `replicator failover`: it needs only the target" in said
    for command in ("failback", "resync"):
        assert "failover" not in desk.refuses(command, "billing", "--yes", down=desk.flow.alias)
    gone = desk.run("failover", "billing", "--yes", code=1, down=desk.flow.target_alias)
    assert f"{desk.flow.target_alias} (127.0.0.1:" in gone.stderr


# --- members ----------------------------------------------------------------------------------------------------------


def test_members_on_the_source_are_waited_for_by_name(desk: Desk) -> None:
    group = desk.group("busy", 10, 10)
    member = Member(desk.flow.source, group, desk.flow.topic, **{"client.id": "till-7"})
    try:
        said = desk.refuses("switchover", group, "--yes", "--timeout", "1", group=group)
    finally:
        member.close()
    assert f"still the group {group} has members on {desk.flow.alias} (till-7 at 127.0.0.1); stop them" in said


def test_members_on_the_target_are_an_obstacle(desk: Desk) -> None:
    """A group that is named is refused; one of `--all` is left out."""
    group = desk.group("there", 10, 10)
    member = Member(desk.flow.target, group, desk.remote().topic, **{"client.id": "till-8"})
    try:
        said = desk.refuses("switchover", group, "--yes", group=group)
        assert f"the group {group} has members on {desk.flow.target_alias} (till-8 at 127.0.0.1)" in said
        reasons, _ = desk.explain(group)
        assert "till-8" in reasons["target_group_active"]
        document = desk.run("failover", "--all", "--dry-run", "-o", "json").json()
        rows = [row for row in document["partitions"] if row["group"] == group]
        assert {(row["state"], row["reason"].partition(":")[0]) for row in rows} == {("skipped", "target_group_active")}
    finally:
        member.close()


# --- moves, once and again --------------------------------------------------------------------------------------------


def test_there_and_back_each_command_twice(desk: Desk) -> None:
    """The second time there is nothing to do, and nothing is changed."""
    group = desk.group("twice", 10, 2 * RECORDS // 2)
    assert states(desk.move("switchover", group)) == [("exact", "committed")] * 2
    assert offsets(desk.flow.target, group) == {desk.remote(0): 10, desk.remote(1): RECORDS + 1}
    assert_nothing_to_do(desk, "switchover", group)
    reasons, _ = desk.explain(group)
    assert "2 of its offsets" in reasons["moved_already"]

    commit(desk.flow.target, group, {desk.remote(0): 15})  # it works on
    assert states(desk.move("failback", group)) == [("exact", "committed")] * 2
    assert offsets(desk.flow.source, group) == {desk.tp(0): 15, desk.tp(1): RECORDS}
    wanted = (15, tag(desk.flow.name, 15))
    eventually(lambda: committed(desk.flow.target, group)[desk.remote(0)] == wanted, SOON_S)
    assert_nothing_to_do(desk, "failback", group)


def assert_nothing_to_do(desk: Desk, *arguments: str) -> None:
    group = arguments[-1]
    before = committed(desk.flow.source, group), committed(desk.flow.target, group)
    again = desk.run(*arguments, "--yes", "-o", "json")
    assert again.json()["state"] == "done"
    assert {row["state"] for row in again.json()["partitions"]} <= {"committed", "skipped"}
    assert (committed(desk.flow.source, group), committed(desk.flow.target, group)) == before, again.report()


def test_failover_and_resync_twice(desk: Desk) -> None:
    """By the target alone; `resync` gives the group back to group sync, wherever it is."""
    group = desk.group("fails", 10, 20)
    arguments = ("failover", "--accept-data-loss", group)
    document = desk.move(*arguments, down=desk.flow.alias)
    assert states(document) == [("exact", "committed")] * 2
    assert [row["at_risk_records"] for row in document["partitions"]] == [None, None]
    assert [row["reread_records"] for row in document["partitions"]] == [RECORDS - 10, RECORDS - 20]
    again = desk.move(*arguments, down=desk.flow.alias)
    assert (again["state"], {row["state"] for row in again["partitions"]} <= {"committed", "skipped"}) == ("done", True)

    commit(desk.flow.target, group, {desk.remote(0): 45})
    for _ in range(2):
        assert desk.move("resync", group)["state"] == "done"
        wanted = {desk.remote(p): (place, tag(desk.flow.name, place)) for p, place in enumerate((10, 20))}
        assert committed(desk.flow.target, group) == wanted
    commit(desk.flow.source, group, {desk.tp(0): 12})
    eventually(lambda: offsets(desk.flow.target, group)[desk.remote(0)] == 12, SOON_S)


def test_resync_takes_over_what_the_group_has_on_the_target_alone(desk: Desk) -> None:
    """Else group sync would leave the group alone for ever, after a command that says `done`."""
    group, flow = desk.group("both", 10), desk.flow
    commit(flow.target, group, {desk.remote(1): 7})
    document = desk.move("resync", group)
    assert [(row["upstream_next"], row["downstream_next"]) for row in document["partitions"]] == [(10, 10), (None, 7)]
    assert states(document) == [("exact", "committed"), ("unknown", "committed")]
    commit(flow.source, group, {desk.tp(0): 12})
    eventually(lambda: offsets(flow.target, group) == {desk.remote(0): 12, desk.remote(1): 7}, SOON_S)
    commit(flow.source, group, {desk.tp(1): 5})
    eventually(lambda: offsets(flow.target, group) == {desk.remote(0): 12, desk.remote(1): 5}, SOON_S)


def test_what_group_sync_left_open_when_it_was_killed_is_ended(own_desk: Desk) -> None:
    """Nobody would know the group's offsets until that transaction times out, and nobody may wait on the worst day."""
    flow = own_desk.open().flow
    group = own_desk.group("hangs", 10, 20)
    flow.stop()
    with own_desk.placed(groups_id(flow.alias, flow.target_alias), group):
        pass  # left open
    arguments = ("failover", "--accept-data-loss", group)
    assert states(own_desk.move(*arguments, down=flow.alias)) == [("exact", "committed")] * 2
    assert offsets(flow.target, group) == {own_desk.remote(0): 10, own_desk.remote(1): 20}


def test_offsets_in_a_transaction_of_somebody_else_are_waited_for(desk: Desk) -> None:
    """Which takes longer than several readings, as it may on a machine that does a lot more."""
    group = desk.group("late", 10, 20)
    with desk.placed(f"stranger-{desk.run_id}", group) as stranger:
        ends = threading.Timer(3 * LATE_AFTER_S, stranger.abort, [Deadline(SOON_S)])
        ends.start()
        assert states(desk.move("switchover", group)) == [("exact", "committed")] * 2
        ends.join()


def test_offsets_that_stay_in_a_transaction_are_an_obstacle(desk: Desk) -> None:
    group = desk.group("stuck", 10, 20)
    with desk.placed(f"holder-{desk.run_id}", group) as stranger:
        said = desk.refuses("switchover", group, "--yes", connect_timeout_s=3)
        whose = "a transaction of its consumers or of group sync is open or hanging"
        assert f"the offsets of {group} are not stable: {whose}" in said
        stranger.abort(Deadline(SOON_S))
    assert states(desk.move("switchover", group)) == [("exact", "committed")] * 2


def test_a_group_that_read_on_until_a_moment_ago_comes_home_exactly(
    own_desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The maps are read after its positions: older ones would take it back to where they end (D)."""
    desk, flow = own_desk.open(), own_desk.flow
    group = desk.group("racer", 10, 20)
    desk.move("switchover", group)

    def read_on(client: GroupClient, *arguments: Any) -> Any:
        if client.cluster.alias == flow.target_alias:
            flow.produce(flow.topic, [NewRecord(b"more", partition=n % 2) for n in range(20)])
            flow.await_caught_up(flow.topic)
            ends = end_offsets(flow.target, desk.remote().topic)
            commit(flow.target, group, {desk.remote(partition): end for partition, end in ends.items()})
        return group_states(client, *arguments)

    with desk.clusters() as world:
        order = Order("now", MoveCommand.FAILBACK, flow.name, (group,))
        assert [row.destination_next for row in plan_move(order, world.look(order)).rows] == [10, 20]
        monkeypatch.setattr("replicator.moves.world.group_states", read_on)
        found = plan_move(order, world.look(order))
    ends = end_offsets(flow.source, flow.topic)
    assert [(row.translation, row.destination_next) for row in found.rows] == [("exact", ends[0]), ("exact", ends[1])]


def test_the_way_home_waits_for_syncs_that_are_not_committed(own_desk: Desk) -> None:
    """They may be of records that the group has read; a position before the end of the maps does not wait."""
    desk, flow = own_desk.open(), own_desk.flow
    inside, at_the_end = desk.group("inside", 10, 20), desk.group("reader", RECORDS, RECORDS)
    desk.move("switchover", inside, at_the_end)
    writer = Producer({"bootstrap.servers": flow.target, "transactional.id": f"hangs-{desk.run_id}"})
    writer.init_transactions(SOON_S)
    writer.begin_transaction()
    writer.produce(flow.syncs_topic, b"", b"never read", 0)
    writer.flush(SOON_S)
    assert states(desk.move("failback", inside)) == [("exact", "committed")] * 2
    said = desk.refuses("failback", at_the_end, "--yes", "--timeout", "3", group=at_the_end)
    assert "not_replicated_yet: a transaction of the flow is open or hanging in " + flow.syncs_topic in said
    with Command(desk.file(), "failback", at_the_end, "--yes", "-o", "json") as command:
        command.await_said("waiting: ")
        writer.abort_transaction(SOON_S)
        assert states(command.ends().json()) == [("exact", "committed")] * 2
    assert offsets(flow.source, at_the_end) == {desk.tp(0): RECORDS, desk.tp(1): RECORDS}


def test_a_failover_says_what_may_be_lost_before_it_does_anything(desk: Desk) -> None:
    group = desk.group("risky", 10, 20)
    said = desk.refuses("failover", group, "--yes", group=group, down=desk.flow.alias)
    assert "--accept-data-loss" in said
    table = desk.run("failover", group, "--yes", code=3, down=desk.flow.alias).stdout
    assert "checkpoints are complete up to" in table
    assert states(desk.move("failover", group)) == [("exact", "committed")] * 2, (
        "nothing is at risk: the source says so"
    )


def test_a_failover_that_knows_no_group_says_so(desk: Desk) -> None:
    """As when the source failed before the first checkpoint."""
    content = desk.flow.settings().model_dump(mode="json")["flows"]
    content[desk.flow.name]["groups"] = ["none"]
    said = desk.refuses("failover", "--all", "--yes", flows=content)
    assert "no group has a checkpoint" in said
    assert desk.check()[1].isdisjoint({"not halted"})


def test_a_group_used_on_the_target_without_a_move_is_refused(desk: Desk) -> None:
    group = desk.group("squatter", 10, 20)
    commit(desk.flow.target, group, {desk.remote(0): 30})
    said = desk.refuses("switchover", group, "--yes", group=group)
    assert "`replicator resync` hands them" in said
    stranger = desk.group("homebody", 10)
    assert "has not moved" in desk.refuses("failback", stranger, "--yes", group=stranger)


def test_what_is_not_replicated_is_waited_for(desk: Desk) -> None:
    """A position past all that is copied, as after a commit of a moment ago."""
    group = desk.group("ahead", RECORDS + 5)
    said = desk.refuses("switchover", group, "--yes", "--timeout", "1", group=group)
    assert "not_replicated_yet: replication is 5 offsets behind the group" in said


def test_a_copy_that_lost_its_end_is_no_place_to_go_on(own_desk: Desk) -> None:
    """As after an unclean election: the syncs tell of records that the log does not hold, and the group has read some.

    Neither for a move nor for group sync (E): behind the end of a log a consumer's `auto.offset.reset` decides. It
    would read all of it again, or skip what comes.
    """
    desk, flow = own_desk.open(), own_desk.flow
    flow.stop()
    flow.produce(flow.topic, [NewRecord(b"lost %d" % n, partition=0) for n in range(10)])
    newest = read_syncs(flow.target, flow.syncs_topic).runs[desk.tp(0)][-1]
    end = end_offsets(flow.target, desk.remote(0).topic, isolation="read_uncommitted")[0]
    lost = replace(
        newest, seq=newest.seq + 1, upstream_base=newest.upstream_next, upstream_next=newest.upstream_next + 10,
        downstream_base=end, count=10, ordinal_base=newest.ordinal_next, gaps=(),
    )  # fmt: skip
    desk.write_as_task(0, [encode_sync(desk.tp(0), lost)])
    flow.start(runs=False)
    flow.await_stopped(flow.topic, 0, "target_log_shorter")
    group = desk.group("reader", RECORDS + 6, RECORDS)
    eventually(lambda: offsets(flow.target, group)[desk.remote(0)] == end, SOON_S)
    known = checkpoints(flow.target, flow.checkpoints_topic, group)[desk.remote(0)]
    assert (known.upstream_next, known.downstream_next) == (RECORDS + 6, end)
    said = desk.refuses("switchover", group, "--yes", group=group)
    assert (
        f"log_shorter: {desk.remote(0)} on {flow.target_alias} lost records: it ends at {end}, before the group's"
        in said
    )
    assert desk.explain(group)[1][desk.tp(0)] == "log_shorter"
    moved = desk.move("failover", group, "--accept-data-loss")
    assert states(moved) == [("ahead", "committed"), ("exact", "committed")]
    assert [row["at_risk_records"] for row in moved["partitions"]] == [4, 0]
    assert offsets(flow.target, group)[desk.remote(0)] == end


def test_a_checkpoint_that_cannot_be_read_holds_up_its_own_group_alone(own_desk: Desk) -> None:
    desk, flow = own_desk.open(), own_desk.flow
    healthy, broken = desk.group("healthy", 10, 20), desk.group("broken", 10)
    flow.stop()
    key, value = encode_checkpoint(Checkpoint(broken, desk.remote(0), 10, 10))
    topic = flow.checkpoints_topic
    produce(flow.target, topic, [NewRecord(b"\0\1" + value[2:], key), NewRecord(b"hello", b"world")])
    done = desk.run("failover", healthy, "--accept-data-loss", "--yes", "-o", "json")
    assert states(done.json()) == [("exact", "committed")] * 2
    assert f"{topic} holds 1 records that are no checkpoints; " in done.stderr
    said = desk.refuses("failover", broken, "--accept-data-loss", "--yes", group=broken)
    assert f"its checkpoint of {desk.remote(0)} at offset" in said
    assert "can't be read: version 1 of MM2's format, where 0 is known" in said


def test_partitions_that_the_broker_refuses_are_told_apart(own_desk: Desk) -> None:
    """One of two topics is gone on the target: exit code 4, and the table shows which; run again, it is the same."""
    desk, flow = own_desk, own_desk.flow
    flow.create(flow.other)
    flow.produce(flow.other, [b"1", b"2", b"3"])
    desk.open()
    flow.await_caught_up(flow.other)
    flow.stop()
    group = desk.group("half", 10, 20, synced=False)
    commit(flow.source, group, {TP(flow.other, 0): 2})
    delete_topic(flow.target, flow.remote(flow.other))
    done = desk.run("switchover", group, "--yes", code=4)
    (line,) = [it for it in done.stdout.splitlines() if "failed" in it]
    assert flow.other in line
    assert "UNKNOWN_TOPIC_OR_PART" in line or "Unknown topic or partition" in line
    assert offsets(flow.target, group) == {desk.remote(0): 10, desk.remote(1): 20}
    again = desk.move("switchover", group, code=4)
    by_topic = {(row["topic"], row["state"]) for row in again["partitions"]}
    assert by_topic == {(flow.topic, "committed"), (flow.other, "failed")}
    history = json.loads(desk.run("history", "-o", "json").stdout)
    assert [(it["command"], it["state"]) for it in history] == [("switchover", "partly_done")] * 2


# --- Ctrl-C, two operators --------------------------------------------------------------------------------------------


def test_an_interrupt_while_waiting_changes_nothing(desk: Desk) -> None:
    group = desk.group("patient", RECORDS + 5)
    before = desk.traces(group)
    for number in (signal.SIGINT, signal.SIGTERM):
        with Command(desk.file(), "switchover", group, "--yes", "-o", "json") as command:
            command.await_said("waiting:")
            command.send(number)
            command.ends(130)
    assert desk.traces(group) == before


def slow_hook(folder: Path) -> str:
    """A hook that says that it runs, and ends when it is told to."""
    return f"touch {folder}/runs; while [ ! -e {folder}/go ]; do sleep 0.05; done"


def test_an_interrupt_while_acting_lets_it_finish(desk: Desk, tmp_path: Path) -> None:
    """A second one ends it at once; run again, it finds all done."""
    for interrupts in (1, 2):
        folder = tmp_path / str(interrupts)
        folder.mkdir()
        group = desk.group(f"hasty-{interrupts}", 10, 20)
        file = desk.file(hooks={"after_move": slow_hook(folder)})
        with Command(file, "switchover", group, "--yes", "-o", "json") as command:
            eventually((folder / "runs").exists, SOON_S)
            command.send(signal.SIGINT)
            command.await_said("finishing the current step")
            if interrupts == 1:
                (folder / "go").touch()
                assert command.ends().json()["state"] == "done"
            else:
                command.send(signal.SIGINT)
                command.ends(130)
        assert_nothing_to_do(desk, "switchover", group)
        last = json.loads(desk.run("history", "-o", "json", "--top", "1").stdout)[0]
        assert (last["command"], last["state"]) == ("switchover", "done")


def test_two_operators_at_once_do_no_harm(desk: Desk, tmp_path: Path) -> None:
    """The later one goes on; the earlier one, which had committed already, says that the audit is the other's."""
    group = desk.group("shared", 10, 20)
    file = desk.file(hooks={"after_move": slow_hook(tmp_path)})
    with Command(file, "switchover", group, "--yes") as first:
        eventually((tmp_path / "runs").exists, SOON_S)
        second = desk.run("switchover", group, "--yes", "-o", "json").json()
        (tmp_path / "go").touch()
        said = first.ends().stderr
    assert second["state"] == "done"
    assert "another operator has started a command" in said
    assert offsets(desk.flow.target, group) == {desk.remote(0): 10, desk.remote(1): 20}


def test_several_operators_at_the_same_moment(desk: Desk) -> None:
    """Whoever is refused says so, somebody is done, and what is committed is right."""
    group = desk.group("race", 10, 20)
    file = desk.file()
    racers = [Command(file, "switchover", group, "--yes", "-o", "json") for _ in range(3)]
    codes = [racer.wait() for racer in racers]
    assert set(codes) <= {0, 3}, [racer.report() for racer in racers]
    assert 0 in codes
    assert offsets(desk.flow.target, group) == {desk.remote(0): 10, desk.remote(1): 20}
    assert_nothing_to_do(desk, "switchover", group)


# --- hooks ------------------------------------------------------------------------------------------------------------


def test_a_failing_before_move_stops_the_move(desk: Desk) -> None:
    group = desk.group("stopped", 10, 20)
    said = desk.refuses(
        "switchover", group, "--yes", group=group, hooks={"before_move": "echo change is frozen; exit 7"}
    )
    assert "hooks.before_move ended with exit code 7: change is frozen" in said


def test_hooks_get_the_plan(desk: Desk, tmp_path: Path) -> None:
    """A failing `after_move` is told, and the move is done all the same."""
    group = desk.group("hooked", 10, 20)
    hooks = {"before_move": f"cat > {tmp_path}/before", "after_move": f"cat > {tmp_path}/after; exit 1"}
    done = desk.run("switchover", group, "--yes", "-o", "json", hooks=hooks)
    before, after = (json.loads((tmp_path / name).read_text()) for name in ("before", "after"))
    assert (before["state"], states(before)) == ("planned", [("exact", "planned")] * 2)
    assert after == done.json()
    assert (after["id"], after["state"]) == (before["id"], "done")
    assert "hooks.after_move ended with exit code 1" in done.stderr


# --- groups, explain, history, check ----------------------------------------------------------------------------------


def test_groups_shows_where_each_would_go_on(desk: Desk) -> None:
    desk.group("another", 10)
    group = desk.group("listed", 10, RECORDS)
    document = desk.run("groups", "-o", "json", "--group", "^listed").json()
    assert document.keys() == {"flow", "partitions"}
    first, second = document["partitions"]
    places = [(it["group"], it["upstream_next"], it["downstream_next"], it["translation"]) for it in (first, second)]
    assert places == [(group, 10, 10, "exact"), (group, RECORDS, RECORDS + 1, "exact")], "past the marker: lag 0"
    active = {(it["active_on_source"], it["active_on_target"], it["synced"]) for it in (first, second)}
    assert active == {(False, False, True)}
    assert 0 <= first["checkpoint_age_s"] < 10
    table = desk.run("groups", "--top", "1").stdout
    assert "more groups; use --group REGEX or a larger --top to see each partition" in table
    down = desk.run("groups", "-o", "json", "--group", "^listed", down=desk.flow.alias).json()
    assert [row["downstream_next"] for row in down["partitions"]] == [10, RECORDS + 1]
    assert {row["active_on_source"] for row in down["partitions"]} == {None}
    assert "is not a regular expression" in desk.run("groups", "--group", "(", code=2).stderr


def test_explain_names_every_reason_of_a_partition(own_desk: Desk, unique: UniqueName) -> None:
    """never_committed, filtered, not_replicated_yet, expired, thinned; and of a group: members on the source."""
    desk, flow = own_desk, own_desk.flow
    flow.create(flow.other)
    flow.produce(flow.other, [b"%d" % n for n in range(10)])
    trim(flow.source, flow.other, 5)
    filtered = create_topic(flow.source, unique("filtered"))
    history = flow.create(f"history-{desk.run_id}")
    desk.open()
    thinned = thin_out(flow, history)
    flow.await_caught_up(flow.other, history)
    group = desk.group("odd", RECORDS + 1, synced=False)
    commit(flow.source, group, {TP(flow.other, 0): 2, TP(filtered, 0): 1, TP(history, 0): thinned})
    _, rows = desk.explain(group, **{"flows": {flow.name: thrifty(desk)}})
    assert rows == {
        (flow.topic, 0): "not_replicated_yet",
        (flow.topic, 1): "never_committed",
        (flow.other, 0): "expired",
        (filtered, 0): "filtered",
        (history, 0): "thinned",
    }
    _, rows = desk.explain(group)
    assert rows[history, 0] == "", "counted"
    text = desk.run("explain", group).stdout
    assert "1 of 5 partitions are exact" in text
    said = desk.refuses("switchover", group, "--yes", group=group)
    assert "expired: offset 2 is before the first replicated one, 5" in said
    member = Member(flow.source, desk.group("staffed", 1, 1, synced=False), flow.topic, **{"client.id": "till-9"})
    try:
        assert "till-9" in desk.explain(f"staffed-{desk.run_id}")[0]["source_group_active"]
    finally:
        member.close()


def thin_out(flow: FlowBench, topic: str) -> int:
    """Write transactions until the map of a topic has forgotten the oldest ones; a position among those."""
    producer = Producer({"bootstrap.servers": flow.source, "linger.ms": 50})
    for number in range(300):
        for record in range(3):
            producer.produce(topic, b"%d" % record, partition=0)
        assert producer.flush(20) == 0
        enough = 3 * (number + 1)
        eventually(lambda: end_offsets(flow.target, flow.remote(topic))[0] > enough, SOON_S, every_s=0.002)  # noqa: B023
        if number >= 70 and number % 10 == 0:
            offset_map = OffsetMap(read_syncs(flow.target, flow.syncs_topic).runs[TP(topic, 0)])
            forgotten = [it for it in range(enough) if isinstance(offset_map.translate(it), Between)]
            if forgotten:
                return forgotten[0]
    raise AssertionError("nothing is forgotten")


def thrifty(desk: Desk) -> dict[str, Any]:
    """The flow's settings, so that nothing is counted."""
    content: dict[str, Any] = desk.flow.settings().model_dump(mode="json")["flows"][desk.flow.name]
    return content | {"refine_max_records": 0}


def trim(servers: str, topic: str, before: int) -> None:
    """Delete the records before an offset, as retention does."""
    admin = admin_client(servers)  # it answers as long as it is referred to
    (future,) = admin.delete_records([TopicPartition(topic, 0, before)]).values()
    future.result(60)


def test_check_is_well_until_something_is_wrong(own_desk: Desk) -> None:
    """A group used on both; a topic that is another one now; a flow that is halted; a source that is gone."""
    desk, flow = own_desk, own_desk.flow
    desk.open()
    group = desk.group("checked", 10, RECORDS)
    eventually(lambda: desk.check()[0] == 0, SOON_S)
    commit(flow.target, group, {desk.remote(0): 30})
    assert desk.check() == (5, {"groups translated"})
    desk.move("resync", group)
    assert desk.check() == (0, set())
    flow.create(flow.other)
    flow.produce(flow.other, [b"1"])
    flow.await_caught_up(flow.other)
    commit(flow.source, group, {TP(flow.other, 0): 1})
    delete_topic(flow.source, flow.other)
    create_topic(flow.source, flow.other)
    flow.await_stopped(flow.other, 0, "recreated")
    commit(flow.source, group, {TP(flow.other, 0): 1})
    assert desk.explain(group)[1][flow.other, 0] == "untranslatable"
    code, failing = desk.check()
    assert (code, failing) == (5, {"no partition stopped", "groups translated"})

    desk.run("pause", "--yes")
    assert flow.name in desk.explain(group)[0]["flow_halted"]
    assert "not halted" in desk.check()[1]
    desk.run("resume", "--yes")
    assert f"{flow.alias} (127.0.0.1:" in desk.explain(group, down=flow.alias)[0]["source_unreachable"]
    code, failing = desk.check(down=flow.alias)
    assert code == 5
    assert {"source answers", "replication lag"} <= failing
    assert desk.check(down=flow.target_alias) == (5, {"target answers"})


def test_history_shows_who_moved_what(desk: Desk) -> None:
    group = desk.group("told", 10, 20)
    document = desk.move("switchover", group)
    last = json.loads(desk.run("history", "-o", "json", "--top", "1").stdout)[0]
    assert (last["id"], last["command"], last["flow"], last["state"]) == (
        document["id"], "switchover", desk.flow.name, "done",
    )  # fmt: skip
    assert last["plan"] == document["partitions"]
    assert last["operator"]
    assert last["host"]
    assert document["id"] in desk.run("history").stdout
