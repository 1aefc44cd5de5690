"""The fixture of the end-to-end tests: a flow of its own for each test, on shared or own clusters."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from replicator.embedded import EmbeddedCluster
from replicator.metrics import DATA_PLANES
from tests.support.pump import Pump
from tests.support.replicated_flow import ReplicatedFlow
from tests.support.selection import PLANES
from tests.support.worker_process import WorkerProcess

PARTITIONS = 6
TASKS = 4
TAKEOVER = {"session_timeout_s": 2}
"""Settings of workers that are killed again and again: the next one waits for the end of the session."""


class Bench(ReplicatedFlow):
    """A flow from `source` to `target` with names that no other test uses, its topic, and its workers.

    Args:
        flow: settings over the test's defaults.
        worker: settings over the test's defaults.
        others: settings at the top of the file.
    """

    def __init__(
        self, source: EmbeddedCluster, target: EmbeddedCluster, directory: Path,
        flow: dict[str, Any], worker: dict[str, Any], others: dict[str, Any],
    ) -> None:  # fmt: skip
        super().__init__((source.bootstrap_servers, target.bootstrap_servers))
        self.data_plane = str(flow.get("data_plane"))
        self.source, self.target = source, target
        self.workers: list[WorkerProcess] = []
        self._pumps: list[Pump] = []
        self.file = directory / f"{self.run}.yaml"
        content = self.configuration(
            self.servers,
            flow={"tasks": TASKS, "refresh_topics_interval_s": 2, **flow},
            worker=worker,
            others={"http": {"port": 0}, "log": {"format": "json"}, **others},
        )
        self.file.write_text(json.dumps(content))  # JSON is YAML

    def create_topic(self, **options: Any) -> str:
        """Create the flow's topic on the source."""
        return self.create(self.topic, **{"partitions": PARTITIONS, **options})

    def pump(self, **options: Any) -> Pump:
        """Write to the flow's topic from now on; it is created first, unless `first` says that this goes on."""
        if "first" not in options:
            self.create_topic()
        pump = Pump(self.source.bootstrap_servers, self.topic, PARTITIONS, **options).start()
        self._pumps.append(pump)
        return pump

    def start_worker(self, *arguments: str, point: str = "", groups: bool = False) -> WorkerProcess:
        """Start `replicator run`, with further arguments."""
        worker = WorkerProcess(["-c", str(self.file), "run", *arguments], point=point, groups=groups)
        self.workers.append(worker)
        return worker

    def log(self) -> str:
        return "\n".join(worker.log()[-2500:] for worker in self.workers if worker.is_alive())

    def close(self) -> None:
        """End the pumps and the workers."""
        with contextlib.ExitStack() as stack:
            for pump in self._pumps:
                stack.callback(pump.abandon)
            for worker in self.workers:
                stack.callback(worker.close)


MakeBench = Callable[..., Bench]


on_both_planes = pytest.mark.parametrize("make_bench", DATA_PLANES, indirect=True)
"""Of what a plane itself decides: transactions that end at any step, rebalances, brokers that die."""


@pytest.fixture(params=PLANES)
def make_bench(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[MakeBench]:
    """Makes benches: `make_bench(source, target, flow={…}, worker={…}, connect_timeout_s=…)`."""
    with contextlib.ExitStack() as stack:

        def make(
            source: EmbeddedCluster,
            target: EmbeddedCluster,
            flow: dict[str, Any] | None = None,
            worker: dict[str, Any] | None = None,
            **others: Any,
        ) -> Bench:
            on_plane = {"data_plane": request.param, **(flow or {})}
            bench = Bench(source, target, tmp_path, on_plane, worker or {}, others)
            stack.callback(bench.close)
            return bench

        yield make


@pytest.fixture
def bench(make_bench: MakeBench, source: EmbeddedCluster, target: EmbeddedCluster) -> Bench:
    """A bench on the clusters that the tests share."""
    return make_bench(source, target)
