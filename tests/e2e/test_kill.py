"""kill -9 of the worker loses nothing, duplicates nothing, reorders nothing (invariants A, B, C, D)."""

from __future__ import annotations

import random
import time

import pytest

from replicator.embedded import EmbeddedCluster
from tests.e2e.conftest import TAKEOVER, Bench, MakeBench, on_both_planes
from tests.support.selection import thorough

KILLS = 4
THOROUGH_KILLS = 10
POINTS = (
    "SIGKILL:opened:2",
    "SIGKILL:floors_written:1",
    "SIGKILL:floors_committed:2",
    "SIGKILL:restored:3",
    "SIGKILL:appended:9",
    "SIGKILL:flushed:5",
    "SIGKILL:before_commit:5",
    "SIGKILL:in_commit:5",
    "SIGKILL:committed:5",
    "SIGKILL:restored:1",
)


@pytest.fixture
def bench(make_bench: MakeBench, source: EmbeddedCluster, target: EmbeddedCluster) -> Bench:
    return make_bench(source, target, worker=TAKEOVER)


@pytest.mark.parametrize("kills", [KILLS, pytest.param(THOROUGH_KILLS, marks=thorough)])
def test_killed_at_random_moments(bench: Bench, kills: int) -> None:
    """At moments from the first second of its life to well into its work."""
    seed = time.time_ns()
    print(f"seed {seed}")
    moments = random.Random(seed)
    pump = bench.pump()
    for _ in range(kills):
        worker = bench.start_worker()
        worker.await_event("tasks_assigned")
        pump.await_more(moments.randrange(3000))
        worker.kill()
    bench.start_worker()
    pump.stop()
    outcome = bench.verify()
    assert outcome.records > 5000
    assert pump.aborted > 1000
    assert not pump.errors


@on_both_planes
def test_killed_at_chosen_points(bench: Bench) -> None:
    """Between any two steps of taking a task over and of a transaction."""
    pump = bench.pump()
    for point in POINTS:
        assert bench.start_worker(point=point).await_exit(60) == -9
    bench.start_worker()
    pump.stop()
    outcome = bench.verify()
    assert outcome.records > 5000
    assert outcome.records == pump.acknowledged
