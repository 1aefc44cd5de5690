"""Decodes and encodes the records of a batch of magic 2 in plain Python: for the replicator's own few records, and for
those that the compiled code can't handle.

A name of a header that is not UTF-8 is kept byte for byte, by Python's ``surrogateescape``.

    length, attributes (1), timestamp delta, offset delta, key, value, number of headers, then their names and values

All numbers are varints with zigzag; -1 is the length of null. Deltas are relative to the header's base.

Pure. Source: clients `DefaultRecord`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from awscrt.checksums import crc32c

from replicator.protocol.primitives import uvarint
from replicator.protocol.record_format.header import (
    CHECKED_FROM,
    HEADER,
    HEADER_BYTES,
    LENGTH_FROM,
    LOG_APPEND_TIME,
    MAGIC,
)

NO_TIMESTAMP: Final = -1
NO_LIMIT: Final = 1 << 62

Headers = list[tuple[str, bytes | None]]
Record = tuple[int, int, bytes | None, bytes | None, Headers]
"""(offset, timestamp in ms or -1, key, value, headers)"""

_VARINT_BYTES = 10
_INT64 = 1 << 64
_ESCAPE = "surrogateescape"


def decode_records(batch: memoryview) -> list[Record]:
    """Decode the records of an uncompressed batch.

    Raises:
        ValueError: they contradict the header or their lengths.
    """
    base_offset, _, _, _, _, attributes, _, base_ms, max_ms, _, _, _, count = HEADER.unpack_from(batch)
    reader = _Varints(batch)
    records: list[Record] = []
    for _ in range(count):
        size = reader.number()
        stop = reader.at + size
        reader.number()  # attributes; none are defined
        timestamp_ms = _signed(base_ms + reader.number())
        offset = base_offset + reader.number()
        key, value = reader.nullable_bytes(), reader.nullable_bytes()
        headers = reader.headers()
        if reader.at != stop:
            raise ValueError(f"a record of {size} bytes ends {reader.at - stop} bytes later")
        records.append((offset, max_ms if attributes & LOG_APPEND_TIME else timestamp_ms, key, value, headers))
    if reader.at != len(batch):
        raise ValueError(f"{len(batch) - reader.at} bytes after the last record")
    return records


def encode_records(records: Sequence[Record], limit: int) -> bytearray:
    """Encode the first records as an uncompressed batch: as many as fit into `limit` bytes, but at least one."""
    batch = bytearray(HEADER_BYTES)
    base_ms = max_ms = records[0][1]
    count = 0
    for _, timestamp_ms, key, value, headers in records:
        record = _record(_signed(timestamp_ms - base_ms), count, key, value, headers)
        if count and len(batch) + len(record) >= limit:
            break
        batch += record
        max_ms = max(max_ms, timestamp_ms)
        count += 1
    fields = [0, len(batch) - LENGTH_FROM, -1, MAGIC, 0, 0, count - 1, base_ms, max_ms, -1, -1, -1, count]
    HEADER.pack_into(batch, 0, *fields)
    fields[4] = crc32c(memoryview(batch)[CHECKED_FROM:])
    HEADER.pack_into(batch, 0, *fields)
    return batch


def build_batch(records: Sequence[tuple[bytes, bytes | None]], timestamp_ms: int) -> bytearray:
    """Encode small records of the replicator as one batch, uncompressed: 1.5 µs each.

    Args:
        records: keys and values, at least one.
    """
    return encode_records(
        [(index, timestamp_ms, key, value, []) for index, (key, value) in enumerate(records)], NO_LIMIT
    )


class _Varints:
    """Raises ValueError when the data ends too early or a number is too long."""

    def __init__(self, batch: memoryview) -> None:
        self._data = batch
        self.at = HEADER_BYTES

    def number(self) -> int:
        data, at = self._data, self.at
        value = 0
        for shift in range(0, 7 * _VARINT_BYTES, 7):
            if at >= len(data):
                break
            byte = data[at]
            at += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                self.at = at
                return (value >> 1) ^ -(value & 1)
        raise ValueError("a number is cut off")

    def nullable_bytes(self) -> bytes | None:
        size = self.number()
        if size < 0:
            return None
        at = self.at
        if size > len(self._data) - at:
            raise ValueError("bytes are cut off")
        self.at = at + size
        return bytes(self._data[at : at + size])

    def headers(self) -> Headers:
        headers: Headers = []
        count = self.number()
        if count < 0:
            raise ValueError(f"{count} headers")
        for _ in range(count):
            name = self.nullable_bytes()
            if name is None:
                raise ValueError("a header without a name")
            headers.append((name.decode(errors=_ESCAPE), self.nullable_bytes()))
        return headers


def _record(timestamp_delta: int, index: int, key: bytes | None, value: bytes | None, headers: Headers) -> bytes:
    parts = [b"\0", _varint(timestamp_delta), _varint(index)]
    parts += (_nullable_bytes(key), _nullable_bytes(value), _varint(len(headers)))
    for name, content in headers:
        parts += (_nullable_bytes(name.encode(errors=_ESCAPE)), _nullable_bytes(content))
    record = b"".join(parts)
    return _varint(len(record)) + record


def _nullable_bytes(data: bytes | None) -> bytes:
    return _varint(-1) if data is None else _varint(len(data)) + data


def _varint(value: int) -> bytes:
    return uvarint(value << 1 if value >= 0 else (-value << 1) - 1)


def _signed(value: int) -> int:
    """Wrapped to 64 bits, as Java does."""
    value %= _INT64
    return value if value < _INT64 >> 1 else value - _INT64
