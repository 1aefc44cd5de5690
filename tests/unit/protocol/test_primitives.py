"""Kafka's primitive types: round trips, and what ends too early or makes no sense."""

from __future__ import annotations

import struct
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicator.protocol.primitives import ByteReader, ProtocolError, compact_string, uvarint


def reader(data: bytes) -> ByteReader:
    return ByteReader(memoryview(data))


@given(st.integers(0, 2**35 - 1))
def test_unsigned_varints_come_back(value: int) -> None:
    it = reader(uvarint(value) + b"rest")
    assert it.uvarint() == value
    assert bytes(it.take(4)) == b"rest"


@pytest.mark.parametrize(
    ("value", "encoded"), [(0, "00"), (127, "7f"), (128, "8001"), (300, "ac02"), (2**31 - 1, "ffffffff07")]
)
def test_unsigned_varints_are_kafkas(value: int, encoded: str) -> None:
    assert uvarint(value).hex() == encoded


@given(st.none() | st.text(st.characters(exclude_categories=["Cs"])))
def test_strings_come_back(value: str | None) -> None:
    it = reader(compact_string(value))
    assert it.nullable_string() == value
    assert it.at == it.end


def test_numbers_are_big_endian_and_signed() -> None:
    it = reader(struct.pack(">bhiq", -1, -2, -3, -4))
    assert (it.int8(), it.int16(), it.int32(), it.int64()) == (-1, -2, -3, -4)


def test_tagged_fields_are_read_or_passed_over() -> None:
    data = uvarint(2) + uvarint(0) + uvarint(3) + b"abc" + uvarint(7) + uvarint(0)
    it = reader(data + b"!")
    assert [(tag, bytes(content.data)) for tag, content in it.tags()] == [(0, b"abc"), (7, b"")]
    assert bytes(it.take(1)) == b"!"
    it = reader(data)
    it.skip_tags()
    assert it.at == it.end


READS: dict[str, Callable[[ByteReader], object]] = {
    "int8": ByteReader.int8,
    "int16": ByteReader.int16,
    "int32": ByteReader.int32,
    "int64": ByteReader.int64,
    "uvarint": ByteReader.uvarint,
    "string": ByteReader.string,
    "nullable string": ByteReader.nullable_string,
    "nullable bytes": ByteReader.nullable_bytes,
    "array": lambda it: it.array_length(4),
    "tags": lambda it: list(it.tags()),
    "no tags": ByteReader.skip_tags,
}


@pytest.mark.parametrize("name", READS)
@given(data=st.binary(max_size=12))
def test_nothing_but_a_wire_error_and_nothing_past_the_end(name: str, data: bytes) -> None:
    it = reader(data)
    try:
        READS[name](it)
    except ProtocolError:
        return
    assert it.at <= len(data)


@pytest.mark.parametrize(
    ("read", "data"),
    [
        (ByteReader.uvarint, b"\xff\xff\xff\xff\xff\x01"),
        (ByteReader.uvarint, b"\x80"),
        (ByteReader.string, b"\0"),
        (ByteReader.string, b"\x02\xff"),
        (ByteReader.string, b"\x05abc"),
        (lambda it: it.take(-1), b"abc"),
        (lambda it: it.array_length(4), uvarint(3) + bytes(7)),
        (ByteReader.skip_tags, b"\xff\xff\xff\xff\x07" + bytes(100)),
    ],
)
def test_lengths_are_compared_with_what_is_there(read: Callable[[ByteReader], object], data: bytes) -> None:
    with pytest.raises(ProtocolError, match="byte"):
        read(reader(data))
