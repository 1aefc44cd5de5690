"""Topics that are deleted, created again, cut, too small or wrong: nothing is lost, and one partition stops alone."""

from __future__ import annotations

import datetime as dt
import time

import pytest
from confluent_kafka import TopicPartition

from replicator.copy.partition_states import PartitionStates
from replicator.embedded import Clusters, ClusterSpec, EmbeddedCluster
from replicator.errors import TP, PartitionError, StopReason
from replicator.offset_map.sync_format import TargetTopic, encode_control, target_record
from replicator.offset_map.topic_id import NO_ID
from tests.support.brokers import OwnClusters, on_killable_pair
from tests.support.compare import compare
from tests.support.eventually import eventually
from tests.support.flows import REACT_S, FlowBench, FlowBenches, on_any_plane, on_both_planes
from tests.support.records import (
    NewRecord,
    admin_client,
    alter_topic_config,
    create_topic,
    delete_topic,
    end_offsets,
    grow_topic,
    produce,
    read_topic,
)

FILLED = 20


@pytest.fixture(scope="module")
def creating_target(module_clusters: OwnClusters) -> EmbeddedCluster:
    """A target that creates topics by itself, with one partition, as many clusters do."""
    return module_clusters(ClusterSpec("creating", properties={"auto.create.topics.enable": "true"}))["creating"]


def numbered(number: int, word: bytes = b"", partitions: int = 2) -> list[NewRecord]:
    return [NewRecord(b"%s%d" % (word, n), b"k", n % partitions) for n in range(number)]


def running(flow: FlowBench) -> FlowBench:
    """The flow with two topics replicated: `topic` with two partitions, and `other`, all of one task."""
    flow.create(flow.topic, partitions=2)
    flow.create(flow.other)
    flow.produce(flow.topic, numbered(FILLED))
    flow.produce(flow.other, numbered(FILLED, partitions=1))
    flow.start()
    flow.verify(flow.topic, flow.other)
    return flow


def others_go_on(flow: FlowBench) -> None:
    """New records of the other topic arrive, whatever happened to the first one."""
    flow.produce(flow.other, numbered(FILLED, b"later", partitions=1))
    flow.verify(flow.other)


@pytest.mark.xdist_group("creating target")
@on_both_planes
def test_a_target_topic_deleted_while_running_stops_its_partitions_alone(
    make_flow: FlowBenches, source: EmbeddedCluster, creating_target: EmbeddedCluster
) -> None:
    """It is not created again behind our back, not by the broker either: the records before would be missing."""
    flow = running(make_flow(source, creating_target))
    delete_topic(flow.target, flow.remote(flow.topic))
    flow.produce(flow.topic, numbered(FILLED, b"more"))
    others_go_on(flow)
    for partition in range(2):
        reason = flow.await_stopped(flow.topic, partition, "target_gone")
        assert f"{flow.remote(flow.topic)} does not exist" in reason
        assert flow.position(flow.topic, partition) == FILLED // 2
    assert flow.remote(flow.topic) not in admin_client(flow.target).list_topics(timeout=60).topics
    assert flow.metric("replicator_partition_stopped", topic=flow.topic) == 2


