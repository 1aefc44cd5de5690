"""Answers on their way in: small ones several at a time, the body of a large one straight into memory of its own.

Nothing that the peer says is believed before it is checked, and memory for a large answer comes as its bytes do.

Source: KIP-482 for the tagged fields; clients `NetworkReceive`.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

from replicator.protocol.buffer_pool import BufferPool

ALLOCATED_AT_ONCE_BYTES = 64 << 20
"""An answer that is said to be larger gets its memory as its bytes arrive."""
FIRST_PIECE_BYTES = 1 << 20
GATHERED_BYTES = 4096
"""Received at once, where an answer begins: several small answers, or the beginning of a large one."""
_INT32 = struct.Struct(">i")


class InvalidResponseError(Exception):
    """What the peer sent is no answer."""


class ResponseReader:
    """What a connection receives.

    Args:
        max_bytes: of an answer.
        slabs: where memory for large ones comes from.
    """

    def __init__(self, max_bytes: int, buffers: BufferPool) -> None:
        self._max_bytes = max_bytes
        self._buffers = buffers
        self._gathered = memoryview(bytearray(GATHERED_BYTES))
        self._body: memoryview | None = None
        """Of the answer that is too large to be gathered."""
        self._have = 0
        """Bytes in the body, or gathered."""
        self._size = 0
        """Of the body."""
        self._correlation_id = 0

    @property
    def missing_bytes(self) -> int:
        """Of the large answer that has begun to arrive."""
        return 0 if self._body is None else self._size - self._have

    @property
    def gathered_bytes(self) -> int:
        """Of a small answer that has begun to arrive."""
        return self._have if self._body is None else 0

    def drop(self) -> None:
        self._body = None

    def room(self) -> memoryview:
        """Where the next bytes go."""
        return (self._gathered if self._body is None else self._body)[self._have :]

    def add(self, count: int, take: Callable[[int, memoryview | None], None]) -> None:
        """Count bytes that arrived.

        Args:
            take: gets the correlation id and the body of an answer that is complete; of one that is not only the
                id, as soon as that is known, and may refuse it.

        Raises:
            NonsenseError: a size is none.
        """
        self._have += count
        if self._body is None:
            self._take_apart(take)
        elif self._have == self._size:
            body, self._body, self._have = self._body, None, 0
            take(self._correlation_id, body)
        elif self._have == len(self._body):
            self._grow(self._body)

    def _take_apart(self, take: Callable[[int, memoryview | None], None]) -> None:
        """What was gathered."""
        gathered, have, at = self._gathered, self._have, 0
        while have - at >= _INT32.size:
            (size,) = _INT32.unpack_from(gathered, at)
            if not 4 <= size <= self._max_bytes:
                raise InvalidResponseError(f"an answer of {size} bytes (allowed: 4 to {self._max_bytes})")
            begin, stop = at + 2 * _INT32.size, at + 4 + size
            if begin > have:
                break
            (correlation_id,) = _INT32.unpack_from(gathered, at + _INT32.size)
            if stop > have:
                take(correlation_id, None)
                if size > GATHERED_BYTES - 4:
                    self._begin_body(correlation_id, size - 4, gathered[begin:have])
                    return
                break
            at = stop
            take(correlation_id, memoryview(bytearray(gathered[begin:stop])))
        left = have - at
        if left and at:
            gathered[:left] = bytes(gathered[at:have])
        self._have = left

    def _begin_body(self, correlation_id: int, size: int, first: memoryview) -> None:
        self._correlation_id = correlation_id
        self._size, self._have = size, len(first)
        self._body = self._buffers.take(size if size <= ALLOCATED_AT_ONCE_BYTES else FIRST_PIECE_BYTES)
        self._body[: len(first)] = first

    def _grow(self, body: memoryview) -> None:
        more = min(len(body), ALLOCATED_AT_ONCE_BYTES, self._size - len(body))
        self._body = self._buffers.take(len(body) + more)
        self._body[: len(body)] = body


def header_end(body: memoryview) -> int:
    """Where the answer's own bytes begin, after the tagged fields of response header v1.

    Raises:
        NonsenseError: the fields don't end within the answer.
    """
    if len(body) and not body[0]:  # nearly always
        return 1
    count, at = _uvarint(body, 0)
    for _ in range(count):
        _, at = _uvarint(body, at)
        size, at = _uvarint(body, at)
        at += size
    if at > len(body):
        raise InvalidResponseError("a header that is longer than its answer")
    return at


def _uvarint(body: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while shift < 35:
        if at >= len(body):
            raise InvalidResponseError("a header that is longer than its answer")
        byte = body[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
    raise InvalidResponseError("a number of more than 5 bytes")
