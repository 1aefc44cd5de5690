"""The shared time budget."""

from __future__ import annotations

import itertools
import math

import pytest

from replicator.deadline import AFTER_FINISH_S, Deadline, StopToken, backoff_s


class Clock:
    """A clock that stands until it is moved."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_s = 1000.0
        monkeypatch.setattr("replicator.deadline.time.monotonic", lambda: self.now_s)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def test_it_runs_down_and_is_never_negative(clock: Clock) -> None:
    budget = Deadline(5)
    assert (budget.left_s(), budget.expired, budget.seconds) == (5.0, False, 5)
    clock.now_s += 4
    assert math.isclose(budget.left_s(), 1.0)
    clock.now_s += 10
    assert (budget.left_s(), budget.expired) == (0.0, True)


def test_one_call_takes_a_slice(clock: Clock) -> None:
    """A slice is what is left, and never more than asked for."""
    budget = Deadline(5)
    assert budget.slice_s(2) == 2
    clock.now_s += 4.5
    assert math.isclose(budget.slice_s(2), 0.5)


def test_a_leash_shortens_every_budget_that_it_gave(clock: Clock) -> None:
    """The thread may wait by an older budget than its newest; none outlasts what `finish` allows."""
    leash = StopToken()
    budgets = [leash.budget(60), leash.budget(30), leash.budget(1)]
    assert [budget.left_s() for budget in budgets] == [60, 30, 1]
    leash.finish(2)
    assert [budget.left_s() for budget in budgets] == [2, 2, 1]
    leash.finish(30)  # later is no excuse
    clock.now_s += 2
    assert all(budget.expired for budget in budgets)


def test_what_begins_after_the_end_was_asked_for_is_short(clock: Clock) -> None:
    """An abort has to be possible, and may not take a minute."""
    leash = StopToken()
    leash.abandon()
    assert leash.lost.is_set()
    clock.now_s += 100
    assert leash.budget(60).left_s() == AFTER_FINISH_S
    assert leash.budget(1).left_s() == 1


def test_no_time_at_all_has_expired() -> None:
    assert Deadline(0).expired


def test_backoff_doubles_up_to_its_limit() -> None:
    assert list(itertools.islice(backoff_s(0.25, 3), 6)) == [0.25, 0.5, 1.0, 2.0, 3, 3]
