"""Halting and lifting on real brokers: exact, repeatable, and stronger than a task that starts in the same moment."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

from replicator.config import Flow, build
from replicator.deadline import Deadline
from replicator.embedded import EmbeddedCluster
from replicator.errors import TP, FencedError, RefusedError, RetriableError
from replicator.kafka.cluster import Cluster as Clients
from replicator.kafka.transactions import FencingWriter
from replicator.names import transactional_id
from replicator.syncs.control_records import PartlyDoneError
from replicator.syncs.halts import HaltReason, halt, halt_body, lift, read_halts, to_halt
from replicator.syncs.reader import ensure_topic
from tests.support.brokers import UniqueName

TASKS = range(4)
TIMEOUT_S = 60.0


@pytest.fixture
def flow(source: EmbeddedCluster, target: EmbeddedCluster, unique: UniqueName) -> Flow:
    east, west = unique("east"), unique("west")
    clusters = {
        east: {"bootstrap_servers": "none:1"},  # nothing here may need it
        west: {"bootstrap_servers": target.bootstrap_servers},
    }
    return build({"clusters": clusters, "flows": {f"{east}->{west}": {"topics": ["orders"]}}}).all_flows()[0]


@pytest.fixture
def cluster(flow: Flow) -> Clients:
    """The target, as a command sees it; it has the syncs topic."""
    cluster = Clients(flow.target, "target", flow.target_cluster, flow.group)
    ensure_topic(cluster.connect(TIMEOUT_S), cluster, flow.syncs_topic, len(TASKS), flow.name, Deadline(TIMEOUT_S))
    return cluster


def halts(flow: Flow, cluster: Clients) -> dict[int, dict[str, Any]]:
    return read_halts(flow, cluster, TASKS, Deadline(TIMEOUT_S))


def test_halt_and_lift_are_read_back_and_can_be_repeated(flow: Flow, cluster: Clients) -> None:
    body = halt_body(HaltReason.PAUSED, "20260131T030000-7f3a")
    assert halts(flow, cluster) == {}
    began_s = time.monotonic()
    halt(flow, cluster, TASKS, body, Deadline(TIMEOUT_S))
    print(f"4 tasks halted in {time.monotonic() - began_s:.2f} s")
    assert halts(flow, cluster) == dict.fromkeys(TASKS, body)
    halt(flow, cluster, [1], body | {"id": "again"}, Deadline(TIMEOUT_S))
    lift(flow, cluster, [0, 2], Deadline(TIMEOUT_S))
    assert halts(flow, cluster) == {1: body | {"id": "again"}, 3: body}
    assert to_halt(halts(flow, cluster), TASKS, HaltReason.PAUSED) == [0, 2]
    lift(flow, cluster, TASKS, Deadline(TIMEOUT_S))
    assert halts(flow, cluster) == {}


def test_an_owner_is_fenced_and_its_open_transaction_is_not_committed(flow: Flow, cluster: Clients) -> None:
    with closing(FencingWriter(cluster, transactional_id(flow.source, flow.target, 0))) as task:
        task.open(Deadline(TIMEOUT_S))
        halt(flow, cluster, TASKS, halt_body(HaltReason.FAILOVER, "move"), Deadline(TIMEOUT_S))
        with pytest.raises(FencedError):
            task.write(TP(flow.syncs_topic, 0), [(b"\0\1xnever", b"")], Deadline(TIMEOUT_S))
    assert sorted(halts(flow, cluster)) == list(TASKS)


@pytest.fixture
def starting_task(flow: Flow, cluster: Clients) -> Iterator[threading.Event]:
    """A task that begins again and again, until told to stop: it fences whoever writes under its id."""
    stopping = threading.Event()

    def start_again() -> None:
        while not stopping.wait(0.02):
            with closing(FencingWriter(cluster, transactional_id(flow.source, flow.target, 2))) as task:
                task.open(Deadline(TIMEOUT_S))

    thread = threading.Thread(target=start_again)
    thread.start()
    yield stopping
    stopping.set()
    thread.join(TIMEOUT_S)


def test_a_task_that_starts_in_the_same_moment_is_outlasted(
    flow: Flow, cluster: Clients, starting_task: threading.Event
) -> None:
    """Five times each, so that many of the transactions are fenced."""
    for round_ in range(5):
        body = halt_body(HaltReason.PAUSED, f"move-{round_}")
        halt(flow, cluster, TASKS, body, Deadline(TIMEOUT_S))
        assert halts(flow, cluster) == dict.fromkeys(TASKS, body)
        lift(flow, cluster, TASKS, Deadline(TIMEOUT_S))
        assert halts(flow, cluster) == {}


def test_what_is_halted_is_told_when_not_all_is(flow: Flow, cluster: Clients, monkeypatch: pytest.MonkeyPatch) -> None:
    """Task 2 gives no answer: the others are halted, the error names it, and the next try does the rest."""
    made = FencingWriter.__init__

    def silent(writer: FencingWriter, on: Clients, name: str) -> None:
        if name == transactional_id(flow.source, flow.target, 2):
            raise RetriableError("no answer", op="initialise transactions")
        made(writer, on, name)

    body = halt_body(HaltReason.PAUSED, "move")
    with monkeypatch.context() as patch:
        patch.setattr(FencingWriter, "__init__", silent)
        with pytest.raises(PartlyDoneError, match=r"tasks 2 not done, 3 done; task 2: .*no answer") as failed:
            halt(flow, cluster, TASKS, body, Deadline(TIMEOUT_S))
    assert failed.value.done == {0, 1, 3} == halts(flow, cluster).keys()
    halt(flow, cluster, to_halt(halts(flow, cluster), TASKS, HaltReason.PAUSED), body, Deadline(TIMEOUT_S))
    assert halts(flow, cluster) == dict.fromkeys(TASKS, body)


def test_a_flow_that_never_ran_is_refused(flow: Flow) -> None:
    cluster = Clients(flow.target, "target", flow.target_cluster, flow.group)
    for call in (
        lambda: halt(flow, cluster, TASKS, {}, Deadline(TIMEOUT_S)),
        lambda: lift(flow, cluster, TASKS, Deadline(TIMEOUT_S)),
        lambda: halts(flow, cluster),
    ):
        with pytest.raises(RefusedError, match=f"has no topic {flow.syncs_topic}: the flow .* never ran"):
            call()


def test_a_dead_cluster_is_given_up_in_time(flow: Flow) -> None:
    dead = Clients(flow.target, "target", flow.source_cluster, flow.group)
    began_s = time.monotonic()
    with pytest.raises(RetriableError, match="look for"):
        halt(flow, dead, TASKS, {}, Deadline(1))
    with closing(FencingWriter(dead, "nobody")) as writer, pytest.raises(RetriableError, match="no answer"):
        writer.open(Deadline(1))
    assert time.monotonic() - began_s < TIMEOUT_S / 2
