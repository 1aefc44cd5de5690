"""The flow's positions as a group on the source: what Kafka's own tools show as its lag."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
import structlog
from structlog.testing import capture_logs

from replicator.checkpoints import lag_group
from replicator.checkpoints.lag_group import LagGroup
from replicator.checkpoints.topic import read_checkpoints
from replicator.config import ClusterSettings
from replicator.deadline import REFUSED_RETRY_S, Deadline, StopToken
from replicator.embedded import EmbeddedCluster
from replicator.errors import TP
from replicator.kafka.cluster import Cluster as Clients
from tests.support.brokers import UniqueName
from tests.support.eventually import eventually
from tests.support.flows import REACT_S, FlowBench, FlowBenches
from tests.support.groups import Member, commit, offsets
from tests.support.records import NewRecord, admin_client, create_topic, delete_topic, end_offsets

SOON_S = 60.0


@pytest.fixture(autouse=True)
def _often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lag_group, "INTERVAL_S", 0.5)


def lags(bench: FlowBench, *topics: str) -> dict[TP, int]:
    """What a tool shows: end offset less committed offset; -1 without one."""
    committed = offsets(bench.source, bench.group)
    ends = {TP(topic, p): end for topic in topics for p, end in end_offsets(bench.source, topic).items()}
    assert ends
    return {tp: end - committed[tp] if tp in committed else -1 for tp, end in ends.items()}


def test_tools_show_the_lag_of_the_flow(
    make_flow: FlowBenches, source: EmbeddedCluster, target: EmbeddedCluster, unique: UniqueName
) -> None:
    """It reaches 0, also for an empty partition; no checkpoint is made of it; a topic that is gone holds nothing up."""
    bench = make_flow(source, target)
    for topic in (bench.topic, bench.other):
        bench.create(topic, partitions=2)
        bench.produce(topic, [b"%d" % i for i in range(10)])
    bench.start()
    eventually(lambda: set(lags(bench, bench.topic, bench.other).values()) == {0}, SOON_S)
    bench.produce(bench.topic, [NewRecord(b"more", partition=1)])
    eventually(lambda: lags(bench, bench.topic) == {TP(bench.topic, 0): 0, TP(bench.topic, 1): 0}, SOON_S)
    delete_topic(bench.source, bench.other)
    bench.produce(bench.topic, [b"and more"])
    eventually(lambda: set(lags(bench, bench.topic).values()) == {0}, SOON_S)
    assert not [note for note in bench.worker.notes() if note.startswith("positions")]
    flow = bench.settings().flow(bench.name)
    west = Clients("west", "target", flow.target_cluster, flow.group)
    group = unique("billing")
    commit(bench.source, group, {TP(bench.topic, 0): 1})

    def has_checkpoint() -> bool:
        groups = {name for name, _ in read_checkpoints(west, flow, Deadline(REACT_S)).checkpoints}
        assert bench.group not in groups
        return group in groups

    eventually(has_checkpoint, REACT_S)


@dataclass
class Known:
    """What the duty asks of the checkpoints'."""

    positions: dict[TP, int]


def test_what_is_refused_is_noted_and_what_did_not_change_is_left(source: EmbeddedCluster, unique: UniqueName) -> None:
    """The group may have members; what somebody did to its offsets stays until the position moves, or for an hour."""
    servers, group = source.admin_servers, unique("replicator")
    tp = TP(create_topic(servers, unique("orders")), 0)
    east = Clients("east", "source", ClusterSettings(bootstrap_servers=servers), group)
    flow: Any = SimpleNamespace(group=group)
    known: Any = Known({tp: 5})
    duty = LagGroup(flow, east, known, structlog.get_logger())
    with capture_logs() as events:
        with closing(Member(servers, group, tp.topic)):
            for _ in range(2):
                duty.step(StopToken(), REACT_S)
                assert f"commit for the group {group}" in duty.note
                assert duty.interval_s == REFUSED_RETRY_S
        assert [it["event"] for it in events] == ["positions_not_committed"]
    duty.step(StopToken(), REACT_S)
    assert (duty.note, duty.interval_s, offsets(servers, group)) == ("", lag_group.INTERVAL_S, {tp: 5})
    commit(servers, group, {tp: 1})
    duty.step(StopToken(), REACT_S)
    assert offsets(servers, group) == {tp: 1}
    known.positions = {tp: 6}
    duty.step(StopToken(), REACT_S)
    assert offsets(servers, group) == {tp: 6}
    duty._rewrite_s = 0.0
    admin = admin_client(servers)
    admin.delete_consumer_groups([group])[group].result(REACT_S)
    duty.step(StopToken(), REACT_S)
    assert offsets(servers, group) == {tp: 6}
