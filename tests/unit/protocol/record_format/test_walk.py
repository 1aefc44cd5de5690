"""Walking over a log: whatever it holds, exactly the committed records from the position on come out, unchanged."""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import pytest
from aiokafka.record.util import calc_crc32c
from hypothesis import example, given, settings
from hypothesis import strategies as st

from replicator.protocol.record_format.header import HEADER_BYTES
from replicator.protocol.record_format.records import Record
from replicator.protocol.record_format.reencode import decode_batch
from replicator.protocol.record_format.walk import FEWEST_MERGED, MERGED_BYTES, BadBatchError, Walked, stamp, walk
from tests.unit.protocol.record_format.logs import (
    CONTROL,
    DELETE_HORIZON,
    LOG_APPEND_TIME,
    START_MS,
    TRANSACTIONAL,
    BatchSpec,
    batch,
    compressed,
    marker,
    old_message,
    read_back,
    record,
    source_offsets,
    view,
)

LARGE = 1_000_000


def walk_whole(*parts: bytes, from_offset: int = 0, aborted: Sequence[tuple[int, int]] = (), **more: object) -> Walked:
    walked = walk(view(*parts), from_offset, aborted, **{"max_batch_bytes": LARGE, **more})  # type: ignore[arg-type]
    assert walked.bad is None
    return walked


def reencoded(walked: Walked) -> list[int]:
    """How many records each batch has that is not a view of what was fetched."""
    return [raw.records for raw in walked.batches if not isinstance(raw.data, memoryview)]


def offsets(walked: Walked) -> list[int]:
    return [offset for raw in walked.batches for offset in source_offsets(raw)]


def transaction(producer_id: int, base_offset: int, count: int = 2) -> bytes:
    return batch(base_offset, count, producer_id=producer_id, attributes=TRANSACTIONAL)


# --- what passes ------------------------------------------------------------------------------------------------------


def test_a_batch_passes_unopened_where_it_lies() -> None:
    """Its bytes are handed on, not copied."""
    blob = view(batch(40, 5, epoch=7), batch(45, 2, epoch=8))
    walked = walk(blob, 40, [], max_batch_bytes=LARGE)
    first, second = walked.batches
    assert isinstance(first.data, memoryview)
    assert first.data.obj is blob.obj
    assert (first.first_offset, first.next_offset, first.records, first.gaps) == (40, 45, 5, ())
    assert first.max_timestamp_ms == START_MS + 4
    assert walked == Walked([first, second], next_offset=47, last_epoch=8)


@pytest.mark.parametrize("codec", range(5))
@pytest.mark.parametrize("attributes", [0, TRANSACTIONAL])
def test_the_codec_and_the_records_stay_as_they_are(codec: int, attributes: int) -> None:
    data = batch(40, 5, size=50, codec=codec, attributes=attributes, producer_id=9)
    (raw,) = walk_whole(data, from_offset=40).batches
    stamp(raw.data, 77, 5, 1234)
    assert bytes(raw.data[61:]) == data[61:]
    assert raw.data[22] == codec | TRANSACTIONAL
    assert [r[0] for r in read_back([raw])] == list(range(40, 45))


def test_a_stamp_writes_its_fields_and_no_others() -> None:
    data = bytearray(batch(40, 3, epoch=9))
    before = bytes(data)
    stamp(data, 0x0102030405060708, 0x1112, 0x21222324)
    expected = bytearray(before)
    expected[0:8] = bytes(8)
    expected[12:16] = b"\xff" * 4
    expected[22] = TRANSACTIONAL
    expected[43:57] = bytes.fromhex("0102030405060708 1112 21222324")
    expected[17:21] = data[17:21]
    assert data == expected
    again = bytearray(data)
    stamp(memoryview(again), 0x0102030405060708, 0x1112, 0x21222324)
    assert again == data
    stamp(again, 5, 0, 0)
    assert len(read_back(walk_whole(bytes(again)).batches)) == 3


