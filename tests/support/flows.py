"""A flow of a test's own, run by a worker inside the test's process: its log as events, its metrics, its truth."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, MutableMapping
from typing import Any

import pytest
from structlog.testing import capture_logs

from replicator.config import Settings, build
from replicator.embedded import EmbeddedCluster
from replicator.errors import TP
from replicator.metrics import DATA_PLANES, Metrics
from replicator.offset_map.sync_format import PARTITION_STATE, ControlRecord, decode
from replicator.worker.worker import FlowWorker
from tests.support.compare import Outcome, check_syncs, compare, read_syncs
from tests.support.eventually import eventually
from tests.support.records import produce, read_topic
from tests.support.replicated_flow import ReplicatedFlow
from tests.support.selection import PLANES

START_S = 60.0
REACT_S = 60.0
"""How long a flow may take to notice something, on a machine that is busy."""

Event = MutableMapping[str, Any]

on_both_planes = pytest.mark.parametrize("make_flow", DATA_PLANES, indirect=True)
"""Of what a plane itself decides: its errors, and what it does with a log that was cut."""
on_any_plane = pytest.mark.parametrize("make_flow", PLANES, indirect=True)
"""Of what is above the planes: on one of them, with --thorough on each."""


class FlowBench(ReplicatedFlow):
    """A flow from `source` to `target` whose names no other test uses, with one task, so that its partitions share it.

    Args:
        events: the log of this test.
        flow: settings over the defaults.
        clusters: settings over the defaults, under ``source`` and ``target``.
        settings: of the process, over the defaults.
    """

    def __init__(
        self,
        source: EmbeddedCluster,
        target: EmbeddedCluster,
        events: list[Event],
        *,
        flow: dict[str, Any] | None = None,
        clusters: dict[str, dict[str, Any]] | None = None,
        settings: dict[str, Any] | None = None,
    ) -> None:
        super().__init__((source.admin_servers, target.admin_servers))
        self.source, self.target = self.servers
        self.events = events
        self.metrics = Metrics()
        self._worker: FlowWorker | None = None
        self._content = self.configuration(
            (source.bootstrap_servers, target.bootstrap_servers),
            flow={"tasks": 1, "refresh_topics_interval_s": 1, "transaction_timeout_s": 30, **(flow or {})},
            worker={"shutdown_timeout_s": 5, "buffer_bytes": 16_777_216},
            others=settings or {},
            clusters=clusters or {},
        )

    # --- the worker ---------------------------------------------------------------------------------------------------

    def settings(self) -> Settings:
        return build(self._content)

    def set(self, **flow: Any) -> None:
        """Change settings of the flow, for the next start."""
        self._content["flows"][self.name].update(flow)

    @property
    def worker(self) -> FlowWorker:
        assert self._worker is not None, "not started"
        return self._worker

    def start(self, *, runs: bool = True) -> FlowWorker:
        """Start a worker; `runs`: and wait until its task runs."""
        settings = self.settings()
        self._worker = FlowWorker(settings.flow(self.name), settings, self.metrics)
        seen = len(self.events)
        self._worker.start()
        if runs:
            self.await_event("task_runs", after=seen)
        return self._worker

    def start_filled(self) -> FlowBench:
        """Create the topic with ten records, and start; they are replicated when this returns."""
        self.create(self.topic)
        self.produce(self.topic, [b"%d" % i for i in range(10)])
        self.start()
        self.await_caught_up(self.topic)
        return self

    def stop(self) -> None:
        """Stop it cleanly."""
        if self._worker is not None:
            self._worker.stop()
            self._worker.join(30)
            assert not self._worker.is_alive(), self.log()
            self._worker = None

    # --- its log and metrics ------------------------------------------------------------------------------------------

    def log(self) -> str:
        """The last of its log, for the text of a failed assertion."""
        return "\n".join(str(dict(event)) for event in list(self.events)[-40:])

    def found(self, event: str, *, after: int = 0, **having: Any) -> list[Event]:
        """The events of this name with these values, from index `after` of the log on."""
        return [
            it
            for it in list(self.events)[after:]
            if it["event"] == event and all(it.get(key) == value for key, value in having.items())
        ]

    def await_event(self, event: str, *, within_s: float = REACT_S, after: int = 0, **having: Any) -> Event:
        """The first such event."""

        def seen() -> Event:
            found = self.found(event, after=after, **having)
            assert found, f"no {event} {having or ''}:\n{self.log()}"
            return found[0]

        return eventually(seen, within_s)

    def await_stopped(self, topic: str, partition: int, reason: str, *, after: int = 0) -> str:
        """Wait until a partition stopped alone for this reason; what the log says of it."""
        where: dict[str, Any] = {"topic": topic, "partition": partition, "reason": reason}
        return str(self.await_event("partition_stopped", after=after, **where)["error"])

    def metric(self, name: str, **labels: str) -> float:
        """The sum of the series of a metric that have these labels."""
        return sum(
            sample.value
            for family in self.metrics.registry.collect()
            for sample in family.samples
            if sample.name == name and all(sample.labels.get(key) == value for key, value in labels.items())
        )

    # --- the topics ---------------------------------------------------------------------------------------------------

    def produce(self, topic: str, records: list[Any]) -> None:
        """Write to a topic of the source."""
        produce(self.source, topic, records)

    def compared(self, topic: str, *, remote: str = "", everything: bool = True) -> Outcome:
        """Source and target now, without waiting; the runs are checked in any case."""
        originals = read_topic(self.source, topic)
        copies = read_topic(self.target, remote or self.remote(topic))
        check_syncs(read_syncs(self.target, self.syncs_topic), topic, originals, copies, everything=everything)
        return compare(originals, copies)

    def position(self, topic: str, partition: int) -> int:
        """Where the newest sync ends; -1 without any."""
        return read_syncs(self.target, self.syncs_topic).position(TP(topic, partition))

    def published(self, topic: str, partition: int) -> dict[str, Any] | None:
        """What the syncs topic says of a partition that stopped; None: nothing, or that it runs."""
        state: dict[str, Any] | None = None
        for record in read_topic(self.target, self.syncs_topic):
            found = decode(record.key or b"", record.value)
            is_state = isinstance(found, ControlRecord) and found.kind == PARTITION_STATE
            if is_state and found.tp == TP(topic, partition):
                state = found.body  # type: ignore[union-attr]
        return state


class FlowBenches:
    """Makes benches for one test, and stops their workers at its end."""

    def __init__(self, data_plane: str) -> None:
        self.data_plane = data_plane
        self.events: list[Event] = []
        self._made: list[FlowBench] = []

    def __call__(self, source: EmbeddedCluster, target: EmbeddedCluster, **options: Any) -> FlowBench:
        options["flow"] = {"data_plane": self.data_plane, **(options.get("flow") or {})}
        bench = FlowBench(source, target, self.events, **options)
        self._made.append(bench)
        return bench

    def close(self) -> None:
        for bench in self._made:
            bench.stop()


@contextlib.contextmanager
def flow_benches(data_plane: str = "auto") -> Iterator[FlowBenches]:
    """Benches whose workers' logs are captured."""
    with capture_logs() as events:
        benches = FlowBenches(data_plane)
        benches.events = events
        try:
            yield benches
        finally:
            benches.close()
