"""A paused flow stands still whatever its workers do, and goes on where it stood (invariants A, C, G)."""

from __future__ import annotations

import json
from typing import Any

from tests.e2e.conftest import TASKS, Bench
from tests.support.commands import run
from tests.support.eventually import eventually
from tests.support.records import admin_client, end_offsets
from tests.support.worker_process import WorkerProcess

NOTICED_S = 60.0


def switch(bench: Bench, command: str, code: int = 0) -> dict[str, Any]:
    """Pause or resume without questions; its JSON."""
    found = run(bench.file, command, "--yes", "-o", "json", code=code).json()
    assert (found["command"], found["flow"], len(found["tasks"])) == (command, bench.name, TASKS)
    return found


def states(document: dict[str, Any]) -> set[str]:
    return {task["state"] for task in document["tasks"]}


def high_watermarks(bench: Bench) -> list[dict[int, int]]:
    """Of the copy, the syncs and the checkpoints: whatever is written moves them, committed or not."""
    servers = bench.target.bootstrap_servers
    topics = (bench.remote(bench.topic), bench.syncs_topic, bench.checkpoints_topic)
    return [end_offsets(servers, topic, isolation="read_uncommitted") for topic in topics]


def await_halted(worker: WorkerProcess) -> None:
    def all_halted() -> bool:
        halted = {event["task"] for event in worker.events("task_halted")}
        assert halted == set(range(TASKS)), f"only the tasks {halted} are halted:\n{worker.log()[-6000:]}"
        return True

    eventually(all_halted, NOTICED_S)


def test_a_paused_flow_stands_still_until_it_is_resumed(bench: Bench) -> None:
    pump = bench.pump()
    first = bench.start_worker()
    first.await_running(TASKS)
    pump.await_more(1000)
    eventually(lambda: bench.checkpoints_topic in admin_client(bench.target.bootstrap_servers).list_topics().topics, 20)

    paused = switch(bench, "pause")
    assert (paused["state"], states(paused)) == ("done", {"halted"})
    await_halted(first)
    before = high_watermarks(bench)
    status, body = first.probe("/readyz")
    assert (status, f"is halted (paused: {paused['id']} by " in body) == (503, True), body
    pump.await_more(1000)

    again = switch(bench, "pause")
    assert (again["state"], states(again)) == ("done", {"halted"})
    assert again["tasks"] == paused["tasks"]
    first.kill()
    second = bench.start_worker()
    await_halted(second)
    assert not second.events("task_runs")
    pump.await_more(1000)
    assert high_watermarks(bench) == before, f"written while paused:\n{second.log()[-6000:]}"

    resumed = switch(bench, "resume")
    assert (resumed["state"], states(resumed)) == ("done", {"running"})
    second.await_running(TASKS)
    pump.stop()
    assert bench.verify().records == pump.acknowledged
    eventually(lambda: second.probe("/readyz")[0] == 200, NOTICED_S)

    history = json.loads(run(bench.file, "history", "-o", "json").stdout)
    assert [(it["id"], it["command"], it["state"]) for it in history] == [
        (paused["id"], "pause", "done"),
        (resumed["id"], "resume", "done"),
    ]
    assert all(it["operator"] and it["host"] and it["time"] for it in history)