def test_a_stamp_clears_every_bit_but_the_codecs() -> None:
    data = bytearray(batch(0, 1))
    data[21:23] = b"\xff\xfc"
    stamp(data, 1, 0, 0)
    assert data[21:23] == bytes((0, TRANSACTIONAL | 4))


def test_a_single_record_that_is_larger_than_a_batch_may_be_passes() -> None:
    """Opening it would make it no smaller."""
    assert not reencoded(walk_whole(batch(0, 1, size=5000), max_batch_bytes=1000))


# --- what is left out -------------------------------------------------------------------------------------------------


def test_part_of_a_batch_at_the_end_is_ignored() -> None:
    first, second = batch(0, 2), batch(2, 2)
    for end in range(len(first), len(first) + len(second)):
        walked = walk(view((first + second)[:end]), 0, [], max_batch_bytes=LARGE)
        assert (len(walked.batches), walked.next_offset, walked.bad) == (1, 2, None)
    for end in range(len(first)):
        walked = walk(view(first[:end]), 0, [], max_batch_bytes=LARGE)
        assert (walked.batches, walked.next_offset, walked.last_epoch, walked.bad) == ([], 0, -1, None)


def test_what_was_consumed_before_is_left_out() -> None:
    walked = walk_whole(batch(0, 3), batch(3, 3), batch(6, 3), from_offset=4, merge=False)
    assert offsets(walked) == [4, 5, 6, 7, 8]
    assert (reencoded(walked), walked.next_offset) == ([2], 9)


def test_a_batch_without_records_moves_the_position() -> None:
    """The cleaner keeps such a batch for the state of its producer."""
    walked = walk_whole(BatchSpec(5, [], last_offset=9, producer_id=4).encode(), from_offset=5)
    assert (walked.batches, walked.next_offset, walked.last_epoch) == ([], 10, 3)


def test_markers_are_left_out() -> None:
    walked = walk_whole(transaction(1, 0), marker(2, 1, commit=True), transaction(1, 3), marker(5, 1, commit=True))
    assert offsets(walked) == [0, 1, 3, 4]
    assert walked.next_offset == 6


def test_interleaved_transactions_each_have_their_own_end() -> None:
    """1 aborts, 2 commits, 3 has no transaction, and 1 goes on with another one."""
    log = [
        transaction(1, 0),
        transaction(2, 2),
        batch(4, 2, producer_id=3),
        transaction(1, 6),
        marker(8, 1, commit=False),
        transaction(1, 9),
        marker(11, 2, commit=True),
        marker(12, 1, commit=True),
    ]
    walked = walk_whole(*log, aborted=[(1, 0)])
    assert offsets(walked) == [2, 3, 4, 5, 9, 10]
    assert walked.next_offset == 13


def test_the_same_producer_may_abort_commit_and_abort() -> None:
    log = [
        transaction(1, 0),
        marker(2, 1, commit=False),
        transaction(1, 3),
        marker(5, 1, commit=True),
        transaction(1, 6),
        marker(8, 1, commit=False),
        transaction(1, 9),
        marker(11, 1, commit=True),
    ]
    for aborted in ([(1, 0), (1, 6)], [(1, 6), (1, 0)]):
        assert offsets(walk_whole(*log, aborted=aborted)) == [3, 4, 9, 10]


def test_a_fetch_may_begin_inside_an_aborted_transaction() -> None:
    log = [transaction(1, 6), marker(8, 1, commit=False), transaction(1, 9), marker(11, 1, commit=True)]
    assert offsets(walk_whole(*log, from_offset=6, aborted=[(1, 0)])) == [9, 10]
    assert offsets(walk_whole(*log, from_offset=7, aborted=[(1, 0)])) == [9, 10]
    assert offsets(walk_whole(*log[1:], from_offset=8, aborted=[(1, 0)])) == [9, 10]


