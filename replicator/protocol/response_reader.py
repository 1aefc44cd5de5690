"""Receives responses: several small ones at a time, the body of a large one straight into memory of its own.

Every size is checked before memory is allocated for it, and a very large response gets its memory as its bytes arrive.

Source: KIP-482 for the tagged fields; clients `NetworkReceive`.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

from replicator.protocol.buffer_pool import BufferPool

ALLOCATED_AT_ONCE_BYTES = 64 << 20
"""A response whose size is said to be larger gets its memory as its bytes arrive."""
FIRST_PIECE_BYTES = 1 << 20
GATHERED_BYTES = 4096
"""Received at once where a response begins: several small responses, or the beginning of a large one."""
_INT32 = struct.Struct(">i")


class InvalidResponseError(Exception):
    """The peer sent bytes that are no response."""


class ResponseReader:
    """The receiving half of a connection.

    Args:
        max_bytes: the largest response to accept.
        buffers: memory for large responses.
    """

    def __init__(self, max_bytes: int, buffers: BufferPool) -> None:
        self._max_bytes = max_bytes
        self._buffers = buffers
        self._gathered = memoryview(bytearray(GATHERED_BYTES))
        self._body: memoryview | None = None
        """The response that is being received into memory of its own; None: small ones are gathered."""
        self._have = 0
        """Bytes received so far, in the body or gathered."""
        self._size = 0
        """Size of the body."""
        self._correlation_id = 0

    @property
    def missing_bytes(self) -> int:
        """Bytes that the large response lacks that has begun to arrive."""
        return 0 if self._body is None else self._size - self._have

    @property
    def gathered_bytes(self) -> int:
        """Bytes of a small response that has begun to arrive."""
        return self._have if self._body is None else 0

    def drop(self) -> None:
        self._body = None

    def room(self) -> memoryview:
        """Return the memory for the next bytes."""
        return (self._gathered if self._body is None else self._body)[self._have :]

    def add(self, count: int, take: Callable[[int, memoryview | None], None]) -> None:
        """Take over `count` bytes that were received into `room()`.

        Args:
            take: called with the correlation id and the body of a complete response; of an incomplete one with the
                id alone, as soon as it is known. It may raise to refuse the response.

        Raises:
            InvalidResponseError: a size is none.
        """
        self._have += count
        if self._body is None:
            self._split_gathered(take)
        elif self._have == self._size:
            body, self._body, self._have = self._body, None, 0
            take(self._correlation_id, body)
        elif self._have == len(self._body):
            self._grow(self._body)

    def _split_gathered(self, take: Callable[[int, memoryview | None], None]) -> None:
        """Split what was gathered into responses."""
        gathered, have, at = self._gathered, self._have, 0
        while have - at >= _INT32.size:
            (size,) = _INT32.unpack_from(gathered, at)
            if not 4 <= size <= self._max_bytes:
                raise InvalidResponseError(f"a response of {size} bytes (allowed: 4 to {self._max_bytes})")
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
    """Find where the response's own bytes begin, after the tagged fields of response header v1.

    Raises:
        InvalidResponseError: the fields don't end within the answer.
    """
    if len(body) and not body[0]:  # nearly always
        return 1
    count, at = _uvarint(body, 0)
    for _ in range(count):
        _, at = _uvarint(body, at)
        size, at = _uvarint(body, at)
        at += size
    if at > len(body):
        raise InvalidResponseError("a header that is longer than its response")
    return at


def _uvarint(body: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while shift < 35:
        if at >= len(body):
            raise InvalidResponseError("a header that is longer than its response")
        byte = body[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
    raise InvalidResponseError("a number of more than 5 bytes")
