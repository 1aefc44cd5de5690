"""Records taken out of batches and put into new ones: nothing of them changes."""

from __future__ import annotations

import contextlib
import struct
import subprocess
import sys

import pytest
from aiokafka.codec import lz4_encode
from hypothesis import given, settings
from hypothesis import strategies as st

from replicator.protocol.record_format.header import BadBatchError
from replicator.protocol.record_format.records import Headers, Record, build_batch, decode_records, encode_records
from replicator.protocol.record_format.reencode import decode_batch, decode_batches, decompressed, encode_batches
from tests.unit.protocol.record_format.logs import (
    START_MS,
    BatchSpec,
    old_message,
    read_back,
    record,
    source_offsets,
    varint,
    view,
)

LARGE = 1_000_000
NAMES = st.text(max_size=5) | st.binary(max_size=5).map(lambda b: b.decode(errors="surrogateescape"))
UTF8_NAMES = st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
BYTES = st.none() | st.binary(max_size=40)
TIMES = st.sampled_from([-1, 0, 1, START_MS]) | st.integers(0, 2**61)


def headers(names: st.SearchStrategy[str]) -> st.SearchStrategy[Headers]:
    return st.lists(st.tuples(names, BYTES), max_size=4)


@st.composite
def records(draw: st.DrawFn, names: st.SearchStrategy[str] = UTF8_NAMES) -> list[Record]:
    """Ascending offsets, with gaps; some of the header names appear twice."""
    contents = draw(st.lists(st.tuples(TIMES, BYTES, BYTES, headers(names)), min_size=1, max_size=8))
    offset = draw(st.integers(0, 2**40))
    found: list[Record] = []
    for timestamp_ms, key, value, some in contents:
        offset += draw(st.sampled_from([1, 1, 1, 2, 1000]))
        found.append((offset, timestamp_ms, key, value, some + some[:1]))
    return found


def is_valid(name: str) -> bool:
    """Whether it came from bytes: a lone surrogate of another kind can't."""
    try:
        return name.encode(errors="surrogateescape").decode(errors="surrogateescape") == name
    except UnicodeEncodeError:
        return False


ESCAPED = NAMES.filter(is_valid)


@pytest.mark.parametrize("codec", range(5))
@settings(max_examples=20)
@given(some=records(ESCAPED))
def test_records_come_out_as_they_went_in(codec: int, some: list[Record]) -> None:
    spec = BatchSpec(some[0][0] - 1, some, last_offset=some[-1][0] + 2, codec=codec)
    assert decode_batch(view(spec.encode())) == some


@pytest.mark.parametrize("codec", range(5))
@settings(max_examples=20)
@given(some=records(), limit=st.sampled_from([100, 400, LARGE]))
def test_written_records_are_read_by_others(codec: int, some: list[Record], limit: int) -> None:
    batches = encode_batches(some, codec, limit)
    assert read_back(batches) == some
    assert [offset for raw in batches for offset in source_offsets(raw)] == [r[0] for r in some]
    assert all(raw.size_bytes <= limit or raw.records == 1 for raw in batches)
    for raw in batches:
        first_ms, max_ms, producer, epoch, sequence = struct.unpack_from(">qqqhi", raw.data, 27)
        assert first_ms == next(r[1] for r in some if r[0] == raw.first_offset)
        assert max_ms == raw.max_timestamp_ms
        assert (producer, epoch, sequence) == (-1, -1, -1)


@settings(max_examples=40)
@given(some=records(ESCAPED), limit=st.sampled_from([100, 400, LARGE]))
def test_names_of_headers_may_be_any_bytes(some: list[Record], limit: int) -> None:
    batches = encode_batches(some, 0, limit)
    found = [record for raw in batches for record in decode_batch(memoryview(raw.data))]
    assert [r[1:] for r in found] == [r[1:] for r in some]


@settings(max_examples=40)
@given(some=records(), limit=st.sampled_from([100, 400, LARGE]))
def test_plain_and_compiled_code_agree(some: list[Record], limit: int) -> None:
    """The compiled one can't begin with a record without a timestamp."""
    some[0] = (some[0][0], START_MS, *some[0][2:])
    plain = bytes(encode_records(some, limit))
    compiled = bytes(encode_batches(some, 0, limit)[0].data)
    assert plain == compiled
    assert decode_records(memoryview(plain)) == decode_batches([memoryview(plain)], 0, len(some))


@pytest.mark.parametrize(
    "times", [[-1, START_MS], [-1, -1, 0], [-1, -1], [0, -1], [0, 0], [START_MS, 0, -1], [-1, START_MS, -1]]
)
def test_no_timestamp_and_timestamp_zero_are_kept(times: list[int]) -> None:
    some = [record(i, timestamp_ms=timestamp_ms) for i, timestamp_ms in enumerate(times)]
    batches = encode_batches(some, 0, LARGE)
    assert [r[1] for r in read_back(batches)] == times
    assert [r[1] for r in decode_batch(memoryview(batches[0].data))] == times


def test_null_empty_and_order_are_kept() -> None:
    names: Headers = [("b", None), ("a", b""), ("b", b"1"), ("", b"2"), ("b", None)]
    some: list[Record] = [(0, 5, None, b"", names), (1, 5, b"", None, []), (2, 5, None, None, [])]
    (raw,) = encode_batches(some, 0, LARGE)
    assert read_back([raw]) == some == decode_batch(memoryview(raw.data))


