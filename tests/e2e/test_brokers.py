"""Brokers die and come back under running workers (invariants A, B, D)."""

from __future__ import annotations

import signal
import time

import pytest

from replicator.embedded import Clusters, EmbeddedCluster
from replicator.errors import TP
from tests.e2e.conftest import TASKS, Bench, MakeBench
from tests.support.brokers import on_killable_pair, on_three_brokers
from tests.support.eventually import eventually
from tests.support.groups import commit, offsets
from tests.support.records import end_offsets, leader_of
from tests.support.replicated_flow import CATCH_UP_S
from tests.support.selection import thorough
from tests.support.worker_process import WorkerProcess


@pytest.fixture
def bench(make_bench: MakeBench, killable_pair: Clusters) -> Bench:
    return make_bench(killable_pair["source"], killable_pair["target"])


def await_ready(worker: WorkerProcess, within_s: float = 90.0) -> None:
    """Wait until the process calls itself ready."""

    def is_ready() -> bool:
        status, body = worker.probe("/readyz")
        assert status == 200, f"{status} {body}\n{worker.log()[-4000:]}"
        return True

    eventually(is_ready, within_s, every_s=0.1)


@on_killable_pair
@pytest.mark.parametrize(
    ("make_bench", "victim", "kills"),
    [
        ("batches", "source", 1),
        ("batches", "target", 2),
        ("records", "target", 1),
        pytest.param("records", "source", 1, marks=thorough),
    ],
    indirect=["make_bench"],
)
def test_a_broker_is_killed_and_restarted(
    make_bench: MakeBench, killable_pair: Clusters, victim: str, kills: int
) -> None:
    """kill -9, and a clean stop, each for so long that background jobs fail: the same process goes on, its groups too.

    librdkafka alone would end it: its requests about groups time out, and their coordinator comes back (issue 4605).
    """
    source, cluster = killable_pair["source"], killable_pair[victim]
    bench = make_bench(
        source,
        killable_pair["target"],
        flow={"checkpoint_interval_s": 0.2},
        worker={"session_timeout_s": 300},  # the jobs continue, and fail, while the target is away
        connect_timeout_s=2,
    )
    pump = bench.pump(records_per_s=500)
    worker = bench.start_worker(groups=True)
    worker.await_running(TASKS)
    groups = [f"{bench.topic}-{number}" for number in range(20)]
    commit_all(bench, groups)
    for stop in [cluster.kill_broker] * kills + [cluster.stop_broker]:
        pump.await_more(750)
        before = job_failures(worker)  # jobs fail while the broker still stops
        stop(1)
        await_failures(worker, before + 1)
        cluster.start_broker(1)
        await_ready(worker)
    pump.await_more(750)
    pump.stop()
    assert bench.verify().records > 1500
    commit_all(bench, groups)
    await_ready(worker)
    assert worker.is_alive()


def job_failures(worker: WorkerProcess) -> float:
    """Failed steps of background jobs so far: each took as long as a request may."""
    return sum(worker.metric("replicator_duty_failures_total").values())


def await_failures(worker: WorkerProcess, wanted: float) -> None:
    def have_failed() -> bool:
        failed = job_failures(worker)
        assert failed >= wanted, f"{failed:g}, not {wanted:g}\n{worker.log()[-6000:]}"
        return True

    eventually(have_failed, CATCH_UP_S)


def commit_all(bench: Bench, groups: list[str]) -> None:
    """Commit the source's end for groups, and wait until group sync moves them on the target."""
    source, target = bench.source.bootstrap_servers, bench.target.bootstrap_servers
    before = {group: offsets(target, group).get(TP(bench.remote(bench.topic), 0), -1) for group in groups}
    for group in groups:
        commit(source, group, {TP(bench.topic, 0): end_offsets(source, bench.topic)[0]})

    def are_synced() -> bool:
        found = {group: offsets(target, group).get(TP(bench.remote(bench.topic), 0), -1) for group in groups}
        late = {group: offset for group, offset in found.items() if offset <= before[group]}
        assert not late, f"{late}\n{bench.workers[-1].log()[-4000:]}"
        return True

    eventually(are_synced, CATCH_UP_S)  # a duty that failed a few times waits for half a minute


@on_three_brokers
def test_a_target_of_three_loses_leaders(
    make_bench: MakeBench, source: EmbeddedCluster, three_brokers: EmbeddedCluster
) -> None:
    """The leader of a partition is killed, twice, under two workers: coordinators move too, and nothing stops."""
    three = three_brokers
    bench = make_bench(source, three, flow={"replication_factor": 3}, worker={"session_timeout_s": 6})
    pump = bench.pump(records_per_s=500)
    workers = [bench.start_worker(), bench.start_worker()]
    for worker in workers:
        worker.await_running(1)
    for partition in (0, 1):
        pump.await_more(500)
        leader = leader_of(three.bootstrap_servers, bench.remote(bench.topic), partition)
        three.kill_broker(leader)
        pump.await_more(500)
        await_other_leader(three, bench.remote(bench.topic), partition, leader)
        three.start_broker(leader)
    pump.stop()
    assert bench.verify().records == pump.acknowledged > 1000
    assert all(worker.is_alive() for worker in workers)


def await_other_leader(cluster: EmbeddedCluster, topic: str, partition: int, old: int) -> None:
    """Wait until another broker leads the partition."""
    eventually(lambda: leader_of(cluster.bootstrap_servers, topic, partition) not in {old, -1}, within_s=60)


@on_killable_pair
def test_a_hanging_target_does_not_hold_a_stop_back(bench: Bench, killable_pair: Clusters) -> None:
    """SIGTERM ends the process within its deadline although no commit is possible; a second one ends it at once."""
    pump = bench.pump()
    patient, hasty = bench.start_worker(), bench.start_worker()
    for worker in (patient, hasty):
        worker.await_running(1)
    pump.await_more(1000)
    killable_pair["target"].signal_broker(1, signal.SIGSTOP)
    try:
        pump.await_more(1000)
        asked_s = time.monotonic()
        patient.send(signal.SIGTERM)
        hasty.send(signal.SIGTERM)
        hasty.await_event("worker_stopping")
        assert hasty.is_alive()
        hasty.send(signal.SIGINT)
        assert hasty.await_exit() == 130
        code = patient.await_exit(25)
        assert code == 0
        print(f"with a hanging target: exit {code} after {time.monotonic() - asked_s:.1f} s")
    finally:
        killable_pair["target"].signal_broker(1, signal.SIGCONT)
    bench.start_worker()
    pump.stop()
    assert bench.verify().records > 1000
