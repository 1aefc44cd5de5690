"""MirrorMaker 2's own client reads our checkpoints and heartbeats, and Kafka's own tool agrees on the lag."""

from __future__ import annotations

import subprocess
from pathlib import Path

from replicator.embedded import ClusterSpec, EmbeddedCluster, ensure_kafka
from replicator.errors import TP
from replicator.offset_map.mm2_format import decode_heartbeat
from tests.support.brokers import OwnClusters, UniqueName
from tests.support.eventually import eventually
from tests.support.flows import REACT_S, FlowBench, FlowBenches
from tests.support.groups import checkpoints, commit
from tests.support.records import NewRecord, admin_client, end_offsets, read_topic

PROGRAM = Path(__file__).parent / "java" / "ReadGroups.java"
TOOL = "org.apache.kafka.tools.consumer.group.ConsumerGroupCommand"


def java(*arguments: str) -> list[str]:
    """The lines that a program of Kafka's class path prints."""
    kafka = ensure_kafka()
    command = [str(kafka.java.path), "-Dfile.encoding=UTF-8", "-Xmx256m", "-cp", kafka.classpath, *arguments]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def replicated(make_flow: FlowBenches, source: EmbeddedCluster, target: EmbeddedCluster, group: str) -> FlowBench:
    """A flow with heartbeats, whose `group` has read one partition to its end and a part of the other."""
    bench = make_flow(source, target, flow={"heartbeat_interval_s": 0.5})
    bench.create(bench.topic, partitions=2)
    bench.produce(bench.topic, [NewRecord(b"%d" % i, partition=i % 2) for i in range(20)])
    bench.start()
    bench.await_caught_up(bench.topic)
    commit(bench.source, group, {TP(bench.topic, 0): 10, TP(bench.topic, 1): 3}, "größe")
    remote = bench.remote(bench.topic)

    def has_checkpoints() -> bool:
        found = checkpoints(bench.target, bench.checkpoints_topic, group)
        return set(found) == {TP(remote, 0), TP(remote, 1)}

    eventually(has_checkpoints, REACT_S)
    beats = bench.remote("heartbeats")
    eventually(lambda: beats in admin_client(bench.target).list_topics(timeout=REACT_S).topics, REACT_S)
    eventually(lambda: read_topic(bench.target, beats), REACT_S)
    return bench


def test_mm2_client_reads_our_groups(make_flow: FlowBenches, own_clusters: OwnClusters, unique: UniqueName) -> None:
    """Translated offsets, upstream clusters, hops, and the topics that it finds by name."""
    group = unique("billing")
    # clusters of its own: every flow from a cluster that has heartbeats copies them, those of other tests, too
    opened = own_clusters(ClusterSpec("beating-source"), ClusterSpec("beating-target"))
    bench = replicated(make_flow, opened["beating-source"], opened["beating-target"], group)
    remote = bench.remote(bench.topic)
    end = end_offsets(bench.target, remote)[0]
    found = java(str(PROGRAM), bench.target, bench.alias, group)
    assert found == [
        f"offset {remote}-0 {end} größe",
        f"offset {remote}-1 3 größe",
        "upstream true",
        "hops 1",
        "checkpoints true",
        "heartbeats true",
        f"remote {bench.alias}.heartbeats {remote}",
    ]
    ours = [
        decode_heartbeat(it.key or b"", it.value or b"") for it in read_topic(bench.target, f"{bench.alias}.heartbeats")
    ]
    assert (bench.alias, bench.target_alias) in {(it.source, it.target) for it in ours}
    described = java(TOOL, "--bootstrap-server", bench.target, "--describe", "--group", group)
    lags = {fields[2]: fields[5] for line in described if (fields := line.split()) and fields[:2] == [group, remote]}
    assert lags["0"] == "0"
    assert lags["1"] == str(end_offsets(bench.target, remote)[1] - 3)
