"""A group goes to the target and comes home while producers go on: no record is lost, none is read twice.

Invariants D, F, G.
"""

from __future__ import annotations

import os
import time
from typing import Any

import pytest

from replicator.embedded import EmbeddedCluster
from replicator.errors import TP
from replicator.groups.offsets import MOVE_TAG, move_tag, tag
from tests.e2e.conftest import PARTITIONS, TASKS, Bench, MakeBench
from tests.support.commands import Command, move
from tests.support.eventually import eventually
from tests.support.groups import commit, committed, offsets
from tests.support.members import Account, Members, account, numbers_in
from tests.support.records import NewRecord, end_offsets, produce
from tests.support.selection import thorough

FLOW: dict[str, Any] = {"checkpoint_interval_s": 0.2}
ROUND_TRIPS = 4
THOROUGH_ROUND_TRIPS = 10
ROW = {
    "group", "topic", "partition", "target_topic", "upstream_next", "downstream_next", "translation", "reread_records",
    "at_risk_records", "state", "reason",
}  # fmt: skip


def group_of(bench: Bench) -> str:
    """A group whose name no other test uses."""
    return bench.topic.replace("orders", "billing")


def at_home(bench: Bench, **options: Any) -> Members:
    """The group at work on the source."""
    servers = bench.source.bootstrap_servers
    return Members(servers, group_of(bench), [bench.topic], **options).start(PARTITIONS)


def away(bench: Bench, **options: Any) -> Members:
    """The group at work on the target; a partition without an offset is an error."""
    servers, topics = bench.target.bootstrap_servers, [bench.remote(bench.topic)]
    return Members(servers, group_of(bench), topics, **{"reset": "error", **options}).start(PARTITIONS)


def check_document(
    bench: Bench, document: dict[str, Any], command: str, partitions: int = PARTITIONS, *, is_repeated: bool = False
) -> None:
    """The contract of `-o json`, and that it tells the truth: what it calls committed is what the clusters have.

    A group that moved before and committed nothing since has its offset on the other cluster already.
    Once the group is at home again, group sync may move its offsets on the target past markers at any moment.
    """
    assert document.keys() == {"id", "command", "flow", "state", "partitions"}
    assert (document["command"], document["flow"], document["state"]) == (command, bench.name, "done")
    rows = document["partitions"]
    assert all(row.keys() == ROW for row in rows)
    assert [row["partition"] for row in rows] == list(range(partitions))
    group = group_of(bench)
    upstream = offsets(bench.source.bootstrap_servers, group)
    downstream = offsets(bench.target.bootstrap_servers, group)
    for row in rows:
        assert (row["group"], row["topic"]) == (group, bench.topic)
        assert row["target_topic"] == bench.remote(bench.topic)
        assert (row["translation"], row["state"]) == ("exact", "committed")
        assert row["reason"] in ({"", "already committed"} if is_repeated else {""})
        assert (row["reread_records"], row["at_risk_records"]) == (0, 0)
        assert row["upstream_next"] == upstream[TP(row["topic"], row["partition"])]
        if command == "switchover":
            assert row["downstream_next"] == downstream[TP(row["target_topic"], row["partition"])]


def await_synced(bench: Bench) -> None:
    """Wait until group sync has brought the group's offsets on the target to the end of all that there is."""
    ends = {
        TP(bench.remote(bench.topic), partition): end
        for partition, end in end_offsets(bench.target.bootstrap_servers, bench.remote(bench.topic)).items()
    }
    wanted = {tp: (end, tag(bench.name, end)) for tp, end in ends.items()}

    def is_synced() -> bool:
        assert committed(bench.target.bootstrap_servers, group_of(bench)) == wanted
        return True

    eventually(is_synced, within_s=60)


