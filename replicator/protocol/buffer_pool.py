"""Reuses memory for large responses, because fresh memory costs more than receiving the bytes into it.

The kernel clears every page of fresh memory, one fault each; for records that pass unopened that was a quarter of all
CPU. So a buffer is kept after its response is gone, and the next response is received into it.

A buffer is never given back explicitly: it is free when no view of it is held, which a bytearray knows. So code that
needs bytes for longer than the batch lives has to copy them. The first buffer that fits is taken, so that those at the
end of the list fall idle and are freed.
"""

from __future__ import annotations

SMALLEST_BYTES = 64 << 10
"""Smaller responses get memory of their own: the allocator reuses that by itself."""
STEP_BYTES = 128 << 10
"""Buffers are larger than their first response by up to this, so that a slightly larger one fits, too."""
MOST_WASTE = 2
"""A buffer is at most so many times as large as its response: memory limits count the responses."""
IDLE_S = 5.0
"""A buffer that was idle for so long, or for up to twice that, is freed."""


class _Buffer:
    __slots__ = ("data", "was_used")

    def __init__(self, size: int) -> None:
        self.data = bytearray(size)
        self.was_used = True

    def is_free(self) -> bool:
        """Whether no view is held: only then can a bytearray change its size. So this changes it, and back."""
        try:
            self.data.append(0)
        except BufferError:
            return False
        del self.data[-1]
        return True


class BufferPool:
    """See the module. Threading: one thread, but for views, which any thread may hold and drop."""

    def __init__(self) -> None:
        self._buffers: list[_Buffer] = []
        self._next_sweep_s = 0.0

    @property
    def size_bytes(self) -> int:
        """Size of all buffers, free or not."""
        return sum(len(it.data) for it in self._buffers)

    def take(self, size: int) -> memoryview:
        """Return a writable view of `size` bytes with any content; reserved for as long as a view of it is held."""
        if size < SMALLEST_BYTES:
            return memoryview(bytearray(size))
        for buffer in self._buffers:
            if size <= len(buffer.data) <= max(size * MOST_WASTE, STEP_BYTES) and buffer.is_free():
                buffer.was_used = True
                return memoryview(buffer.data)[:size]
        # the free ones don't fit: response sizes have changed
        self._buffers = [it for it in self._buffers if not it.is_free()]
        buffer = _Buffer(-(-size // STEP_BYTES) * STEP_BYTES)
        self._buffers.append(buffer)
        return memoryview(buffer.data)[:size]

    def sweep(self, now_s: float) -> None:
        """Free the buffers that were idle; may be called often. `now_s` is on the monotonic clock."""
        if now_s < self._next_sweep_s:
            return
        self._next_sweep_s = now_s + IDLE_S
        self._buffers = [it for it in self._buffers if it.was_used or not it.is_free()]
        for buffer in self._buffers:
            buffer.was_used = False
