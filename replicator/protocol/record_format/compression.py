"""Compresses and decompresses record batches, and refuses what would decompress to more than `MAX_BYTES`.

Each format states or implies a bound before anything is decompressed: snappy names the size, lz4 can't expand to more
than 255 times, the blocks of zstd hold 128 KiB at most; gzip is expanded up to the limit.

Pure. Source: clients `CompressionType`, `Lz4BlockOutputStream`; xerial snappy-java `SnappyOutputStream`; RFC 8878.
"""

from __future__ import annotations

import enum
import struct
import zlib
from collections.abc import Iterator
from struct import Struct
from typing import Final

import cramjam
import lz4.frame

MAX_BYTES: Final = 1 << 30

Bytes = bytes | bytearray | memoryview | cramjam.Buffer

_GZIP_WBITS = 31
_GZIP_LEVEL = 6
"""The default of Java's clients, as are the levels of the others."""
_ZSTD_LEVEL = 3
_GZIP_MEMBERS = 64
"""The most members of a batch; every client writes one. Finding the next one copies all the rest."""
_LZ4_MAX_RATIO = 255
_LZ4_FLAGS_AT, _LZ4_HAS_SIZE, _LZ4_SIZE = 4, 0x08, slice(6, 14)
_XERIAL_MAGIC = b"\x82SNAPPY\0"
_XERIAL_HEADER = _XERIAL_MAGIC + b"\0\0\0\1\0\0\0\1"  # version, oldest version that can read it
_XERIAL_BLOCK_BYTES = 32 * 1024
_INT32 = Struct(">i")
_LITTLE_INT32 = Struct("<I")
_ZSTD_MAGIC = 0xFD2FB528
_ZSTD_SKIPPABLE = 0x184D2A50
_ZSTD_BLOCK_BYTES = 128 * 1024
_ZSTD_BLOCK_COMPRESSED, _ZSTD_BLOCK_RLE = 2, 1


class Codec(enum.IntEnum):
    """As in the lowest bits of a batch's attributes."""

    NONE = 0
    GZIP = 1
    SNAPPY = 2
    LZ4 = 3
    ZSTD = 4


LAST_CODEC: Final = int(Codec.ZSTD)


def decompress(codec: int, data: memoryview, limit: int = MAX_BYTES) -> Bytes:
    """Decompress what any client compressed.

    Raises:
        ValueError: an unknown codec, damaged data, or more than `limit` bytes of it.
    """
    try:
        if codec == Codec.LZ4:
            return _lz4(data, limit)
        if codec == Codec.ZSTD:
            return _zstd(data, limit)
        if codec == Codec.SNAPPY:
            return b"".join(_snappy(data, limit))
        if codec == Codec.GZIP:
            return _gzip(data, limit)
    except (cramjam.DecompressionError, RuntimeError, zlib.error, struct.error, IndexError, MemoryError) as error:
        raise ValueError(f"{Codec(codec).name.lower()}: {error}") from None
    if codec == Codec.NONE:
        return data
    raise ValueError(f"unknown codec {codec}")


def compress(codec: int, data: memoryview) -> Bytes:
    """Compress in a form that every broker and client reads.

    lz4: with independent blocks; brokers refuse linked ones.

    Raises:
        ValueError: an unknown codec.
    """
    if codec == Codec.NONE:
        return data
    if codec == Codec.LZ4:
        compressed: bytes = lz4.frame.compress(data, block_linked=False)
        return compressed
    if codec == Codec.ZSTD:
        return cramjam.zstd.compress(data, level=_ZSTD_LEVEL)
    if codec == Codec.GZIP:
        return zlib.compress(data, _GZIP_LEVEL, _GZIP_WBITS)
    if codec == Codec.SNAPPY:
        parts: list[Bytes] = [_XERIAL_HEADER]
        for at in range(0, len(data), _XERIAL_BLOCK_BYTES):
            block = cramjam.snappy.compress_raw(data[at : at + _XERIAL_BLOCK_BYTES])
            parts += (_INT32.pack(len(block)), block)
        return b"".join(parts)
    raise ValueError(f"unknown codec {codec}")


