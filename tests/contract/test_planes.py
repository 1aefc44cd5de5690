"""What every plane keeps, and what it leaves out."""

from __future__ import annotations

from typing import Any

import pytest
from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import AlterConfigOpType, ConfigEntry, ConfigResource  # type: ignore[attr-defined]

from replicator.errors import PartitionError, StopReason
from tests.support.eventually import eventually
from tests.support.lane import Lane
from tests.support.planes import TIMEOUT_S, assert_placed, upstream_offsets
from tests.support.raw_batches import produce_raw
from tests.support.records import NewRecord, admin_client, enqueue, produce

SHAPES = [
    NewRecord(b"plain", b"key", timestamp=1_700_000_000_000),
    NewRecord(None, b"tombstone", timestamp=1),
    NewRecord(b"", b"empty value", timestamp=2),
    NewRecord(b"empty key", b"", timestamp=3),
    NewRecord(b"no key", None, timestamp=4),
    NewRecord(None, None, timestamp=5),
    NewRecord(b"", b"", timestamp=6),
    NewRecord(b"duplicate headers", b"k", timestamp=7, headers=[("a", b"2"), ("a", b"1"), ("b", b""), ("a", b"2")]),
    NewRecord(b"null header", b"k", timestamp=8, headers=[("z", None), ("", b"no name"), ("a", b"\x00\xff")]),
    NewRecord(b"many headers", b"k", timestamp=9, headers=[(f"h{i}", bytes([i])) for i in range(100)]),
    NewRecord("grüße 🚀 \u0000".encode(), "ключ".encode(), timestamp=10, headers=[("заголовок", "値".encode())]),
    NewRecord(bytes(range(256)), bytes(range(255, -1, -1)), timestamp=11),
    NewRecord(b"no timestamp", b"k", timestamp=-1),
]


def transact(lane: Lane, steps: list[tuple[str, list[NewRecord]]]) -> None:
    """Write transactions to the source topic; the first word of each is `commit` or `abort`."""
    producer = Producer({"bootstrap.servers": lane.source, "transactional.id": f"app-{lane.topic}", "linger.ms": 0})
    producer.init_transactions(TIMEOUT_S)
    for outcome, records in steps:
        producer.begin_transaction()
        for record in records:
            enqueue(producer, lane.topic, record)
        assert producer.flush(TIMEOUT_S) == 0
        producer.commit_transaction(TIMEOUT_S) if outcome == "commit" else producer.abort_transaction(TIMEOUT_S)


def values(prefix: str, count: int, **fields: Any) -> list[NewRecord]:
    """Distinct small records."""
    return [NewRecord(f"{prefix}{i}".encode(), **fields) for i in range(count)]


def test_every_part_of_a_record_is_kept(lane: Lane) -> None:
    """A: key, value (null is not empty), headers in order with duplicates and nulls, timestamps, -1 too."""
    lane.create()
    produce(lane.source, lane.topic, SHAPES)
    placed = lane.driver().carry({lane.tp(): len(SHAPES)})
    written, arrived = lane.written(), lane.arrived()
    assert [r.content for r in arrived] == [r.content for r in written]
    assert [(r.value, r.key, r.timestamp, list(r.headers)) for r in arrived] == [
        (r.value, r.key, r.timestamp, list(r.headers)) for r in SHAPES
    ]
    assert_placed(placed, written, arrived)


def test_a_timestamp_of_zero_is_kept_or_counted(lane: Lane) -> None:
    """H: where the client library turns 0 into now, the record gets 1 and the partition is reported."""
    lane.create()
    stamps = [0, 5, 0, 1, -1]
    for stamp in stamps:
        produce_raw(lane.source, lane.topic, 0, [(stamp, f"at {stamp}".encode())])
    assert [r.timestamp for r in lane.written()] == stamps, "the set-up wrote what it meant to"
    lane.driver().carry({lane.tp(): len(stamps)})
    if lane.kind.keeps_zero_timestamp:
        assert ([r.timestamp for r in lane.arrived()], lane.zeros) == (stamps, {})
    else:
        assert ([r.timestamp for r in lane.arrived()], lane.zeros) == ([s or 1 for s in stamps], {lane.tp(): 2})


