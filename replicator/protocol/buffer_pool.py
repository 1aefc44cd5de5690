"""Memory for large answers, used again: fresh memory costs more than what is received into it.

The kernel clears every page of fresh memory, one fault each; for records that pass unopened that was a quarter of all
CPU. So a slab stays after its answer is gone, and the next one is received into it.

Nobody has to give a slab back: it is free when nobody holds a view of it, which a bytearray knows. First fit from the
front, so that what is at the end comes to rest, and is let go.
"""

from __future__ import annotations

SMALLEST_BYTES = 64 << 10
"""Smaller answers get memory of their own: the allocator has some that it does not return."""
STEP_BYTES = 128 << 10
"""Slabs are larger than their first answer by up to this, so that the next one, a bit larger, fits."""
MOST_WASTE = 2
"""An answer takes at least one part in so many of its slab: memory is counted by answers."""
IDLE_S = 5.0
"""A slab that nobody needed for so long, or up to twice that, is let go."""


class _Buffer:
    __slots__ = ("data", "was_used")

    def __init__(self, size: int) -> None:
        self.data = bytearray(size)
        self.was_used = True

    def is_free(self) -> bool:
        """Whether nobody holds a view: only then can a bytearray change its size, and here it does, and back."""
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
        """Of all slabs, free or not."""
        return sum(len(it.data) for it in self._buffers)

    def take(self, size: int) -> memoryview:
        """Exactly so many bytes, writable, with anything in them; nobody else's as long as a view of them is held."""
        if size < SMALLEST_BYTES:
            return memoryview(bytearray(size))
        for buffer in self._buffers:
            if size <= len(buffer.data) <= max(size * MOST_WASTE, STEP_BYTES) and buffer.is_free():
                buffer.was_used = True
                return memoryview(buffer.data)[:size]
        # those that are free don't fit: sizes have changed
        self._buffers = [it for it in self._buffers if not it.is_free()]
        buffer = _Buffer(-(-size // STEP_BYTES) * STEP_BYTES)
        self._buffers.append(buffer)
        return memoryview(buffer.data)[:size]

    def sweep(self, now_s: float) -> None:
        """Let go what was not needed; may be called often. `now_s` is on the monotonic clock."""
        if now_s < self._next_sweep_s:
            return
        self._next_sweep_s = now_s + IDLE_S
        self._buffers = [it for it in self._buffers if it.was_used or not it.is_free()]
        for buffer in self._buffers:
            buffer.was_used = False
