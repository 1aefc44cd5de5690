"""The bytes in the syncs topic: golden vectors, round trips, and whatever else may lie there."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicator.errors import TP
from replicator.offset_map.runs import Run
from replicator.offset_map.sync_format import (
    MAX_GAPS_BYTES,
    PARTITION_STATE,
    TARGET_TOPIC,
    ControlRecord,
    Forgotten,
    SyncRecord,
    TargetTopic,
    WireError,
    decode,
    encode_control,
    encode_gaps,
    encode_sync,
    target_of,
    target_record,
)
from replicator.offset_map.topic_id import NO_ID, TopicId
from replicator.syncs.state import MapsState, SyncsState

INT64 = st.integers(0, 2**63 - 1)
PARTITIONS = st.integers(0, 2**31 - 1)
TOPICS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=249)
GAPS = st.lists(st.tuples(st.integers(0, 2**62), st.integers(1, 2**62)), max_size=20).map(tuple)
RUNS = st.builds(
    Run,
    seq=st.integers(1, 2**63 - 1),
    upstream_base=INT64,
    downstream_base=INT64,
    count=INT64,
    ordinal_base=INT64,
    upstream_next=INT64,
    topic_id=st.binary(min_size=16, max_size=16).map(TopicId),
    gaps=st.none() | GAPS,
)
JSON = st.dictionaries(st.text(max_size=5), st.none() | st.booleans() | st.integers() | st.text(max_size=9), max_size=4)

GOLDEN_RUN = Run(
    seq=6,
    upstream_base=40,
    downstream_base=17,
    count=5,
    ordinal_base=1000,
    upstream_next=48,
    topic_id=TopicId(range(16)),
    gaps=((3, 1), (300, 16_384)),
)


def test_the_first_fields_are_mm2s() -> None:
    """The vectors of `OffsetSyncTest` in Kafka: key (topic-1, 2), value (3, 4)."""
    run = Run(1, 3, 4, 1, 0, 4, NO_ID, ())
    key, value = encode_sync(TP("topic-1", 2), run)
    assert key.startswith(bytes.fromhex("0007746f7069632d3100000002"))
    assert value.startswith(bytes.fromhex("00000000000000030000000000000004"))


def test_a_sync_byte_for_byte() -> None:
    """What earlier releases wrote is what this one reads; a change of the layout needs a new version number."""
    key = "00066f726465727300000002010001"
    value = (
        "0000000000000028" "0000000000000011"  # upstream_base, downstream_base
        "0000"  # version
        "0000000000000006" "0000000000000005" "00000000000003e8" "0000000000000030"  # seq, count, ordinal, next
        "000102030405060708090a0b0c0d0e0f"  # topic id
        "01" "0301" "ac02" "808001"  # gaps known: (3, 1), (300, 16384)
    )  # fmt: skip
    assert encode_sync(TP("orders", 2), GOLDEN_RUN) == (bytes.fromhex(key), bytes.fromhex(value))
    assert decode(bytes.fromhex(key), bytes.fromhex(value)) == SyncRecord(TP("orders", 2), GOLDEN_RUN)


def test_a_floor_byte_for_byte() -> None:
    """The first run has level 127 and slot 0, alone; no gaps is not the same as gaps left out."""
    run = Run(1, 5, 7, 0, 0, 5, NO_ID, ())
    key, value = encode_sync(TP("t", 0), run)
    assert key.hex() == "000174000000007f0000"
    assert value.hex() == (
        "0000000000000005" "0000000000000007" "0000" "0000000000000001" "0000000000000000" "0000000000000000"
        "0000000000000005" + "00" * 16 + "01"
    )  # fmt: skip


def test_a_control_record_byte_for_byte() -> None:
    """MM2's topic name is empty; the kind and the real topic follow; the body is JSON with sorted keys."""
    record = ControlRecord(PARTITION_STATE, TP("orders", 3), {"state": "stopped", "reason": "truncated"})
    key, value = encode_control(record)
    assert key.hex() == "000000000003000f" + b"partition-state".hex() + "0006" + b"orders".hex()
    assert value is not None
    assert value.hex() == "00" * 16 + "0000" + b'{"reason":"truncated","state":"stopped"}'.hex()
    assert decode(key, value) == record