def test_partitions_keep_their_number_and_order(lane: Lane) -> None:
    """A: records of several partitions in one transaction stay where they were, in order."""
    lane.create(partitions=3)
    produce(lane.source, lane.topic, [NewRecord(f"{i}".encode(), partition=i % 3) for i in range(3000)])
    ends = {lane.tp(p): 1000 for p in range(3)}
    placed = lane.driver(0, 1, 2).carry(ends)
    written, arrived = lane.written(), lane.arrived()
    assert [r.content for r in arrived] == [r.content for r in written]
    assert_placed(placed, written, arrived)


def test_large_records_are_kept(lane: Lane) -> None:
    """Values as large as a broker takes by default, among small ones."""
    lane.create()
    records = [NewRecord(bytes([65 + i]) * (1_000_000 if i % 2 else 10), timestamp=i + 1) for i in range(8)]
    produce(lane.source, lane.topic, records, client={"message.max.bytes": 2_000_000})
    lane.driver().carry({lane.tp(): len(records)})
    assert [r.content for r in lane.arrived()] == [r.content for r in lane.written()]


def test_little_memory_is_enough(lane: Lane) -> None:
    """A task with the smallest share of memory carries more than it may hold, in several transactions."""
    lane.create()
    produce(lane.source, lane.topic, [NewRecord(bytes([65 + i % 26]) * 100_000) for i in range(120)])
    driver = lane.driver(buffer_bytes=8_388_608)
    for end in (40, 80, 120):
        driver.carry({lane.tp(): end})
    assert [r.content for r in lane.arrived()] == [r.content for r in lane.written()]


def test_aborted_records_are_left_out(lane: Lane) -> None:
    """A: only committed records travel; the gaps in the placements are where the others and the markers were."""
    lane.create()
    steps = [("commit", 3), ("abort", 4), ("commit", 1), ("abort", 1), ("commit", 5)]
    transact(lane, [(what, values(f"{what}{i}-", count)) for i, (what, count) in enumerate(steps)])
    placed = lane.driver().carry({lane.tp(): lane.end()})
    written, arrived = lane.written(), lane.arrived()
    assert len(arrived) == 9
    assert all((r.value or b"").startswith(b"commit") for r in arrived)
    assert_placed(placed, written, arrived)


def test_markers_at_the_end_are_passed(lane: Lane) -> None:
    """The position reaches the end of the committed log, over aborted records and markers."""
    lane.create()
    transact(lane, [("commit", values("c", 2)), ("abort", values("a", 3))])
    driver = lane.driver()
    driver.fetch_to({lane.tp(): 7})
    assert (driver.positions, driver.passed) == ({lane.tp(): 7}, {lane.tp(): 7})
    assert sum(batch.records for batch in driver.batches) == 2


def test_open_transactions_are_waited_for(lane: Lane) -> None:
    """A: nothing behind the last stable offset is delivered or passed before it is decided."""
    lane.create()
    produce(lane.source, lane.topic, [b"before"])
    producer = Producer({"bootstrap.servers": lane.source, "transactional.id": f"app-{lane.topic}", "linger.ms": 0})
    producer.init_transactions(TIMEOUT_S)
    producer.begin_transaction()
    producer.produce(lane.topic, b"undecided", partition=0)
    assert producer.flush(TIMEOUT_S) == 0
    produce(lane.source, lane.topic, [b"after"])
    driver = lane.driver()
    driver.fetch_to({lane.tp(): 1})
    eventually(lambda: lane.tp() in driver.fetch().passed or driver.passed, within_s=TIMEOUT_S)
    assert driver.positions == {lane.tp(): 1}
    producer.commit_transaction(TIMEOUT_S)
    driver.fetch_to({lane.tp(): 4})
    assert sum(batch.records for batch in driver.batches) == 3


def test_compacted_logs_are_placed_exactly(lane: Lane) -> None:
    """A: gaps left by compaction, inside batches and between them, show in the placements."""
    lane.create(config={"cleanup.policy": "compact", "segment.ms": "50", "min.cleanable.dirty.ratio": "0.001"})
    let_the_cleaner_run(lane)
    written = 0

    def write(count: int) -> None:
        """Each record's value is its own offset; two of three share a key."""
        nonlocal written
        offsets = range(written, written + count)
        produce(lane.source, lane.topic, [NewRecord(b"%d" % i, b"shared" if i % 3 else b"%d" % i) for i in offsets])
        written += count

    def is_compacted() -> bool:
        write(1)
        return len(lane.written()) < 90

    for _ in range(6):
        write(20)
    eventually(is_compacted, within_s=TIMEOUT_S, every_s=0.1)
    kept_before = {r.offset for r in lane.written()}
    places = lane.driver().carry({lane.tp(): written})[lane.tp()]
    kept_after = {r.offset for r in lane.written()}
    offsets = [offset for place in places for offset in upstream_offsets(place)]
    assert kept_after <= set(offsets) <= kept_before
    assert len(offsets) < offsets[-1] - offsets[0] + 1, "the log had gaps"
    arrived = {r.offset: r.value for r in lane.arrived()}
    landed = [arrived[place.downstream_base + i] for place in places for i in range(place.count)]
    assert landed == [b"%d" % offset for offset in offsets]
    assert len(arrived) == len(offsets)