def test_there_and_back_while_all_work(make_bench: MakeBench, source: EmbeddedCluster, target: EmbeddedCluster) -> None:
    bench = make_bench(source, target, flow=FLOW)
    pump = bench.pump(records_per_s=800)
    bench.start_worker().await_running(TASKS)
    home = at_home(bench)
    home.await_more(1000)
    group = group_of(bench)
    with Command(bench.file, "switchover", group, "--yes", "-o", "json") as command:
        command.await_said(f"waiting: the group {group} has members on {bench.alias}")
        assert all(f"{group}-{number} at 127.0.0.1" in command.stderr for number in range(3)), command.report()
        home.await_more(200)
        home.stop()
        check_document(bench, command.ends().json(), "switchover")
    offsets = committed(target.bootstrap_servers, group).values()
    (move_id,) = {metadata.removeprefix(MOVE_TAG).split()[0] for _, metadata in offsets}
    assert {metadata for _, metadata in offsets} == {move_tag(move_id, next_offset) for next_offset, _ in offsets}

    abroad = away(bench)
    abroad.await_more(1000)
    abroad.stop()
    check_document(bench, move(bench.file, "failback", group), "failback")
    again = at_home(bench, reset="error", is_eager=True)
    again.await_more(500)
    pump.stop()
    written = numbers_in(source.bootstrap_servers, bench.topic)
    again.await_numbers(written - {it.number for it in (*home.processed, *abroad.processed)})
    again.stop()
    assert account(written, home, abroad, again) == Account(pump.acknowledged, 0, 0, 0)
    assert not pump.errors
    await_synced(bench)


@pytest.mark.parametrize("round_trips", [ROUND_TRIPS, pytest.param(THOROUGH_ROUND_TRIPS, marks=thorough)])
def test_again_and_again_there_and_back(
    make_bench: MakeBench, source: EmbeddedCluster, target: EmbeddedCluster, round_trips: int
) -> None:
    bench = make_bench(source, target, flow=FLOW)
    pump = bench.pump(records_per_s=400)
    bench.start_worker().await_running(TASKS)
    group = group_of(bench)
    worked = [at_home(bench, count=2)]
    worked[0].await_more(500)
    worked[0].await_partitions(PARTITIONS)
    for _ in range(round_trips):
        for command, arrive in (("switchover", away), ("failback", at_home)):
            worked[-1].stop()
            began_s = time.time()
            document = move(bench.file, command, group)
            assert document["state"] == "done"
            places = [(row["upstream_next"], row["downstream_next"]) for row in document["partitions"]]
            print(f"{began_s:.3f}: {command}, {time.time() - began_s:.1f} s: {places}")
            worked.append(arrive(bench, count=2, reset="error"))
            worked[-1].await_more(50)
    pump.stop()
    written = numbers_in(source.bootstrap_servers, bench.topic)
    done = {it.number for group in worked for it in group.processed}
    worked[-1].await_numbers(written - (done - {it.number for it in worked[-1].processed}))
    worked[-1].stop()
    assert account(written, *worked) == Account(pump.acknowledged, 0, 0, 0)
    await_synced(bench)


def test_a_hundred_partitions_cost_little_more_than_one(
    make_bench: MakeBench, source: EmbeddedCluster, target: EmbeddedCluster
) -> None:
    """Moved and read back, there and home. Measured as processor time, which depends little on what else runs."""
    bench = make_bench(source, target, flow=FLOW)
    bench.create_topic(partitions=100)
    produce(source.bootstrap_servers, bench.topic, (NewRecord(b"%d" % n, partition=n % 100) for n in range(1000)))
    bench.start_worker().await_running(TASKS)
    group = Members(source.bootstrap_servers, group_of(bench), [bench.topic], count=1).start(100)
    group.await_more(1000)
    group.stop()
    bench.await_caught_up()
    small = f"{group_of(bench)}-of-one-partition"
    commit(source.bootstrap_servers, small, {TP(bench.topic, 0): 5})
    large_s: list[float] = []
    small_s: list[float] = []
    for command in ("switchover", "failback"):
        began_s = children_s()
        document = move(bench.file, command, group_of(bench))
        large_s.append(children_s() - began_s)
        check_document(bench, document, command, partitions=100, is_repeated=len(large_s) > 1)
        began_s = children_s()
        move(bench.file, command, small)
        small_s.append(children_s() - began_s)
    print(f"processor time of moves of 100 partitions: {large_s}; of one: {small_s}")
    assert min(large_s) < 2 * min(small_s)


def children_s() -> float:
    """Processor time of the processes that this one has started and that have ended."""
    times = os.times()
    return times.children_user + times.children_system
