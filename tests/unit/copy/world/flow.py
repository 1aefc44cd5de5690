"""Two clusters, a flow between them, and the workers that run its only task."""

from __future__ import annotations

import random
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from replicator import deadline
from replicator.config import Flow, build
from replicator.copy.partition_checks import PartitionChecks
from replicator.copy.task import Task
from replicator.copy.task_context import TaskContext
from replicator.deadline import Deadline
from replicator.errors import TP, KafkaOpError
from replicator.kafka.topics import Catalog, Snapshot
from replicator.metrics import Metrics, TaskMetrics
from replicator.names import transactional_id
from replicator.planes import PlaneSettings
from replicator.planes.batches.plane import BatchesPlane
from replicator.protocol import brokers, event_loop
from tests.unit.copy.world.cluster import ModelCluster
from tests.unit.copy.world.librdkafka import WorldCluster
from tests.unit.copy.world.simulation import Event, Process, Simulation
from tests.unit.copy.world.wire import Network, WorldLink
from tests.unit.protocol.record_format.logs import START_MS, TRANSACTIONAL, BatchSpec

TASK = 0
TRANSACTION_TIMEOUT_S = 10
REFRESH_S = 2
BUFFER_BYTES = 8 << 20


class World:
    """See the module. `close` it: it replaces time and connections in the product's modules.

    Args:
        topics: of the source, with their numbers of partitions; all of them are replicated.
        settings: of the flow, over the world's.

    Attributes:
        trouble: what no log may hold: faults of the program.
    """

    def __init__(self, topics: Mapping[str, int], **settings: Any) -> None:
        random.seed(0)
        self.simulation = Simulation()
        self.network = Network(self.simulation)
        self.source = ModelCluster(self.simulation, "east")
        self.target = ModelCluster(self.simulation, "west")
        self.network.add(self.source)
        self.network.add(self.target)
        usual = {
            "topics": sorted(topics), "tasks": 1, "data_plane": "batches", "sync_groups": False,
            "transaction_timeout_s": TRANSACTION_TIMEOUT_S, "refresh_topics_interval_s": REFRESH_S,
        }  # fmt: skip
        clusters = {it: {"bootstrap_servers": f"{it}-1:9092,{it}-2:9092"} for it in ("east", "west")}
        self.flow: Flow = build({"clusters": clusters, "flows": {"east->west": usual | settings}}).flow()
        self.syncs = TP(self.flow.syncs_topic, TASK)
        self.target.create(self.flow.syncs_topic, 1)
        for name, partitions in topics.items():
            self.source.create(name, partitions)
        self.owner: Worker | None = None
        self.trouble: list[str] = []
        self.events: list[str] = []
        self._patch = pytest.MonkeyPatch()
        self._replace()
        self._applications = 0
        self._values = 0

    def _replace(self) -> None:
        """Put virtual time and the model's connections under the product's code."""
        simulation = self.simulation
        clock = SimpleNamespace(
            monotonic=lambda: simulation.now_s,
            time=lambda: START_MS / 1000 + simulation.now_s,
            sleep=simulation.sleep,
        )
        for name, module in list(sys.modules.items()):
            if name.startswith("replicator.") and getattr(module, "time", None) is time:
                self._patch.setattr(module, "time", clock)
        self._patch.setattr(deadline, "threading", SimpleNamespace(Event=partial(Event, simulation)))
        self._patch.setattr(brokers, "BrokerLink", partial(WorldLink, self.network))
        self._patch.setattr(event_loop, "socket", SimpleNamespace(socketpair=lambda: (_NoSocket(), _NoSocket())))
        selector = partial(_NoSelector, simulation)
        self._patch.setattr(event_loop, "selectors", SimpleNamespace(DefaultSelector=selector, EVENT_READ=1))

    def close(self) -> None:
        for process in list(self.simulation.processes):
            self.simulation.kill(process)
        self._patch.undo()

    def remote(self, tp: TP) -> TP:
        return TP(self.flow.naming.remote_topic(tp.topic), tp.partition)

    # --- records of the source ----------------------------------------------------------------------------------------

    def _batch(self, tp: TP, gaps: list[int], **more: Any) -> bytes:
        """Records with these gaps before them, which compaction left."""
        records: list[Any] = []
        offset = 0
        for gap in gaps:
            offset += gap
            self._values += 1
            at_ms = START_MS + self._values
            headers = [("h", b"%d" % self._values)] if self._values % 3 == 0 else []
            value = None if self._values % 7 == 0 else b"value"
            records.append((offset, at_ms, f"{tp} {self._values}".encode(), value, headers))
            offset += 1
        return BatchSpec(0, records, **more).encode()

    def produce(self, tp: TP, records: int = 3, *, gaps: list[int] | None = None) -> None:
        """Plain records."""
        code, _ = self._append(tp, self._batch(tp, gaps or [0] * records))
        assert code == 0, code

    def transact(self, records: Mapping[TP, int], *, commit: bool | None = True) -> Callable[[bool], None]:
        """A transaction of some application; None: it stays open, and is ended by what is returned."""
        self._applications += 1
        name, coordinator = f"app-{self._applications}", self.source.coordinator
        _, producer_id, epoch = coordinator.initialise(name, 3600.0, -1, -1)
        coordinator.add(name, producer_id, epoch, records)
        for tp, count in records.items():
            data = self._batch(tp, [0] * count, attributes=TRANSACTIONAL, producer_id=producer_id)
            code, _ = self._append(tp, data)
            assert code == 0, code

        def end(is_commit: bool) -> None:
            code = coordinator.end(name, producer_id, epoch, commit=is_commit)
            assert code == 0, code

        if commit is not None:
            end(commit)
        return end

    def _append(self, tp: TP, data: bytes) -> tuple[int, int]:
        partition = self.source.partition(tp)
        assert partition is not None
        producer_id = int.from_bytes(data[43:51], "big", signed=True)
        return partition.log.append(data, self.source.coordinator.open_transaction(producer_id, tp))

    # --- workers ------------------------------------------------------------------------------------------------------

    def start(self) -> Worker:
        """A new owner of the task; the earlier one gets no notice."""
        self.owner = Worker(self)
        return self.owner

    def kill(self, worker: Worker, *, late_s: float | None = None) -> None:
        """It dies where it is; what it sent and no broker has read yet arrives so much later; None: never."""
        if worker.process in self.simulation.processes:
            self.network.died(worker.process, late_s=late_s)
            self.simulation.kill(worker.process)


