"""What the target's checkpoints topic tells when the source is gone."""

from __future__ import annotations

import time
from contextlib import closing

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition

from replicator.checkpoints.freshness import encode_pulse, pulse_key
from replicator.checkpoints.topic import KnownGroups, read_checkpoints
from replicator.config import Flow, build
from replicator.deadline import Deadline
from replicator.embedded import EmbeddedCluster
from replicator.errors import TP
from replicator.kafka.cluster import Cluster as Clients
from replicator.offset_map.mm2_format import Checkpoint, encode_checkpoint
from tests.support.brokers import UniqueName
from tests.support.eventually import eventually
from tests.support.flows import REACT_S, FlowBench, FlowBenches
from tests.support.groups import commit
from tests.support.records import NewRecord, create_topic, produce

TIMEOUT_S = 60.0
TP_0, TP_1 = TP("east.orders", 0), TP("east.orders", 1)


@pytest.fixture
def flow(target: EmbeddedCluster, unique: UniqueName) -> Flow:
    """One whose source is nowhere."""
    east, west = unique("east"), "west"
    clusters = {east: {"bootstrap_servers": "127.0.0.1:1"}, west: {"bootstrap_servers": target.admin_servers}}
    return build({"clusters": clusters, "flows": {f"{east}->{west}": {"topics": ["orders"]}}}).flow()


def read(flow: Flow) -> KnownGroups:
    return read_checkpoints(Clients("west", "target", flow.target_cluster, flow.group), flow, Deadline(TIMEOUT_S))


def write(flow: Flow, *checkpoints: Checkpoint | None, at_ms: int) -> None:
    records = [encode_checkpoint(it) for it in checkpoints if it is not None]
    topic = flow.naming.checkpoints_topic
    produce(flow.target_cluster.bootstrap_servers, topic, [NewRecord(v, k, timestamp=at_ms) for k, v in records])


def test_the_last_checkpoint_of_each_partition_counts(flow: Flow) -> None:
    """With the time at which it was written; first as MM2 leaves it, then with our pulse; then one is deleted."""
    servers, topic = flow.target_cluster.bootstrap_servers, flow.naming.checkpoints_topic
    create_topic(servers, topic, config={"cleanup.policy": "compact"})
    assert read(flow) == KnownGroups({}, {}, None, {})
    old, new, other = Checkpoint("g", TP_0, 5, 6), Checkpoint("g", TP_0, 4, 5, "m"), Checkpoint("h", TP_1, 1, 2)
    write(flow, old, other, at_ms=1_700_000_000_000)
    write(flow, new, at_ms=1_700_000_001_000)
    times = {("g", TP_0): 1_700_000_001_000, ("h", TP_1): 1_700_000_000_000}
    assert read(flow) == KnownGroups({("g", TP_0): new, ("h", TP_1): other}, times, None, {})
    key = pulse_key(flow.group, flow.syncs_topic)
    write(
        flow,
        encode_pulse(key, 1_700_000_002_000, {}),
        encode_pulse(key, 1_700_000_003_000, {"h": 1_700_000_001_500}),
        at_ms=1,
    )
    found = read(flow)
    assert (found.pulse_ms, found.late, dict(found.written_ms)) == (1_700_000_003_000, {"h": 1_700_000_001_500}, times)
    assert found.age_s("g", 1_700_000_003_500) == 0.5
    assert found.age_s("h", 1_700_000_003_500) == 2.0
    produce(servers, topic, [NewRecord(None, encode_checkpoint(new)[0])])
    assert set(read(flow).checkpoints) == set(read(flow).written_ms) == {("h", TP_1)}


def test_without_the_topic_nothing_is_known(flow: Flow) -> None:
    """And it is not created by looking."""
    assert read(flow) == read(flow) == KnownGroups({}, {}, None, {})


