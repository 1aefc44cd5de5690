"""Decodes Kafka's primitive types, within bounds.

Every length is compared with the bytes that remain before anything is allocated or looped over, so that a hostile or
truncated message costs no more than its own size.

Pure. Source: KIP-482 (compact types and tagged fields); `ByteUtils.readUnsignedVarint`.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from struct import Struct
from typing import Any, Final

from replicator.errors import ReplicatorError

Buffer = bytes | bytearray | memoryview
"""Bytes to send; a view has one byte per item."""
UVARINT_BYTES: Final = 5
"""The longest unsigned varint: 32 bits, 7 in each byte."""

_INT8, _INT16, _INT32, _INT64 = Struct(">b"), Struct(">h"), Struct(">i"), Struct(">q")


class ProtocolError(ReplicatorError):
    """Bytes that break the protocol. Nothing else that came over that connection can be trusted.

    Args:
        problem: what was found.
        at: its position, in bytes from the start of the message; None: the text names it.
    """

    def __init__(self, problem: str, at: int | None = None) -> None:
        super().__init__(problem if at is None else f"{problem} at byte {at}")


class ByteReader:
    """Reads primitive types one after the other.

    Args:
        data: of format ``B``; methods return slices of it, nothing is copied.
        at: the position of the next byte to read; callers that decode inline set it.

    Raises:
        ProtocolError: from every method, when the data ends too early or makes no sense.
    """

    __slots__ = ("at", "data", "end")

    def __init__(self, data: memoryview, at: int = 0) -> None:
        self.data = data
        self.at = at
        self.end = len(data)

    def unpack(self, struct: Struct) -> tuple[Any, ...]:
        """Several fields of fixed size at once."""
        at = self.at
        self.at = at + struct.size
        if self.at > self.end:
            raise ProtocolError(f"{struct.size} bytes expected, {self.end - at} left", at)
        return struct.unpack_from(self.data, at)

    def int8(self) -> int:
        value: int = self.unpack(_INT8)[0]
        return value

    def int16(self) -> int:
        value: int = self.unpack(_INT16)[0]
        return value

    def int32(self) -> int:
        value: int = self.unpack(_INT32)[0]
        return value

    def int64(self) -> int:
        value: int = self.unpack(_INT64)[0]
        return value

    def uvarint(self) -> int:
        """Up to 2³⁵ - 1; larger than any length that can be valid."""
        data, at, end = self.data, self.at, self.end
        if at < end and data[at] < 0x80:  # nearly always
            self.at = at + 1
            return data[at]
        value = 0
        for shift in range(0, 7 * UVARINT_BYTES, 7):
            if at >= end:
                raise ProtocolError("a number is cut off", at)
            byte = data[at]
            at += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                self.at = at
                return value
        raise ProtocolError(f"a number is longer than {UVARINT_BYTES} bytes", self.at)

    def take(self, size: int) -> memoryview:
        """The next `size` bytes."""
        at = self.at
        stop = at + size
        if size < 0 or stop > self.end:
            raise ProtocolError(f"{size} bytes expected, {self.end - at} left", at)
        self.at = stop
        return self.data[at:stop]

    def nullable_bytes(self) -> memoryview | None:
        """Compact bytes; None for null."""
        size = self.uvarint()
        return self.take(size - 1) if size else None

    def nullable_string(self) -> str | None:
        """A compact string; None for null."""
        start = self.at
        data = self.nullable_bytes()
        try:
            return None if data is None else str(data, "utf-8")
        except UnicodeDecodeError:
            raise ProtocolError("a string is not UTF-8", start) from None

    def string(self) -> str:
        start = self.at
        value = self.nullable_string()
        if value is None:
            raise ProtocolError("a string is null", start)
        return value

    def array_length(self, element_bytes: int = 1) -> int:
        """How many elements follow; 0 for a null array.

        Args:
            element_bytes: what one element takes at least; more elements than fit are refused.
        """
        start = self.at
        length = self.uvarint() - 1
        if length * element_bytes > self.end - self.at:
            raise ProtocolError(f"an array of {length} elements, {self.end - self.at} bytes left", start)
        return max(length, 0)

    def tags(self) -> Iterator[tuple[int, ByteReader]]:
        """The tagged fields: number, and a reader of the content. Has to be read to the end."""
        for _ in range(self._tag_count()):
            tag = self.uvarint()
            yield tag, ByteReader(self.take(self.uvarint()))

    def skip_tags(self) -> None:
        """Pass over tagged fields."""
        at = self.at
        if at < self.end and self.data[at] == 0:  # nearly always
            self.at = at + 1
            return
        for _ in range(self._tag_count()):
            self.uvarint()
            self.take(self.uvarint())

    def _tag_count(self) -> int:
        start = self.at
        count = self.uvarint()
        if 2 * count > self.end - self.at:
            raise ProtocolError(f"{count} tagged fields, {self.end - self.at} bytes left", start)
        return count


def uvarint(value: int) -> bytes:
    """An unsigned varint. Args: value: 0 or more."""
    if value < 0x80:
        return bytes((value,))
    encoded = bytearray()
    while value >= 0x80:
        encoded.append((value & 0x7F) | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


@lru_cache(maxsize=4096)
def compact_string(value: str | None) -> bytes:
    """A compact string; a null one for None."""
    if value is None:
        return b"\0"
    encoded = value.encode()
    return uvarint(len(encoded) + 1) + encoded
