"""Groups whose coordinator is away: the brokers that are left list the others, without an error.

On a cluster that keeps committed offsets on one broker only, so that nobody takes the coordinator's place; elsewhere it
is like this for the moment in which one does.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from replicator.checkpoints import checkpoints as checkpoints_duty
from replicator.checkpoints.topic import KnownGroups, read_checkpoints
from replicator.deadline import Deadline
from replicator.embedded import Clusters, ClusterSpec
from replicator.kafka.cluster import Cluster as Clients
from tests.support.brokers import OwnClusters
from tests.support.desk import Desk
from tests.support.eventually import eventually
from tests.support.flows import flow_benches
from tests.support.records import ADMIN_TIMEOUT_S, admin_client, leaders_of

OFFSETS_TOPIC = "__consumer_offsets"
GROUPS = 12
SOON_S = 60.0


@pytest.fixture
def pair(own_clusters: OwnClusters) -> Clusters:
    one_replica = {"offsets.topic.replication.factor": "1"}
    return own_clusters(ClusterSpec("source", brokers=3, properties=one_replica), ClusterSpec("target"))


@pytest.fixture
def desk(pair: Clusters, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Desk]:
    monkeypatch.setattr(checkpoints_duty, "GROUPS_EVERY_S", 0.1)
    with flow_benches() as benches:
        yield Desk(benches(pair["source"], pair["target"]), tmp_path).open()


def coordinator(leaders: Mapping[int, int], group: str) -> int:
    """The broker that coordinates a group of this name, whether there is one or not.

    It leads the partition of the offsets topic that the hash of the name says, `String.hashCode` in Java.

    Args:
        leaders: of the partitions of the offsets topic.
    """
    code = 0
    for character in group:
        code = (31 * code + ord(character)) & 0xFFFFFFFF
    return leaders[abs(code - (code >> 31 << 32)) % len(leaders)]


def known(desk: Desk) -> KnownGroups:
    """What a failover would know."""
    settings = desk.flow.settings()
    alias = desk.flow.target_alias
    target = Clients(alias, "target", settings.clusters[alias], "workers")
    return read_checkpoints(target, settings.flow(desk.flow.name), Deadline(SOON_S))


def test_groups_that_no_broker_lists_are_not_forgotten(desk: Desk, pair: Clusters) -> None:
    """No move leaves one out without a word, and the pulse of the checkpoints vouches for none of them."""
    flow, source = desk.flow, pair["source"]
    groups = [desk.group(f"g{number}", 10, 20) for number in range(GROUPS)]
    admin = admin_client(flow.source)
    leaders = leaders_of(flow.source, OFFSETS_TOPIC)
    by_group = {group: coordinator(leaders, group) for group in groups}
    victim = by_group[groups[0]]
    away = {group for group, broker in by_group.items() if broker == victim}
    strangers = (f"nobody-{number}" for number in range(100))
    nobody = next((it for it in strangers if coordinator(leaders, it) != victim), None)
    flow.stop()
    source.stop_broker(victim)
    eventually(lambda: victim not in admin.list_topics(timeout=ADMIN_TIMEOUT_S).brokers, SOON_S)

    for names in (["--all"], [groups[0]], [f"g.*-{desk.run_id}"]):
        said = desk.run("switchover", *names, "--dry-run", code=1, connect_timeout_s=6).stderr
        unknown = away | set(names)  # a pattern may be a group's name, too, and have its coordinator there
        assert any(f"{flow.alias}: no broker lists the group {group}, and its coord" in said for group in unknown), said
    if away != set(groups):  # on a busy machine the broker that is up first may have them all
        assert desk.run(
            "switchover", next(it for it in groups if it not in away), "--dry-run", connect_timeout_s=6
        ).stdout
    if nobody:
        assert f"no group '{nobody}'" in desk.refuses("switchover", nobody, "--yes", connect_timeout_s=6)

    before = known(desk)
    flow.start()

    def are_late() -> bool:
        now = known(desk)
        assert now.pulse_ms != before.pulse_ms, "no pulse yet"
        assert now.late.keys() == away
        return True

    eventually(are_late, SOON_S)
    source.start_broker(victim)
    eventually(lambda: not known(desk).late, SOON_S)
    document = desk.run("switchover", "--all", "--dry-run", "-o", "json").json()
    assert {row["group"] for row in document["partitions"]} == set(groups)
    admin.delete_consumer_groups([groups[0]])[groups[0]].result(ADMIN_TIMEOUT_S)
    flow.await_event("groups_gone", within_s=SOON_S)
    assert not known(desk).late