def test_what_compression_makes_no_smaller_is_left_as_it_is() -> None:
    """So that a batch stays below the target's limit."""
    (raw,) = encode_batches([record(0, b"x")], 4, LARGE)
    assert raw.data[22] == 0
    (raw,) = encode_batches([record(0, b"x" * 500)], 4, LARGE)
    assert raw.data[22] == 4
    assert raw.size_bytes < 200


def test_a_batch_of_our_own() -> None:
    data = build_batch([(b"k", b"v"), (b"gone", None)], START_MS)
    assert decode_batch(memoryview(data)) == [(0, START_MS, b"k", b"v", []), (1, START_MS, b"gone", None, [])]


def test_uncompressed_batches_are_not_copied() -> None:
    data = view(BatchSpec(0, [record(0)]).encode())
    assert decompressed(data) is data


def test_a_great_many_batches_do_not_take_forever() -> None:
    """Splitting looks at every record a bounded number of times."""
    some = [record(i, b"x" * 20) for i in range(30_000)]
    assert sum(raw.records for raw in encode_batches(some, 0, 500)) == 30_000


# --- hostile ----------------------------------------------------------------------------------------------------------

HUGE = varint(2**62)
FIELDS: dict[str, bytes] = {
    "length": HUGE + bytes(20),
    "negative length": varint(-5) + bytes(20),
    "key": varint(20) + b"\0\0\0" + HUGE + bytes(20),
    "key past the end": varint(20) + b"\0\0\0" + varint(2**31),
    "value": varint(20) + b"\0\0\0\1" + HUGE + bytes(20),
    "headers": varint(20) + b"\0\0\0\1\1" + HUGE + bytes(20),
    "negative headers": varint(6) + b"\0\0\0\1\1\1",
    "header name": varint(20) + b"\0\0\0\1\1\2" + HUGE + bytes(20),
    "header without a name": varint(20) + b"\0\0\0\1\1\2\1" + bytes(20),
    "header value": varint(20) + b"\0\0\0\1\1\2\2a" + HUGE + bytes(20),
    "endless number": b"\xff" * 40,
    "cut off after the length": varint(20),
    "cut off in the headers": varint(7) + b"\0\0\0\1\1\2",
    "nothing": b"",
    "offset": varint(16) + b"\0\0" + HUGE + b"\1\1\0" + bytes(20),
}


@pytest.mark.parametrize("name", FIELDS)
@pytest.mark.parametrize("codec", [0, 3])
def test_hostile_fields_are_refused(name: str, codec: int) -> None:
    body = lz4_encode(FIELDS[name]) if codec else FIELDS[name]
    data = view(BatchSpec(5, [record(5)], codec=codec, raw_body=body).encode())
    with pytest.raises(BadBatchError) as caught:
        decode_batch(data)
    assert caught.value.offset == 5
    if not codec and name != "offset":
        with pytest.raises(ValueError):
            decode_records(data)


@settings(max_examples=100)
@given(changes=st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=6))
def test_damaged_records_are_refused_or_others(changes: list[tuple[int, int]]) -> None:
    some: list[Record] = [(i, i, b"key", b"value" * 3, [("h", b"1"), ("g", None)]) for i in range(4)]
    data = bytearray(BatchSpec(0, some).encode())
    for at, value in changes:
        data[61 + at % (len(data) - 61)] = value
    for read in (decode_batch, decode_records):
        with contextlib.suppress(BadBatchError, ValueError):
            read(memoryview(data))


@settings(max_examples=100)
@given(
    magic=st.sampled_from([0, 1]),
    codec=st.sampled_from([0, 1, 2, 3]),
    changes=st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=6),
    end=st.integers(0, 200),
)
def test_damaged_old_messages_are_refused_or_others(
    magic: int, codec: int, changes: list[tuple[int, int]], end: int
) -> None:
    some: list[Record] = [(i, 5, b"key", b"value" * 5, []) for i in range(3 if codec else 1)]
    data = bytearray(old_message(magic, some, codec))
    for at, value in changes:
        data[17 + at % (len(data) - 17)] = value
    with_end = memoryview(data)[: max(26, len(data) - end)]
    with contextlib.suppress(BadBatchError):
        decode_batch(with_end)


IMPORT_SIDE_BY_SIDE = """
import sys, threading, time
from importlib.abc import MetaPathFinder

class Slow(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        time.sleep(0.02 if name.startswith("aiokafka") else 0)

def use(number):
    time.sleep(number * 0.01)
    try:
        decode_batch(memoryview(bytes(100)))
    except BadBatchError:
        pass
    except BaseException as error:
        failed.append(error)

from replicator.protocol.record_format.reencode import BadBatchError, decode_batch
sys.meta_path.insert(0, Slow())
failed = []
threads = [threading.Thread(target=use, args=(number,)) for number in range(40)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
sys.exit(f"{len(failed)} failed: {failed[0]}" if failed else 0)
"""


def test_tasks_may_open_their_first_batches_at_once() -> None:
    """In a process that has not loaded the modules: those that import one another, a second thread sees half loaded."""
    command = [sys.executable, "-c", IMPORT_SIDE_BY_SIDE]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
