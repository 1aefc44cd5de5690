"""Messages of magic 0 and 1, as topics from before Kafka 0.11 still hold them. Brokers from 4.0 on take only magic 2.

    0 offset (8)    8 size (4)    12 checksum (4)    16 magic (1)    17 attributes (1)    18 timestamp (8, magic 1)
    then key and value, each with a length of 4 bytes, -1 for null

The size counts from byte 12 on; the checksum, CRC-32, covers everything from byte 16 on. A compressed message has a
series of messages for its value, and the offset of the last of them for its own. In magic 0 the offsets inside are
absolute; in magic 1 they are relative. Magic 0 has no timestamps.

Pure. Source: clients `AbstractLegacyRecordBatch`, `LegacyRecord`; KAFKA-3160 for the lz4 of magic 0.
"""

from __future__ import annotations

import zlib
from struct import Struct
from typing import Final, NamedTuple

import lz4.frame

from replicator.protocol.record_format.compression import Bytes, Codec, decompress
from replicator.protocol.record_format.header import CODEC_BITS, LENGTH_FROM, LOG_APPEND_TIME, MAGIC_AT
from replicator.protocol.record_format.records import NO_TIMESTAMP, Record

MESSAGE_BYTES: Final = 26
"""The smallest message: magic 0, key and value null."""

_HEADER = Struct(">qiIbB")
_INT32, _INT64 = Struct(">i"), Struct(">q")
_TIMESTAMP_AT = 18
_LZ4_FIXED_BYTES, _LZ4_CONTENT_SIZE_BYTES, _LZ4_HAS_CONTENT_SIZE = 6, 8, 0x08


class _Message(NamedTuple):
    """`value` is a series of messages when it is compressed."""

    offset: int
    timestamp_ms: int
    codec: int
    is_log_append_time: bool
    key: bytes | None
    value: bytes | None


def is_intact(message: memoryview) -> bool:
    """Whether the checksum is right. Args: message: one whole message, of `MESSAGE_BYTES` at least."""
    checksum: int = _HEADER.unpack_from(message)[2]
    return zlib.crc32(message[MAGIC_AT:]) == checksum


def codec_of(message: memoryview) -> int:
    attributes: int = _HEADER.unpack_from(message)[4]
    return attributes & CODEC_BITS


def records_in(data: memoryview) -> list[Record]:
    """The records of one entry of a log, with the offsets and timestamps that a consumer sees.

    Raises:
        ValueError: it makes no sense.
    """
    (outer,) = _series(data)
    if outer.codec == Codec.NONE:
        return [(outer.offset, outer.timestamp_ms, outer.key, outer.value, [])]
    if outer.value is None:
        raise ValueError("a compressed message without a value")
    magic = data[MAGIC_AT]
    inner = _series(memoryview(_decompressed(magic, outer.codec, outer.value)))
    if not inner:
        raise ValueError("a compressed message with nothing inside")
    if any(message.codec for message in inner):
        raise ValueError("a compressed message inside another one")
    base = 0 if magic == 0 else outer.offset - inner[-1].offset
    is_fixed = outer.is_log_append_time
    return [(base + m.offset, outer.timestamp_ms if is_fixed else m.timestamp_ms, m.key, m.value, []) for m in inner]


def _series(data: memoryview) -> list[_Message]:
    messages = []
    at = 0
    while at < len(data):
        if len(data) - at < MESSAGE_BYTES:
            raise ValueError("a message is cut off")
        stop = at + LENGTH_FROM + _HEADER.unpack_from(data, at)[1]
        if not at + MESSAGE_BYTES <= stop <= len(data):
            raise ValueError("a message is longer or shorter than its size says")
        messages.append(_message(data[at:stop]))
        at = stop
    return messages


def _message(data: memoryview) -> _Message:
    offset, _, _, magic, attributes = _HEADER.unpack_from(data)
    if magic not in {0, 1}:
        raise ValueError(f"a message of magic {magic}")
    at = _TIMESTAMP_AT
    timestamp_ms = NO_TIMESTAMP
    if magic == 1:
        if len(data) < MESSAGE_BYTES + _INT64.size:
            raise ValueError("a message is cut off")
        (timestamp_ms,) = _INT64.unpack_from(data, at)
        at += _INT64.size
    key, at = _nullable_bytes(data, at)
    value, at = _nullable_bytes(data, at)
    if at != len(data):
        raise ValueError("a message with bytes after its value")
    is_log_append_time = bool(attributes & LOG_APPEND_TIME) and magic == 1
    return _Message(offset, timestamp_ms, attributes & CODEC_BITS, is_log_append_time, key, value)


def _nullable_bytes(data: memoryview, at: int) -> tuple[bytes | None, int]:
    if len(data) - at < _INT32.size:
        raise ValueError("a message is cut off")
    (size,) = _INT32.unpack_from(data, at)
    at += _INT32.size
    if size < 0:
        return None, at
    if size > len(data) - at:
        raise ValueError("a key or value is cut off")
    return bytes(data[at : at + size]), at + size


def _decompressed(magic: int, codec: int, value: bytes) -> Bytes:
    if magic == 0 and codec == Codec.LZ4:
        value = _with_right_lz4_checksum(value)
    return decompress(codec, memoryview(value))


def _with_right_lz4_checksum(frame: bytes) -> bytes:
    """Producers of magic 0 computed the checksum of lz4's header over the wrong bytes: replaced by the right one.

    It is a single byte, and the library can't leave it unchecked: the one that it takes is found by trying.
    """
    if len(frame) <= _LZ4_FIXED_BYTES + _LZ4_CONTENT_SIZE_BYTES:
        return frame
    at = _LZ4_FIXED_BYTES + (_LZ4_CONTENT_SIZE_BYTES if frame[4] & _LZ4_HAS_CONTENT_SIZE else 0)
    for checksum in range(256):
        candidate = b"".join((frame[:at], bytes((checksum,)), frame[at + 1 :]))
        try:
            lz4.frame.get_frame_info(candidate)
        except RuntimeError:
            continue
        return candidate
    return frame
