"""Requests to coordinators: they end when they should, and the client never times them out by itself."""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import Any

import pytest

from replicator.kafka.group_coordinators import LONGEST_S, GroupCoordinators
from tests.support.eventually import eventually

SOON_S = 20.0


class TimedOutError(Exception):
    """What a request fails with."""


class FakeClient:
    """Remembers its requests, and answers none by itself. As librdkafka does, it must not end itself."""

    def __init__(self, made: list[weakref.ref[FakeClient]]) -> None:
        self.requests: dict[str, Future[Any]] = {}
        self.all: list[Future[Any]] = []
        self.timeouts_s: set[float] = set()
        made.append(weakref.ref(self))

    def send(self, keys: str, timeout_s: float) -> Mapping[str, Future[Any]]:
        self.timeouts_s.add(timeout_s)
        sent = {key: Future[Any]() for key in keys}
        self.requests |= sent
        self.all += sent.values()
        return sent


class Bench:
    """The thing, and the clients that it made; those that are gone are None."""

    def __init__(self) -> None:
        self.made: list[weakref.ref[FakeClient]] = []
        self.coordinators = GroupCoordinators(lambda: FakeClient(self.made), TimedOutError)

    @property
    def clients(self) -> list[FakeClient | None]:
        return [it() for it in self.made]

    def client(self, number: int) -> FakeClient:
        found = self.made[number]()
        assert found is not None
        return found

    def ask(self, keys: str, timeout_s: float) -> dict[str, Future[Any]]:
        return self.coordinators.ask(timeout_s, lambda client, longest_s: client.send(keys, longest_s))


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_answers_and_errors_are_handed_on(bench: Bench) -> None:
    answers = bench.ask("abc", 60)
    assert not answers["a"].done()
    client = bench.client(0)
    client.requests["a"].set_result(1)
    client.requests["b"].set_exception(KeyError("b"))
    assert answers["a"].result() == 1
    assert isinstance(answers["b"].exception(), KeyError)
    with pytest.raises(KeyError):
        answers["b"].result(timeout=1)
    assert [answers[key].done() for key in "abc"] == [True, True, False]


def test_an_answer_that_comes_while_somebody_waits(bench: Bench) -> None:
    answer = bench.ask("a", 60)["a"]
    threading.Timer(0.05, bench.client(0).requests["a"].set_result, [7]).start()
    assert answer.result() == 7


def test_a_wait_that_is_over_early_leaves_the_request_open(bench: Bench) -> None:
    answer = bench.ask("a", 60)["a"]
    for _ in range(2):
        with pytest.raises(TimeoutError):
            answer.result(timeout=0.01)
        with pytest.raises(TimeoutError):
            answer.exception(timeout=0.01)
    bench.client(0).requests["a"].set_result(7)
    assert answer.result(timeout=0) == 7


def test_a_request_times_out_when_it_should(bench: Bench) -> None:
    """And the client was not told: it would time out by itself, which is what must not happen."""
    began_s = time.monotonic()
    answers = bench.ask("ab", 0.5)
    assert bench.client(0).timeouts_s == {LONGEST_S}
    with pytest.raises(TimedOutError):
        answers["a"].result()
    assert 0.4 < time.monotonic() - began_s < LONGEST_S / 100
    assert answers["b"].done()
    assert isinstance(answers["b"].exception(), TimedOutError)


def test_what_is_answered_in_time_keeps_the_client(bench: Bench) -> None:
    for number in range(3):
        answer = bench.ask("a", 0.5)["a"]
        bench.client(0).requests["a"].set_result(number)
        assert answer.result() == number
    time_passes(0.8)
    bench.ask("a", 60)
    assert len(bench.made) == 1


def time_passes(seconds: float) -> None:
    end_s = time.monotonic() + seconds
    eventually(lambda: time.monotonic() > end_s, within_s=seconds + 1)


def test_a_client_with_an_overdue_request_is_let_go(bench: Bench) -> None:
    """Although nobody looks at the answer, and librdkafka still holds the request."""
    bench.ask("a", 0.5)
    held = bench.client(0).requests["a"]
    eventually(lambda: bench.clients == [None], SOON_S)
    answer = bench.ask("b", 60)["b"]
    bench.client(1).requests["b"].set_result(1)
    assert answer.result() == 1
    held.set_result("late")  # harmless


def test_a_client_in_which_others_wait_is_let_go_after_them(bench: Bench) -> None:
    bench.ask("a", 0.5)
    patient = bench.ask("b", 60)["b"]

    def has_another() -> bool:
        bench.coordinators.let_go()
        bench.ask("c", 60)
        return len(bench.made) == 2

    eventually(has_another, SOON_S)
    for request in bench.client(0).all:
        request.set_result(5)
    assert patient.result() == 5
    bench.coordinators.let_go()
    assert bench.clients[0] is None
    assert bench.clients[1] is not None


def test_no_client_is_dropped_by_its_own_thread(bench: Bench) -> None:
    """librdkafka's thread that delivers an answer holds nothing of which the client's life depends."""
    answers = bench.ask("ab", 0.5)
    client = bench.client(0)
    request = client.requests["b"]
    ended_by: list[int] = []
    weakref.finalize(client, lambda: ended_by.append(threading.get_ident()))
    del client
    deliverer = threading.Timer(0.02, request.set_result, [1])
    deliverer.start()
    assert answers["b"].result() == 1
    deliverer.join()
    eventually(lambda: bool(ended_by), SOON_S)
    assert ended_by != [deliverer.ident]


def test_answers_may_come_while_the_clients_are_looked_after(bench: Bench) -> None:
    """They come in librdkafka's threads."""
    ended = threading.Event()
    failures: list[BaseException] = []

    def look() -> None:
        try:
            while not ended.is_set():
                bench.coordinators.let_go()
        except BaseException as error:
            failures.append(error)

    looker = threading.Thread(target=look)
    looker.start()
    for _ in range(2000):
        bench.ask("abcd", 60)
        for request in bench.client(0).requests.values():
            request.set_result(1)
    ended.set()
    looker.join()
    assert not failures


def test_many_at_once_are_watched_by_one_timer(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    timers: list[float] = []
    real = threading.Timer

    def timer(after_s: float, look: Callable[[], None]) -> threading.Timer:
        timers.append(after_s)
        return real(after_s, look)

    monkeypatch.setattr(threading, "Timer", timer)
    answers = [bench.ask("a", 60)["a"]]
    for _ in range(5000):
        answers.append(bench.ask("a", 60)["a"])
        bench.client(0).requests["a"].set_result(1)
    assert timers == [60]
    assert sum(answer.done() for answer in answers) == 5000
