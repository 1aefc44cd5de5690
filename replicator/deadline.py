"""Time budgets that every step of an operation shares, stop requests, and backoff."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator

REFUSED_RETRY_S = 60.0
"""Pause after an authorization error: a missing right is not granted within seconds."""
AFTER_FINISH_S = 5.0
"""Budget of a step that begins after the thread was asked to finish, such as an abort."""


def seconds_text(seconds: float) -> str:
    """Format seconds for texts, with two decimals at most: ``30 s``, ``2.84 s``."""
    return f"{round(seconds, 2):g} s"


class Deadline:
    """A point in time (monotonic clock) that successive blocking calls share.

    Args:
        seconds: the whole budget.
    """

    __slots__ = ("_end", "seconds")

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._end = time.monotonic() + seconds

    def left_s(self) -> float:
        """Seconds left, never negative."""
        return max(0.0, self._end - time.monotonic())

    @property
    def expired(self) -> bool:
        return self.left_s() <= 0.0

    def slice_s(self, at_most_s: float) -> float:
        """Seconds one call may take: what is left, at most `at_most_s`."""
        return min(self.left_s(), at_most_s)

    def __repr__(self) -> str:
        return f"Deadline({self.left_s():.3f} of {self.seconds} s left)"


class StopToken:
    """A stop request with a deadline, set by the owner of a thread and polled by the thread.

    Threading: `finish` and `abandon` by the owner, `budget` by the thread, the events by both.

    Attributes:
        finishing: the thread is to end soon, in good order.
        lost: another worker owns the work: the thread must commit nothing more.
        finish_by_s: when every wait of the thread ends, on the monotonic clock.
    """

    def __init__(self) -> None:
        self.finishing = threading.Event()
        self.lost = threading.Event()
        self.finish_by_s = math.inf

    def finish(self, within_s: float) -> None:
        """Ask the thread to end within `within_s`: every budget that it was given ends by then."""
        self.finish_by_s = min(self.finish_by_s, time.monotonic() + within_s)
        self.finishing.set()

    def abandon(self) -> None:
        """Ask the thread to end at once, because another worker owns the work."""
        self.lost.set()
        self.finish(1.0)

    def budget(self, seconds: float) -> Deadline:
        """Return a deadline for the thread's next step; after `finish` it is at most `AFTER_FINISH_S`."""
        if self.finishing.is_set():
            return Deadline(min(seconds, AFTER_FINISH_S))
        return _StoppableDeadline(seconds, self)


class _StoppableDeadline(Deadline):
    """A deadline that ends early when its stop token says to finish."""

    __slots__ = ("_stop_token",)

    def __init__(self, seconds: float, stop_token: StopToken) -> None:
        super().__init__(seconds)
        self._stop_token = stop_token

    def left_s(self) -> float:
        return max(0.0, min(self._end, self._stop_token.finish_by_s) - time.monotonic())


def backoff_s(first_s: float, max_s: float) -> Iterator[float]:
    """Yield waits that double from `first_s` up to `max_s`, without end."""
    wait_s = first_s
    while True:
        yield wait_s
        wait_s = min(wait_s * 2, max_s)
