"""Markers of a transaction that the target lost: the next owner makes records and syncs one again (invariants A, B).

The target here does not verify that a partition is in the transaction that writes to it; so a coordinator that is not
told of a partition leaves it without a marker, as one does that takes the partition for deleted (KAFKA-20734).
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import closing
from typing import Any

import pytest
from confluent_kafka import OFFSET_END, TopicPartition

from replicator.copy.transaction_recovery import TransactionRecovery
from replicator.deadline import Deadline
from replicator.embedded import EmbeddedCluster
from replicator.errors import TP, AbortTransactionError, FatalError, RetriableError
from replicator.kafka.cluster import Cluster as Client
from replicator.metrics import DATA_PLANES
from replicator.names import transactional_id
from replicator.planes.batches.plane import BatchesPlane
from replicator.protocol.hanging_transactions import HangingTransactions
from replicator.protocol.transaction_manager import TransactionManager
from tests.support.brokers import on_unverified
from tests.support.eventually import eventually
from tests.support.flows import FlowBench, FlowBenches
from tests.support.planes import settings
from tests.support.records import NewRecord, admin_client, delete_topic, end_offsets, read_topic
from tests.support.selection import PLANES, thorough

pytestmark = on_unverified

SYNCS, FIRST, SECOND = "syncs", "first", "second"


class Forgetful:
    """Patches coordinators so that the next transaction lacks markers in some partitions.

    Args:
        forgotten: partitions that get none.
        commit: what the transaction's other partitions get.
        dies: whether its task is dead then; else it learns of nothing.
    """

    def __init__(self, patch: pytest.MonkeyPatch, forgotten: set[TP], *, commit: bool = True, dies: bool) -> None:
        self.forgot: set[TP] = set()
        self.over = threading.Event()
        self._forgotten = set(forgotten)
        self._commit = commit
        self._dies = dies
        self._told: set[TP] = set()
        self._add, self._end = TransactionManager.add_partitions, TransactionManager.end
        for name, method in (("add_partitions", self._patched_add), ("end", self._patched_end)):
            patch.setattr(
                TransactionManager, name, lambda it, *args, method=method, **options: method(it, *args, **options)
            )
        patch.setattr(TransactionRecovery, "recover", self._wait)

    def _wait(self, *args: Any) -> bool:
        if self.over.is_set() and self._dies:
            raise RetriableError("the worker is to be dead", op="test")
        return False

    def _patched_add(self, coordinator: TransactionManager, tps: Iterable[TP], on_done: Callable[[Any], None]) -> None:
        kept = [tp for tp in tps if tp not in self._forgotten]
        self.forgot |= set(tps) - set(kept)
        self._told |= set(kept)
        if kept:
            self._add(coordinator, kept, on_done)
        else:
            on_done({})

    def _patched_end(self, coordinator: TransactionManager, deadline: Deadline, *, commit: bool) -> None:
        if self._told:
            self._end(coordinator, deadline, commit=self._commit)
        self.over.set()
        if self._dies:
            raise FatalError("the broker is gone", op="test")
        self._forgotten.clear()


def without_end(bench: FlowBench) -> set[TP]:
    """The partitions with records of a transaction that is over and has no end there."""
    flow = bench.settings().flow(bench.name)
    cluster = Client(bench.target_alias, "target", flow.target_cluster, flow.group)
    wanted = settings(transactional_id(bench.alias, bench.target_alias, 0))
    remote = bench.remote(bench.topic)
    with closing(HangingTransactions(cluster, wanted)) as ends:
        ends._transaction_manager.init_transactions(Deadline(30))
        found = ends.find([TP(bench.syncs_topic, 0), TP(remote, 0), TP(remote, 1)], Deadline(30))
    assert not found.unanswered
    assert not found.refused
    return set(found.first_offsets)


def records(first: int, count: int = 50) -> list[NewRecord]:
    return [NewRecord(b"%d" % n, b"key", n % 2, n + 1) for n in range(first, first + count)]


def records_of_first(first: int) -> list[NewRecord]:
    return [it for it in records(first) if it.partition == 0]


def begin(bench: FlowBench) -> None:
    """Let a worker copy the first records of two partitions."""
    bench.create(bench.topic, partitions=2)
    bench.produce(bench.topic, records(0))
    bench.start()
    bench.await_caught_up(bench.topic)


def instances() -> list[Any]:
    """What lost its marker, what the others got, and who is the next owner.

    Which end is right is a table in tests/unit/copy/test_transaction_recovery.py; here it gets there, from each side.
    """
    always = {((SYNCS,), True, "batches"), ((FIRST,), False, "batches"), ((SYNCS, FIRST), True, "records")}
    losses = [(SYNCS,), (FIRST,), (SYNCS, FIRST), (FIRST, SECOND), (SYNCS, FIRST, SECOND)]
    found = []
    for lost, commit, plane in itertools.product(losses, [True, False], DATA_PLANES):
        marks = () if (lost, commit, plane) in always else (thorough,)
        name = f"{'-'.join(lost)}-{'commit' if commit else 'abort'}-{plane}"
        found.append(pytest.param(lost, commit, plane, id=name, marks=marks))
    return found


@pytest.mark.parametrize(("lost", "commit", "plane"), instances())
def test_what_has_no_end_gets_the_right_one(
    make_flow: FlowBenches, source: EmbeddedCluster, unverified: EmbeddedCluster, monkeypatch: pytest.MonkeyPatch,
    lost: tuple[str, ...], plane: str, *, commit: bool,
) -> None:  # fmt: skip
    """The next owner ends what has no end, and every record comes over once, whichever markers are missing."""
    bench = make_flow(source, unverified, flow={"data_plane": "batches"})
    begin(bench)
    bench.stop()
    remote = bench.remote(bench.topic)
    names = {SYNCS: TP(bench.syncs_topic, 0), FIRST: TP(remote, 0), SECOND: TP(remote, 1)}
    expected = {names[it] for it in lost}

    bench.produce(bench.topic, records(1000))
    forgetful = Forgetful(monkeypatch, expected, commit=commit, dies=True)
    bench.start(runs=False)
    assert forgetful.over.wait(60), bench.log()
    bench.stop()
    monkeypatch.undo()
    assert forgetful.forgot == expected, "not the transaction that the test is about"
    assert without_end(bench) == expected

    bench.produce(bench.topic, records(2000))
    bench.set(data_plane=plane)
    seen = len(bench.events)
    bench.start()
    assert bench.verify(bench.topic).records == 150
    bench.stop()
    assert bench.found("transaction_settled", after=seen)
    assert not without_end(bench)
    for topic in (remote, bench.syncs_topic):
        assert end_offsets(bench.target, topic) == end_offsets(bench.target, topic, isolation="read_uncommitted")


def test_a_task_that_runs_on_looks_back_after_trouble(
    make_flow: FlowBenches, source: EmbeddedCluster, unverified: EmbeddedCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A quiet partition would hide its last records from readers until something else is written to it."""
    bench = make_flow(source, unverified, flow={"data_plane": "batches"})
    begin(bench)
    first = TP(bench.remote(bench.topic), 0)
    forgetful = Forgetful(monkeypatch, {first}, dies=False)
    bench.produce(bench.topic, records_of_first(1000))
    assert forgetful.over.wait(60), bench.log()
    monkeypatch.undo()
    assert forgetful.forgot == {first}
    unverified.restart()
    bench.produce(bench.topic, [it for it in records(2000) if it.partition == 1])
    settled = bench.await_event("transaction_settled")
    assert (settled["partitions"].keys(), settled["result"]) == ({str(first)}, "committed")
    assert bench.verify(bench.topic).records == 100
    assert not bench.found("task_lost")


