"""The event loop: order, errors of completions, timers, and being woken by another thread."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from replicator.deadline import Deadline, StopToken
from replicator.protocol.event_loop import EventLoop


def fail() -> None:
    raise ZeroDivisionError


@pytest.fixture
def loop() -> Iterator[EventLoop]:
    made = EventLoop()
    yield made
    made.close()


def test_completions_run_in_order_and_one_that_queues_another_does_not_keep_the_round(loop: EventLoop) -> None:
    """A round always ends, even when every completion queues the next one."""
    ran: list[int] = []

    def again() -> None:
        ran.append(len(ran))
        loop.call_soon(again)

    loop.call_soon(again)
    loop.call_soon(lambda: ran.append(100))
    loop.run_once(0)
    assert ran == [0, 100]
    loop.run_once(5)  # does not wait: something is queued
    assert ran == [0, 100, 2]


def test_an_exception_of_a_completion_leaves_the_rest_for_the_next_round(loop: EventLoop) -> None:
    ran: list[str] = []
    loop.call_soon(lambda: ran.append("first"))
    loop.call_soon(fail)
    loop.call_soon(lambda: ran.append("last"))
    with pytest.raises(ZeroDivisionError):
        loop.run_once(0)
    assert ran == ["first"]
    loop.run_once(0)
    assert ran == ["first", "last"]


def test_a_completion_may_wait_for_another_one(loop: EventLoop) -> None:
    """`run_once` inside `run_once`: each callback runs once."""
    ran: list[str] = []

    def outer() -> None:
        ran.append("outer")
        assert loop.run_until(lambda: "inner" in ran, Deadline(5))

    loop.call_soon(outer)
    loop.call_soon(lambda: ran.append("inner"))
    loop.run_once(0)
    loop.run_once(0)
    assert ran == ["outer", "inner"]


def test_the_end_of_a_round_comes_once_and_outside_of_one_at_once(loop: EventLoop) -> None:
    ran: list[str] = []

    def end() -> None:
        ran.append("end")

    def completion() -> None:
        ran.append("completion")
        loop.call_at_end_of_round(end)

    loop.call_soon(completion)
    loop.call_soon(completion)
    loop.run_once(0)
    assert ran == ["completion", "completion", "end"]
    loop.run_once(0)
    loop.call_at_end_of_round(end)
    assert ran == ["completion", "completion", "end", "end"]


def test_the_end_of_a_round_comes_whatever_is_raised_in_it(loop: EventLoop) -> None:
    ran: list[str] = []
    loop.call_soon(lambda: loop.call_at_end_of_round(lambda: ran.append("end")))
    loop.call_soon(fail)
    with pytest.raises(ZeroDivisionError):
        loop.run_once(0)
    assert ran == ["end"]


def test_what_is_for_the_end_of_a_round_does_not_wait_for_a_round_inside(loop: EventLoop) -> None:
    """Else a completion that asks, and pumps until it has an answer, would have asked nothing."""
    ran: list[str] = []

    def outer() -> None:
        loop.call_at_end_of_round(lambda: loop.call_soon(lambda: ran.append("answer")))
        assert loop.run_until(lambda: "answer" in ran, Deadline(5))
        ran.append("outer")

    loop.call_soon(outer)
    loop.run_once(0)
    assert ran == ["answer", "outer"]


def test_timers_fire_in_time_order_once_and_not_when_cancelled(loop: EventLoop) -> None:
    fired: list[str] = []
    loop.call_later(0.02, lambda: fired.append("second"))
    loop.call_later(0.01, lambda: fired.append("first"))
    cancelled = loop.call_later(0.0, lambda: fired.append("never"))
    cancelled.cancel()
    assert not cancelled.is_pending
    assert loop.run_until(lambda: len(fired) == 2, Deadline(5))
    loop.run_once(0.03)
    assert fired == ["first", "second"]


def test_a_timer_that_raises_does_not_take_the_next_one_with_it(loop: EventLoop) -> None:
    fired: list[str] = []
    loop.call_later(0.0, fail)
    loop.call_later(0.0, lambda: fired.append("next"))
    with pytest.raises(ZeroDivisionError):
        loop.run_once(1)
    loop.run_once(1)
    assert fired == ["next"]


def test_another_thread_wakes_it(loop: EventLoop) -> None:
    ran: list[str] = []
    thread = threading.Thread(target=lambda: loop.call_soon_threadsafe(lambda: ran.append("posted")))
    thread.start()
    assert loop.run_until(lambda: bool(ran), Deadline(5))
    thread.join()


def test_run_until_tells_whether_it_was_in_time(loop: EventLoop) -> None:
    assert loop.run_until(lambda: True, Deadline(0))
    assert not loop.run_until(lambda: False, Deadline(0.01))
    loop.call_soon(lambda: None)
    ran: list[int] = []
    loop.call_soon(lambda: ran.append(1))
    assert loop.run_until(lambda: bool(ran), Deadline(0)), "one round is made even without time"


def test_a_deadline_that_another_thread_shortens_is_heeded(loop: EventLoop) -> None:
    leash = StopToken()
    budget = leash.budget(60)
    threading.Timer(0.05, lambda: leash.finish(0)).start()
    began_s = time.monotonic()
    assert not loop.run_until(lambda: False, budget)
    assert time.monotonic() - began_s < 5


def test_nothing_happens_after_close() -> None:
    loop = EventLoop()
    ran: list[int] = []
    loop.call_soon(lambda: ran.append(1))
    loop.call_soon(lambda: loop.call_at_end_of_round(lambda: ran.append(3)))
    closed: list[int] = []
    loop.on_close(lambda: closed.append(1))
    loop.close()
    loop.close()
    loop.call_soon_threadsafe(lambda: ran.append(2))
    assert (ran, closed) == ([], [1])
