"""Clients that go silent without an error: whoever needs them notices, and makes new ones (A, B)."""

from __future__ import annotations

from contextlib import closing

import pytest

from replicator.config import Settings
from replicator.copy import stall_detector
from replicator.embedded import EmbeddedCluster
from replicator.errors import TP, KafkaOpError
from replicator.kafka import cluster
from replicator.planes import Fetched, Plane
from replicator.planes.batches.plane import BatchesPlane
from replicator.planes.records import RecordsPlane
from replicator.status.lag_reader import Observer
from tests.support.eventually import eventually
from tests.support.flows import FlowBenches, on_any_plane

RECORDS = [b"%d" % number for number in range(20)]


class Deafness:
    """Takes what comes of one partition away from the planes that were opened so far, as if it never came."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._deaf: dict[Plane, set[TP]] = {}
        for kind in (RecordsPlane, BatchesPlane):
            self._patch(monkeypatch, kind)

    def begin(self, tp: TP) -> None:
        for heard in self._deaf.values():
            heard.add(tp)

    def _patch(self, monkeypatch: pytest.MonkeyPatch, kind: type[Plane]) -> None:
        fetch, source_ends = kind.fetch, kind.source_ends

        def deaf_fetch(plane: Plane, wait_s: float) -> Fetched:
            lost = self._deaf.setdefault(plane, set())
            found = fetch(plane, wait_s)
            found.batches = [batch for batch in found.batches if batch.tp not in lost]
            found.passed = {tp: offset for tp, offset in found.passed.items() if tp not in lost}
            return found

        def deaf_ends(plane: Plane, tps: list[TP]) -> dict[TP, int]:
            lost = self._deaf.get(plane, set())
            return {tp: end for tp, end in source_ends(plane, tps).items() if tp not in lost}

        monkeypatch.setattr(kind, "fetch", deaf_fetch)
        monkeypatch.setattr(kind, "source_ends", deaf_ends)


@on_any_plane
def test_a_task_of_which_a_partition_stands_still_begins_again(
    make_flow: FlowBenches, source: EmbeddedCluster, target: EmbeddedCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stall_detector, "PATIENCE_S", 6.0)
    deafness = Deafness(monkeypatch)
    flow = make_flow(source, target)
    flow.create(flow.topic, partitions=2)
    flow.produce(flow.topic, RECORDS)
    flow.start()
    flow.await_caught_up(flow.topic)
    deafness.begin(TP(flow.topic, 0))
    flow.produce(flow.topic, RECORDS)
    flow.await_caught_up(flow.topic, without=(0,))
    late = flow.behind(flow.topic)[0]

    def is_told() -> bool:
        lag = flow.metric("replicator_lag_records", topic=flow.topic, partition="0")
        assert lag == late > 0, f"{lag}, not {late}\n{flow.log()}"
        return True

    eventually(is_told, 30, every_s=0.1)
    restart = flow.await_event("task_restarts", kind="StandstillError")
    assert f"fetch of {flow.topic}[0]: nothing came from offset " in restart["error"]
    assert flow.verify(flow.topic).records == 2 * len(RECORDS)
    assert flow.metric("replicator_task_restarts_total", error="StandstillError") == 1


@pytest.mark.parametrize("side", ["source", "target"])
def test_a_worker_whose_clients_lost_their_brokers_connects_again(
    make_flow: FlowBenches, source: EmbeddedCluster, target: EmbeddedCluster, side: str
) -> None:
    flow = make_flow(source, target)
    worker = flow.start_filled().worker
    seen = len(flow.events)
    cluster = worker._source if side == "source" else worker._target
    cluster.lost = True
    said = flow.await_event("worker_not_ready", after=seen)["error"]
    assert f"ask {cluster.alias}: a client lost its brokers" in said
    flow.await_event("task_runs", after=seen)
    flow.produce(flow.topic, RECORDS)
    assert flow.verify(flow.topic).records == 10 + len(RECORDS)
    assert len(flow.found("worker_joins", after=seen)) == 1
    assert not cluster.lost


@pytest.mark.parametrize("side", ["source", "target"])
def test_an_observer_looks_again_with_new_clients_after_one_gave_no_answer(
    make_flow: FlowBenches, source: EmbeddedCluster, target: EmbeddedCluster, side: str
) -> None:
    flow = make_flow(source, target).start_filled()
    settings = flow.settings()
    with closing(Observer(settings.flow(flow.name), 5.0)) as observer:
        assert not observer.connect()
        assert observer.lag().total_records == 0
        alias = flow.alias if side == "source" else flow.target_alias
        observer._admins[alias] = without_brokers(settings, alias).admin()
        with pytest.raises(KafkaOpError):
            observer.lag()
        observer.renew()
        assert observer.lag().total_records == 0


def without_brokers(settings: Settings, alias: str) -> cluster.Cluster:
    """A cluster whose clients are as those that lost every broker."""
    empty = settings.clusters[alias].model_copy(update={"bootstrap_servers": ""})
    return cluster.Cluster(alias, "source", empty, "replicator")
