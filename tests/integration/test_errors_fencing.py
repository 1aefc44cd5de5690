"""Another producer takes the task's transactional id: nothing of ours is written twice, and the task comes back."""

from __future__ import annotations

import threading

import pytest
from confluent_kafka import KafkaException, Producer

from replicator.embedded import EmbeddedCluster
from replicator.planes import Plane
from replicator.planes.batches.plane import BatchesPlane
from replicator.planes.records import RecordsPlane
from tests.support.flows import FlowBenches, on_any_plane, on_both_planes
from tests.support.records import NewRecord


def usurp(servers: str, transactional_id: str, topic: str = "") -> None:
    """Fence the id's owner; with `topic`, leave an open transaction with a record there."""
    producer = Producer({"bootstrap.servers": servers, "transactional.id": transactional_id})
    producer.init_transactions(20)
    if topic:
        producer.begin_transaction()
        producer.produce(topic, b"not ours", b"k", 0)
        producer.flush(10)


def records(number: int) -> list[NewRecord]:
    return [NewRecord(b"%d" % n, b"k", n % 2) for n in range(number)]


@on_any_plane
def test_fenced_between_transactions(make_flow: FlowBenches, source: EmbeddedCluster, target: EmbeddedCluster) -> None:
    """The usurper even leaves a transaction open: its record is aborted, ours are all there, once."""
    flow = make_flow(source, target)
    flow.create(flow.topic, partitions=2)
    flow.produce(flow.topic, records(100))
    flow.start()
    flow.verify(flow.topic)
    usurp(flow.target, f"{flow.group}-0", flow.remote(flow.topic))
    flow.produce(flow.topic, records(100))
    assert flow.verify(flow.topic).records == 200
    restart = flow.await_event("task_fenced")
    assert "newer owner" in restart["hint"]


@on_both_planes
@pytest.mark.parametrize("step", ["append", "flush", "commit", "abort"])
def test_fenced_inside_a_transaction(
    make_flow: FlowBenches, source: EmbeddedCluster, target: EmbeddedCluster, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """Before each step of a transaction once; an abort is needed after the producer's error as well."""
    flow = make_flow(source, target)
    flow.create(flow.topic, partitions=2)
    flow.start()
    is_done = threading.Event()
    kind: type[Plane] = {"records": RecordsPlane, "batches": BatchesPlane}[make_flow.data_plane]
    original = getattr(kind, step if step != "abort" else "flush")

    def fenced(plane: Plane, *arguments: object) -> object:
        if not is_done.is_set():
            is_done.set()
            usurp(flow.target, f"{flow.group}-0")
            if step == "abort":
                plane.abort(*arguments)  # type: ignore[arg-type]
        return original(plane, *arguments)

    monkeypatch.setattr(kind, step if step != "abort" else "flush", fenced)
    flow.produce(flow.topic, records(100))
    flow.await_caught_up(flow.topic)
    assert is_done.is_set()
    flow.produce(flow.topic, records(100))
    assert flow.verify(flow.topic).records == 200
    assert flow.found("task_fenced") + flow.found("task_restarts")


@on_any_plane
def test_the_usurper_is_fenced_in_its_turn(
    make_flow: FlowBenches, source: EmbeddedCluster, target: EmbeddedCluster
) -> None:
    """A producer that was stopped for long and wakes up can't write any more."""
    flow = make_flow(source, target)
    flow.create(flow.topic)
    zombie = Producer({"bootstrap.servers": flow.target, "transactional.id": f"{flow.group}-0"})
    zombie.init_transactions(20)
    flow.produce(flow.topic, [NewRecord(b"1", b"k")])
    flow.start()
    flow.verify(flow.topic)
    zombie.begin_transaction()
    zombie.produce(flow.remote(flow.topic), b"late", b"k", 0)
    with pytest.raises(KafkaException, match="FENCED"):
        zombie.commit_transaction(10)
    flow.produce(flow.topic, [NewRecord(b"2", b"k")])
    assert flow.verify(flow.topic).records == 2
    assert not flow.found("task_fenced")