def test_records_outside_of_transactions_are_kept_while_one_aborts() -> None:
    log = [transaction(1, 0), batch(2, 2, producer_id=1), marker(4, 1, commit=False)]
    assert offsets(walk_whole(*log, aborted=[(1, 0)])) == [2, 3]


def test_other_control_batches_end_no_transaction() -> None:
    """A leader change in a KRaft log, or a kind that is yet to come."""
    it: Record = 2, START_MS, struct.pack(">hh", 0, 2), b"", []
    other = BatchSpec(2, [it], attributes=CONTROL | TRANSACTIONAL, producer_id=1).encode()
    log = [transaction(1, 0), other, transaction(1, 3), marker(5, 1, commit=False)]
    assert offsets(walk_whole(*log, aborted=[(1, 0)])) == []


@pytest.mark.parametrize("key", [None, b"\0"])
def test_a_control_batch_without_a_type_is_bad(key: bytes | None) -> None:
    control = BatchSpec(2, [(2, START_MS, key, b"", [])], attributes=CONTROL | TRANSACTIONAL, producer_id=1).encode()
    walked = walk(view(batch(0, 2), control), 0, [(1, 0)], max_batch_bytes=LARGE)
    assert (str(walked.bad), walked.next_offset) == ("a control batch without a type", 2)


# --- what is opened ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kept", [[3, 4], [0, 4], [0, 1], [2], [0, 2, 4]])
@pytest.mark.parametrize("codec", range(5))
def test_compacted_batches_have_gaps(kept: list[int], codec: int) -> None:
    spec = BatchSpec(10, [record(10 + i, b"x" * 100, START_MS - i) for i in kept], last_offset=14, codec=codec)
    walked = walk_whole(spec.encode(), from_offset=10)
    assert read_back(walked.batches) == list(spec.records)
    assert (walked.next_offset, reencoded(walked)) == (15, [len(kept)])
    assert walked.batches[0].data[22] == codec


def test_log_append_time_becomes_the_records_own() -> None:
    spec = BatchSpec(0, [record(i) for i in range(3)], attributes=LOG_APPEND_TIME, max_ms=START_MS + 500)
    walked = walk_whole(spec.encode())
    assert [r[1] for r in read_back(walked.batches)] == [START_MS + 500] * 3
    assert reencoded(walked) == [3]


def test_a_delete_horizon_is_no_timestamp() -> None:
    """Kafka writes the horizon where the base timestamp was, and the records' deltas anew."""
    records = [record(i, None, START_MS + i) for i in range(3)]
    walked = walk_whole(BatchSpec(0, records, attributes=DELETE_HORIZON, base_ms=START_MS + 10**9).encode())
    assert read_back(walked.batches) == records
    assert reencoded(walked) == [3]


@pytest.mark.parametrize("codec", range(4))
@pytest.mark.parametrize("magic", [0, 1])
def test_old_formats_are_written_anew(magic: int, codec: int) -> None:
    records: list[Record] = [(7 + i, START_MS + i, b"k" * 50, None if i == 1 else b"v" * 50, []) for i in range(3)]
    data = old_message(magic, records, codec) if codec else b"".join(old_message(magic, [r]) for r in records)
    expected = records if magic else [(r[0], -1, *r[2:]) for r in records]
    walked = walk_whole(batch(5, 2), data, batch(10, 1), from_offset=5)
    assert read_back(walked.batches)[2:-1] == expected
    assert (walked.next_offset, walked.last_epoch) == (11, 3)
    assert read_back(walk_whole(data, from_offset=8).batches) == expected[1:]


def test_a_batch_larger_than_the_target_takes_becomes_several() -> None:
    spec = BatchSpec(0, [record(i, b"x" * (3000 if i == 7 else 100)) for i in range(50)])
    walked = walk_whole(spec.encode(), max_batch_bytes=1000)
    assert read_back(walked.batches) == list(spec.records)
    assert [raw.records for raw in walked.batches if raw.size_bytes > 1000] == [1]
    assert len(walked.batches) > 5


