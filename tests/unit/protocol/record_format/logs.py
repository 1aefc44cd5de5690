"""Bytes of logs as brokers hold them, built without the code under test, and batches read back by somebody else's."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field

from aiokafka import codec as codecs
from aiokafka.record.default_records import _DefaultRecordBatchPy
from aiokafka.record.legacy_records import LegacyRecordBatchBuilder
from aiokafka.record.util import calc_crc32c

from replicator.protocol.record_format.header import RawBatch
from replicator.protocol.record_format.records import Record

LOG_APPEND_TIME, TRANSACTIONAL, CONTROL, DELETE_HORIZON = 0x08, 0x10, 0x20, 0x40
START_MS = 1_700_000_000_000
_ENCODERS = {
    0: bytes,
    1: codecs.gzip_encode,
    2: codecs.snappy_encode,
    3: codecs.lz4_encode,
    4: codecs.zstd_encode,
}


def compressed(codec: int, body: bytes) -> bytes:
    return bytes(_ENCODERS[codec](body))


def varint(value: int) -> bytes:
    number = (value << 1) ^ (value >> 63)
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes((*encoded, number))


def nullable(data: bytes | None) -> bytes:
    return varint(-1) if data is None else varint(len(data)) + data


def record(offset: int, value: bytes | None = b"v", timestamp_ms: int = START_MS) -> Record:
    return offset, timestamp_ms, b"k%d" % offset, value, []


@dataclass
class BatchSpec:
    """A batch of magic 2; `last_offset` and `count` lie about the records if told to."""

    base_offset: int
    records: Sequence[Record]
    last_offset: int | None = None
    attributes: int = 0
    codec: int = 0
    producer_id: int = -1
    epoch: int = 3
    base_ms: int | None = None
    max_ms: int | None = None
    count: int | None = None
    raw_body: bytes | None = field(default=None, repr=False)

    @property
    def next_offset(self) -> int:
        if self.last_offset is not None:
            return self.last_offset + 1
        return self.records[-1][0] + 1

    def encode(self) -> bytes:
        times = [r[1] for r in self.records] or [-1]
        base_ms = times[0] if self.base_ms is None else self.base_ms
        body = self.raw_body
        if body is None:
            body = b"".join(self._record(r, base_ms) for r in self.records)
            body = compressed(self.codec, body)
        checked = struct.pack(
            ">hiqqqhii",
            self.attributes | self.codec,
            self.next_offset - 1 - self.base_offset,
            base_ms,
            max(times) if self.max_ms is None else self.max_ms,
            self.producer_id,
            0 if self.producer_id >= 0 else -1,
            0 if self.producer_id >= 0 else -1,
            len(self.records) if self.count is None else self.count,
        )
        checked += body
        start = struct.pack(">qiibI", self.base_offset, 9 + len(checked), self.epoch, 2, calc_crc32c(checked))
        return start + checked

    def _record(self, it: Record, base_ms: int) -> bytes:
        offset, timestamp_ms, key, value, headers = it
        body = b"\0" + varint(timestamp_ms - base_ms) + varint(offset - self.base_offset)
        body += nullable(key) + nullable(value) + varint(len(headers))
        for name, content in headers:
            body += nullable(name.encode(errors="surrogateescape")) + nullable(content)
        return varint(len(body)) + body


def batch(base_offset: int, count: int = 3, *, size: int = 1, **more: object) -> bytes:
    """A batch of `count` records of about `size` bytes."""
    records = [record(base_offset + i, b"x" * size, START_MS + i) for i in range(count)]
    return BatchSpec(base_offset, records, **more).encode()  # type: ignore[arg-type]


def marker(offset: int, producer_id: int, *, commit: bool) -> bytes:
    it: Record = offset, START_MS, struct.pack(">hh", 0, int(commit)), struct.pack(">hi", 0, 1), []
    return BatchSpec(offset, [it], attributes=CONTROL | TRANSACTIONAL, producer_id=producer_id).encode()


def old_message(magic: int, records: Sequence[Record], codec: int = 0) -> bytes:
    """One entry of magic 0 or 1. Compressed: offsets inside are relative in magic 1, the last one is outside."""
    if (magic, codec) == (0, 3):
        return _old_lz4(b"".join(old_message(0, [r]) for r in records), records[-1][0])
    builder = LegacyRecordBatchBuilder(magic, codec, 1 << 30)
    for offset, timestamp_ms, key, value, _ in records:
        inside = offset if magic == 0 or not codec else offset - records[0][0]
        builder.append(inside, timestamp=timestamp_ms, key=key, value=value)
    data = builder.build()
    if codec:
        struct.pack_into(">q", data, 0, records[-1][0])
    return bytes(data)


def _old_lz4(messages: bytes, offset: int) -> bytes:
    """With a wrong checksum in lz4's header, as producers of that time wrote it."""
    value = bytearray(codecs.lz4_encode(messages))
    value[14 if value[4] & 0x08 else 6] ^= 0x55
    checked = struct.pack(">bbii", 0, 3, -1, len(value)) + value
    return struct.pack(">qiI", offset, 4 + len(checked), zlib.crc32(checked)) + checked


def view(*parts: bytes | bytearray) -> memoryview:
    """As the fetcher hands it out: writable."""
    return memoryview(bytearray(b"".join(parts)))


def read_back(batches: Sequence[RawBatch]) -> list[Record]:
    """Every record, with its source offset: read by aiokafka's plain Python, after what a broker would check."""
    records: list[Record] = []
    for raw in batches:
        theirs = _DefaultRecordBatchPy(raw.data)
        assert theirs.magic == 2
        assert theirs.validate_crc()
        assert raw.size_bytes == len(raw.data) == struct.unpack_from(">i", raw.data, 8)[0] + 12
        found = list(theirs)
        assert theirs.last_offset_delta + 1 == len(found) == raw.records
        assert [r.offset - theirs.base_offset for r in found] == list(range(len(found)))
        assert not theirs.attributes & ~(0x07 | TRANSACTIONAL)
        assert theirs.max_timestamp == max(r.timestamp for r in found) == raw.max_timestamp_ms
        offsets = source_offsets(raw)
        records += [(o, r.timestamp, r.key, r.value, r.headers) for o, r in zip(offsets, found, strict=True)]
    return records


def source_offsets(raw: RawBatch) -> list[int]:
    """As the offset map understands it."""
    offsets: list[int] = []
    at = raw.first_offset
    rest = raw.records
    for count, gap in (*raw.gaps, (rest, 0)):
        count = min(count, raw.records - len(offsets))  # noqa: PLW2901
        offsets += range(at, at + count)
        at += count + gap
    assert at == raw.next_offset
    return offsets
