"""A failover needs the target alone: whatever the source says, or no longer says, it goes by what was replicated."""

from __future__ import annotations

import base64
import time
from collections.abc import Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

import pytest

from replicator.checkpoints.topic import KnownGroups
from replicator.config import Settings, build
from replicator.deadline import Deadline
from replicator.errors import TP, KafkaOpError, RetriableError
from replicator.kafka.cluster import Cluster
from replicator.moves import clusters as flow_clusters
from replicator.moves import count, world
from replicator.moves.clusters import FlowClusters
from replicator.moves.count import Refiner
from replicator.moves.model import MoveCommand, MovePlan, Order, Unrefined
from replicator.moves.plan import plan_move
from replicator.moves.world import MoveClusters
from replicator.offset_map.map import Between
from replicator.offset_map.mm2_format import Checkpoint
from replicator.offset_map.runs import Run
from replicator.offset_map.topic_id import NO_ID, TopicId
from replicator.syncs.state import MapsState
from tests.unit.moves.two_clusters import EAST_WEST, WEST_EAST, topic_id

ORDERS, COPY = TP("orders", 0), TP("east.orders", 0)
ID = topic_id("orders")
RUNS = (Run(1, 100, 0, 0, 0, 100, ID, ()), Run(2, 100, 0, 10, 0, 111, ID, ()))
THINNED = (RUNS[0], Run(9, 200, 60, 10, 50, 210, ID, ()))
SYNCS = {"replicator.east.syncs", "replicator.west.syncs"}
SILENT = RetriableError("no answer from east", op="ask")
GONE = KafkaOpError("unknown", op="describe topics", code="UNKNOWN_TOPIC_OR_PART")


@dataclass
class Source:
    """What the source has now, and each question that it was asked."""

    ids: dict[str, bytes] = field(default_factory=lambda: {"orders": ID})
    end: int = 111
    is_silent: bool = False
    asked: list[str] = field(default_factory=list)

    def describe(self, names: Iterable[str]) -> dict[str, Any]:
        self.asked.append("topics")
        if self.is_silent:
            return dict.fromkeys(names, SILENT)
        return {name: described(self.ids[name]) if name in self.ids else GONE for name in names}


def described(raw: bytes) -> Any:
    return SimpleNamespace(topic_id=base64.urlsafe_b64encode(raw).decode().rstrip("="))


def settings() -> Settings:
    clusters = {alias: {"bootstrap_servers": f"{alias}:9092"} for alias in ("east", "west")}
    flows = {EAST_WEST: {"topics": ["orders"]}, WEST_EAST: {"topics": ["payments"]}}
    return build({"clusters": clusters, "flows": flows})


@dataclass
class Desk:
    """A move's view of both clusters, with a target that says what it is told to say."""

    world: MoveClusters
    source: Source
    syncs: MapsState
    checkpoint: Checkpoint = field(default=Checkpoint("g", COPY, 104, 4))
    counted: list[tuple[bool, float | None]] = field(default_factory=list)
    """Of every counter of records: whether it has the source, and how long that may take."""

    def plan(self, *, is_all: bool = False) -> MovePlan:
        order = Order("now", MoveCommand.FAILOVER, EAST_WEST, ("g",), is_all)
        return plan_move(order, self.world.look(self.world.with_routes(order) if is_all else order))

    def holds(self, runs: Iterable[Run]) -> None:
        self.syncs.forget(ORDERS)
        for run in runs:
            self.syncs.take_run(ORDERS, run)


