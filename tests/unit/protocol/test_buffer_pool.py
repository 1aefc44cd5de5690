"""Memory that is used again: never while somebody holds a view of it, and not for ever."""

from __future__ import annotations

import hypothesis.strategies as st
from hypothesis import given, settings

from replicator.protocol.buffer_pool import IDLE_S, SMALLEST_BYTES, STEP_BYTES, BufferPool

MANY = 10 * STEP_BYTES


def address(view: memoryview) -> int:
    return id(view.obj)


def test_memory_is_used_again_when_the_last_view_is_gone() -> None:
    buffers = BufferPool()
    first = buffers.take(MANY)
    where, part = address(first), first[5:6]
    del first
    assert address(buffers.take(MANY)) != where, "a part of it is held"
    part.release()
    assert address(buffers.take(MANY)) == where
    assert buffers.size_bytes == 2 * MANY


def test_an_answer_gets_what_it_needs_and_no_more() -> None:
    """Exactly its size, writable; a little larger than the last one fits, a small one wastes no large slab."""
    buffers = BufferPool()
    view = buffers.take(MANY - 100)
    where = address(view)
    assert len(view) == MANY - 100
    assert not view.readonly
    del view
    assert address(buffers.take(MANY)) == where
    assert address(buffers.take(MANY // 2)) == where
    assert address(buffers.take(MANY // 2 - 1)) != where
    small = buffers.take(SMALLEST_BYTES - 1)
    assert len(small) == SMALLEST_BYTES - 1
    assert len(buffers.take(0)) == 0


def test_other_sizes_replace_what_is_free() -> None:
    """Free slabs that don't fit don't pile up."""
    buffers = BufferPool()
    held = buffers.take(MANY)
    for factor in range(2, 40):
        buffers.take(factor * MANY)
    assert buffers.size_bytes <= len(held) + 39 * MANY


def test_what_is_not_needed_is_let_go() -> None:
    buffers = BufferPool()
    held, spare = buffers.take(MANY), buffers.take(MANY)
    del spare
    buffers.sweep(100.0)
    buffers.sweep(100.0 + IDLE_S - 0.1)
    assert buffers.size_bytes == 2 * MANY
    buffers.sweep(100.0 + IDLE_S)
    assert buffers.size_bytes == MANY, "the one that is held stays"
    del held
    buffers.take(MANY)
    buffers.sweep(100.0 + 2 * IDLE_S)
    assert buffers.size_bytes == MANY, "it was used"
    buffers.sweep(100.0 + 3 * IDLE_S)
    assert buffers.size_bytes == 0


@settings(max_examples=60)
@given(
    st.lists(
        st.tuples(st.integers(1, 6 * STEP_BYTES), st.sets(st.integers(0, 9), max_size=4), st.booleans()), max_size=40
    )
)
def test_no_two_share_memory(steps: list[tuple[int, set[int], bool]]) -> None:
    """Whatever is taken, dropped and swept in between: what was written into a view stays in it."""
    buffers = BufferPool()
    held: list[tuple[memoryview, int]] = []
    for number, (size, dropped, is_swept) in enumerate(steps):
        held = [it for index, it in enumerate(held) if index not in dropped]
        view = buffers.take(size)
        assert len(view) == size
        mark = number % 251
        view[0] = view[-1] = mark
        held.append((view, mark))
        if is_swept:
            buffers.sweep(number * IDLE_S)
        assert all(it[0] == it[-1] == mark for it, mark in held)
