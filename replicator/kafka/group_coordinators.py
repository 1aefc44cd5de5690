"""Requests to the coordinators of groups that never time out inside librdkafka.

librdkafka ends the process (``rd_kafka_enq_once_del_source_return: Assertion `eonce->refcnt > 0' failed``) when a
coordinator comes back after a request that waited for it timed out in the client: it still has the request in its
list, and frees it twice. A cluster that is away for longer than requests wait, and comes back, would end every worker.

    ask            the request goes out with the longest timeout there is; whoever asked gets an `Answer`, which times
                   out when it should
    nobody waits   the client is let go, with the requests that hang in it: that it can do; the next request makes
                   another client

Source: rdkafka_coord.c `rd_kafka_coord_req_fsm`, which never looks at `creq_ts_timeout`, and calls
`rd_kafka_coord_req_fail` with what `rd_kafka_admin_coord_request` freed; issue 4605 and pull request 5397 of
librdkafka, open in 2.16. `rd_kafka_coord_cache_expire` for `FORGETFUL`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable, Mapping
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from replicator.deadline import Deadline

FORGETFUL = {"metadata.max.age.ms": 10}
"""For clients that ask coordinators: once a second they forget those that were not asked for so long. By default, one
that asks again and again never leaves a broker that is no coordinator any more: NOT_COORDINATOR changes nothing."""
LONGEST_S = 3600.0
"""The longest timeout of a request that librdkafka takes."""
K = TypeVar("K", bound=Hashable)
C = TypeVar("C")


class Answer(Future[Any]):
    """What a coordinator answers. It times out by itself, when it is looked at.

    Args:
        deadline: until when there is time for it.
        make_error: what it fails with then.
    """

    def __init__(self, deadline: Deadline, make_error: Callable[[], Exception]) -> None:
        super().__init__()
        self._deadline = deadline
        self._make_error = make_error

    def done(self) -> bool:
        """Whether there is an answer, or no time left for one."""
        self._expire()
        return super().done()

    def result(self, timeout: float | None = None) -> Any:
        self._wait(timeout)
        return super().result(0)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        self._wait(timeout)
        return super().exception(0)

    def _wait(self, timeout: float | None) -> None:
        left_s = self._deadline.left_s()
        with suppress(TimeoutError):
            super().exception(left_s if timeout is None else min(timeout, left_s))
        self._expire()

    def _expire(self) -> None:
        if self._deadline.expired and not super().done():
            with suppress(InvalidStateError):  # it came in this moment
                self.set_exception(self._make_error())


@dataclass(slots=True)
class _Client(Generic[C]):
    """A client, and until when somebody waits for each of its open requests, which its own thread takes out."""

    client: C
    open: dict[Future[Any], float] = field(default_factory=dict)

    def ends_s(self) -> list[float]:
        """Until when its open requests are waited for; a copy in one step, because answers come meanwhile."""
        return list(self.open.values())

    def is_overdue(self, now_s: float) -> bool:
        return any(until_s < now_s for until_s in self.ends_s())

    def is_waited_for(self, now_s: float) -> bool:
        return any(until_s >= now_s for until_s in self.ends_s())


class GroupCoordinators(Generic[C]):
    """Sends requests through a client that is replaced when one of them is not answered in time.

    Args:
        make: makes a client.
        make_error: what a request that got no answer in time fails with.

    Threading: any.
    """

    def __init__(self, make: Callable[[], C], make_error: Callable[[], Exception]) -> None:
        self._make = make
        self._make_error = make_error
        self._lock = threading.Lock()
        self._current: _Client[C] | None = None
        self._former: list[_Client[C]] = []
        self._is_watched = False

    def ask(self, timeout_s: float, send: Callable[[C, float], Mapping[K, Future[Any]]]) -> dict[K, Future[Any]]:
        """Send requests; their answers fail after `timeout_s`.

        Args:
            send: called with the client and the timeout to send them with.
        """
        deadline = Deadline(timeout_s)
        with self._lock:
            if self._current is None:
                self._current = _Client(self._make())
            current = self._current
            sent = send(current.client, LONGEST_S)
            current.open.update(dict.fromkeys(sent.values(), time.monotonic() + timeout_s))
            self._watch(timeout_s)
        answers: dict[K, Future[Any]] = {}
        for key, request in sent.items():
            answer = Answer(deadline, self._make_error)
            request.add_done_callback(_Settle(current.open, answer))
            answers[key] = answer
        return answers

    def _watch(self, after_s: float) -> None:
        """Look after the clients soon. Needs the lock."""
        if not self._is_watched:
            self._is_watched = True
            timer = threading.Timer(after_s, self._look)
            timer.daemon = True
            timer.start()

    def _look(self) -> None:
        with self._lock:
            self._is_watched = False
        self.let_go()

    def let_go(self) -> None:
        """Replace the client if a request in it is overdue; drop former ones in which nobody waits for anything.

        Never called by a client's own thread, which could not end itself.
        """
        dropped: list[_Client[C]] = []
        with self._lock:
            now_s = time.monotonic()
            if self._current is not None and self._current.is_overdue(now_s):
                self._former.append(self._current)
                self._current = None
            dropped = [it for it in self._former if not it.is_waited_for(now_s)]
            self._former = [it for it in self._former if it.is_waited_for(now_s)]
            clients = [*self._former, *([self._current] if self._current is not None else [])]
            waited = [until_s for it in clients for until_s in it.ends_s()]
            if waited:
                self._watch(max(0.0, min(waited) - now_s) + 0.1)
        dropped.clear()  # outside the lock: a client takes a moment to end


@dataclass(frozen=True, slots=True)
class _Settle:
    """Hands the answer on. Holds no client: librdkafka holds this as long as a request is open."""

    open: dict[Future[Any], float]
    answer: Answer

    def __call__(self, request: Future[Any]) -> None:
        self.open.pop(request, None)
        with suppress(InvalidStateError):  # nobody waits any more
            error = request.exception()
            if error is not None:
                self.answer.set_exception(error)
            else:
                self.answer.set_result(request.result())
