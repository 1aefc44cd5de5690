"""A worker that slept through its session is fenced when it wakes up, says so, and writes nothing (invariant C)."""

from __future__ import annotations

import signal

import pytest

from tests.e2e.conftest import TASKS, Bench
from tests.support.eventually import eventually
from tests.support.records import end_offsets
from tests.support.selection import thorough


def high_watermarks(bench: Bench) -> list[dict[int, int]]:
    """Of the copy and of the syncs: whatever is written moves them, committed or not."""
    servers = bench.target.bootstrap_servers
    return [
        end_offsets(servers, t, isolation="read_uncommitted") for t in (bench.remote(bench.topic), bench.syncs_topic)
    ]


@pytest.mark.parametrize(
    ("make_bench", "place"),
    [
        ("batches", "appended"),
        ("batches", "flushed"),
        ("batches", "before_commit"),
        ("records", "flushed"),
        pytest.param("records", "appended", marks=thorough),
        pytest.param("records", "before_commit", marks=thorough),
    ],
    indirect=["make_bench"],
)
def test_a_zombie_is_fenced_says_so_and_writes_nothing(bench: Bench, place: str) -> None:
    """Frozen in the middle of a transaction, its tasks taken over, and woken: then it works on as a member again."""
    bench.create_topic()
    zombie = bench.start_worker(point=f"SIGSTOP:{place}:8")
    zombie.await_running(TASKS)
    pump = bench.pump(first=0)  # not before: a fast task would freeze the worker while the last one still starts
    zombie.await_stopped()
    successor = bench.start_worker()
    successor.await_running(TASKS)
    pump.stop()
    first = bench.verify()
    assert first.records == pump.acknowledged
    before = high_watermarks(bench)

    zombie.send(signal.SIGCONT)

    def has_said_so() -> bool:
        lost = {task for event in zombie.events("tasks_lost") for task in event["tasks"]}
        fenced = {event["task"] for event in zombie.events("task_fenced")}
        assert lost | fenced == set(range(TASKS)), f"lost {lost}, fenced {fenced}:\n{zombie.log()[-5000:]}"
        return True

    eventually(has_said_so, within_s=60)
    joined = zombie.await_event("tasks_assigned", after_s=zombie.events("tasks_lost")[0]["at_s"])
    moved = set(joined["tasks"])
    eventually(lambda: {e["task"] for e in zombie.events("task_runs", after_s=joined["at_s"])} >= moved, within_s=60)
    assert high_watermarks(bench) == before, f"the zombie wrote:\n{zombie.log()[-5000:]}"

    again = bench.pump(first=10_000_000)
    again.await_more(2000)
    again.stop()
    assert bench.verify().records == pump.acknowledged + again.acknowledged
    assert successor.is_alive()
    assert zombie.is_alive()