@pytest.fixture
def desk(monkeypatch: pytest.MonkeyPatch) -> Desk:
    source, syncs = Source(), MapsState()
    clusters = FlowClusters(settings(), settings().flow(EAST_WEST))
    east, west = object(), object()
    clusters.admins.update({"east": east, "west": west})  # type: ignore[dict-item]

    def list_topics(cluster: Cluster, *_: object) -> Any:
        assert cluster.alias == "west"
        return SimpleNamespace(topics=dict.fromkeys(SYNCS, SimpleNamespace(partitions={0: None})))

    def describe_topics(admin: object, names: Iterable[str], _: Deadline) -> dict[str, Any]:
        return source.describe(names) if admin is east else {name: described(topic_id(name)) for name in names}

    def list_offsets(cluster: Cluster, _: object, specs: Mapping[TP, object], deadline: Deadline) -> dict[TP, Any]:
        assert cluster.alias == "east"
        assert deadline.seconds <= flow_clusters.SOURCE_PATIENCE_S
        return dict.fromkeys(specs, SILENT if source.is_silent else source.end)

    class Reader:
        def __init__(self, cluster: Cluster, *_: object) -> None:
            assert cluster.alias == "west", "the maps of the flow back are on the source"

        def read_to_end(self, _: Deadline) -> MapsState:
            return syncs

        def read_on(self, *_: object) -> None:
            pass

    class Catalog:
        def __init__(self, *_: object) -> None:
            pass

        def refresh(self, _: Deadline) -> None:
            raise AssertionError("the source is asked for its topics")

    def cluster_error(self: Cluster, cause: KafkaOpError, **_: object) -> KafkaOpError:
        return cause

    for name, fake in {
        "list_topics": list_topics, "describe_topics": describe_topics, "list_offsets": list_offsets,
        "SyncsReader": Reader, "Catalog": Catalog, "syncs_ends": lambda *_, **__: {}, "TOPICS_FOR_S": -1.0,
    }.items():  # fmt: skip
        monkeypatch.setattr(flow_clusters, name, fake)
    monkeypatch.setattr(Cluster, "error", cluster_error)
    monkeypatch.setattr(FlowClusters, "destination_logs", lambda *_: {})
    monkeypatch.setattr(MoveClusters, "_destination", lambda self, groups, destination: groups)
    monkeypatch.setattr(MoveClusters, "_not_flowing", lambda self: "")
    it = Desk(MoveClusters(clusters, settings().hooks, lambda text: None), source, syncs)

    def checkpoints(_: MoveClusters) -> KnownGroups:
        return KnownGroups({("g", COPY): it.checkpoint}, {("g", COPY): 1}, None, {})

    monkeypatch.setattr(MoveClusters, "checkpoints", checkpoints)
    it.holds(RUNS)

    class Counter:
        def __init__(self, origin: Cluster | None, *_: object) -> None:
            it.counted.append((origin is not None, _[-1]))  # type: ignore[arg-type]

        def refine(self, *_: object) -> Unrefined:
            return Unrefined("no")

    monkeypatch.setattr(world, "Refiner", Counter)
    return it


def places(plan: MovePlan) -> list[tuple[str, int | None, int | None]]:
    return [(row.translation, row.destination_next, row.at_risk_records) for row in plan.rows if row.is_planned]


def test_a_source_that_answers_tells_what_is_at_risk(desk: Desk) -> None:
    desk.source.end = 115
    assert places(desk.plan()) == [("exact", 4, 4)]
    assert places(desk.plan(is_all=True)) == [("exact", 4, 4)]


@pytest.mark.parametrize(
    ("topic_id", "place"), [(NO_ID, ("exact", 4)), (ID, ("exact", 4)), (topic_id("former"), ("expired", 0))]
)
def test_what_was_read_of_a_former_topic_is_not_read_of_this_one(
    desk: Desk, topic_id: TopicId, place: tuple[str, int]
) -> None:
    """D: the same offset, of other records; where nobody told the topic, it is taken for the one that there is."""
    desk.checkpoint = replace(desk.checkpoint, topic_id=topic_id)
    assert [it[:2] for it in places(desk.plan())] == [place]


def test_a_source_that_dies_between_looks_is_not_asked_again(desk: Desk) -> None:
    assert places(desk.plan()) == [("exact", 4, 0)]
    desk.source.is_silent = True
    assert places(desk.plan()) == [("exact", 4, None)]
    assert "no answer from east" in desk.world.clusters.source_problem
    asked = len(desk.source.asked)
    assert places(desk.plan(is_all=True)) == [("exact", 4, None)]
    assert len(desk.source.asked) == asked


