"""What every plane promises of its transactions: placements, aborts, fencing."""

from __future__ import annotations

import gc
import itertools
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from confluent_kafka import Message, Producer

from replicator.deadline import Deadline
from replicator.embedded import Clusters
from replicator.errors import (
    AbortTransactionError,
    FencedError,
    KafkaOpError,
    PartitionError,
    RetriableError,
    StopReason,
)
from replicator.offset_map.runs import Placement
from tests.support.brokers import on_killable_pair
from tests.support.eventually import eventually
from tests.support.lane import Lane, settled
from tests.support.planes import TIMEOUT_S, Driver, assert_placed, connect, settings
from tests.support.records import NewRecord, create_topic, produce, read_topic


def fill(lane: Lane, records: int, size_bytes: int = 10) -> None:
    """Distinct records in the first partition of the source."""
    produce(lane.source, lane.topic, [NewRecord(f"{i}-".encode().ljust(size_bytes, b".")) for i in range(records)])


def test_several_transactions_follow_each_other(lane: Lane) -> None:
    """Each one's placements begin behind the marker of the one before."""
    lane.create()
    driver = lane.driver()
    found: list[Placement] = []
    for number in range(3):
        fill(lane, 7)
        places = driver.carry({lane.tp(): 7 * (number + 1)})[lane.tp()]
        assert places[0].downstream_base == 8 * number
        found += places
    assert_placed({lane.tp(): found}, lane.written(), lane.arrived())


def test_our_own_records_commit_with_the_data(lane: Lane) -> None:
    """B: what `write` adds is in the same transaction: visible with the records, or not at all."""
    lane.create()
    fill(lane, 5)
    syncs = create_topic(lane.target, f"{lane.topic}-syncs", partitions=2)
    driver = lane.driver()
    driver.append(driver.fetch_to({lane.tp(): 5}))
    driver.plane.write(syncs, 1, b"key", b"aborted")
    driver.plane.flush(Deadline(TIMEOUT_S))
    driver.abort()
    driver.assign({lane.tp(): 0})
    driver.append(driver.fetch_to({lane.tp(): 5}))
    driver.plane.write(syncs, 1, b"key", b"value")
    driver.plane.write(syncs, 1, b"gone", None)
    driver.commit()
    settled(lane.target, syncs)
    found = [(r.partition, r.key, r.value) for r in read_topic(lane.target, syncs)]
    assert found == [(1, b"key", b"value"), (1, b"gone", None)]
    assert [r.content for r in lane.arrived()] == [r.content for r in lane.written()]


def test_more_of_our_own_records_than_the_queue_holds(lane: Lane) -> None:
    """A task with very many partitions writes all of their syncs in one transaction."""
    lane.create()
    driver = Driver(lane.plane(buffer_bytes=8_388_608), lane.remote).start({})
    driver.plane.begin()
    for number in range(30_000):
        driver.plane.write(lane.remote, 0, b"%d" % number, b"v" * 100)
    driver.plane.flush(Deadline(TIMEOUT_S))
    driver.commit()
    assert [r.key for r in lane.arrived()] == [b"%d" % number for number in range(30_000)]


def test_nothing_appended_commits_and_aborts(lane: Lane) -> None:
    """An empty transaction places nothing, commits, aborts, and the plane goes on."""
    lane.create()
    driver = lane.driver()
    assert driver.append([]) == {}
    driver.commit()
    assert driver.append([]) == {}
    driver.abort()
    fill(lane, 3)
    driver.carry({lane.tp(): 3})
    assert len(lane.arrived()) == 3


def test_an_abort_leaves_nothing_and_can_be_repeated(lane: Lane) -> None:
    """A: aborted records are invisible; after `assign` the same records come again and commit once."""
    lane.create()
    fill(lane, 2500)
    driver = lane.driver()
    for _ in range(2):
        driver.append(driver.fetch_to({lane.tp(): 2500}))
        driver.abort()
        assert lane.arrived() == []
        driver.assign({lane.tp(): 0})
    placed = driver.carry({lane.tp(): 2500})
    assert_placed(placed, lane.written(), lane.arrived())
    assert [r.content for r in lane.arrived()] == [r.content for r in lane.written()]


def test_an_abort_with_records_on_the_way(lane: Lane) -> None:
    """A: an abort right after `append`, without a flush, leaves nothing either."""
    lane.create()
    fill(lane, 300, 10_000)
    driver = lane.driver()
    batches = driver.fetch_to({lane.tp(): 300})
    driver.plane.begin()
    for batch in batches:
        driver.plane.append(batch, lane.remote, Deadline(TIMEOUT_S))
    driver.abort()
    driver.assign({lane.tp(): 0})
    placed = driver.carry({lane.tp(): 300})
    assert_placed(placed, lane.written(), lane.arrived())
    assert [r.content for r in lane.arrived()] == [r.content for r in lane.written()]