def test_many_tiny_batches_become_one() -> None:
    """Across markers, which become gaps."""
    log = []
    for offset in range(0, 3000, 3):
        log += [transaction(1, offset), marker(offset + 2, 1, commit=True)]
    walked = walk_whole(*log)
    (raw,) = walked.batches
    assert (raw.records, raw.first_offset, raw.next_offset, walked.next_offset) == (2000, 0, 2999, 3000)
    assert raw.gaps[:2] == ((2, 1), (2, 1))
    assert [r[0] for r in read_back([raw])] == [o for o in range(3000) if o % 3 != 2]
    assert reencoded(walked) == [2000]


@pytest.mark.parametrize("codec", range(5))
def test_merged_batches_keep_their_codec_and_stay_small(codec: int) -> None:
    log = [batch(i, 1, size=900, codec=codec) for i in range(500)]
    walked = walk_whole(*log)
    assert len(walked.batches) == 2 if not codec else len(walked.batches) <= 2
    assert {raw.data[22] for raw in walked.batches} == {codec}
    assert all(raw.size_bytes <= MERGED_BYTES for raw in walked.batches)
    assert offsets(walked) == list(range(500))
    assert [len(raw.data) <= 2000 for raw in walk_whole(*log, max_batch_bytes=2000).batches] != []
    assert not reencoded(walk_whole(*log, merge=False))


def test_tiny_batches_with_header_names_that_are_not_utf8_are_merged() -> None:
    """Which compiled code can't read, wherever among the others they lie."""
    records: list[Record] = [(i, START_MS + i, b"k", b"v", [("\udcff" if i % 3 else "name", b"h")]) for i in range(20)]
    log = [BatchSpec(it[0], [it]).encode() for it in records]
    (raw,) = walk_whole(*log).batches
    assert decode_batch(memoryview(raw.data)) == [(i, *it[1:]) for i, it in enumerate(records)]


def test_few_or_larger_or_different_batches_are_not_merged() -> None:
    three = [batch(i, 1) for i in range(3)]
    assert not reencoded(walk_whole(*three))
    assert reencoded(walk_whole(*three, batch(3, 1))) == [4]
    assert not reencoded(walk_whole(*[batch(i, 1, size=3000) for i in range(10)]))
    assert not reencoded(walk_whole(*[batch(i, 1, size=100, codec=i % 2) for i in range(10)]))
    walked = walk_whole(*three, batch(3, 1, size=5000), *[batch(i, 1) for i in range(4, 10)])
    assert (reencoded(walked), [raw.records for raw in walked.batches]) == ([6], [1, 1, 1, 1, 6])


def test_compacted_tiny_batches_are_merged_with_others() -> None:
    log = [BatchSpec(i, [record(i + 1)], last_offset=i + 2).encode() for i in range(0, 30, 3)]
    walked = walk_whole(*log, batch(30, 1))
    (raw,) = walked.batches
    assert source_offsets(raw) == [*range(1, 30, 3), 30]
    assert walked.next_offset == 31


# --- anything at all --------------------------------------------------------------------------------------------------