def test_a_halt_does_not_ask_the_source(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    def halt(*_: object) -> None:
        desk.syncs.halted[0] = {"reason": "failover", "id": "now"}

    monkeypatch.setattr(world, "halt", halt)
    desk.plan()
    desk.source.asked.clear()
    desk.world.halt(Order("now", MoveCommand.FAILOVER, EAST_WEST, ("g",)))
    assert desk.syncs.halted
    assert not desk.source.asked


@pytest.mark.parametrize(
    "ids", [{}, {"orders": topic_id("newer")}], ids=["the topic is gone", "the topic was created again"]
)
@pytest.mark.parametrize("stop", ["", "recreated", "source_gone"])
def test_a_source_that_lost_its_topics_moves_as_one_that_is_gone(desk: Desk, ids: dict[str, bytes], stop: str) -> None:
    """Its present end says nothing of what was not replicated."""
    if stop:
        desk.syncs.stopped[ORDERS] = {"reason": stop}
    desk.source.ids = ids
    found = [places(desk.plan(is_all=is_all)) for is_all in (False, True)]
    assert found == [[("exact", 4, None)]] * 2
    assert desk.plan().may_lose
    assert not desk.world.clusters.source_problem


@pytest.mark.parametrize(
    ("ids", "counts"), [({"orders": ID}, True), ({"orders": topic_id("newer")}, False), ({}, False)]
)
def test_records_are_counted_on_the_topic_that_was_replicated_alone(
    desk: Desk, ids: dict[str, bytes], counts: bool
) -> None:
    """D: as many records of another topic would prove something else; and on the source for a bounded time."""
    desk.holds(THINNED)
    desk.source.ids, desk.source.end = ids, 210
    (row,) = desk.plan().rows
    assert row.translation == "between"
    assert desk.world.refine(row) == Unrefined("no")
    assert desk.counted == [(counts, desk.world.clusters.timeout_s)]


# --- counting ---------------------------------------------------------------------------------------------------------


class Log:
    """A cluster that records are counted on: of the source, one that says nothing, or refuses."""

    refuses = False
    asked = 0

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster

    def exists(self, topic: str, deadline: Deadline) -> bool:
        assert topic == "orders", "the target is counted on only when the source was"
        Log.asked += 1
        if Log.refuses:
            raise KafkaOpError("not authorized", op="count records")
        return True

    def begin(self, span: object) -> None:
        pass

    def consume(self, wait_s: float) -> list[Any]:
        time.sleep(wait_s)
        return []

    def end(self) -> None:
        pass

    def close(self) -> None:
        pass


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> type[Log]:
    monkeypatch.setattr(count, "_Reader", Log)
    monkeypatch.setattr(Log, "refuses", False)
    monkeypatch.setattr(Log, "asked", 0)
    return Log


def a_refiner(origin_s: float | None) -> Refiner:
    flow = settings().flow(EAST_WEST)
    origin, destination = (Cluster(it, "source", settings().clusters[it], flow.group) for it in ("east", "west"))
    return Refiner(origin, destination, 1000, origin_s=origin_s)


BETWEEN = Between(0, 60, 100, 200, 50, None)


def test_all_counting_on_a_source_that_can_be_done_without_has_one_short_time(log: type[Log]) -> None:
    began_s = time.monotonic()
    with closing(a_refiner(0.3)) as refiner:
        found = [refiner.refine(ORDERS, COPY, 150 + at, BETWEEN, Deadline(300)) for at in range(20)]
    assert time.monotonic() - began_s < 3
    assert all(isinstance(it, Unrefined) for it in found)
    assert log.asked == 1


def test_a_source_that_refuses_to_be_read_keeps_nothing_that_can_do_without_it(log: type[Log]) -> None:
    log.refuses = True
    with closing(a_refiner(5.0)) as refiner:
        assert refiner.refine(ORDERS, COPY, 150, BETWEEN, Deadline(300)) == Unrefined("count records: not authorized")
    with closing(a_refiner(None)) as refiner, pytest.raises(KafkaOpError):
        refiner.refine(ORDERS, COPY, 150, BETWEEN, Deadline(300))
