"""Topics that appear, grow, vanish and come again under a running worker."""

from __future__ import annotations

import math
import signal
import time

from confluent_kafka import KafkaException

from tests.e2e.conftest import TASKS, Bench
from tests.support.eventually import eventually
from tests.support.records import NewRecord, admin_client, create_topic, delete_topic, grow_topic, produce, read_topic
from tests.support.worker_process import WorkerProcess

FIRST_RECORD_S = 10.0
"""The goal is 3 s, and the measure is printed."""
STARTS = 3
"""One that took longer is repeated: a busy machine makes one slow."""
INTERVAL_S = 2.0
"""The benches' `refresh_topics_interval_s`."""
DETECTION_MARGIN_S = 30.0
"""Of which a busy machine needs most."""


def values(bench: Bench, topic: str) -> list[bytes | None]:
    """The values of a topic's copy, by partition and offset."""
    return [record.value for record in read_topic(bench.target.bootstrap_servers, bench.remote(topic))]


def await_values(bench: Bench, topic: str, expected: list[bytes], within_s: float) -> float:
    """Wait for the copy to hold these values; seconds that it took."""
    began_s = time.monotonic()
    names = admin_client(bench.target.bootstrap_servers)

    def are_there() -> bool:
        assert bench.remote(topic) in names.list_topics(timeout=60).topics
        try:
            found = values(bench, topic)
        except KafkaException as error:  # its partitions have no leader yet
            raise AssertionError(str(error)) from error
        assert found == expected, found
        return True

    eventually(are_there, within_s, every_s=0.02)
    return time.monotonic() - began_s


def stopped(worker: WorkerProcess) -> set[tuple[str, int, str]]:
    """(topic, partition, reason) of the partitions that stopped."""
    return {(e["topic"], e["partition"], e["reason"]) for e in worker.events("partition_stopped")}


def test_the_first_record_comes_soon(bench: Bench) -> None:
    """From the start of the process to the first record on the target."""
    bench.create_topic()
    took_s: list[float] = []
    written: list[bytes] = []
    while len(took_s) < STARTS and min(took_s, default=math.inf) >= FIRST_RECORD_S:
        written.append(b"first of start %d" % len(took_s))
        produce(bench.source.bootstrap_servers, bench.topic, [NewRecord(written[-1], partition=0)])
        began_s = time.monotonic()
        worker = bench.start_worker()
        await_values(bench, bench.topic, written, within_s=60)
        took_s.append(time.monotonic() - began_s)
        worker.send(signal.SIGTERM)  # so that the next one finds no session to wait for
        assert worker.await_exit() == 0
    print(f"start to first record: {', '.join(f'{it:.2f} s' for it in took_s)}")
    bench.start_worker()
    assert bench.verify().records == len(written)
    assert min(took_s) < FIRST_RECORD_S


def test_new_topics_and_partitions_are_found(bench: Bench) -> None:
    """A topic that matches, and partitions of a known one, within `refresh_topics_interval_s`; from their beginning."""
    servers = bench.source.bootstrap_servers
    bench.create_topic(partitions=1)
    worker = bench.start_worker()
    worker.await_running(TASKS)
    late = f"late-{bench.topic}"
    create_topic(servers, late, partitions=2)
    produce(servers, late, [NewRecord(b"a", partition=0), NewRecord(b"b", partition=1)])
    topic_s = await_values(bench, late, [b"a", b"b"], within_s=INTERVAL_S + DETECTION_MARGIN_S)
    grow_topic(servers, bench.topic, 3)
    written = [NewRecord(b"%d" % p, partition=p) for p in range(3)]
    produce(servers, bench.topic, written)
    grown_s = await_values(bench, bench.topic, [b"0", b"1", b"2"], within_s=INTERVAL_S + DETECTION_MARGIN_S)
    print(f"new topic after {topic_s:.2f} s, new partitions after {grown_s:.2f} s, interval {INTERVAL_S} s")
    bench.verify()
    bench.verify(late)
    assert not stopped(worker)


def test_a_topic_that_vanishes_stops_alone(bench: Bench) -> None:
    """Its partitions stop with the reason; the others go on; its copy stays."""
    servers = bench.source.bootstrap_servers
    doomed = create_topic(servers, f"doomed-{bench.topic}", partitions=2)
    produce(servers, doomed, [NewRecord(b"a", partition=0), NewRecord(b"b", partition=1)])
    pump = bench.pump()
    worker = bench.start_worker()
    await_values(bench, doomed, [b"a", b"b"], within_s=60)
    delete_topic(servers, doomed)
    expected = {(doomed, 0, "source_gone"), (doomed, 1, "source_gone")}
    eventually(lambda: stopped(worker) == expected, within_s=INTERVAL_S + DETECTION_MARGIN_S)
    assert all(value == 1 for value in worker.metric("replicator_partition_stopped").values())
    assert len(worker.metric("replicator_partition_stopped")) == 2
    pump.await_more(1000)
    pump.stop()
    assert bench.verify().records == pump.acknowledged
    assert values(bench, doomed) == [b"a", b"b"]
    assert stopped(worker) == expected


def test_a_topic_that_is_recreated_stops_alone(bench: Bench) -> None:
    """Nothing of the new topic is mixed into the copy of the old one, nor by a worker that starts later."""
    servers = bench.source.bootstrap_servers
    doomed = create_topic(servers, f"doomed-{bench.topic}")
    produce(servers, doomed, [b"old"] * 3)
    pump = bench.pump()
    worker = bench.start_worker()
    await_values(bench, doomed, [b"old"] * 3, within_s=60)
    delete_topic(servers, doomed)
    create_topic(servers, doomed)
    produce(servers, doomed, [b"new"] * 20)

    def is_recreated(it: WorkerProcess) -> bool:
        return (doomed, 0, "recreated") in stopped(it)

    eventually(lambda: is_recreated(worker), within_s=4 * INTERVAL_S + DETECTION_MARGIN_S)
    worker.kill()
    second = bench.start_worker()
    eventually(lambda: is_recreated(second), within_s=60)
    pump.await_more(1000)
    pump.stop()
    assert bench.verify().records == pump.acknowledged
    assert values(bench, doomed) == [b"old"] * 3
    assert {topic for topic, _, _ in stopped(worker) | stopped(second)} == {doomed}
