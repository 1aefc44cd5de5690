"""Records that retention deleted on the target before a group read them: what says so, and where the group goes on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka import TopicPartition

from replicator.checkpoints import checkpoints as checkpoints_duty
from replicator.embedded import EmbeddedCluster
from replicator.errors import TP
from replicator.kafka import log_starts
from tests.support.desk import RECORDS, SOON_S, Desk, states
from tests.support.eventually import eventually
from tests.support.flows import flow_benches
from tests.support.groups import checkpoints, offsets
from tests.support.records import ADMIN_TIMEOUT_S, admin_client

PLACE, BEGIN = 10, 30
"""Where the group is on both clusters, and where the log begins on the target."""


@pytest.fixture
def desk(
    source: EmbeddedCluster, target: EmbeddedCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Desk]:
    """A flow that looks often."""
    monkeypatch.setattr(checkpoints_duty, "GROUPS_EVERY_S", 0.1)
    monkeypatch.setattr(log_starts, "LOOK_AGAIN_S", 0.1)
    with flow_benches() as benches:
        yield Desk(benches(source, target), tmp_path).open()


def delete_before(servers: str, tp: TP, begin: int) -> None:
    admin = admin_client(servers)
    (future,) = admin.delete_records([TopicPartition(tp.topic, tp.partition, begin)]).values()
    assert future.result(ADMIN_TIMEOUT_S).low_watermark == begin


def test_a_group_whose_place_is_deleted_goes_to_the_beginning_of_the_log(desk: Desk) -> None:
    """Checkpoints, group sync, groups, explain, check, and moves, which need --accept-data-loss (D, G)."""
    flow = desk.flow
    group = desk.group("behind", PLACE, RECORDS)
    assert offsets(flow.target, group)[desk.remote(0)] == PLACE
    assert desk.check()[0] == 0
    delete_before(flow.target, desk.remote(0), BEGIN)

    eventually(lambda: offsets(flow.target, group)[desk.remote(0)] == BEGIN, SOON_S)
    known = checkpoints(flow.target, flow.checkpoints_topic, group)[desk.remote(0)]
    assert (known.upstream_next, known.downstream_next) == (PLACE, BEGIN)

    for document in (
        desk.run("groups", "-o", "json", "--group", "^behind").json(),
        desk.run("switchover", group, "--dry-run", "-o", "json").json(),
    ):
        row = next(it for it in document["partitions"] if it["partition"] == 0)
        assert (row["downstream_next"], row["translation"], row["at_risk_records"]) == (BEGIN, "expired", BEGIN - PLACE)
        assert row["reason"].startswith("deleted_on_target: ")
    assert desk.explain(group)[1] == {desk.tp(0): "deleted_on_target", desk.tp(1): ""}
    assert desk.check() == (5, {"groups translated"})

    for command in ("switchover", "failover"):
        said = desk.refuses(command, group, "--yes", group=group)
        assert f"up to {BEGIN - PLACE} records are not on the target\n" in said
        assert "to move them anyway: --accept-data-loss" in said
    moved = desk.move("switchover", group, "--accept-data-loss")
    assert states(moved) == [("expired", "committed"), ("exact", "committed")]
    assert offsets(flow.target, group)[desk.remote(0)] == BEGIN