@contextmanager
def somebody_else(lane: Lane) -> Iterator[None]:
    """Writes to the target partition all the time, in many small batches."""
    ended = threading.Event()
    producer = Producer({"bootstrap.servers": lane.target, "linger.ms": 0, "acks": 1, "batch.num.messages": 1})

    def write() -> None:
        for number in itertools.count():
            if ended.is_set():
                return
            producer.produce(lane.remote, b"theirs %d" % number, b"theirs", partition=0)
            producer.poll(0.001)

    thread = threading.Thread(target=write, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(TIMEOUT_S)
        assert producer.flush(TIMEOUT_S) == 0


def test_placements_are_exact_among_anothers_records(lane: Lane) -> None:
    """A, D: with somebody else's records between ours the transaction is repeated at most once, and then exact."""
    lane.create()
    fill(lane, 200, 50_000)
    driver = lane.driver()
    found: list[Placement] = []
    repetitions = 0
    rounds = 0
    with somebody_else(lane):

        def has_met_both() -> bool:
            nonlocal repetitions, rounds
            rounds += 1
            driver.assign({lane.tp(): 0})
            batches = driver.fetch_to({lane.tp(): 200})
            placed = driver.try_append(batches)
            if placed is None:
                repetitions += 1
                return False
            driver.commit()
            found[:] = placed[lane.tp()]
            return any(a.downstream_base + a.count < b.downstream_base for a, b in itertools.pairwise(found))

        eventually(has_met_both, within_s=TIMEOUT_S, every_s=0)
    assert repetitions <= 1
    arrived = lane.arrived()
    ours = [r for r in arrived if r.key != b"theirs"]
    assert len(ours) == 200 * (rounds - repetitions)
    assert len(arrived) > len(ours)
    assert_placed({lane.tp(): found}, lane.written(), arrived)


def test_opening_fences_the_last_owner(lane: Lane) -> None:
    """C: after another plane's `open` with the same id, nothing of an open transaction is ever committed."""
    lane.create()
    fill(lane, 10)
    first = lane.driver()
    first.append(first.fetch_to({lane.tp(): 10}))
    second = lane.driver()
    with pytest.raises(FencedError):
        first.commit()
    assert lane.arrived() == []
    placed = second.carry({lane.tp(): 10})
    assert_placed(placed, lane.written(), lane.arrived())


def test_opening_without_an_answer_is_an_error_of_ours(lane: Lane) -> None:
    """In time, and of a class that lets the task try again."""
    plane = connect(lane.kind, (lane.source, "127.0.0.1:1"), settings(lane.transactional_id), lambda tp, records: None)
    began_s = time.monotonic()
    with pytest.raises(RetriableError, match="initialise transactions"):
        plane.open(Deadline(1))
    plane.close()
    assert time.monotonic() - began_s < TIMEOUT_S / 2


def test_a_fenced_owner_can_write_nothing_more(lane: Lane) -> None:
    """C: records appended after the fence are refused, however far the plane gets before it notices."""
    lane.create()
    fill(lane, 10)
    first = lane.driver()
    batches = first.fetch_to({lane.tp(): 10})
    first.append(batches[:0])
    second = lane.driver()

    def goes_on() -> None:
        for batch in batches:
            first.plane.append(batch, lane.remote, Deadline(TIMEOUT_S))
        first.plane.flush(Deadline(TIMEOUT_S))
        first.commit()

    with pytest.raises(FencedError):
        goes_on()
    second.carry({lane.tp(): 10})
    assert len(lane.arrived()) == 10


def test_a_refused_record_names_its_partition(lane: Lane) -> None:
    """H: a record that the target will not take stops its own partition; the next transaction works."""
    lane.create()
    small = create_topic(lane.target, f"{lane.remote}-small", config={"max.message.bytes": "1000"})
    produce(lane.source, lane.topic, [NewRecord(os.urandom(5000)) for _ in range(3)])
    driver = Driver(lane.plane(), small).start({lane.tp(): 0})
    errors: list[KafkaOpError] = []

    def is_named() -> list[KafkaOpError]:
        """An error that names no partition may come first, once: its repetition finds the culprit."""
        driver.assign({lane.tp(): 0})
        batches = driver.fetch_to({lane.tp(): 3})
        with pytest.raises((PartitionError, AbortTransactionError)) as caught:
            driver.append(batches)
        driver.abort()
        errors.append(caught.value)
        return errors if isinstance(caught.value, PartitionError) else []

    eventually(is_named, within_s=TIMEOUT_S, every_s=0)
    refused = errors[-1]
    assert len(errors) <= 2
    assert isinstance(refused, PartitionError)
    assert (refused.tp, refused.reason) == (lane.tp(), StopReason.RECORD_TOO_LARGE)
    driver.target_topic = lane.remote
    driver.assign({lane.tp(): 0})
    driver.carry({lane.tp(): 3})
    assert len(lane.arrived()) == 3
    settled(lane.target, small)
    assert read_topic(lane.target, small) == []


@on_killable_pair
def test_closing_waits_for_no_cluster(lane: Lane, killable_pair: Clusters) -> None:
    """A task that was lost while the target gives no answer lets go at once; the next owner ends its transaction."""
    target = killable_pair["target"]
    lane.target = target.bootstrap_servers
    lane.create()
    fill(lane, 10)
    driver = lane.driver()
    batches = driver.fetch_to({lane.tp(): 10})
    driver.plane.begin()
    target.signal_broker(1, signal.SIGSTOP)
    try:
        for batch in batches:
            driver.plane.append(batch, lane.remote, Deadline(TIMEOUT_S))
        began_s = time.monotonic()
        driver.plane.close()
        took_s = time.monotonic() - began_s
    finally:
        target.signal_broker(1, signal.SIGCONT)
    assert took_s < TIMEOUT_S / 2
    lane.driver()  # opens, and so ends the transaction
    assert lane.arrived() == []


def test_a_full_queue_keeps_no_records(lane: Lane) -> None:
    """Memory is bounded: what waited for room, and what was committed, is let go, however much there was."""

    def kept() -> int:
        gc.collect()
        return sum(isinstance(it, Message) for it in gc.get_objects())

    lane.create()
    fill(lane, 300, 100_000)
    driver = lane.driver(buffer_bytes=8_388_608)
    before = kept()
    driver.append(driver.fetch_to({lane.tp(): 300}))
    driver.plane.commit(Deadline(TIMEOUT_S))
    assert kept() <= before