@dataclass
class Log:
    """A partition's log as it may be, and what a consumer sees of it."""

    rng: random.Random
    parts: list[tuple[int, bytes]] = field(default_factory=list)
    """(next offset, bytes)"""
    committed: list[Record] = field(default_factory=list)
    aborts: list[tuple[int, int, int]] = field(default_factory=list)
    """(producer, first offset, offset of the marker)"""
    offset: int = 0
    _open: dict[int, list[Record]] = field(default_factory=dict)
    _first: dict[int, int] = field(default_factory=dict)

    def grow(self) -> None:
        kinds = [self._plain] * 3 + [self._tiny] * 2 + [self._transactional] * 4 + [self._end] * 2 + [self._old]
        for _ in range(self.rng.randint(1, 40)):
            self.rng.choice(kinds)()
        while self._open:
            self._end()
        self.committed.sort()

    def aborted_from(self, position: int) -> list[tuple[int, int]]:
        """As a broker reports them: not over before the position."""
        return [(producer, first) for producer, first, end in self.aborts if end >= position]

    def _records(self, most: int) -> list[Record]:
        rng = self.rng
        sizes = [rng.choice([0, 1, 30, 400]) for _ in range(rng.randint(1, most))]
        times = [rng.choice([-1, 0, START_MS + rng.randint(-99, 99)]) for _ in sizes]
        return [
            (
                self.offset + i,
                times[i],
                rng.choice([None, b"", b"key"]),
                rng.choice([None, rng.randbytes(size)]),
                rng.choice([[], [("h", None), ("h", b""), ("ü", b"1")]]),
            )
            for i, size in enumerate(sizes)
        ]

    def _append(self, records: list[Record], attributes: int = 0, producer_id: int = -1) -> list[Record]:
        rng = self.rng
        spec = BatchSpec(
            self.offset, records, attributes=attributes, producer_id=producer_id, codec=rng.choice(range(5))
        )
        spec.last_offset = spec.next_offset - 1
        kind = rng.choice(["whole", "whole", "compacted", "append time", "horizon"])
        if kind == "compacted":
            spec.records = [r for r in records if rng.random() < 0.5]
            spec.codec *= bool(spec.records)
        if kind == "append time":
            spec.attributes |= LOG_APPEND_TIME
            spec.max_ms = START_MS
        if kind == "horizon":
            spec.attributes |= DELETE_HORIZON
            spec.base_ms = START_MS + 5000
        self.offset = spec.next_offset
        self.parts.append((self.offset, spec.encode()))
        return [(o, START_MS if kind == "append time" else t, *rest) for o, t, *rest in spec.records]  # type: ignore[misc]

    def _plain(self) -> None:
        self.committed += self._append(self._records(20))

    def _tiny(self) -> None:
        for _ in range(self.rng.randint(1, 9)):
            self.committed += self._append(self._records(1))

    def _transactional(self) -> None:
        producer = self.rng.randint(1, 3)
        self._first.setdefault(producer, self.offset)
        self._open.setdefault(producer, []).extend(self._append(self._records(5), TRANSACTIONAL, producer))

    def _end(self) -> None:
        if not self._open:
            return
        producer = self.rng.choice(list(self._open))
        records, first = self._open.pop(producer), self._first.pop(producer)
        is_commit = self.rng.random() < 0.5
        self.parts.append((self.offset + 1, marker(self.offset, producer, commit=is_commit)))
        if is_commit:
            self.committed += records
        else:
            self.aborts.append((producer, first, self.offset))
        self.offset += 1

    def _old(self) -> None:
        magic, codec = self.rng.choice([0, 1]), self.rng.choice([0, 1, 2, 3])
        records: list[Record] = [
            (o, max(t, -1) if magic else -1, k, v, []) for o, t, k, v, _ in self._records(4 if codec else 1)
        ]
        self.parts.append((self.offset + len(records), old_message(magic, records, codec)))
        self.committed += records
        self.offset += len(records)

    def fetch(self, position: int, end: int | None = None) -> Iterator[bytes]:
        """From the batch that holds the position on."""
        for next_offset, data in self.parts:
            if next_offset > position and (end is None or next_offset <= end):
                yield data


