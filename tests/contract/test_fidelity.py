"""What only the `batches` plane keeps: batches arrive as they were written, byte for byte."""

from __future__ import annotations

import struct

import pytest
from confluent_kafka import Producer

from tests.contract.test_planes import SHAPES
from tests.support.lane import Lane
from tests.support.planes import TIMEOUT_S
from tests.support.raw_batches import fetch_raw, produce_raw
from tests.support.records import NewRecord, enqueue, produce

CODECS = {"none": 0, "gzip": 1, "snappy": 2, "lz4": 3, "zstd": 4}
RECORDS_AT = 61

only_batches = pytest.mark.parametrize("lane", ["batches"], indirect=True)


def content(batch: bytes) -> tuple[int, int, int, int, int, bytes]:
    """Of a batch all that a copy has to keep: codec and timestamp type, last offset, times, count, and its records."""
    (attributes,) = struct.unpack_from(">h", batch, 21)
    last_delta, base_ms, max_ms = struct.unpack_from(">iqq", batch, 23)
    (count,) = struct.unpack_from(">i", batch, 57)
    return attributes & 0x0F, last_delta, base_ms, max_ms, count, batch[RECORDS_AT:]


@only_batches
@pytest.mark.parametrize("codec", list(CODECS))
def test_batches_pass_unopened(lane: Lane, codec: str) -> None:
    """A: codec, boundaries, times and every byte of the records."""
    lane.create()
    producer = Producer({"bootstrap.servers": lane.source, "compression.type": codec, "linger.ms": 100})
    for number in range(4):
        for record in SHAPES:
            enqueue(producer, lane.topic, record)
        for index in range(500 * number):
            enqueue(producer, lane.topic, NewRecord(b"%d of %d" % (index, number) * 10, timestamp=index))
        assert producer.flush(TIMEOUT_S) == 0
    ends = {lane.tp(): 4 * len(SHAPES) + 500 * 6}
    lane.driver().carry(ends)
    written, arrived = fetch_raw(lane.source, lane.topic), fetch_raw(lane.target, lane.remote)
    assert [content(it) for it in arrived] == [content(it) for it in written]
    used = {content(it)[0] for it in written}
    assert CODECS[codec] in used, "the set-up wrote what it meant to"
    assert used <= {CODECS["none"], CODECS[codec]}, "a producer sends a batch as it is that would not get smaller"
    assert len(written) >= 4


@only_batches
def test_timestamps_of_zero_pass(lane: Lane) -> None:
    """As they are, in batches of their own; there is nothing to count."""
    lane.create()
    for stamp in (0, -1, 0):
        produce_raw(lane.source, lane.topic, 0, [(stamp, b"x" * 3000)])
    lane.driver().carry({lane.tp(): 3})
    assert [content(it) for it in fetch_raw(lane.target, lane.remote)] == [
        content(it) for it in fetch_raw(lane.source, lane.topic)
    ]
    assert lane.zeros == {}


@only_batches
def test_tiny_batches_travel_together(lane: Lane) -> None:
    """A: a request carries one batch per partition, so a thousand of them become few; every record stays what it is."""
    lane.create()
    producer = Producer({"bootstrap.servers": lane.source, "linger.ms": 0, "batch.num.messages": 1})
    for index in range(1000):
        enqueue(producer, lane.topic, NewRecord(b"%d" % index, b"k", timestamp=index, headers=[("n", None)]))
    assert producer.flush(TIMEOUT_S) == 0
    lane.driver().carry({lane.tp(): 1000})
    assert [r.content for r in lane.arrived()] == [r.content for r in lane.written()]
    assert len(fetch_raw(lane.source, lane.topic)) == 1000, "the set-up wrote what it meant to"
    assert len(fetch_raw(lane.target, lane.remote)) < 100


@only_batches
def test_what_is_partly_consumed_is_opened(lane: Lane) -> None:
    """A: from a position inside a batch, exactly what follows it."""
    lane.create()
    produce(lane.source, lane.topic, [NewRecord(b"%d" % n, timestamp=n) for n in range(100)])
    driver = lane.driver()
    driver.assign({lane.tp(): 37})
    placed = driver.carry({lane.tp(): 100})
    assert [r.value for r in lane.arrived()] == [b"%d" % n for n in range(37, 100)]
    assert (placed[lane.tp()][0].upstream_base, placed[lane.tp()][-1].upstream_next) == (37, 100)


@only_batches
def test_log_append_time_becomes_the_records_time(lane: Lane) -> None:
    """The time that the source's broker gave is the record's on the target, where no broker gives another."""
    lane.create(config={"message.timestamp.type": "LogAppendTime"})
    produce(lane.source, lane.topic, [NewRecord(b"x", timestamp=5), NewRecord(b"y", timestamp=6)])
    lane.driver().carry({lane.tp(): 2})
    written, arrived = lane.written(), lane.arrived()
    assert [r.content for r in arrived] == [r.content for r in written]
    assert min(r.timestamp for r in written) > 1_000_000
