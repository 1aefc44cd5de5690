"""One time budget, shared by every step of an operation."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator

REFUSED_RETRY_S = 60.0
"""A right that is missing is not granted within seconds."""
AFTER_FINISH_S = 5.0
"""What a step may take that begins after the end was asked for, such as an abort."""


def seconds_text(seconds: float) -> str:
    """For texts: ``30 s``, ``2.84 s``; what is left of a budget has more digits than anybody wants to read."""
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
    """How long a thread may still work: told by its owner, asked by itself.

    Threading: `finish` and `abandon` by the owner, `budget` by the thread, the events by both.

    Attributes:
        finishing: end soon, in good order.
        lost: the work belongs to somebody else now: commit nothing more.
        finish_by_s: on the monotonic clock; what the thread waits for at that moment is cut short.
    """

    def __init__(self) -> None:
        self.finishing = threading.Event()
        self.lost = threading.Event()
        self.finish_by_s = math.inf

    def finish(self, within_s: float) -> None:
        """End within `within_s`: every budget that was given ends by then."""
        self.finish_by_s = min(self.finish_by_s, time.monotonic() + within_s)
        self.finishing.set()

    def abandon(self) -> None:
        """Somebody else has the work: end at once."""
        self.lost.set()
        self.finish(1.0)

    def budget(self, seconds: float) -> Deadline:
        """A deadline for the thread's next step; one that begins after `finish` is short from the start."""
        if self.finishing.is_set():
            return Deadline(min(seconds, AFTER_FINISH_S))
        return _StoppableDeadline(seconds, self)


class _StoppableDeadline(Deadline):
    """Ends when its leash says to finish, however many of them there are."""

    __slots__ = ("_leash",)

    def __init__(self, seconds: float, leash: StopToken) -> None:
        super().__init__(seconds)
        self._leash = leash

    def left_s(self) -> float:
        return max(0.0, min(self._end, self._leash.finish_by_s) - time.monotonic())


def backoff_s(first_s: float, max_s: float) -> Iterator[float]:
    """Waits that double from `first_s` to `max_s`, for ever."""
    wait_s = first_s
    while True:
        yield wait_s
        wait_s = min(wait_s * 2, max_s)