@settings(max_examples=80)
@given(seed=st.integers(0, 2**32), merge=st.booleans(), most=st.sampled_from([300, 5000, LARGE]))
def test_exactly_the_committed_records_come_out(seed: int, merge: bool, most: int) -> None:
    """From any position, in any number of fetches, however a fetch is cut off."""
    rng = random.Random(seed)
    log = Log(rng)
    log.grow()
    start = position = rng.randint(0, log.offset)
    found: list[Record] = []
    while position < log.offset:
        part = b"".join(log.fetch(position))
        end = rng.randint(0, len(part)) if rng.random() < 0.5 else len(part)
        walked = walk(view(part[:end]), position, log.aborted_from(position), max_batch_bytes=most, merge=merge)
        assert walked.bad is None
        assert position <= walked.next_offset <= log.offset
        assert all(raw.size_bytes <= most or raw.records == 1 for raw in walked.batches)
        assert position <= min(offsets(walked), default=position)
        assert max(offsets(walked), default=-1) < max(walked.next_offset, 0)
        for raw in walked.batches:
            stamp(raw.data, 5, 0, 0)
        found += read_back(walked.batches)
        position = walked.next_offset
    assert found == [r for r in log.committed if r[0] >= start]


# --- what is damaged --------------------------------------------------------------------------------------------------


def resigned(data: bytearray) -> bytes:
    """With a right checksum again."""
    struct.pack_into(">I", data, 17, calc_crc32c(bytes(data[21:])))
    return bytes(data)


def changed(at: int, value: bytes, *, sign: bool = True, data: bytes | None = None) -> bytes:
    it = bytearray(data or batch(20, 3, size=100))
    it[at : at + len(value)] = value
    return resigned(it) if sign else bytes(it)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        pytest.param(changed(100, b"?", sign=False), "checksum", id="checksum"),
        pytest.param(changed(16, b"\3"), "magic 3", id="magic"),
        pytest.param(changed(16, b"\0"), "checksum of a message", id="old magic"),
        pytest.param(changed(22, b"\5"), "codec 5", id="codec"),
        pytest.param(changed(22, b"\4\0\0\0\3"), "zstd", id="not compressed"),
        pytest.param(changed(8, (48).to_bytes(4, "big")), "header", id="short length"),
        pytest.param(changed(8, b"\xff\xff\xff\xff"), "header", id="negative length"),
        pytest.param(changed(23, b"\xff\xff\xff\xff"), "header", id="negative last offset"),
        pytest.param(changed(57, b"\xff\xff\xff\xff"), "header", id="negative count"),
        pytest.param(changed(57, b"\0\0\0\2"), "can't be decoded", id="fewer records than there are"),
        pytest.param(changed(57, b"\0\0\0\4"), "can't be decoded", id="more records than there are"),
        pytest.param(changed(57, b"\x7f\xff\xff\xff"), "can't be decoded", id="a great many records"),
        pytest.param(changed(0, b"\x7f\xff\xff\xff\xff\xff\xff\xff"), "header", id="offset out of range"),
        pytest.param(old_message(1, [record(20)])[:-1] + b"?", "checksum", id="old checksum"),
    ],
)
@pytest.mark.parametrize("merge", [True, False])
def test_a_bad_batch_stops_the_walk_and_what_came_before_is_delivered(data: bytes, reason: str, merge: bool) -> None:
    before = [batch(0, 2), marker(2, 9, commit=True), *[batch(i, 1) for i in range(3, 10)]]
    walked = walk(view(*before, data, batch(23, 1)), 0, [], max_batch_bytes=LARGE, merge=merge)
    assert isinstance(walked.bad, BadBatchError)
    assert reason in str(walked.bad)
    assert walked.bad.offset == walked.next_offset == 10
    assert offsets(walked) == [0, 1, *range(3, 10)]
    assert len(read_back(walked.batches)) == 9


def test_a_bad_batch_inside_a_series_of_tiny_ones() -> None:
    """Found only when they are opened."""
    log = [batch(i, 2) for i in range(0, 20, 2)]
    log[7] = changed(57, b"\0\0\0\1", data=log[7])
    walked = walk(view(*log), 0, [], max_batch_bytes=LARGE)
    assert offsets(walked) == list(range(14))
    assert (walked.next_offset, walked.bad is not None) == (14, True)


