"""`--processes N`: a parent that passes signals on and replaces the dead."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from tests.e2e.conftest import TASKS, Bench
from tests.support.eventually import eventually
from tests.support.worker_process import WorkerProcess


def is_running(pid: int) -> bool:
    """Whether a process of this id lives (a zombie that nobody waits for does not)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def await_gone(pids: list[int]) -> None:
    eventually(lambda: not [pid for pid in pids if is_running(pid)], within_s=60)


def children(parent: WorkerProcess) -> list[int]:
    """The children that live."""
    pids = parent.await_event("processes_started")["pids"] + [
        event["replaced_by"] for event in parent.events("process_died")
    ]
    return [pid for pid in pids if is_running(pid)]


def await_joined(parent: WorkerProcess, pids: list[int]) -> None:
    """Wait until these children are members of the group."""

    def joined() -> bool:
        members = {int(event["member"].rsplit("/", 1)[1]) for event in parent.events("worker_joins")}
        assert set(pids) <= members, f"{members} of {pids}:\n{parent.log()[-4000:]}"
        return True

    eventually(joined, within_s=60)


def test_a_killed_child_is_replaced(bench: Bench) -> None:
    """Two processes share the tasks; one is killed and replaced; Ctrl-C on the terminal ends all, with 0."""
    pump = bench.pump()
    parent = bench.start_worker("--processes", "2", groups=True)
    parent.await_running(TASKS)
    pids = children(parent)
    assert len(pids) == 2
    await_joined(parent, pids)
    os.kill(pids[0], signal.SIGKILL)
    event = parent.await_event("process_died")
    assert event["exit_code"] == -9
    replaced = children(parent)
    assert len(replaced) == 2
    await_joined(parent, replaced)
    pump.await_more(1000)
    pump.stop()
    assert bench.verify().records == pump.acknowledged
    parent.send_to_group(signal.SIGINT)
    assert parent.await_exit() == 0
    assert len(parent.events("worker_stopped")) == 2, parent.log()[-4000:]
    await_gone(replaced)


def test_a_parent_that_is_killed_takes_its_children_along(bench: Bench) -> None:
    """kill -9 of the parent: the children stop by themselves, cleanly."""
    bench.create_topic()
    parent = bench.start_worker("--processes", "2")
    parent.await_running(TASKS)
    pids = children(parent)
    assert len(pids) == 2
    parent.kill()
    await_gone(pids)
    assert len(parent.events("worker_stopped")) == 2, parent.log()[-4000:]


def test_a_second_signal_ends_parent_and_children_at_once(bench: Bench) -> None:
    """The children hang (stopped), so that the first signal can't end them."""
    bench.create_topic()
    parent = bench.start_worker("--processes", "2")
    parent.await_running(TASKS)
    pids = children(parent)
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    parent.send(signal.SIGTERM)
    parent.send(signal.SIGINT)
    assert parent.await_exit() == 130
    await_gone(pids)
