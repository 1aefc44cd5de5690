"""An answer on its way in: size and correlation id first, then its body into memory of its own.

Nothing that the peer says is believed before it is checked, and memory for a large answer comes as its bytes do.

Source: KIP-482 for the tagged fields; clients `NetworkReceive`.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

ALLOCATED_AT_ONCE_BYTES = 64 << 20
"""An answer that is said to be larger gets its memory as its bytes arrive."""
FIRST_PIECE_BYTES = 1 << 20
_HEAD = struct.Struct(">ii")


class NonsenseError(Exception):
    """What the peer sent is no answer."""


class Incoming:
    """The answer that is being received: size and correlation id first, then its body into memory of its own."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._head = bytearray(_HEAD.size)
        self._body: bytearray | None = None
        self._have = 0
        self._size = 0

    def drop(self) -> None:
        self._body = None

    def room(self) -> memoryview:
        """Where the next bytes go; to be released before `add`."""
        target = self._head if self._body is None else self._body
        return memoryview(target)[self._have :]

    def add(self, count: int, expect: Callable[[int], None]) -> memoryview | None:
        """Count bytes that arrived; the whole body when it is complete.

        Args:
            expect: refuses a correlation id.

        Raises:
            NonsenseError: the size or the correlation id is none.
        """
        self._have += count
        if self._body is None:
            if self._have >= 4:
                self._check_size()
            if self._have < _HEAD.size:
                return None
            expect(_HEAD.unpack(self._head)[1])
            self._have = 0
            self._body = bytearray(self._size if self._size <= ALLOCATED_AT_ONCE_BYTES else FIRST_PIECE_BYTES)
        body = self._body
        if self._have == self._size:
            self._body, self._have = None, 0
            return memoryview(body)
        if self._have == len(body):
            body.extend(bytes(min(len(body), ALLOCATED_AT_ONCE_BYTES, self._size - len(body))))
        return None

    def _check_size(self) -> None:
        size = int.from_bytes(self._head[:4], "big", signed=True)
        if not 4 <= size <= self._max_bytes:
            raise NonsenseError(f"an answer of {size} bytes (allowed: 4 to {self._max_bytes})")
        self._size = size - 4


def header_end(body: memoryview) -> int:
    """Where the answer's own bytes begin, after the tagged fields of response header v1.

    Raises:
        NonsenseError: the fields don't end within the answer.
    """
    count, at = _uvarint(body, 0)
    for _ in range(count):
        _, at = _uvarint(body, at)
        size, at = _uvarint(body, at)
        at += size
    if at > len(body):
        raise NonsenseError("a header that is longer than its answer")
    return at


def _uvarint(body: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while shift < 35:
        if at >= len(body):
            raise NonsenseError("a header that is longer than its answer")
        byte = body[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
    raise NonsenseError("a number of more than 5 bytes")