@pytest.mark.parametrize("at", [0, 7, 19])
def test_a_plain_batch_whose_records_do_not_add_up_inside_a_series(at: int) -> None:
    log = [batch(i, 1) for i in range(20)]
    log[at] = changed(HEADER_BYTES, b"\x7e", data=log[at])
    walked = walk(view(*log), 0, [], max_batch_bytes=LARGE)
    assert offsets(walked) == list(range(at))
    assert (walked.next_offset, walked.bad is not None) == (at, True)


@given(
    codec=st.integers(0, 4),
    count=st.integers(FEWEST_MERGED, 60),
    bad_at=st.integers(0, 59),
    size=st.sampled_from([1, 800]),
    most=st.sampled_from([200, 3000, 20_000]),
)
@example(codec=0, count=400, bad_at=100, size=800, most=1 << 20)
@example(codec=1, count=400, bad_at=100, size=800, most=1 << 20)
@example(codec=0, count=400, bad_at=5, size=800, most=20_000)
@example(codec=1, count=400, bad_at=5, size=800, most=20_000)
def test_what_came_before_a_bad_batch_is_delivered_once(
    codec: int, count: int, bad_at: int, size: int, most: int
) -> None:
    """A: also when a series is written as several batches, and the bad one is not in the last of them."""
    log = [batch(i, 1, size=size, codec=codec) for i in range(count)]
    bad_at %= count
    nonsense = compressed(codec, b"\x7f" * 30)
    log[bad_at] = BatchSpec(bad_at, [record(bad_at)], codec=codec, raw_body=nonsense).encode()
    walked = walk(view(*log), 0, [], max_batch_bytes=most)
    assert (walked.next_offset, walked.bad is not None) == (bad_at, True)
    assert offsets(walked) == list(range(bad_at))


@pytest.mark.parametrize("following", [[], [batch(22, 1)]])
def test_records_outside_of_the_range_of_their_batch_are_bad(following: list[bytes]) -> None:
    data = changed(23, b"\0\0\0\1")  # 20 and 21, it says; there is a 22 too
    walked = walk(view(*[batch(i, 1) for i in range(10, 20)], data, *following), 10, [], max_batch_bytes=LARGE)
    assert "out of order" in str(walked.bad)
    assert (walked.next_offset, offsets(walked)) == (20, list(range(10, 20)))


def test_offsets_that_go_backwards_are_passed_over() -> None:
    assert offsets(walk_whole(batch(5, 2), batch(0, 3), batch(7, 1))) == [5, 6, 7]


def whole_log(seed: int) -> tuple[Log, bytes]:
    log = Log(random.Random(seed))
    log.grow()
    return log, b"".join(log.fetch(0))


@settings(max_examples=80)
@given(
    seed=st.integers(0, 50),
    changes=st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=5),
    sign=st.booleans(),
    most=st.sampled_from([300, LARGE]),
)
def test_damage_is_found_or_does_no_harm(seed: int, changes: list[tuple[int, int]], sign: bool, most: int) -> None:
    """With right checksums too: no exception, no endless loop, offsets that ascend."""
    log, whole = whole_log(seed)
    data = bytearray(whole)
    for at, value in changes:
        data[at % len(data)] = value
    if sign:
        _sign_all(data)
    walked = walk(view(data), 0, log.aborted_from(0), max_batch_bytes=most)
    for raw in walked.batches:
        stamp(raw.data, 1, 0, 0)
    found = offsets(walked)
    assert found == sorted(set(found))
    assert max(found, default=-1) < max(walked.next_offset, 0)


def _sign_all(data: bytearray) -> None:
    at = 0
    while at + 61 <= len(data):
        (length,) = struct.unpack_from(">i", data, at + 8)
        stop = at + 12 + length
        if not at + 61 <= stop <= len(data) or data[at + 16] != 2:
            return
        struct.pack_into(">I", data, at + 17, calc_crc32c(bytes(data[at + 21 : stop])))
        at = stop


@given(st.binary(max_size=300))
def test_any_bytes_do_no_harm(data: bytes) -> None:
    walk(view(data), 0, [], max_batch_bytes=LARGE)