class Worker:
    """One process with the task."""

    def __init__(self, world: World) -> None:
        self.world = world
        flow = world.flow
        source = WorldCluster(world.source, "source", flow.source_cluster, flow.group)
        target = WorldCluster(world.target, "target", flow.target_cluster, flow.group)
        admins = (source.admin(), target.admin())
        log: Any = _Log(world)
        self.catalog = _Catalog(world.simulation, flow, source, target, admins, log)
        self.metrics = Metrics(CollectorRegistry())
        context = TaskContext(
            flow=flow,
            source=source,
            target=target,
            catalog=self.catalog,
            checks=PartitionChecks(flow, source, target, self.catalog, admins),
            log=log,
            confirm=self._confirm,
            plane_settings=self._plane_settings,
            make_plane=lambda settings, _: BatchesPlane(source, target, settings),
        )
        self.task = Task(TASK, context, TaskMetrics(self.metrics, flow.name, TASK))
        self.process: Process = world.simulation.start(self.task.run)

    @property
    def is_running(self) -> bool:
        return self.task.state == "running"

    def state_metric(self, state: str) -> float:
        """The gauge of this state."""
        gauge = self.metrics.task_state.labels(self.world.flow.name, str(TASK), state)
        return float(gauge._value.get())

    def _confirm(self, _task: int, _deadline: Deadline, _is_stopped: Callable[[], bool]) -> bool:
        self.world.simulation.sleep(0.001)
        return self.world.owner is self

    def _plane_settings(self, task: int, batch_bytes: int) -> PlaneSettings:
        flow = self.world.flow
        return PlaneSettings(
            transactional_id=transactional_id(flow.source, flow.target, task),
            transaction_timeout_s=flow.settings.transaction_timeout_s,
            compression="none",
            buffer_bytes=BUFFER_BYTES,
            batch_bytes=batch_bytes,
        )


class _Catalog(Catalog):
    """Refreshes itself when it is looked at, as `keep_fresh` does beside the tasks."""

    def __init__(self, simulation: Simulation, *arguments: Any) -> None:
        self._simulation = simulation
        self._next_s = -1.0
        self._is_refreshing = False
        super().__init__(*arguments)

    @property
    def snapshot(self) -> Snapshot:
        is_due = self._next_s >= 0 and (self._simulation.now_s >= self._next_s or self._wanted.is_set())
        if is_due and not self._lock.locked():
            self._wanted.clear()
            try:
                self.refresh(Deadline(10))
                self._next_s = self._simulation.now_s + REFRESH_S
            except KafkaOpError as error:
                self.problem = str(error)
                self._next_s = self._simulation.now_s + 1
        return self._snapshot

    @snapshot.setter
    def snapshot(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot
        self._next_s = max(self._next_s, 0.0)

    def wait_for(self, number: int, deadline: Deadline) -> Snapshot | None:
        while self.snapshot.number < number:
            if deadline.expired:
                return None
            self._simulation.sleep(0.05)
        return self._snapshot


class _Log:
    """Keeps what is logged."""

    def __init__(self, world: World) -> None:
        self._world = world

    def bind(self, **_: Any) -> _Log:
        return self

    def debug(self, event: str, **values: Any) -> None:
        self._note(event, values)

    info = warning = debug

    def exception(self, event: str, **_: Any) -> None:
        self._world.trouble.append(f"{event}: {traceback.format_exc()}")

    def _note(self, event: str, values: Mapping[str, Any]) -> None:
        self._world.events.append(f"{self._world.simulation.now_s:.3f} {event} {values}")


class _NoSocket:
    def setblocking(self, _: bool) -> None: ...
    def close(self) -> None: ...


class _NoSelector:
    """Where an event loop waits: until the simulation says that something came."""

    def __init__(self, simulation: Simulation) -> None:
        self._simulation = simulation

    def register(self, *_: Any) -> None: ...
    def close(self) -> None: ...

    def select(self, wait_s: float) -> list[Any]:
        self._simulation.wait(wait_s)
        return []