@on_any_plane
def test_a_target_topic_created_again_takes_no_record(
    make_flow: FlowBenches, source: EmbeddedCluster, target: EmbeddedCluster
) -> None:
    """Half a copy would pass for a whole one: each partition says what is wrong with it, and its position stays."""
    flow = running(make_flow(source, target))
    delete_topic(flow.target, flow.remote(flow.topic))
    create_topic(flow.target, flow.remote(flow.topic), partitions=1)
    flow.produce(flow.topic, numbered(FILLED, b"more"))
    others_go_on(flow)
    for partition in range(2):
        reason = flow.await_stopped(flow.topic, partition, "target_recreated")
        assert f"{flow.remote(flow.topic)} (" in reason
        assert "is not the topic that was replicated to" in reason
    assert read_topic(flow.target, flow.remote(flow.topic)) == []
    assert [flow.position(flow.topic, partition) for partition in range(2)] == [FILLED // 2] * 2


@on_any_plane
def test_a_target_topic_created_again_stays_stopped_when_its_log_is_long(
    make_flow: FlowBenches, source: EmbeddedCluster, target: EmbeddedCluster
) -> None:
    """What we append before we notice makes the new log longer than the old one was; no retry falls for that."""
    flow = running(make_flow(source, target, flow={"refresh_topics_interval_s": 1}))
    recreate_long(flow)
    flow.produce(flow.topic, numbered(FILLED, b"more"))
    for partition in range(2):
        flow.await_stopped(flow.topic, partition, "target_recreated")
    others_go_on(flow)
    seen = len(flow.events)
    flow.stop()
    flow.start()
    for partition in range(2):
        reason = flow.await_stopped(flow.topic, partition, "target_recreated", after=seen)
        assert "is not the topic that was replicated to" in reason
        published = flow.published(flow.topic, partition)
        assert published is not None
        assert published["reason"] == "target_recreated"
    others_go_on(flow)


@on_any_plane
def test_a_target_topic_created_again_while_nobody_looks_takes_no_record(
    make_flow: FlowBenches, source: EmbeddedCluster, target: EmbeddedCluster
) -> None:
    """Its log is as long as the copy was, so that only its id tells; checkpoints and moves do not translate to it."""
    flow = running(make_flow(source, target))
    positions = [flow.position(flow.topic, partition) for partition in range(2)]
    flow.stop()
    others = recreate_long(flow)
    flow.produce(flow.topic, numbered(FILLED, b"more"))
    seen = len(flow.events)
    flow.start()
    for partition in range(2):
        flow.await_stopped(flow.topic, partition, "target_recreated", after=seen)
    others_go_on(flow)
    assert len(read_topic(flow.target, flow.remote(flow.topic))) == others
    assert [flow.position(flow.topic, partition) for partition in range(2)] == positions


@on_any_plane
def test_a_flow_that_never_told_its_target_topics_tells_them(
    make_flow: FlowBenches, source: EmbeddedCluster, target: EmbeddedCluster
) -> None:
    """What an earlier build replicated goes on, and from then on its topics are known by their ids."""
    flow = running(make_flow(source, target))
    flow.stop()
    tps = [TP(flow.topic, 0), TP(flow.topic, 1), TP(flow.other, 0)]
    published = [encode_control(target_record(tp, TargetTopic("any", NO_ID)))[0] for tp in tps]
    produce(flow.target, flow.syncs_topic, [NewRecord(None, key) for key in published])
    flow.produce(flow.topic, numbered(FILLED, b"more"))
    seen = len(flow.events)
    flow.start()
    assert flow.verify(flow.topic, flow.other).records == FILLED
    flow.stop()
    recreate_long(flow)
    flow.start()
    for partition in range(2):
        flow.await_stopped(flow.topic, partition, "target_recreated", after=seen)


def recreate_long(flow: FlowBench) -> int:
    """Create the copy again with more records, of somebody else, than it had; how many."""
    remote = flow.remote(flow.topic)
    delete_topic(flow.target, remote)
    create_topic(flow.target, remote, partitions=2)
    others = numbered(5 * FILLED, b"other")
    produce(flow.target, remote, others)
    return len(others)


@on_any_plane
def test_a_log_that_was_cut_stays_stopped_when_it_looks_whole_again(
    make_flow: FlowBenches, source: EmbeddedCluster, target: EmbeddedCluster
) -> None:
    """Told once, it lasts: also for the next owner, to whom both logs look as they should."""
    flow = running(make_flow(source, target))
    flow.stop()
    cut = PartitionError("cut", op="fetch", tp=TP(flow.topic, 0), reason=StopReason.SOURCE_LOG_SHORTER)
    stops = PartitionStates(1)
    stops.stop(cut, 0, dt.datetime.now(dt.UTC))
    for record in stops.unpublished():
        key, value = encode_control(record)
        produce(flow.target, flow.syncs_topic, [NewRecord(value, key)])
    flow.produce(flow.topic, numbered(FILLED, b"more"))
    seen = len(flow.events)
    flow.start()
    assert "stopped since" in flow.await_stopped(flow.topic, 0, "source_log_shorter", after=seen)
    flow.await_caught_up(flow.topic, without=(0,))
    assert flow.position(flow.topic, 0) == FILLED // 2
    assert flow.metric("replicator_partition_stopped", topic=flow.topic) == 1
    published = flow.published(flow.topic, 0)
    assert published is not None
    assert published["lasting"] is True
    others_go_on(flow)


@on_any_plane
def test_a_deleted_source_topic_stops_and_keeps_its_copy(
    make_flow: FlowBenches, source: EmbeddedCluster, target: EmbeddedCluster
) -> None:
    """Created again, it is another topic: its records are not mixed into the old copy."""
    flow = running(make_flow(source, target))
    delete_topic(flow.source, flow.topic)
    assert "DESCRIBE right was revoked" in flow.await_stopped(flow.topic, 0, "source_gone")
    others_go_on(flow)
    create_topic(flow.source, flow.topic, partitions=2)
    flow.produce(flow.topic, numbered(3 * FILLED, b"new"))
    assert "deleted and recreated" in flow.await_stopped(flow.topic, 0, "recreated")
    others_go_on(flow)
    assert len(read_topic(flow.target, flow.remote(flow.topic))) == FILLED


@on_both_planes
def test_a_source_topic_created_again_at_once_is_noticed_before_a_record_passes(
    make_flow: FlowBenches, source: EmbeddedCluster, target: EmbeddedCluster
) -> None:
    """The new topic is longer than our position before anybody looks: the client alone would just go on there."""
    flow = running(make_flow(source, target, flow={"refresh_topics_interval_s": 600}))
    admin = admin_client(flow.source)
    admin.delete_topics([flow.topic])[flow.topic].result(REACT_S)
    create_topic(flow.source, flow.topic, partitions=2)
    flow.produce(flow.topic, numbered(3 * FILLED, b"new"))

    def both_stopped() -> bool:
        return {it["partition"] for it in flow.found("partition_stopped", topic=flow.topic)} == {0, 1}

    eventually(both_stopped, REACT_S)
    others_go_on(flow)
    assert len(read_topic(flow.target, flow.remote(flow.topic))) == FILLED
    assert [flow.position(flow.topic, partition) for partition in range(2)] == [FILLED // 2] * 2


@on_both_planes
@pytest.mark.parametrize("on_truncation", ["pause", "skip"])
def test_retention_overtakes_us(
    make_flow: FlowBenches, source: EmbeddedCluster, target: EmbeddedCluster, on_truncation: str
) -> None:
    """`pause` stops that partition alone until the setting says `skip`, which counts what is missing."""
    flow = running(make_flow(source, target, flow={"on_truncation": on_truncation}))
    flow.stop()
    flow.produce(flow.topic, numbered(40, b"more"))
    admin = admin_client(flow.source)
    for answer in admin.delete_records([TopicPartition(flow.topic, 1, 25)]).values():
        assert answer.result(REACT_S).low_watermark == 25
    seen = len(flow.events)
    flow.start()
    if on_truncation == "pause":
        reason = flow.await_stopped(flow.topic, 1, "truncated")
        assert "retention deleted 15 offsets (10 to 24) before they were replicated" in reason
        assert "on_truncation: skip" in reason
        others_go_on(flow)
        flow.await_caught_up(flow.topic, without=(1,))
        assert flow.position(flow.topic, 1) == 10
        assert flow.metric("replicator_skipped_records_total") == 0
        flow.stop()
        flow.set(on_truncation="skip")
        seen = len(flow.events)
        flow.start()
    skipped = flow.await_event("records_skipped", after=seen)
    assert (skipped["first"], skipped["next"], skipped["offsets"]) == (10, 25, 15)
    flow.await_caught_up(flow.topic)
    labels = {"topic": flow.topic, "partition": "1", "reason": "truncated"}
    assert flow.metric("replicator_skipped_records_total", **labels) == 15
    assert flow.metric("replicator_skipped_records_total") == 15
    copies = read_topic(flow.target, flow.remote(flow.topic))
    old = [it for it in copies if it.partition == 1 and it.offset < FILLED // 2]
    assert len(old) == FILLED // 2
    assert compare(read_topic(flow.source, flow.topic), [it for it in copies if it not in old])[1:] == (0, 0, 0, 0)
    others_go_on(flow)


@on_both_planes
def test_a_record_without_a_key_for_a_compacted_target_stops_its_partition_alone(
    make_flow: FlowBenches, source: EmbeddedCluster, target: EmbeddedCluster
) -> None:
    """The text says what the broker wants; when it wants it no more, the partition goes on by itself."""
    flow = running(make_flow(source, target))
    remote = flow.remote(flow.topic)
    alter_topic_config(flow.target, remote, {"cleanup.policy": "compact", "segment.ms": "86400000"})
    flow.produce(flow.topic, [NewRecord(b"x", b"k"), NewRecord(b"y"), NewRecord(b"z", b"k"), NewRecord(b"w", b"k", 1)])
    reason = flow.await_stopped(flow.topic, 0, "record_refused")
    assert f"a compacted topic such as {remote} accepts no record without a key" in reason
    others_go_on(flow)
    flow.await_caught_up(flow.topic, without=(0,))
    assert flow.position(flow.topic, 0) == FILLED // 2
    alter_topic_config(flow.target, remote, {"cleanup.policy": "delete"})
    assert flow.verify(flow.topic).records == FILLED + 4


@on_any_plane
def test_a_target_topic_with_fewer_partitions_is_grown(
    make_flow: FlowBenches, source: EmbeddedCluster, target: EmbeddedCluster
) -> None:
    """Also when the source's topic grows while the flow runs: none of the new partitions' records is missing."""
    flow = make_flow(source, target, flow={"start_from": "latest"})
    flow.create(flow.topic, partitions=3)
    create_topic(flow.target, flow.remote(flow.topic), partitions=1)
    flow.start()
    flow.produce(flow.topic, numbered(30, partitions=3))
    flow.verify(flow.topic)
    produce_to_new_partitions(flow, 5)
    assert flow.verify(flow.topic).records == 40
    assert set(end_offsets(flow.target, flow.remote(flow.topic))) == {0, 1, 2, 3, 4}


def produce_to_new_partitions(flow: FlowBench, partitions: int) -> None:
    """Make the source's topic larger, and write to the new partitions at once."""
    old = len(end_offsets(flow.source, flow.topic))
    grow_topic(flow.source, flow.topic, partitions)
    flow.produce(flow.topic, [NewRecord(b"new%d" % n, b"k", old + n % (partitions - old)) for n in range(10)])


@on_any_plane
def test_a_topic_that_is_not_there_is_said_and_waited_for(
    make_flow: FlowBenches, source: EmbeddedCluster, target: EmbeddedCluster
) -> None:
    """A pattern without a topic is a warning; the topic is replicated from its beginning once it is created."""
    flow = make_flow(source, target, flow={"start_from": "latest"})
    flow.set(topics=[flow.topic])
    flow.start()
    warning = flow.await_event("topics_pattern_matches_nothing")
    assert warning["patterns"] == [flow.topic]
    assert "missing DESCRIBE right" in warning["hint"]
    flow.create(flow.topic)
    flow.produce(flow.topic, numbered(FILLED, partitions=1))
    assert flow.verify(flow.topic).records == FILLED


@on_any_plane
@on_killable_pair
@pytest.mark.parametrize("side", ["source", "target"])
def test_an_unreachable_cluster_is_named_retried_and_used_when_it_is_back(
    make_flow: FlowBenches, source: EmbeddedCluster, target: EmbeddedCluster, killable_pair: Clusters, side: str
) -> None:
    """The error comes within connect_timeout_s, the worker is not ready and says why, and goes on by itself."""
    own = killable_pair[side]
    pair = (own, target) if side == "source" else (source, own)
    flow = make_flow(*pair, settings={"connect_timeout_s": 2})
    flow.create(flow.topic)
    flow.produce(flow.topic, numbered(FILLED, partitions=1))
    own.kill_broker(1)
    began_s = time.monotonic()
    worker = flow.start(runs=False)
    error = flow.await_event("worker_not_ready")
    assert time.monotonic() - began_s < REACT_S / 2
    alias = flow.alias if side == "source" else flow.target_alias
    assert error["error"].startswith(f"{alias} ({own.bootstrap_servers}): ")
    assert "tried for 2 s" in error["error"]
    assert f"check that the brokers of clusters.{alias}.bootstrap_servers are up and reachable" in error["error"]
    assert alias in worker.not_ready()
    assert worker.is_alive_inside()
    eventually(lambda: len(flow.found("worker_not_ready")) > 1, REACT_S)
    first, second = (it["retry_in_s"] for it in flow.found("worker_not_ready")[:2])
    assert second > first
    own.start()
    assert flow.verify(flow.topic).records == FILLED
    eventually(lambda: worker.not_ready() == "", REACT_S)
    own.kill_broker(1)
    eventually(lambda: alias in worker.not_ready(), REACT_S)
    own.start()
    flow.produce(flow.topic, numbered(FILLED, b"after", partitions=1))
    assert flow.verify(flow.topic).records == 2 * FILLED
    eventually(lambda: worker.not_ready() == "", REACT_S)


@on_any_plane
def test_one_cluster_under_two_aliases_is_refused(make_flow: FlowBenches, source: EmbeddedCluster) -> None:
    """A pattern that matches the copies, too, would copy copies of copies without end."""
    flow = make_flow(source, source)
    worker = flow.start(runs=False)
    eventually(lambda: worker.failure is not None, REACT_S)
    assert "are the same Kafka cluster" in str(worker.failure)
