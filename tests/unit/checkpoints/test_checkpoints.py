"""What groups committed, translated: pure parts of the job, and what it does while the target is away."""

from __future__ import annotations

import time
from unittest.mock import Mock

import pytest

from replicator.checkpoints.checkpoints import (
    Checkpoints,
    Translated,
    changes,
    known_times,
    placed,
    positions_of,
    translate_groups,
)
from replicator.config import build
from replicator.deadline import StopToken
from replicator.embedded import ports
from replicator.errors import TP, RetriableError
from replicator.groups.offsets import Committed
from replicator.kafka.cluster import Cluster
from replicator.kafka.topics import Snapshot, SourceTopic
from replicator.names import GroupFilter
from replicator.offset_map.mm2_format import Checkpoint
from replicator.offset_map.runs import Run
from replicator.offset_map.sync_format import TargetTopic
from replicator.offset_map.topic_id import TopicId
from replicator.offset_map.translate import UNKNOWN_LOG, TargetLog
from replicator.syncs.state import MapsState

ID, OTHER_ID = TopicId(range(16)), TopicId(range(1, 17))
ORDERS, REMOTE = TP("orders", 0), TP("east.orders", 0)
TOPICS = Snapshot(1, {"orders": SourceTopic("orders", ID, 2, 1, "east.orders", 2, TopicId([6] * 16))}, (), 1)


def syncs(*runs: Run, stopped: str = "", target: TargetTopic | None = None) -> MapsState:
    state = MapsState()
    for run in runs:
        state.take_run(ORDERS, run)
    if stopped:
        state.stopped[ORDERS] = {"reason": stopped}
    if target is not None:
        state.targets[ORDERS] = target
    return state


def run(seq: int, up: int, down: int, count: int, ordinal: int, topic_id: TopicId = ID) -> Run:
    return Run(seq, up, down, count, ordinal, up + count, topic_id, ())


RUNS = (run(1, 100, 0, 0, 0), run(2, 100, 0, 10, 0), run(3, 110, 11, 10, 10))


def translated(next_offset: int, state: MapsState) -> Translated:
    return translate_groups({"g": {ORDERS: Committed(next_offset, "m")}}, state, TOPICS)


def placed_one(next_offset: int, state: MapsState, log: TargetLog = UNKNOWN_LOG) -> dict[tuple[str, TP], Checkpoint]:
    return placed(translated(next_offset, state), {REMOTE: log})


@pytest.mark.parametrize(
    ("upstream", "downstream", "kind", "is_end"),
    [
        (100, 0, "exact", False),
        (105, 5, "exact", False),
        (110, 11, "exact", False),
        (119, 20, "exact", False),
        (120, 21, "exact", True),
        (125, 21, "ahead", True),
        (99, 0, "expired", False),
    ],
)
def test_offsets_are_translated(upstream: int, downstream: int, kind: str, is_end: bool) -> None:
    """Invariant D: a group that is ahead gets the replicated end, one before the floor all that was replicated."""
    found = translated(upstream, syncs(*RUNS))
    assert placed(found, {}) == {("g", REMOTE): Checkpoint("g", REMOTE, upstream, downstream, "m", ID)}
    assert found.counts == {kind: 1}
    assert (REMOTE in found.at_end) == is_end


def test_a_group_before_a_beginning_that_was_lost_gets_nothing() -> None:
    """D: where the map's first run is not the first one ever, records may lie before its place."""
    assert placed_one(99, syncs(*RUNS[1:])) == {}


def test_a_thinned_stretch_gives_its_beginning() -> None:
    """Never past an unread record: the first place of the stretch."""
    found = translated(200, syncs(run(1, 100, 0, 0, 0), run(64, 100, 0, 10, 0), run(128, 300, 211, 10, 200)))
    assert placed(found, {})["g", REMOTE].downstream_next == 10
    assert found.counts == {"between": 1}


@pytest.mark.parametrize(
    "state",
    [
        syncs(),
        syncs(run(1, 100, 0, 10, 0, OTHER_ID)),
        syncs(*RUNS, stopped="recreated"),
        syncs(*RUNS, stopped="source_log_shorter"),
        syncs(*RUNS, stopped="target_recreated"),
        syncs(*RUNS, target=TargetTopic("east.orders", TopicId([7] * 16))),
    ],
    ids=[
        "nothing replicated", "another topic of the name", "created again", "source lost records",
        "the copy created again", "another copy of the name",
    ],
)  # fmt: skip
def test_offsets_of_other_records_are_not_translated(state: MapsState) -> None:
    found = translated(105, state)
    assert placed(found, {}) == {}
    assert found.counts == {"unknown": 1}