def test_a_target_topic_byte_for_byte() -> None:
    """The id as Kafka's tools print it."""
    target = TargetTopic("east.orders", TopicId(range(16)))
    record = target_record(TP("orders", 3), target)
    key, value = encode_control(record)
    assert key.hex() == "000000000003000c" + b"target-topic".hex() + "0006" + b"orders".hex()
    assert value is not None
    assert value.hex() == "00" * 16 + "0000" + b'{"topic":"east.orders","topic_id":"AAECAwQFBgcICQoLDA0ODw"}'.hex()
    state = SyncsState()
    state.take(key, value)
    assert state.targets == {TP("orders", 3): target}


@pytest.mark.parametrize(
    "body", [{}, {"topic": "t"}, {"topic": "t", "topic_id": "AAE?x"}, {"topic": "t", "topic_id": 5}]
)
def test_a_target_topic_that_makes_no_sense_is_refused(body: dict[str, Any]) -> None:
    with pytest.raises(WireError, match=r"target topic of orders\[3\]"):
        target_of(ControlRecord(TARGET_TOPIC, TP("orders", 3), body))


def test_the_end_of_a_state_is_a_tombstone() -> None:
    """The same key without a value: compaction then forgets both."""
    record = ControlRecord(PARTITION_STATE, TP("orders", 3), None)
    stopped = ControlRecord(PARTITION_STATE, TP("orders", 3), {"a": 1})
    assert encode_control(record) == (encode_control(stopped)[0], None)
    assert decode(*encode_control(record)) == record


@pytest.mark.parametrize("kind", [SyncsState, MapsState])
def test_a_deleted_run_is_the_end_of_all_before_it(kind: type[SyncsState]) -> None:
    """Compaction keeps the deletion of a key at most until the key is written again: one of them must do for all."""
    tp, other = TP("orders", 3), TP("orders", 4)
    state = kind()
    for at in (tp, other):
        for seq in (1, 2, 3):
            state.take(*encode_sync(at, Run(seq, 10 * seq, 5 * seq, 5, 0, 10 * seq + 5, NO_ID, ())))
    key, _ = encode_sync(tp, Run(2, 0, 0, 0, 0, 0, NO_ID, ()))
    assert decode(key, None) == Forgotten(tp)
    state.take(key, None)
    assert (set(state.newest), state.forgotten) == ({other}, 1)
    anew = Run(1, 0, 0, 0, 0, 0, NO_ID, ())
    state.take(*encode_sync(tp, anew))
    assert state.newest[tp] == anew
    if isinstance(state, MapsState):
        assert state.maps[tp].newest == anew
        assert state.maps[other].newest == state.newest[other]


@given(TOPICS, PARTITIONS, RUNS)
def test_syncs_come_back_as_written(topic: str, partition: int, run: Run) -> None:
    assert decode(*encode_sync(TP(topic, partition), run)) == SyncRecord(TP(topic, partition), run)


@given(st.text(max_size=30), TOPICS, PARTITIONS, st.none() | JSON)
def test_control_records_come_back_as_written(
    kind: str, topic: str, partition: int, body: dict[str, Any] | None
) -> None:
    record = ControlRecord(kind.encode(errors="ignore").decode(), TP(topic, partition), body)
    assert decode(*encode_control(record)) == record


@given(st.binary(max_size=200), st.none() | st.binary(max_size=300))
def test_arbitrary_bytes_are_a_record_or_an_error_of_ours(key: bytes, value: bytes | None) -> None:
    """Never another exception, never a hang."""
    read_or_refuse(key, value)


