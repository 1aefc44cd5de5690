"""A plane that goes silent while the source has more: the lag is told, and the task begins again by itself (A, B)."""

from __future__ import annotations

import pytest

from replicator import standstill
from replicator.embedded import Cluster
from replicator.errors import TP
from replicator.planes import Fetched, Plane
from replicator.planes.batches.plane import BatchesPlane
from replicator.planes.records import RecordsPlane
from tests.integration.flows import FlowBenches, on_both_planes
from tests.kafka.eventually import eventually

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


@on_both_planes
def test_a_task_of_which_a_partition_stands_still_begins_again(
    make_flow: FlowBenches, source: Cluster, target: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(standstill, "PATIENCE_S", 6.0)
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
