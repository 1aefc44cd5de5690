"""Codecs: what other clients write is read, what we write others read, and nothing expands without bounds."""

from __future__ import annotations

import contextlib
import gzip
import random
import struct
from collections.abc import Callable

import cramjam
import lz4.frame
import pytest
from aiokafka import codec as theirs
from hypothesis import given
from hypothesis import strategies as st

from replicator.protocol.record_format.compression import Codec, compress, decompress


def _streamed_zstd(data: bytes) -> bytes:
    stream = cramjam.zstd.Compressor()
    for at in range(0, len(data), 50_000):
        stream.compress(data[at : at + 50_000])
    return bytes(stream.finish())


CODECS = list(Codec)[1:]
THEIR_DECODERS: dict[Codec, Callable[[bytes], bytes]] = {
    Codec.GZIP: gzip.decompress,
    Codec.SNAPPY: theirs.snappy_decode,
    Codec.LZ4: theirs.lz4_decode,
    Codec.ZSTD: theirs.zstd_decode,
}
THEIR_ENCODERS: dict[str, tuple[Codec, Callable[[bytes], bytes]]] = {
    "gzip": (Codec.GZIP, gzip.compress),
    "gzip of two members": (Codec.GZIP, lambda data: gzip.compress(data[:9]) + gzip.compress(data[9:])),
    "snappy with framing": (Codec.SNAPPY, theirs.snappy_encode),
    "snappy without": (Codec.SNAPPY, lambda data: bytes(cramjam.snappy.compress_raw(data))),
    "lz4": (Codec.LZ4, theirs.lz4_encode),
    "lz4 without a size": (Codec.LZ4, lambda data: lz4.frame.compress(data, store_size=False, block_linked=False)),
    "lz4 with checksums": (
        Codec.LZ4,
        lambda data: lz4.frame.compress(data, content_checksum=True, block_checksum=True),
    ),
    "zstd": (Codec.ZSTD, theirs.zstd_encode),
    "zstd without a size": (Codec.ZSTD, _streamed_zstd),
    "zstd, two frames": (Codec.ZSTD, lambda data: theirs.zstd_encode(data[:9]) + theirs.zstd_encode(data[9:])),
    "zstd, something skipped": (Codec.ZSTD, lambda data: b"\x53\x2a\x4d\x18\3\0\0\0abc" + theirs.zstd_encode(data)),
}
TEXT = random.Random(1).randbytes(3000).hex().encode() * 40
"""240,000 bytes: several blocks of each codec."""


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("data", [b"x", TEXT], ids=["one byte", "much"])
def test_others_read_what_we_write(codec: Codec, data: bytes) -> None:
    compressed = compress(codec, memoryview(data))
    assert THEIR_DECODERS[codec](bytes(compressed)) == data
    assert bytes(decompress(codec, memoryview(bytes(compressed)))) == data


@pytest.mark.parametrize("name", THEIR_ENCODERS)
@pytest.mark.parametrize("data", [b"", b"x", TEXT], ids=["nothing", "one byte", "much"])
def test_we_read_what_others_write(name: str, data: bytes) -> None:
    codec, encode = THEIR_ENCODERS[name]
    assert bytes(decompress(codec, memoryview(encode(data)))) == data


def test_lz4_blocks_are_independent() -> None:
    """Brokers answer UNKNOWN_SERVER_ERROR to linked ones."""
    assert not lz4.frame.get_frame_info(bytes(compress(Codec.LZ4, memoryview(TEXT))))["block_linked"]


@pytest.mark.parametrize("name", THEIR_ENCODERS)
def test_what_expands_too_far_is_refused(name: str) -> None:
    codec, encode = THEIR_ENCODERS[name]
    data = memoryview(encode(bytes(2_000_000)))
    assert len(data) < 200_000
    assert len(decompress(codec, data, 4_000_000)) == 2_000_000
    for limit in (1_999_999, 1_000_000, 1):
        if codec == Codec.ZSTD and limit == 1_999_999:
            continue  # counts whole blocks
        with pytest.raises(ValueError, match="expands to more than"):
            decompress(codec, data, limit)


def test_a_size_that_is_a_lie_allocates_nothing() -> None:
    frame = bytearray(lz4.frame.compress(b"x" * 100, store_size=True))
    for at in range(256):
        frame[6:15] = struct.pack("<QB", 1 << 60, at)
        with pytest.raises(ValueError, match=r"lz4|expands"):
            decompress(Codec.LZ4, memoryview(frame))
    raw = b"\xff\xff\xff\xff\x0f" + bytes(10)
    with pytest.raises(ValueError, match="expands to more than"):
        decompress(Codec.SNAPPY, memoryview(raw))


@pytest.mark.parametrize("name", THEIR_ENCODERS)
def test_cut_off_data_is_refused(name: str) -> None:
    """At every byte, but where a member, frame or block ends and the rest is one more."""
    codec, encode = THEIR_ENCODERS[name]
    plain = random.Random(2).randbytes(60)
    whole = encode(plain)
    for end in range(len(whole)):
        try:
            found = bytes(decompress(codec, memoryview(whole)[:end]))
        except ValueError:
            continue
        assert found in {b"", plain[:9]}


@pytest.mark.parametrize("codec", CODECS)
@given(changes=st.lists(st.tuples(st.integers(0, 200), st.integers(0, 255)), max_size=4), tail=st.binary(max_size=30))
def test_damaged_data_is_refused_or_something_else(codec: Codec, changes: list[tuple[int, int]], tail: bytes) -> None:
    data = bytearray(bytes(compress(codec, memoryview(TEXT[:200]))) + tail)
    for at, value in changes:
        data[at % len(data)] = value
    with contextlib.suppress(ValueError):
        decompress(codec, memoryview(data), 1 << 20)


@pytest.mark.parametrize("codec", CODECS)
@given(data=st.binary(max_size=100))
def test_any_bytes_are_refused_or_something(codec: Codec, data: bytes) -> None:
    with contextlib.suppress(ValueError):
        decompress(codec, memoryview(data), 1 << 20)


@pytest.mark.parametrize("codec", [5, 7])
def test_unknown_codecs_are_refused(codec: int) -> None:
    with pytest.raises(ValueError, match="unknown codec"):
        decompress(codec, memoryview(b"x"))
    with pytest.raises(ValueError, match="unknown codec"):
        compress(codec, memoryview(b"x"))


def test_a_great_many_gzip_members_are_not_followed() -> None:
    """Each costs a copy of all that follow."""
    data = gzip.compress(b"") * 10_000
    assert decompress(Codec.GZIP, memoryview(data)) == b""