@given(TOPICS, PARTITIONS, RUNS, st.data())
def test_damaged_syncs_are_a_record_or_an_error_of_ours(
    topic: str, partition: int, run: Run, data: st.DataObject
) -> None:
    """Bytes changed, cut off or added anywhere in a good record."""
    parts = list(encode_sync(TP(topic, partition), run))
    which = data.draw(st.integers(0, 1))
    at = data.draw(st.integers(0, len(parts[which])))
    cut = data.draw(st.integers(0, 4))
    parts[which] = parts[which][:at] + data.draw(st.binary(max_size=4)) + parts[which][at + cut :]
    read_or_refuse(parts[0], parts[1])


def read_or_refuse(key: bytes, value: bytes | None) -> None:
    try:
        record = decode(key, value)
    except WireError:
        return
    assert isinstance(record, SyncRecord | ControlRecord | Forgotten)


SYNC_KEY, SYNC_VALUE = encode_sync(TP("orders", 2), GOLDEN_RUN)
CONTROL_KEY, _ = encode_control(ControlRecord(PARTITION_STATE, TP("orders", 2), {}))


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        (b"", b"", "can't be read"),
        (b"\x7f\xff", b"", "can't be read|a string of"),
        (b"\x00\x0dorders\x00\x00\x00\x02", SYNC_VALUE, "a string of"),
        (b"\xff\xff\x00\x00\x00\x00", SYNC_VALUE, "a string of"),
        (b"\x00\x02\xff\xfe\x00\x00\x00\x00", SYNC_VALUE, "can't be read"),
        (SYNC_KEY, SYNC_VALUE[:16], "can't be read"),
        (SYNC_KEY, SYNC_VALUE[:-1], "ends inside a number"),
        (SYNC_KEY, SYNC_VALUE[:16] + b"\x00\x01" + SYNC_VALUE[18:], "version 1: written by a newer release"),
        (SYNC_KEY, SYNC_VALUE + b"\xff" * 30, "ends inside a number"),
        (CONTROL_KEY, b"\x00" * 18, "can't be read"),
        (CONTROL_KEY, b"\x00" * 18 + b"[]", "no object"),
        (CONTROL_KEY, b"\x00" * 17 + b"\x01{}", "newer release"),
        (CONTROL_KEY, b"\x00" * 18 + b'{"a":' + b"[" * 100_000, "can't be read"),
        (CONTROL_KEY, b"\x00" * 18 + b'{"a":' + b"9" * 5_000 + b"}", "can't be read"),
    ],
)
def test_what_is_not_ours_is_refused(key: bytes, value: bytes | None, says: str) -> None:
    with pytest.raises(WireError, match=says):
        decode(key, value)


def test_a_long_gap_list_is_left_out_and_marked_so() -> None:
    """At `MAX_GAPS_BYTES` it is kept, above it is not; the rest of the run stays."""
    fits = ((1, 1),) * (MAX_GAPS_BYTES // 2)
    too_long = (*fits, (1, 1))
    assert len(encode_gaps(fits) or b"") == MAX_GAPS_BYTES
    assert encode_gaps(too_long) is None
    run = Run(2, 0, 0, 10_000, 0, 20_000, NO_ID, too_long)
    record = decode(*encode_sync(TP("t", 0), run))
    assert isinstance(record, SyncRecord)
    assert (record.run.gaps, record.run.count) == (None, 10_000)


@given(INT64, INT64)
def test_mm2s_reader_finds_its_fields(upstream: int, downstream: int) -> None:
    """`OffsetSync.deserializeRecord` reads a STRING and an INT32, then two INT64, and stops."""
    key, value = encode_sync(TP("orders", 9), Run(7, upstream, downstream, 1, 0, upstream, NO_ID, ()))
    (length,) = struct.unpack_from(">h", key)
    assert key[2 : 2 + length] == b"orders"
    assert struct.unpack_from(">i", key, 2 + length) == (9,)
    assert struct.unpack_from(">qq", value) == (upstream, downstream)