def let_the_cleaner_run(lane: Lane) -> None:
    """Let the source's log cleaner look for work at once; by default it sleeps 15 s."""
    entry = ConfigEntry("log.cleaner.backoff.ms", "50", incremental_operation=AlterConfigOpType.SET)
    admin = admin_client(lane.source)
    for broker in admin.list_topics(timeout=TIMEOUT_S).brokers:
        resource = ConfigResource(ConfigResource.Type.BROKER, str(broker), incremental_configs=[entry])
        admin.incremental_alter_configs([resource])[resource].result(TIMEOUT_S)


def test_truncation_is_reported(lane: Lane) -> None:
    """H: a position that retention took is an error of the partition, never a silent jump."""
    lane.create(partitions=2)
    produce(lane.source, lane.topic, [NewRecord(b"x", partition=p) for p in (0, 1) for _ in range(10)])
    admin = admin_client(lane.source)
    for future in admin.delete_records([TopicPartition(lane.topic, 0, 4)]).values():
        future.result(TIMEOUT_S)
    driver = lane.driver(0, 1)

    def has_failed() -> list[PartitionError]:
        driver.fetch()
        return driver.failed if driver.positions[lane.tp(1)] == 10 else []

    (error, *_) = eventually(has_failed, within_s=TIMEOUT_S)
    assert (error.tp, error.reason) == (lane.tp(0), StopReason.TRUNCATED)
    assert {batch.tp for batch in driver.batches} == {lane.tp(1)}, "the other one goes on"


def test_an_unknown_topic_holds_nobody_up(lane: Lane) -> None:
    """H: the others go on; the partition itself is reported as gone, or silent: the catalog finds it, too."""
    lane.create()
    produce(lane.source, lane.topic, [b"x"])
    missing = lane.tp()._replace(topic=f"{lane.topic}-missing")
    driver = lane.driver()
    driver.assign({missing: 0, lane.tp(): 0})
    eventually(lambda: driver.fetch() and driver.positions[lane.tp()] == 1, within_s=TIMEOUT_S)
    produce(lane.source, lane.topic, [b"y"])
    eventually(lambda: driver.fetch() and driver.positions[lane.tp()] == 2, within_s=TIMEOUT_S)
    assert driver.positions[missing] == 0
    assert [(error.tp, error.reason) for error in driver.failed] in ([], [(missing, StopReason.SOURCE_GONE)])
    driver.plane.remove([missing])
    driver.carry({lane.tp(): 2})
    assert len(lane.arrived()) == 2


@pytest.mark.parametrize("is_busy", [False, True])
def test_removed_partitions_deliver_nothing_more(lane: Lane, is_busy: bool) -> None:
    """After `remove` no batch of the partition comes, even one that was read ahead; `add` brings it back."""
    lane.create(partitions=2)
    produce(lane.source, lane.topic, [NewRecord(f"{i}".encode(), partition=i % 2) for i in range(8000)])
    driver = lane.driver(0, 1)
    if is_busy:
        eventually(lambda: driver.fetch().batches, within_s=TIMEOUT_S)
    else:
        driver.fetch_to({lane.tp(0): 4000, lane.tp(1): 4000})
    driver.plane.remove([lane.tp(0)])
    stopped_at = driver.positions[lane.tp(0)]
    produce(lane.source, lane.topic, [NewRecord(b"more", partition=p) for p in (0, 1)])
    driver.fetch_to({lane.tp(1): 4001})
    for _ in range(3):
        driver.fetch()
    assert driver.positions[lane.tp(0)] == stopped_at
    driver.plane.add({lane.tp(0): stopped_at})
    driver.fetch_to({lane.tp(0): 4001})
    assert sum(batch.records for batch in driver.batches) == 8002
