"""A worker whose flow is halted: it says so, writes nothing, and goes on when that is lifted."""

from __future__ import annotations

import threading
from contextlib import closing
from typing import Any

import pytest

from replicator.config import Flow
from replicator.deadline import Deadline
from replicator.embedded import EmbeddedCluster
from replicator.errors import TP
from replicator.groups.offsets import GroupOffsets
from replicator.groups.reader import OffsetsReader
from replicator.kafka.cluster import Cluster as Clients
from replicator.status.lag_reader import Observer
from replicator.status.status import flow_status
from replicator.syncs.halts import HaltReason, halt, halt_body, lift
from tests.support.brokers import UniqueName
from tests.support.eventually import eventually
from tests.support.flows import REACT_S, FlowBench, FlowBenches, on_any_plane
from tests.support.groups import checkpoints, commit, committed
from tests.support.records import admin_client, end_offsets

pytestmark = on_any_plane

TIMEOUT_S = 60.0
SOON_S = 60.0
"""For what an idle worker has to notice: it looks twice a second."""


@pytest.fixture
def bench(make_flow: FlowBenches, source: EmbeddedCluster, target: EmbeddedCluster) -> FlowBench:
    """A flow that has replicated ten records and is idle; its checkpoints have begun."""
    bench = make_flow(source, target).start_filled()
    checkpoints = bench.checkpoints_topic
    eventually(lambda: checkpoints in admin_client(bench.target).list_topics(timeout=REACT_S).topics, REACT_S)
    return bench


def flow_of(bench: FlowBench) -> Flow:
    return bench.settings().flow(bench.name)


def halt_flow(bench: FlowBench) -> None:
    flow = flow_of(bench)
    target = Clients(flow.target, "target", flow.target_cluster, flow.group)
    halt(flow, target, [0], halt_body(HaltReason.FAILOVER, "move-1"), Deadline(TIMEOUT_S))


def lift_flow(bench: FlowBench) -> None:
    flow = flow_of(bench)
    lift(flow, Clients(flow.target, "target", flow.target_cluster, flow.group), [0], Deadline(TIMEOUT_S))


def log_ends(bench: FlowBench) -> list[dict[int, int]]:
    """Of the copy, the syncs and the checkpoints: whatever is written moves them, committed or not."""
    topics = (bench.remote(bench.topic), bench.syncs_topic, bench.checkpoints_topic)
    return [end_offsets(bench.target, topic, isolation="read_uncommitted") for topic in topics]


def test_an_idle_worker_notices_says_so_and_goes_on_later(bench: FlowBench, unique: UniqueName) -> None:
    group, where = unique("billing"), TP(bench.remote(bench.topic), 0)
    commit(bench.source, group, {TP(bench.topic, 0): 4})
    eventually(lambda: where in committed(bench.target, group), REACT_S)
    halt_flow(bench)

    event = bench.await_event("task_halted", within_s=SOON_S)
    assert (event["reason"], event["id"]) == ("failover", "move-1")
    assert event["by"]
    assert event["at"]
    assert f"the flow {bench.name} is halted (failover: move-1 by " in bench.worker.not_ready()
    assert f"`replicator resume --flow '{bench.name}'`" in bench.worker.not_ready()
    assert bench.metric("replicator_task_state", state="halted") == 1
    assert bench.metric("replicator_task_state", state="running") == 0
    eventually(lambda: [it for it in bench.worker.notes() if it.startswith("checkpoints: nothing is writ")], SOON_S)
    eventually(lambda: [it for it in bench.worker.notes() if it.startswith("group-sync: nothing is writ")], SOON_S)

    before, offsets = log_ends(bench), committed(bench.target, group)
    bench.produce(bench.topic, [b"%d" % i for i in range(10, 20)])
    commit(bench.source, group, {TP(bench.topic, 0): 9})
    bench.stop()
    seen = len(bench.events)
    bench.start(runs=False)
    bench.await_event("task_halted", after=seen)
    assert log_ends(bench) == before, bench.log()
    assert committed(bench.target, group) == offsets

    lift_flow(bench)
    bench.await_event("task_resumes", after=seen, within_s=SOON_S)
    bench.await_event("task_runs", after=seen)
    assert bench.verify(bench.topic).records == 20
    eventually(lambda: bench.worker.not_ready() == "", REACT_S)
    eventually(lambda: committed(bench.target, group)[where][0] > offsets[where][0], REACT_S)
    found = checkpoints(bench.target, bench.checkpoints_topic, group)
    assert found[where].upstream_next == 9
    assert not [it for it in bench.worker.notes() if "nothing is written" in it]
    assert not bench.found("task_failed_unexpectedly")


def test_a_pass_that_began_before_the_halt_writes_no_checkpoints(
    bench: FlowBench, unique: UniqueName, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that is stopped in the middle of a pass, and wakes up when the flow is halted."""
    read, reads, awake = OffsetsReader.read, threading.Event(), threading.Event()

    def read_and_sleep(reader: OffsetsReader, *args: Any) -> dict[str, GroupOffsets]:
        found = read(reader, *args)
        if any(unique("billing") in group for group in found):
            reads.set()
            awake.wait(TIMEOUT_S)
        return found

    monkeypatch.setattr(OffsetsReader, "read", read_and_sleep)
    monkeypatch.setattr("replicator.checkpoints.checkpoints.FRESH_S", 0)
    commit(bench.source, unique("billing"), {TP(bench.topic, 0): 4})
    assert reads.wait(TIMEOUT_S)
    halt_flow(bench)
    before = log_ends(bench)
    awake.set()
    eventually(lambda: [it for it in bench.worker.notes() if it.startswith("checkpoints: nothing is writ")], SOON_S)
    assert log_ends(bench) == before, bench.log()


def test_a_busy_worker_is_fenced_and_then_stands_by(bench: FlowBench) -> None:
    """The halt fences it in the middle of its work; what it had not committed is replicated later, once."""
    stop_at = len(bench.events)
    for part in range(20):
        bench.produce(bench.topic, [b"%d" % i for i in range(part * 200, part * 200 + 200)])
        if part == 5:
            halt_flow(bench)
    bench.await_event("task_halted", after=stop_at)
    before = log_ends(bench)
    bench.produce(bench.topic, [b"later"])
    with closing(Observer(flow_of(bench), TIMEOUT_S)) as observer:
        assert not observer.connect()
        (lag,) = observer.lag().partitions
    assert lag.state == "halted"
    assert lag.reason.startswith("failover: move-1 by ")
    assert log_ends(bench) == before, bench.log()
    lift_flow(bench)
    assert bench.verify(bench.topic).records == 10 + 4001


def test_status_tells_who_halted_the_flow_when_no_worker_runs(bench: FlowBench) -> None:
    halt_flow(bench)
    bench.stop()
    found = flow_status(flow_of(bench), TIMEOUT_S).as_json()
    assert "is halted (failover: move-1 by" in found["problems"][0]
    assert found["halted"][0].keys() == {"task", "reason", "id", "by", "at"}
    assert (found["tasks"][0]["halted"], found["partitions"]["halted"]) == (1, 1)
