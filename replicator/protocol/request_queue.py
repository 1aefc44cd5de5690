"""Queues small requests for the control channel until there is a connection to send them on.

Each request ends exactly once: with a response, or with `NoResponseError`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from replicator.deadline import seconds_text
from replicator.protocol import schemas
from replicator.protocol.connect_errors import ConnectError
from replicator.protocol.connection import Connection, NoResponseError, Request
from replicator.protocol.event_loop import EventLoop, Timer

LOOK_AGAIN_S = 0.05

RequestFactory = Callable[[int], tuple[Any, int]]
"""Makes the request (of kafka-python) for a node, and says its version."""


@dataclass(slots=True)
class _QueuedRequest:
    """A request that waits for a connection."""

    node: int | None
    make_request: RequestFactory
    on_done: Callable[[Any], None]
    no_later_than_s: float
    timeout_s: float


class RequestQueue:
    """Requests that wait for a connection, in order. Threading: the event loop's thread.

    Args:
        connection: returns a connection to that node, or for None to any; None while there is none.
        recent_error: says why there is none.
    """

    def __init__(
        self,
        loop: EventLoop,
        connection: Callable[[int | None], Connection | None],
        recent_error: Callable[[], ConnectError | None],
    ) -> None:
        self._loop = loop
        self._connection = connection
        self._recent_error = recent_error
        self._waiting: list[_QueuedRequest] = []
        self._timer: Timer | None = None

    def add(
        self, node: int | None, make_request: RequestFactory, on_done: Callable[[Any], None], timeout_s: float
    ) -> None:
        """Send a request as soon as there is a connection.

        Args:
            on_done: called once from `EventLoop.run_once`, with the decoded response or `NoResponseError`.
            timeout_s: seconds for connecting and answering together.
        """
        queued = _QueuedRequest(node, make_request, on_done, time.monotonic() + timeout_s, timeout_s)
        if not self._try_send(queued, timeout_s):
            self._waiting.append(queued)
            self._retry_later()

    def serve(self) -> None:
        """Send the requests for which there is a connection now, and fail those that waited for too long."""
        now_s = time.monotonic()
        waiting, self._waiting = self._waiting, []
        for queued in waiting:
            if queued.no_later_than_s <= now_s:
                self._fail(queued, self._no_connection(queued))
            elif not self._try_send(queued, queued.no_later_than_s - now_s):
                self._waiting.append(queued)
        if self._waiting:
            self._retry_later()

    def give_up(self, why: str) -> None:
        """Fail all requests that wait."""
        for queued in self._waiting:
            self._fail(queued, NoResponseError(why))
        self._waiting.clear()

    def _try_send(self, queued: _QueuedRequest, left_s: float) -> bool:
        connection = self._connection(queued.node)
        if connection is None:
            return False
        message, version = queued.make_request(connection.node)
        connection.send(_request(connection, message, version, queued.on_done, left_s))
        return True

    def _retry_later(self) -> None:
        if self._timer is None or not self._timer.is_pending:
            self._timer = self._loop.call_later(LOOK_AGAIN_S, self.serve)

    def _fail(self, queued: _QueuedRequest, error: NoResponseError) -> None:
        self._loop.call_soon(lambda: queued.on_done(error))

    def _no_connection(self, queued: _QueuedRequest) -> NoResponseError:
        whom = "any broker" if queued.node is None else f"broker {queued.node}"
        why = self._recent_error()
        tail = f": {why}" if why else ""
        text = f"no connection to {whom} within {seconds_text(queued.timeout_s)}{tail}"
        return NoResponseError(text, why.code if why else "_TIMED_OUT")


def _request(
    connection: Connection, message: Any, version: int, on_done: Callable[[Any], None], timeout_s: float
) -> Request:
    """Make a request whose response is decoded; one that can't be closes the connection, which is no longer trusted."""

    def received(body: memoryview | NoResponseError) -> None:
        if isinstance(body, NoResponseError):
            on_done(body)
            return
        try:
            answer = schemas.decode(message, version, body)
        except schemas.UndecodableResponseError as error:
            connection.close(str(error))
            answer = NoResponseError(f"{connection.address} does not speak Kafka's protocol: {error}")
        on_done(answer)

    is_flexible = schemas.is_flexible(message, version)
    return Request(message.API_KEY, version, [schemas.encode(message, version)], received, timeout_s, is_flexible)