def _too_large(limit: int) -> ValueError:
    return ValueError(f"expands to more than {limit} bytes")


def _gzip(data: memoryview, limit: int) -> bytes:
    parts: list[bytes] = []
    rest: memoryview | bytes = data
    while len(rest) and len(parts) < _GZIP_MEMBERS:
        member = zlib.decompressobj(_GZIP_WBITS)
        parts.append(member.decompress(rest, limit + 1))
        limit -= len(parts[-1])
        if limit < 0:
            raise _too_large(limit)
        if not member.eof:
            raise ValueError("gzip: cut off")
        rest = member.unused_data
    return b"".join(parts)


def _snappy(data: memoryview, limit: int) -> Iterator[Bytes]:
    """Blocks of xerial's framing, or all in one when there is none."""
    if data[: len(_XERIAL_MAGIC)] != _XERIAL_MAGIC:
        yield _snappy_block(data, limit)
        return
    at = len(_XERIAL_HEADER)
    while at < len(data):
        (size,) = _INT32.unpack_from(data, at)
        at += _INT32.size
        if not 0 < size <= len(data) - at:
            raise ValueError(f"snappy: a block of {size} bytes, {len(data) - at} left")
        block = _snappy_block(data[at : at + size], limit)
        limit -= len(block)
        at += size
        yield block


def _snappy_block(data: memoryview, limit: int) -> cramjam.Buffer:
    if cramjam.snappy.decompress_raw_len(data) > limit:
        raise _too_large(limit)
    return cramjam.snappy.decompress_raw(data)


def _lz4(data: memoryview, limit: int) -> bytes:
    expanded: bytes
    has_size = len(data) >= _LZ4_SIZE.stop and data[_LZ4_FLAGS_AT] & _LZ4_HAS_SIZE
    if has_size and int.from_bytes(data[_LZ4_SIZE], "little") > limit:  # the library allocates at once what it says
        raise _too_large(limit)
    if len(data) * _LZ4_MAX_RATIO <= limit:
        expanded = lz4.frame.decompress(data)
        return expanded
    frame = lz4.frame.LZ4FrameDecompressor()  # knows a limit, and takes three times as long
    expanded = frame.decompress(data, max_length=limit + 1)
    if len(expanded) > limit:
        raise _too_large(limit)
    if not frame.eof:
        raise ValueError("lz4: cut off")
    return expanded


def _zstd(data: memoryview, limit: int) -> cramjam.Buffer:
    bound = 0
    for size in _zstd_blocks(data):
        bound += size
        if bound > limit:
            raise _too_large(limit)
    return cramjam.zstd.decompress(data)


def _zstd_blocks(data: memoryview) -> Iterator[int]:
    """How many bytes each block of each frame can expand to at most. Cut off data is left to the library to notice."""
    at = 0
    while at < len(data):
        (magic,) = _LITTLE_INT32.unpack_from(data, at)
        if magic & ~0xF == _ZSTD_SKIPPABLE:
            at += 8 + _LITTLE_INT32.unpack_from(data, at + 4)[0]
            continue
        if magic != _ZSTD_MAGIC:
            raise ValueError("zstd: not a frame")
        descriptor = data[at + 4]
        is_single, has_checksum = descriptor >> 5 & 1, descriptor >> 2 & 1
        content_size_bytes = (is_single, 2, 4, 8)[descriptor >> 6]
        at += 5 + (1 - is_single) + (0, 1, 2, 4)[descriptor & 3] + content_size_bytes
        is_last = 0
        while not is_last:
            header = data[at] | data[at + 1] << 8 | data[at + 2] << 16
            is_last, kind, size = header & 1, header >> 1 & 3, header >> 3
            at += 3 + (1 if kind == _ZSTD_BLOCK_RLE else size)
            yield _ZSTD_BLOCK_BYTES if kind == _ZSTD_BLOCK_COMPRESSED else size
        at += 4 * has_checksum
