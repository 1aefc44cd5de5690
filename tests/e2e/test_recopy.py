"""A lost copy is made anew under load, while the command and the workers are killed again and again (A, B, G)."""

from __future__ import annotations

import contextlib
import json
import random
import subprocess

from tests.e2e.conftest import TASKS, Bench
from tests.support.commands import Command, run
from tests.support.eventually import eventually
from tests.support.records import NewRecord, admin_client, create_topic, delete_topic, produce

PARTITIONS = 8
RECORDS = 4000
KILLS = 6
MAX_DELAY_S = 2.0
"""A command takes about a second: it is killed before, in and after its transactions."""


def test_recopy_and_workers_killed_at_any_moment(bench: Bench) -> None:
    """The copy is whole in the end and holds nothing twice; nor does the topic that is copied all the time."""
    servers = bench.source.bootstrap_servers
    lost = create_topic(servers, f"lost-{bench.topic}", partitions=PARTITIONS)
    produce(servers, lost, [NewRecord(b"%d" % n, b"k", n % PARTITIONS) for n in range(RECORDS)])
    pump = bench.pump()
    worker = bench.start_worker()
    worker.await_running(TASKS)
    bench.await_caught_up(lost)
    chance = random.Random(7)
    ended = 0
    for turn in range(KILLS):
        lose(bench, lost)
        with contextlib.suppress(subprocess.TimeoutExpired), Command(bench.file, "recopy", lost, "--yes") as command:
            ended += command.wait(chance.uniform(0.5, MAX_DELAY_S)) == 0  # or it is killed at the end of the block
        if turn % 2:
            worker.kill()
            worker = bench.start_worker()
            worker.await_running(TASKS)
    lose(bench, lost)
    produce(servers, lost, [NewRecord(b"more%d" % n, b"k", n % PARTITIONS) for n in range(PARTITIONS)])

    def is_copied() -> bool:
        """A worker may have begun a partition in the topic while that was deleted: then the command is run again."""
        with Command(bench.file, "recopy", lost, "--yes") as command:
            assert command.wait() in (0, 3), command.report()
        bench.await_caught_up(lost, within_s=30)
        return True

    eventually(is_copied, 200)
    print(f"{ended} of {KILLS} commands ended before they were killed")
    pump.await_more(1000)
    pump.stop()
    assert bench.verify(lost).records == RECORDS + PARTITIONS
    assert bench.verify().records == pump.acknowledged
    assert {it["command"] for it in run_history(bench)} == {"recopy"}


def lose(bench: Bench, topic: str) -> None:
    """Delete the copy, if there is one."""
    servers = bench.target.bootstrap_servers
    if bench.remote(topic) in admin_client(servers).list_topics(timeout=60).topics:
        delete_topic(servers, bench.remote(topic))


def run_history(bench: Bench) -> list[dict[str, str]]:
    found: list[dict[str, str]] = json.loads(run(bench.file, "history", "-o", "json").stdout)
    return found