@pytest.mark.parametrize("has_syncs", [True, False], ids=["with syncs", "without syncs"])
def test_a_partition_without_a_leader_starts_when_it_was_asked(
    make_flow: FlowBenches,
    source: EmbeddedCluster,
    unverified: EmbeddedCluster,
    monkeypatch: pytest.MonkeyPatch,
    *,
    has_syncs: bool,
) -> None:
    """It is just those that lose markers, and their brokers come back last. The others go on meanwhile."""
    bench = make_flow(source, unverified, flow={"data_plane": "batches"})
    begin(bench)
    bench.stop()
    first = TP(bench.remote(bench.topic), 0)
    bench.produce(bench.topic, records(1000))
    forgetful = Forgetful(monkeypatch, {first}, commit=False, dies=True)
    if not has_syncs:  # the task dies before it writes them
        monkeypatch.setattr(BatchesPlane, "flush", aborting(BatchesPlane.flush))
    bench.start(runs=False)
    assert forgetful.over.wait(60), bench.log()
    bench.stop()
    monkeypatch.undo()
    assert without_end(bench) == {first}

    has_leader = threading.Event()
    by_leader = HangingTransactions._by_leader

    def led(ends: HangingTransactions, tps: Iterable[TP]) -> dict[int, list[TP]]:
        return by_leader(ends, [tp for tp in tps if tp != first or has_leader.is_set()])

    monkeypatch.setattr(HangingTransactions, "_by_leader", led)
    seen = len(bench.events)
    bench.produce(bench.topic, records(2000))
    bench.start()
    assert "did not answer" in bench.await_stopped(bench.topic, 0, "target_unavailable", after=seen)
    bench.await_caught_up(bench.topic, without=(0,))
    assert not bench.found("transaction_settled", after=seen)
    has_leader.set()
    settled = bench.await_event("transaction_settled", after=seen)
    assert (settled["partitions"].keys(), settled["result"]) == ({str(first)}, "aborted")
    assert bench.verify(bench.topic).records == 150


def aborting(flush: Callable[..., Any]) -> Callable[..., Any]:
    """A flush after which the transaction is aborted by somebody else."""

    def flush_and_abort(plane: BatchesPlane, deadline: Deadline) -> None:
        flush(plane, deadline)
        plane._transaction_manager.end(deadline, commit=False)

    return flush_and_abort