def test_positions_are_those_of_the_source_topic_as_it_is_now() -> None:
    """Nothing for a partition that has none yet, or whose offsets mean other records."""
    assert positions_of(syncs(*RUNS), TOPICS) == {ORDERS: 120}
    for other in (syncs(), syncs(run(1, 100, 0, 10, 0, OTHER_ID)), syncs(*RUNS, stopped="recreated")):
        assert positions_of(other, TOPICS) == {}
    assert positions_of(syncs(*RUNS), Snapshot(2, {}, (), 1)) == {}


def test_topics_of_no_flow_are_not_counted() -> None:
    found = translate_groups({"g": {TP("local", 0): Committed(1)}}, syncs(*RUNS), TOPICS)
    assert not found.counts
    assert not found.offsets


def test_only_those_at_the_end_pass_the_markers() -> None:
    offsets = {"done": {ORDERS: Committed(120)}, "ahead": {ORDERS: Committed(130)}, "behind": {ORDERS: Committed(119)}}
    found = translate_groups(offsets, syncs(*RUNS), TOPICS)
    assert found.at_end == {REMOTE: 21}
    checkpoints = placed(found, {REMOTE: TargetLog(read_from=21, read_to=23)})
    assert {group: it.downstream_next for (group, _), it in checkpoints.items()} == {
        "done": 23, "ahead": 23, "behind": 20,
    }  # fmt: skip
    assert {it.topic_id for it in checkpoints.values()} == {ID}


@pytest.mark.parametrize(("upstream", "downstream"), [(105, 5), (119, 11), (120, 11), (125, 11)])
def test_none_lies_behind_the_end_of_a_log_that_lost_records(upstream: int, downstream: int) -> None:
    """E: a consumer would begin there by its `auto.offset.reset`. At the end it reads what comes."""
    cut = syncs(*RUNS, stopped="target_log_shorter")
    found = placed_one(upstream, cut, TargetLog(end=11))
    assert {it.downstream_next for it in found.values()} == {downstream}
    assert placed_one(upstream, cut) == {}, "where it ends is not known"


@pytest.mark.parametrize(("upstream", "downstream"), [(99, 7), (105, 7), (107, 7), (108, 8), (120, 21), (125, 21)])
def test_none_lies_before_the_beginning_of_a_log(upstream: int, downstream: int) -> None:
    """Retention deleted the first seven records of the copy: with ``latest``, a consumer would skip all the others."""
    found = placed_one(upstream, syncs(*RUNS), TargetLog(begin=7, end=22))
    assert {it.downstream_next for it in found.values()} == {downstream}


def test_only_changes_are_written() -> None:
    """A new offset, new metadata, a new place and a new topic are changes."""
    old = Checkpoint("g", REMOTE, 5, 6, "")
    key = ("g", REMOTE)
    assert changes({key: old}, {key: old}) == {}
    for new in (
        Checkpoint("g", REMOTE, 4, 6),
        Checkpoint("g", REMOTE, 5, 7),
        Checkpoint("g", REMOTE, 5, 6, "m"),
        Checkpoint("g", REMOTE, 5, 6, "", ID),
    ):
        assert changes({key: new}, {key: old}) == {key: new}
    assert changes({key: old}, {}) == {key: old}


@pytest.mark.parametrize(
    ("group", "matches"),
    [
        ("billing", True),
        ("console-consumer-1", False),
        ("connect-sink", False),
        ("__internal", False),
        ("replicator-east-west", False),
        ("replicator-north-east", False),
        ("replicator-tests", True),
        ("audit", False),
    ],
)
def test_groups_are_filtered_as_mm2_does(group: str, matches: bool) -> None:
    """MM2's default excludes, ours, and the groups of workers whose source or target this cluster is."""
    assert GroupFilter([".*"], ["audit"], "east").matches(group) == matches
    assert not GroupFilter([], [], "east").matches(group)


def test_up_to_when_each_group_is_known() -> None:
    """One that gave no answer stays where it was; one that never gave any, or is gone, is not there."""
    before = {"fresh": 100, "late": 100, "gone": 100}
    assert known_times(before, ["fresh", "late", "new", "mute"], ["late", "mute"], 200) == {
        "fresh": 200, "late": 100, "new": 200,
    }  # fmt: skip


def test_each_step_fails_in_time_while_the_target_is_away() -> None:
    """Also the one that would read all runs anew: it may take minutes, once there is somebody to read from."""
    away = f"127.0.0.1:{ports.free_ports(1)[0]}"
    clusters = {alias: {"bootstrap_servers": away} for alias in ("east", "west")}
    flow = build({"clusters": clusters, "flows": {"east->west": {"topics": ["orders"]}}}).flow()
    source = Cluster("east", "source", flow.source_cluster, flow.group)
    target = Cluster("west", "target", flow.target_cluster, flow.group)
    job = Checkpoints(flow, (source, target), (source.admin(), target.admin()), Mock(), Mock(), Mock())
    for _ in range(2):
        began_s = time.monotonic()
        with pytest.raises(RetriableError):
            job.step(StopToken(), 0.5)
        assert time.monotonic() - began_s < 30
    job.close()
