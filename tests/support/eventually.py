"""The only waiting primitive of the tests."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from replicator.deadline import Deadline

T = TypeVar("T")


def eventually(condition: Callable[[], T], within_s: float, *, every_s: float = 0.05) -> T:
    """Call `condition` until it returns something true, and return that.

    A condition that raises AssertionError is not met yet. Every other exception ends the wait at once.

    Args:
        condition: called at least twice, the last time after the deadline.
        within_s: how long to try.
        every_s: pause between two calls.

    Raises:
        AssertionError: the condition was not met in time; the text has its last value or error.
    """
    deadline = Deadline(within_s)
    while True:
        is_last_try = deadline.expired
        try:
            value = condition()
            if value:
                return value
            last = f"returned {value!r}"
        except AssertionError as error:
            last = f"failed with {error}"
        if is_last_try:
            name = getattr(condition, "__qualname__", repr(condition))
            raise AssertionError(f"{name} was not met within {within_s:g} s: it {last}")
        time.sleep(every_s)