def test_an_abort_that_loses_a_marker_is_looked_back_at(
    make_flow: FlowBenches, source: EmbeddedCluster, unverified: EmbeddedCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the next commit of the same life would show its records, too."""
    bench = make_flow(source, unverified, flow={"data_plane": "batches"})
    begin(bench)
    first = TP(bench.remote(bench.topic), 0)
    settle = TransactionRecovery.recover
    forgetful = Forgetful(monkeypatch, {first}, commit=False, dies=False)
    monkeypatch.setattr(TransactionRecovery, "recover", settle)
    flush, end = BatchesPlane.flush, TransactionManager.end

    def failing_flush(plane: BatchesPlane, deadline: Deadline) -> Any:
        placements = flush(plane, deadline)
        if forgetful.over.is_set():
            return placements
        raise AbortTransactionError("not acknowledged", op="flush")

    def troubled_end(coordinator: TransactionManager, deadline: Deadline, *, commit: bool) -> None:
        end(coordinator, deadline, commit=commit)
        coordinator._cluster.troubled_s = time.monotonic()

    monkeypatch.setattr(BatchesPlane, "flush", failing_flush)
    monkeypatch.setattr(TransactionManager, "end", troubled_end)
    bench.produce(bench.topic, records_of_first(1000))
    assert forgetful.over.wait(60), bench.log()
    assert forgetful.forgot == {first}, "not the transaction that the test is about"
    settled = bench.await_event("transaction_settled")
    assert (settled["partitions"].keys(), settled["result"]) == ({str(first)}, "aborted")
    monkeypatch.undo()
    assert bench.verify(bench.topic).records == 75


def test_nothing_is_settled_where_all_is_well(
    make_flow: FlowBenches, source: EmbeddedCluster, unverified: EmbeddedCluster
) -> None:
    """A clean stop and start, also without a remote topic that was there."""
    bench = make_flow(source, unverified)
    begin(bench)
    bench.create(bench.other)
    bench.await_event("partitions_started", partitions=1)
    bench.stop()
    delete_topic(bench.target, bench.remote(bench.other))  # what is gone is nothing to wait for
    bench.start()
    bench.produce(bench.topic, records(1000))
    assert bench.verify(bench.topic).records == 100
    assert not bench.found("transaction_settled")
    assert not bench.found("transactions_not_looked_for")
    eventually(lambda: not bench.worker.not_ready(), within_s=60)


@pytest.mark.parametrize("plane", PLANES)
@pytest.mark.parametrize("lost", [(SYNCS,), (FIRST,), (SYNCS, FIRST)], ids="-".join)
def test_what_has_no_end_and_is_aborted_with_the_next_transaction_is_mended(
    make_flow: FlowBenches, source: EmbeddedCluster, unverified: EmbeddedCluster, monkeypatch: pytest.MonkeyPatch,
    lost: tuple[str, ...], plane: str,
) -> None:  # fmt: skip
    """A sync without its records would lose them, records without their sync would come twice; also started again."""
    bench = make_flow(source, unverified, flow={"data_plane": "batches"})
    begin(bench)
    names = {SYNCS: TP(bench.syncs_topic, 0), FIRST: TP(bench.remote(bench.topic), 0)}
    expected = {names[it] for it in lost}
    forgetful = Forgetful(monkeypatch, expected, dies=False)
    bench.produce(bench.topic, records_of_first(1000))
    assert forgetful.over.wait(60), bench.log()
    monkeypatch.undo()
    assert forgetful.forgot == expected, "not the transaction that the test is about"

    bench.set(data_plane=plane)
    died = threading.Event()
    monkeypatch.setattr(TransactionManager, "end", lambda *_, **__: die(died))
    bench.produce(bench.topic, records_of_first(2000))
    assert died.wait(60), bench.log()
    bench.stop()
    monkeypatch.undo()
    for first in (3000, 4000):
        seen = len(bench.events)
        bench.start()
        bench.stop()
        is_split = first == 3000 and len(lost) == 1  # where both are aborted, they are one
        assert len(bench.found("transaction_mended", after=seen)) == is_split
        bench.start()
        bench.produce(bench.topic, records(first))
        assert bench.verify(bench.topic).records == 100 + (first - 2000) // 20
        bench.stop()
    assert not without_end(bench)


def die(died: threading.Event) -> None:
    """As a broker's crash looks to a task that waits for its commit."""
    died.set()
    raise FatalError("the broker is gone", op="test")


def test_records_that_were_deleted_on_the_target_are_not_copied_again(
    make_flow: FlowBenches, source: EmbeddedCluster, unverified: EmbeddedCluster
) -> None:
    """By retention, say: readers don't see them any more than aborted ones."""
    bench = make_flow(source, unverified)
    begin(bench)
    bench.stop()
    remote = bench.remote(bench.topic)
    admin = admin_client(bench.target)  # which must live until the answer is there
    ends = [TopicPartition(remote, partition, OFFSET_END) for partition in (0, 1)]
    for answer in admin.delete_records(ends).values():
        answer.result(30)
    bench.start()
    bench.produce(bench.topic, records(1000))
    bench.await_caught_up(bench.topic)
    eventually(lambda: len(read_topic(bench.target, remote)) == 50, within_s=30)
    assert not bench.found("transaction_mended")
