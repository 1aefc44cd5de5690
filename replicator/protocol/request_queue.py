"""Small requests over the control channel: each waits for a connection, is sent, and is answered or `Lost`, once."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from replicator.deadline import seconds_text
from replicator.protocol import schemas
from replicator.protocol.connect_errors import ConnectError
from replicator.protocol.connection import Connection, Lost, Request
from replicator.protocol.event_loop import EventLoop, Timer

LOOK_AGAIN_S = 0.05

Make = Callable[[int], tuple[Any, int]]
"""Node → the request for it (of kafka-python), and its version."""


@dataclass(slots=True)
class _QueuedRequest:
    """A request that waits for a connection."""

    node: int | None
    make: Make
    on_done: Callable[[Any], None]
    give_up_s: float
    timeout_s: float


class RequestQueue:
    """What waits for a connection, in order. Threading: the reactor's thread.

    Args:
        connection: one to a broker, or to any for None; None while there is none.
        recent_error: why there is none.
    """

    def __init__(
        self,
        reactor: EventLoop,
        connection: Callable[[int | None], Connection | None],
        recent_error: Callable[[], ConnectError | None],
    ) -> None:
        self._reactor = reactor
        self._connection = connection
        self._recent_error = recent_error
        self._waiting: list[_QueuedRequest] = []
        self._timer: Timer | None = None

    def add(self, node: int | None, make: Make, on_done: Callable[[Any], None], timeout_s: float) -> None:
        """Send as soon as there is a connection.

        Args:
            on_done: gets the decoded answer or `Lost`, once, from `EventLoop.pump`.
            timeout_s: for waiting and the answer together.
        """
        cast = _QueuedRequest(node, make, on_done, time.monotonic() + timeout_s, timeout_s)
        if not self._try(cast, timeout_s):
            self._waiting.append(cast)
            self._look_again()

    def serve(self) -> None:
        """Send what can be sent now, and give up what waited for too long."""
        now_s = time.monotonic()
        waiting, self._waiting = self._waiting, []
        for cast in waiting:
            if cast.give_up_s <= now_s:
                self._lose(cast, self._no_connection(cast))
            elif not self._try(cast, cast.give_up_s - now_s):
                self._waiting.append(cast)
        if self._waiting:
            self._look_again()

    def give_up(self, why: str) -> None:
        """Lose all that waits."""
        for cast in self._waiting:
            self._lose(cast, Lost(why))
        self._waiting.clear()

    def _try(self, cast: _QueuedRequest, left_s: float) -> bool:
        connection = self._connection(cast.node)
        if connection is None:
            return False
        message, version = cast.make(connection.node)
        connection.send(_request(connection, message, version, cast.on_done, left_s))
        return True

    def _look_again(self) -> None:
        if self._timer is None or not self._timer.is_pending:
            self._timer = self._reactor.later(LOOK_AGAIN_S, self.serve)

    def _lose(self, cast: _QueuedRequest, lost: Lost) -> None:
        self._reactor.soon(lambda: cast.on_done(lost))

    def _no_connection(self, cast: _QueuedRequest) -> Lost:
        whom = "any broker" if cast.node is None else f"broker {cast.node}"
        why = self._recent_error()
        tail = f": {why}" if why else ""
        text = f"no connection to {whom} within {seconds_text(cast.timeout_s)}{tail}"
        return Lost(text, why.code if why else "_TIMED_OUT")


def _request(
    connection: Connection, message: Any, version: int, on_done: Callable[[Any], None], timeout_s: float
) -> Request:
    """With the answer decoded; one that can't be ends the connection: nobody knows what else is wrong."""

    def received(body: memoryview | Lost) -> None:
        if isinstance(body, Lost):
            on_done(body)
            return
        try:
            answer = schemas.decode(message, version, body)
        except schemas.NotUnderstoodError as error:
            connection.close(str(error))
            answer = Lost(f"{connection.address} does not speak Kafka's protocol: {error}")
        on_done(answer)

    is_flexible = schemas.is_flexible(message, version)
    return Request(message.API_KEY, version, [schemas.encode(message, version)], received, timeout_s, is_flexible)