def test_a_record_that_cannot_be_read_is_told(flow: Flow) -> None:
    """A newer release's, for example: the older one must not pass for the group's place. Other groups stay known."""
    servers, topic = flow.target_cluster.bootstrap_servers, flow.naming.checkpoints_topic
    create_topic(servers, topic)
    other = Checkpoint("h", TP_0, 1, 2)
    pulse = encode_pulse(pulse_key(flow.group, flow.syncs_topic), 9, {})
    write(flow, Checkpoint("g", TP_0, 4, 5), other, pulse, at_ms=1)
    key, value = encode_checkpoint(Checkpoint("g", TP_0, 5, 6))
    newer = NewRecord(b"\0\1" + value[2:], key)
    produce(servers, topic, [newer, NewRecord(b"hello"), NewRecord(b"hello", b"again")])
    found = read(flow)
    assert found.checkpoints == {("h", TP_0): other}
    assert found.groups == {"g", "h"}
    assert found.pulse_ms == 9
    assert found.broken["g"].startswith(f"its checkpoint of {TP_0} at offset 3 of {topic} can't be read: version 1")
    assert found.unreadable.startswith(
        f"{topic} holds 2 records that are no checkpoints; the first: at offset 4: the key"
    )
    write(flow, Checkpoint("g", TP_0, 6, 7), at_ms=2)
    produce(servers, topic, [NewRecord(None, b"again")])
    found = read(flow)
    assert (found.broken, found.checkpoints["g", TP_0].upstream_next) == ({}, 6)
    assert "holds 1 records that are no checkpoints" in found.unreadable


def known(bench: FlowBench) -> KnownGroups:
    return read(bench.settings().flow(bench.name))


def age_s(bench: FlowBench, group: str) -> float:
    """-1: unknown."""
    age = known(bench).age_s(group, time.time() * 1000)
    return -1.0 if age is None else age


def test_the_pulse_tells_how_fresh_old_checkpoints_are(
    make_flow: FlowBenches, source: EmbeddedCluster, target: EmbeddedCluster, unique: UniqueName
) -> None:
    """It goes on while nothing changes, ends with the worker, and names groups that gave no answer."""
    bench, steady, busy = make_flow(source, target), unique("steady"), unique("busy")
    bench.create(bench.topic)
    bench.produce(bench.topic, [b"%d" % i for i in range(10)])
    bench.start()
    bench.await_caught_up(bench.topic)  # else the first checkpoint is that of a group which is ahead
    for group in (steady, busy):
        commit(bench.source, group, {TP(bench.topic, 0): 4})
    names = ((steady, TP(bench.remote(bench.topic), 0)), (busy, TP(bench.remote(bench.topic), 0)))
    eventually(lambda: set(known(bench).checkpoints) >= set(names), REACT_S)
    before = known(bench)
    assert not [group for group, _ in before.checkpoints if group == bench.group]
    eventually(lambda: (known(bench).pulse_ms or 0) > (before.pulse_ms or 0) + 2000, REACT_S)
    assert known(bench).written_ms[names[0]] == before.written_ms[names[0]]
    eventually(lambda: 0 <= age_s(bench, steady) < 2, REACT_S)
    with closing(Offered(bench.source, busy, unique("app"), TopicPartition(bench.topic, 0, 6))) as pending:
        eventually(lambda: busy in known(bench).late, REACT_S)
        assert known(bench).written_ms[names[1]] == before.written_ms[names[1]]
        eventually(lambda: age_s(bench, busy) > 2, REACT_S)
        eventually(lambda: busy in known(bench).late and 0 <= age_s(bench, steady) < 4, REACT_S)
        pending.commit()
        eventually(lambda: busy not in known(bench).late, REACT_S)
        assert known(bench).checkpoints[names[1]].upstream_next == 6
    bench.stop()
    stopped = known(bench).pulse_ms
    eventually(lambda: age_s(bench, steady) > 2, REACT_S)
    assert known(bench).pulse_ms == stopped


class Offered:
    """An offset of a group that is committed with a transaction which is still open."""

    def __init__(self, servers: str, group: str, transactional_id: str, offset: TopicPartition) -> None:
        self._consumer = Consumer({"bootstrap.servers": servers, "group.id": group})
        self._producer = Producer({"bootstrap.servers": servers, "transactional.id": transactional_id})
        self._producer.init_transactions(TIMEOUT_S)
        self._producer.begin_transaction()
        group_metadata = self._consumer.consumer_group_metadata()
        self._producer.send_offsets_to_transaction([offset], group_metadata, TIMEOUT_S)

    def commit(self) -> None:
        self._producer.commit_transaction(TIMEOUT_S)

    def close(self) -> None:
        self._consumer.close()
