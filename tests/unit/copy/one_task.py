"""One task of a flow east->west in memory, for tests of a transaction, the assignment and the loop.

The task's own code is real, down to the plane and the admin clients: those are fakes here, and so is the question for
hanging transactions. Every call to the plane is noted, and any of them may be made to fail.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Collection, Iterable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
import structlog
from structlog.testing import LogCapture

from replicator.config import build
from replicator.copy import transaction_recovery
from replicator.copy.assignment import TaskAssignment
from replicator.copy.partition_checks import PartitionChecks
from replicator.copy.partition_states import PartitionStates
from replicator.copy.positions import Positions
from replicator.copy.stall_detector import StallDetector
from replicator.copy.sync_repair import SyncRepair
from replicator.copy.task_context import TaskContext, TaskTools
from replicator.copy.transaction import Transaction
from replicator.copy.transaction_loop import TransactionLoop
from replicator.copy.transaction_recovery import TransactionRecovery
from replicator.deadline import Deadline, StopToken
from replicator.errors import TP, KafkaOpError
from replicator.kafka.cluster import Cluster
from replicator.kafka.topics import Snapshot, SourceTopic
from replicator.metrics import Metrics, TaskMetrics
from replicator.offset_map.runs import Placement, Run
from replicator.offset_map.sync_format import ControlRecord, SyncRecord, TargetTopic, decode
from replicator.offset_map.topic_id import TopicId
from replicator.planes import Batch, Fetched, PlaneSettings
from replicator.protocol.hanging_transactions import HangingSearchResult

ORDERS, PAYMENTS = TP("orders", 0), TP("payments", 0)
ID, TARGET_ID, NEW_ID = TopicId([1] * 16), TopicId([2] * 16), TopicId([9] * 16)
NEWEST = Run(1, 0, 0, 10, 0, 10, ID, ())


@dataclass
class Records:
    """A batch of records without gaps."""

    tp: TP
    first_offset: int
    records: int
    topic_id: bytes = ID
    size_bytes: int = 100
    max_timestamp_ms: int = 1_000

    @property
    def next_offset(self) -> int:
        return self.first_offset + self.records


class MemoryPlane:
    """A plane whose target is a list of committed syncs and control records.

    Attributes:
        calls: what was called, in order; without `fetch` and `source_ends`.
        committed: what transactions committed to the syncs topic, in order.
        ends: where the next record lands, by partition on the target.
        failing: raised by the next call of this name.
        at: called before a call of this name.
    """

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.committed: list[object] = []
        self.ends: dict[TP, int] = {}
        self.failing: dict[str, Exception] = {}
        self.at: dict[str, Any] = {}
        self.fetched: list[Fetched] = []
        self.assigned: dict[TP, int] = {}
        self._open: list[object] | None = None
        self._placements: dict[TP, list[Placement]] = {}

    def _call(self, name: str) -> None:
        self.calls.append(name)
        self.at.pop(name, lambda: None)()
        if name in self.failing:
            raise self.failing.pop(name)

    def open(self, deadline: Deadline) -> None:
        self._call("open")

    def assign(self, positions: Mapping[TP, int]) -> None:
        self._call("assign")
        self.assigned = dict(positions)

    def add(self, positions: Mapping[TP, int]) -> None:
        self._call("add")
        self.assigned |= positions

    def remove(self, tps: Iterable[TP]) -> None:
        self._call("remove")
        for tp in tps:
            del self.assigned[tp]

    def fetch(self, wait_s: float) -> Fetched:
        return self.fetched.pop(0) if self.fetched else Fetched()

    def begin(self) -> None:
        self._call("begin")
        assert self._open is None, "a transaction is open already"
        self._open = []
        self._placements = {}

    def append(self, batch: Batch, target_topic: str, deadline: Deadline) -> None:
        self._call("append")
        assert self._open is not None
        target = TP(target_topic, batch.tp.partition)
        base = self.ends.get(target, 0)
        self.ends[target] = base + batch.records
        placement = Placement(batch.first_offset, batch.next_offset, batch.records, (), base)
        self._placements.setdefault(batch.tp, []).append(placement)

    def flush(self, deadline: Deadline) -> dict[TP, list[Placement]]:
        self._call("flush")
        return self._placements

    def write(self, topic: str, partition: int, key: bytes, value: bytes | None) -> None:
        self._call("write")
        assert self._open is not None
        assert (topic, partition) == ("replicator.east.syncs", 0)
        self._open.append(decode(key, value))

    def commit(self, deadline: Deadline) -> None:
        self._call("commit")
        assert self._open is not None
        self.committed += self._open
        self._open = None

    def abort(self, deadline: Deadline) -> None:
        self._call("abort")
        self._open = None

    def source_ends(self, tps: Iterable[TP]) -> dict[TP, int]:
        return {}

    def close(self) -> None:
        self._open = None


class Topics:
    """The admin client of a cluster: which topics there are, with their ids."""

    def __init__(self, ids: Mapping[str, TopicId]) -> None:
        self.ids = dict(ids)
        self.asked: list[str] = []

    def describe_topics(self, topics: Any, **_: Any) -> dict[str, Future[Any]]:
        found: dict[str, Future[Any]] = {}
        for name in topics.topic_names:
            self.asked.append(name)
            found[name] = Future()
            topic_id = base64.urlsafe_b64encode(self.ids[name]).decode().rstrip("=")
            found[name].set_result(SimpleNamespace(topic_id=topic_id, partitions=[], authorized_operations=None))
        return found


@dataclass
class FakeCatalog:
    """The flow's topics, which don't change by themselves."""

    snapshot: Snapshot
    ask_refresh: Callable[[], None]

    def ensure_targets(self, topics: Collection[str], deadline: Deadline) -> dict[str, KafkaOpError]:
        return {}


@dataclass
class Hanging:
    """What the target says about hanging transactions."""

    found: HangingSearchResult = field(default_factory=HangingSearchResult)
    asked: list[list[TP]] = field(default_factory=list)

    def find(self, tps: Collection[TP], deadline: Deadline) -> HangingSearchResult:
        self.asked.append(list(tps))
        return self.found

    def close(self) -> None:
        """Nothing is open."""


class OneTask:
    """A task with two source topics, `orders` and `payments`, of one partition each.

    Args:
        newest: the positions that its partition of the syncs topic holds.
        settings: of the flow.
    """

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, newest: Mapping[TP, Run] | None = None, **settings: Any
    ) -> None:
        clusters = {alias: {"bootstrap_servers": "h:1"} for alias in ("east", "west")}
        flow_settings = {"topics": ["orders", "payments"], "tasks": 1, **settings}
        flow = build({"clusters": clusters, "flows": {"east->west": flow_settings}}).flow()
        source = Cluster("east", "source", flow.source_cluster, flow.group)
        self.target = Cluster("west", "target", flow.target_cluster, flow.group)
        self.source_topics = Topics({"orders": ID, "payments": ID})
        self.target_topics = Topics({"east.orders": TARGET_ID, "east.payments": TARGET_ID})
        self.refreshes = 0
        topics = {name: SourceTopic(name, ID, 1, 1, f"east.{name}", 1, TARGET_ID) for name in ("orders", "payments")}
        self.snapshot = Snapshot(1, topics, (), 1)
        catalog: Any = FakeCatalog(self.snapshot, self._refresh)
        admins: Any = (self.source_topics, self.target_topics)
        self.checks = PartitionChecks(flow, source, self.target, catalog, admins)
        capture = LogCapture()
        self.events = capture.entries
        log = structlog.wrap_logger(None, [capture], structlog.make_filtering_bound_logger(0))
        context = TaskContext(
            flow=flow, source=source, target=self.target, catalog=catalog, checks=self.checks, log=log,
            confirm=lambda *_: True, plane_settings=lambda *_: plane_settings(), make_plane=lambda *_: self.plane,
        )  # fmt: skip
        self.stop_token = StopToken()
        self.states = PartitionStates(30)
        self.metrics = Metrics()
        self.backoffs: list[str] = []
        self.tools = TaskTools(
            number=0, context=context, metrics=TaskMetrics(self.metrics, flow.name, 0), stop_token=self.stop_token,
            log=log, states=self.states, stall_detector=StallDetector(lambda _: {}, lambda: None),
            sync_repair=SyncRepair(flow, self.target, 0),
            on_aborts=self.backoffs.append,
        )  # fmt: skip
        self.plane = MemoryPlane()
        self.positions = Positions({ORDERS: NEWEST} if newest is None else newest, {})
        self.hanging = Hanging()
        monkeypatch.setattr(transaction_recovery, "HangingTransactions", lambda *_: self.hanging)
        recovery = TransactionRecovery(flow, self.target, 0, plane_settings(), log)
        self.assignment = TaskAssignment(self.tools, self.positions, recovery)
        self.loop = TransactionLoop(self.tools, self.plane, self.positions, self.assignment, 1_000_000)

    def run(self, *tps: TP) -> None:
        """Have partitions run that have a position, and the plane know where the target's logs end."""
        for tp in tps:
            newest = self.positions.newest(tp)
            assert newest is not None
            self.positions.start(tp, TargetTopic(f"east.{tp.topic}", TARGET_ID), ID)
            self.plane.ends[TP(f"east.{tp.topic}", tp.partition)] = newest.downstream_next
            self.plane.assigned[tp] = newest.upstream_next

    def transaction(self) -> Transaction:
        """A transaction that has begun."""
        transaction = Transaction(self.tools, self.plane, self.positions)
        transaction.begin()
        return transaction

    def transact(self, *batches: Records) -> list[str]:
        """One transaction of the loop with these records; what it called of the plane."""
        seen = len(self.plane.calls)
        self.loop.transact(Fetched(list(batches)))
        return self.plane.calls[seen:]

    def syncs(self) -> list[tuple[TP, int]]:
        """The committed offset syncs: partition and position."""
        return [(it.tp, it.run.upstream_next) for it in self.plane.committed if isinstance(it, SyncRecord)]

    def published(self) -> dict[TP, str]:
        """What the last committed control record about each partition says: why it stopped, or where it goes."""
        bodies = {it.tp: it.body or {} for it in self.plane.committed if isinstance(it, ControlRecord)}
        return {tp: str(body.get("reason") or body.get("topic")) for tp, body in bodies.items()}

    def counted(self, name: str, **labels: str) -> float:
        """A metric's value; 0 where it has none."""
        return self.metrics.registry.get_sample_value(name, {"flow": "east->west", **labels}) or 0.0

    def _refresh(self) -> None:
        self.refreshes += 1


def plane_settings() -> PlaneSettings:
    return PlaneSettings("replicator-east-west-0", 60, "none", 1_000_000)
