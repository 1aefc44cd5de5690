"""Flows both ways: a group that reads what is produced on both sides moves with all of it, exactly (invariants D, F).

east   orders, west.orders      the group at home
west   east.orders, orders      the same records, the group away
"""

from __future__ import annotations

import json

from replicator.embedded import EmbeddedCluster
from tests.e2e.conftest import PARTITIONS, TASKS, Bench, MakeBench
from tests.support.commands import move
from tests.support.eventually import eventually
from tests.support.members import Account, Members, account, numbers_in
from tests.support.pump import Pump
from tests.support.records import admin_client, create_topic

ROUND_TRIPS = 2
FIRST_IN_WEST = 10_000_000


def add_flow_back(bench: Bench) -> str:
    """Configure the flow from west to east; its alias of the target."""
    content = json.loads(bench.file.read_text())
    source, target = bench.name.split("->")
    content["flows"][f"{target}->{source}"] = content["flows"][bench.name]
    bench.file.write_text(json.dumps(content))
    return target


def test_a_group_of_both_sides_goes_there_and_back(
    make_bench: MakeBench, source: EmbeddedCluster, target: EmbeddedCluster
) -> None:
    """Twice; a record never comes back to where it was produced."""
    bench = make_bench(source, target, flow={"checkpoint_interval_s": 0.2})
    west = add_flow_back(bench)
    east_servers, west_servers = source.bootstrap_servers, target.bootstrap_servers
    group, topic = bench.topic.replace("orders", "billing"), bench.topic
    create_topic(west_servers, topic, partitions=PARTITIONS)
    pumps = [
        bench.pump(records_per_s=300),
        Pump(west_servers, topic, PARTITIONS, records_per_s=300, first=FIRST_IN_WEST).start(),
    ]
    bench.start_worker().await_running(TASKS)
    at_home = east_servers, [topic, f"{west}.{topic}"]
    away = west_servers, [topic, f"{bench.alias}.{topic}"]
    for servers, topics in (at_home, away):
        eventually(lambda: topics[1] in topics_of(servers), within_s=60)  # noqa: B023

    worked = [at_work(group, *at_home, reset="earliest")]
    for _ in range(ROUND_TRIPS):
        for command, place in (("switchover", away), ("failback", at_home)):
            worked[-1].await_partitions(2 * PARTITIONS)
            worked[-1].stop()
            document = move(bench.file, command, group, "--flow", bench.name)
            assert {(it["translation"], it["state"]) for it in document["partitions"]} == {("exact", "committed")}
            assert len(document["partitions"]) == 2 * PARTITIONS
            worked.append(at_work(group, *place))
    for pump in pumps:
        pump.stop()
    written = [numbers_in(servers, topic) for servers in (east_servers, west_servers)]
    assert [len(it) for it in written] == [pump.acknowledged for pump in pumps]
    everything = written[0] | written[1]
    worked[-1].await_numbers(everything - {it.number for group in worked[:-1] for it in group.processed})
    worked[-1].stop()
    assert account(everything, *worked) == Account(len(everything), 0, 0, 0)
    for servers in (east_servers, west_servers):
        nested = [
            name for name in topics_of(servers) if f"{west}.{bench.alias}." in name or f"{bench.alias}.{west}." in name
        ]
        assert not nested, "copied back to where it came from"
    assert bench.verify().records == pumps[0].acknowledged


def at_work(group: str, servers: str, topics: list[str], reset: str = "error") -> Members:
    return Members(servers, group, topics, count=2, reset=reset).start(2 * PARTITIONS)


def topics_of(servers: str) -> set[str]:
    return set(admin_client(servers).list_topics(timeout=60).topics)
