"""When a partition that brings nothing has the task begin again, and when not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any

import pytest

from replicator.copy.stall_detector import (
    ASK_EVERY_S,
    FORGIVEN_AFTER_S,
    LONGEST_STEP_S,
    MAX_ASKED,
    MAX_PATIENCE_S,
    PATIENCE_S,
    QUIET_S,
    StallDetector,
    StandstillError,
)
from replicator.errors import TP

A, B = TP("orders", 0), TP("orders", 1)
NOTICED_S = max(QUIET_S, ASK_EVERY_S) + PATIENCE_S + 3


class Source:
    """What the source says of its ends; time passes second by second."""

    def __init__(self, **ends: int) -> None:
        self.ends: dict[TP, int] = {TP("orders", int(name[1:])): end for name, end in ends.items()}
        self.asked: list[list[TP]] = []
        self.refreshed = 0
        self.now_s = 100_000.0
        self.watch = StallDetector(self._ask, self._refresh)

    def _ask(self, tps: Iterable[TP]) -> dict[TP, Future[Any]]:
        self.asked.append(list(tps))
        answers: dict[TP, Future[Any]] = {tp: Future() for tp in self.asked[-1]}
        for tp, answer in answers.items():
            if tp in self.ends:
                answer.set_result(SimpleNamespace(offset=self.ends[tp]))
            else:
                answer.set_exception(TimeoutError())
        return answers

    def _refresh(self) -> None:
        self.refreshed += 1

    def look(self, seconds: float, positions: dict[TP, int], step_s: float = 1.0) -> None:
        """Let so much time pass, and look after each step."""
        for _ in range(int(seconds / step_s)):
            self.now_s += step_s
            self.watch.look(positions, self.now_s)

    def noticed(self, positions: dict[TP, int]) -> float:
        """The seconds until the watch gives the task up, which begins again."""
        began_s = self.now_s
        with pytest.raises(StandstillError):
            self.look(1000, positions)
        self.watch.begin()
        return self.now_s - began_s


def test_a_partition_that_stays_behind_its_end_is_reported_once_patience_is_over() -> None:
    source = Source(p0=50, p1=7)
    source.look(PATIENCE_S, {A: 20, B: 7})
    assert (source.watch.end(A), source.watch.end(B)) == (50, -1)
    with pytest.raises(StandstillError) as caught:
        source.look(NOTICED_S - PATIENCE_S, {A: 20, B: 7})
    assert str(caught.value).startswith("fetch of orders[0]: nothing came from offset 20 on for 2")
    assert "ends at 50 (" in str(caught.value)
    assert caught.value.tp == A


def test_several_are_counted() -> None:
    source = Source(p0=50, p1=7)
    with pytest.raises(StandstillError, match="1 more partitions are stalled"):
        source.look(NOTICED_S, {A: 20, B: 3})


def test_one_that_moves_or_has_nothing_more_is_left_alone() -> None:
    source = Source(p0=10_000, p1=7)
    for second in range(300):
        source.now_s += 1
        source.watch.look({A: second // int(QUIET_S + ASK_EVERY_S), B: 7}, source.now_s)
    assert any(B in asked for asked in source.asked)


def test_time_in_which_the_task_did_not_ask_its_plane_does_not_count() -> None:
    source = Source(p0=50)
    source.look(NOTICED_S * 5, {A: 20}, step_s=LONGEST_STEP_S * 10)


def test_a_source_that_gives_no_answer_begins_the_count_anew_and_is_asked_for_its_leaders() -> None:
    source = Source(p0=50)
    for _ in range(5):
        source.look(PATIENCE_S / 2, {A: 20})
        del source.ends[A]
        source.look(ASK_EVERY_S * 2, {A: 20})
        source.ends[A] = 50
    assert 1 <= source.refreshed <= 5
    source.noticed({A: 20})


def test_an_answer_that_never_comes_is_waited_for_and_nothing_is_asked_beside_it() -> None:
    source = Source()
    asked: list[Future[Any]] = []

    def ask(tps: Iterable[TP]) -> dict[TP, Future[Any]]:
        answers: dict[TP, Future[Any]] = {tp: Future() for tp in tps}
        asked.extend(answers.values())
        return answers

    source.watch = StallDetector(ask, lambda: None)
    source.look(100, {A: 20})
    assert len(asked) == 1


def test_patience_doubles_up_to_a_bound_and_is_short_again_after_a_quiet_hour() -> None:
    source = Source(p0=50)
    took = [source.noticed({A: 20}) for _ in range(7)]
    assert took == sorted(took)
    assert took[0] <= NOTICED_S
    assert took[1] > took[0] + PATIENCE_S * 0.9
    assert took[-1] == took[-2] <= MAX_PATIENCE_S + NOTICED_S
    source.look(FORGIVEN_AFTER_S, {A: 50})
    source.watch.begin()
    assert source.noticed({A: 20}) == took[0]


def test_where_many_are_quiet_they_take_turns() -> None:
    source = Source()
    positions = {TP("many", number): 5 for number in range(MAX_ASKED * 2 + 10)}
    source.ends = dict.fromkeys(positions, 5)
    source.look(QUIET_S + 8 * ASK_EVERY_S, positions)
    times = Counter(tp for tps in source.asked for tp in tps)
    assert set(times) == set(positions)
    assert max(times.values()) - min(times.values()) <= 1
    assert all(len(set(tps)) == len(tps) <= MAX_ASKED for tps in source.asked)


def test_those_behind_come_first_and_then_those_that_have_just_become_quiet() -> None:
    source = Source()
    positions = {TP("many", number): 5 for number in range(MAX_ASKED * 2)}
    late, quiet = TP("many", 3), TP("many", 4)
    source.ends = {**dict.fromkeys(positions, 5), late: 9}
    source.look(QUIET_S + 2 * ASK_EVERY_S, positions)
    source.look(QUIET_S + ASK_EVERY_S, {**positions, quiet: 6})
    assert source.asked[-1][:2] == [late, quiet]


def test_what_no_longer_runs_is_forgotten() -> None:
    source = Source(p0=50, p1=7)
    source.look(PATIENCE_S, {A: 20, B: 7})
    assert source.watch.end(A) == 50
    source.look(NOTICED_S * 2, {B: 7})
    assert source.watch.end(A) == -1
