"""Decodes record batches, and encodes records into new batches.

Records are decoded and encoded by aiokafka's compiled code; compression and headers are done here. That code
can't do two things, which plain Python does instead, in `records`: header names that are not UTF-8, which every
broker takes, and a batch whose first record has no timestamp while others have one.

Kept: key, value (null is not empty), timestamps (0 and -1 too), every header (order, duplicates, null values).

Pure. Source: aiokafka `_crecords/default_records.pyx`.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import chain, islice
from operator import attrgetter, itemgetter, lt
from struct import Struct
from threading import Lock
from typing import Any, Final, NamedTuple

from awscrt.checksums import crc32c

from replicator.offset_map.runs import gaps_between
from replicator.protocol.record_format import legacy
from replicator.protocol.record_format.compression import MAX_BYTES, compress, decompress
from replicator.protocol.record_format.header import (
    CHECKED_FROM,
    CODEC_BITS,
    HEADER,
    HEADER_BYTES,
    LENGTH_FROM,
    MAGIC,
    MAGIC_AT,
    BadBatchError,
    RawBatch,
)
from replicator.protocol.record_format.records import NO_LIMIT, NO_TIMESTAMP, Record, decode_records, encode_records

_SLACK: Final = bytes(16)
"""The compiled code looks up to ten bytes past the end before it notices that a record is cut off."""
_LESS_SLACK: Final = bytes(11)
"""With twelve bytes or more it would expect another batch."""
_FIELDS = attrgetter("offset", "timestamp", "key", "value", "headers")
_OFFSET, _TIMESTAMP = itemgetter(0), itemgetter(1)
_MAGIC = itemgetter(MAGIC_AT)
_ATTRIBUTES_LOW_AT = CHECKED_FROM + 1
_LENGTH, _LENGTH_AT = Struct(">i"), LENGTH_FROM - 4
_SMALLEST_RECORD_BYTES: Final = 7


_IMPORTING: Final = Lock()


class _Compiled(NamedTuple):
    """The classes of aiokafka that are used."""

    Batch: Any
    Batches: Any
    Builder: Any
    CorruptError: type[Exception]


@cache
def _compiled() -> _Compiled:
    """Import aiokafka with the first batch that is decoded: it loads clients, too, and most workers decode none.

    By one thread at a time: its modules import one another, and a second thread would see them half loaded.
    """
    with _IMPORTING:
        from aiokafka.errors import CorruptRecordException  # noqa: PLC0415
        from aiokafka.record._crecords import (  # noqa: PLC0415
            DefaultRecordBatch,
            DefaultRecordBatchBuilder,
            MemoryRecords,
        )

    return _Compiled(DefaultRecordBatch, MemoryRecords, DefaultRecordBatchBuilder, CorruptRecordException)


def _compiled_errors() -> tuple[type[Exception], ...]:
    """The exceptions that the compiled code raises for invalid records."""
    return ValueError, _compiled().CorruptError, OverflowError, MemoryError, SystemError


def decode_batch(data: memoryview) -> list[Record]:
    """Decode the records of one batch of any magic, in ascending order.

    Raises:
        BadBatchError: it can't be decompressed or decoded, or contradicts its header.
    """
    return decode_batches([decompressed(data)], 0, NO_LIMIT)


def decompressed(data: memoryview) -> memoryview:
    """Return the batch without compression; itself, when it has none, or is of magic 0 or 1.

    Raises:
        BadBatchError: it can't be decompressed, or becomes larger than `compression.MAX_BYTES`.
    """
    codec = data[_ATTRIBUTES_LOW_AT] & CODEC_BITS if data[MAGIC_AT] == MAGIC else 0
    if not codec:
        return data
    try:
        records = decompress(codec, data[HEADER_BYTES:], MAX_BYTES)
    except ValueError as error:
        raise BadBatchError(str(error), _first_offset(data)) from None
    header = bytearray(data[:HEADER_BYTES])
    header[_ATTRIBUTES_LOW_AT] &= ~CODEC_BITS & 0xFF
    _LENGTH.pack_into(header, _LENGTH_AT, HEADER_BYTES - LENGTH_FROM + len(records))
    return memoryview(b"".join((header, records, _SLACK)))[: -len(_SLACK)]


def decode_batches(batches: Sequence[memoryview], first: int, stop: int) -> list[Record]:
    """Decode the records of consecutive decompressed batches; several of magic 2 may lie side by side.

    Args:
        first: records before this offset are left out.
        stop: no record is at or after this offset.

    Raises:
        BadBatchError: one contradicts its header, or offsets are out of order. Java does not check those; here they
            would be written into the offset map.
    """
    records = _decoded(batches)
    if not records:
        return records
    if None in map(_TIMESTAMP, records):
        records = [(r[0], NO_TIMESTAMP if r[1] is None else r[1], *r[2:]) for r in records]
    offsets = list(map(_OFFSET, records))
    if not all(map(lt, offsets, islice(offsets, 1, None))) or offsets[0] < 0 or offsets[-1] >= stop:
        raise BadBatchError("offsets of its records are out of order", offsets[0])
    return records if offsets[0] >= first else records[bisect_left(offsets, first) :]


def _decoded(batches: Sequence[memoryview]) -> list[Record]:
    compiled = _compiled()
    if set(map(_MAGIC, batches)) == {MAGIC}:
        side_by_side = compiled.Batches(b"".join((*batches, _LESS_SLACK)))
        try:
            return list(map(_FIELDS, chain.from_iterable(iter(side_by_side.next_batch, None))))
        except _compiled_errors():
            pass  # the loop below finds which batch it is, and why
    records: list[Record] = []
    for batch in chain.from_iterable(map(split_batches, batches)):
        before = len(records)
        try:
            if batch[MAGIC_AT] == MAGIC:
                records += map(_FIELDS, compiled.Batch(batch))
            else:
                records += legacy.records_in(batch)
        except UnicodeDecodeError:
            records[before:] = _plain_records(batch)
        except _compiled_errors() as error:
            raise BadBatchError(f"its records can't be decoded: {error}", _first_offset(batch)) from None
    return records


def split_batches(data: memoryview) -> Iterator[memoryview]:
    """Split batches of magic 2 that lie side by side; a batch of magic 0 or 1 is returned as it is.

    Raises:
        BadBatchError: the length of one is impossible; does not happen after `walk`.
    """
    at, end = 0, len(data) if data[MAGIC_AT] == MAGIC else 0
    if not end:
        yield data
    while at < end:
        stop = at + LENGTH_FROM + _LENGTH.unpack_from(data, at + _LENGTH_AT)[0]
        if not at + HEADER_BYTES <= stop <= end:
            raise BadBatchError("the length of a batch makes no sense", _first_offset(data[at:]))
        yield data[at:stop]
        at = stop


def encode_batches(records: Sequence[Record], codec: int, max_batch_bytes: int) -> list[RawBatch]:
    """Encode `records` into new batches.

    Args:
        records: at least one, with ascending offsets.
        max_batch_bytes: size of a batch before compression; a record that is larger gets a batch of its own.
    """
    batches = []
    start = 0
    while start < len(records):
        some = records[start : start + max_batch_bytes // _SMALLEST_RECORD_BYTES + 1]  # more can't fit
        batch = _encoded(some, max_batch_bytes)
        header = HEADER.unpack_from(batch)
        stop = start + header[-1]
        first_offset, last_offset = records[start][0], records[stop - 1][0]
        is_dense = last_offset - first_offset == stop - start - 1
        gaps = () if is_dense else gaps_between(map(_OFFSET, some[: stop - start]))
        data = _compressed(batch, codec)
        batches.append(RawBatch(first_offset, last_offset + 1, stop - start, gaps, header[8], data))
        start = stop
    return batches


def _encoded(records: Sequence[Record], limit: int) -> bytearray:
    """Encode the first records as a batch: as many as fit into `limit` bytes, but at least one."""
    if records[0][1] == NO_TIMESTAMP and any(record[1] != NO_TIMESTAMP for record in records):
        return encode_records(records, limit)
    builder = _compiled().Builder(MAGIC, 0, 0, -1, -1, -1, limit)
    append = builder.append
    index = 0
    try:
        for _, timestamp_ms, key, value, headers in records:
            if append(index, timestamp_ms, key, value, headers) is None:
                break
            index += 1
    except UnicodeEncodeError:
        return encode_records(records, limit)
    batch: bytearray = builder.build()
    return batch


def _compressed(batch: bytearray, codec: int) -> bytearray:
    """Compress a batch, unless that makes it no smaller, so that a limit on its size still holds."""
    if not codec:
        return batch
    records = compress(codec, memoryview(batch)[HEADER_BYTES:])
    if len(records) >= len(batch) - HEADER_BYTES:
        return batch
    data = bytearray().join((memoryview(batch)[:HEADER_BYTES], records))
    fields: list[Any] = list(HEADER.unpack_from(data))
    fields[1] = len(data) - LENGTH_FROM
    fields[5] = codec
    HEADER.pack_into(data, 0, *fields)
    fields[4] = crc32c(memoryview(data)[CHECKED_FROM:])
    HEADER.pack_into(data, 0, *fields)
    return data


def _plain_records(batch: memoryview) -> list[Record]:
    try:
        return decode_records(batch)
    except ValueError as error:
        raise BadBatchError(f"its records can't be decoded: {error}", _first_offset(batch)) from None


def _first_offset(batch: memoryview) -> int:
    return int.from_bytes(batch[:8], "big", signed=True)
