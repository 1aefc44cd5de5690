"""Requests metadata: at once for new topics, then less and less often, and once a minute by itself."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from typing import Any

from replicator.protocol import metadata
from replicator.protocol.connection import NoResponseError
from replicator.protocol.event_loop import EventLoop, Timer
from replicator.protocol.metadata import ClusterMetadata, TopicMetadata

PERIOD_S = 60.0
FIRST_PAUSE_S = 0.1
MAX_PAUSE_S = 1.0
QUIET_S = 5.0
"""After this time without a request, pauses are short again."""
ANSWER_TIMEOUT_S = 5.0

Ask = Callable[[Callable[[int], Any], Callable[[Any], None], float], None]
"""Sends the request that the first argument makes, given the version of Metadata to use."""


class MetadataRefresher:
    """Keeps a `ClusterMetadata` up to date.

    Args:
        on_answer: called with every response; it is to update `metadata`.

    Threading: the event loop's thread.
    """

    def __init__(self, loop: EventLoop, metadata: ClusterMetadata, ask: Ask, on_answer: Callable[[Any], None]) -> None:
        self._loop = loop
        self._metadata = metadata
        self._ask = ask
        self._on_answer = on_answer
        self._is_all_stale = False
        self._stale: set[str] = set()
        self._asking: frozenset[str] | None = None
        self._timer: Timer | None = None
        self._asked_s = -math.inf
        self._pause_s = FIRST_PAUSE_S

    def track(self, topics: Iterable[str]) -> None:
        """Request metadata of these topics, too."""
        new = {name for name in topics if name not in self._metadata.topics}
        for name in new:
            self._metadata.topics[name] = TopicMetadata()
        if new:
            self._asked_s = -math.inf  # no pause: a task tracks its topics one after the other
        self.refresh(new)

    def untrack(self, topics: Iterable[str]) -> None:
        """Stop requesting metadata of these topics, and drop what is known of them."""
        for name in topics:
            self._metadata.topics.pop(name, None)
            self._stale.discard(name)

    def refresh(self, topics: Iterable[str] | None = None) -> None:
        """Request metadata of these topics soon, or of all."""
        if topics is None:
            self._is_all_stale = True
        else:
            self._stale.update(topics)
        self._schedule()

    def miss(self, topic: str) -> None:
        """Request a topic's metadata soon, because a leader is unknown, unless a request is in flight."""
        if topic in self._metadata.topics and not (self._asking and topic in self._asking):
            self.refresh([topic])

    @property
    def is_in_flight(self) -> bool:
        return self._asking is not None

    def _schedule(self) -> None:
        is_wanted = self._is_all_stale or self._stale
        if not is_wanted or self.is_in_flight:
            return
        now_s = time.monotonic()
        if now_s - self._asked_s >= QUIET_S:
            self._pause_s = FIRST_PAUSE_S
        at_s = self._asked_s + self._pause_s
        if self._timer is not None and self._timer.is_pending:
            if self._timer.at_s <= max(at_s, now_s):
                return
            self._timer.cancel()
        self._timer = self._loop.call_later(max(0.0, at_s - now_s), self._send)

    def _send(self) -> None:
        self._asked_s = time.monotonic()
        self._pause_s = min(MAX_PAUSE_S, self._pause_s * 2)
        topics = sorted(self._metadata.topics if self._is_all_stale else self._stale & self._metadata.topics.keys())
        self._is_all_stale = False
        self._stale.clear()
        self._asking = frozenset(topics)

        def answered(answer: Any) -> None:
            self._asking = None
            if isinstance(answer, NoResponseError):
                self.refresh(topics or None)
                return
            self._on_answer(answer)
            self._schedule_next()

        self._ask(lambda version: metadata.request(topics, version), answered, ANSWER_TIMEOUT_S)

    def _schedule_next(self) -> None:
        """Wait until a topic is stale, or for a minute."""
        self._schedule()
        if self._timer is None or not self._timer.is_pending:
            self._timer = self._loop.call_later(PERIOD_S, self.refresh)
