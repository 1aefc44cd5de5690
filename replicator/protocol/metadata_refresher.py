"""Asking for metadata: at once for what nobody asked of yet, then less and less often, and by itself once a minute."""

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
"""After this time without a question, pauses are short again."""
ANSWER_TIMEOUT_S = 5.0

Ask = Callable[[Callable[[int], Any], Callable[[Any], None], float], None]
"""Casts what the first argument makes, given the highest version of Metadata that the broker speaks."""


class MetadataRefresher:
    """Keeps a `ClusterMetadata` up to date.

    Args:
        on_answer: told every answer without errors of its own, before which nothing of it is in the view.

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
        """Know these too."""
        new = {name for name in topics if name not in self._metadata.topics}
        for name in new:
            self._metadata.topics[name] = TopicMetadata()
        if new:
            self._asked_s = -math.inf  # a task begins with several, one after the other
        self.refresh(new)

    def forget(self, topics: Iterable[str]) -> None:
        for name in topics:
            self._metadata.topics.pop(name, None)
            self._stale.discard(name)

    def refresh(self, topics: Iterable[str] | None = None) -> None:
        """Ask soon for these topics, or for all."""
        if topics is None:
            self._is_all_stale = True
        else:
            self._stale.update(topics)
        self._schedule()

    def miss(self, topic: str) -> None:
        """A leader is not known: ask soon, unless an answer is on its way."""
        if topic in self._metadata.topics and not (self._asking and topic in self._asking):
            self.refresh([topic])

    @property
    def is_asking(self) -> bool:
        return self._asking is not None

    def _schedule(self) -> None:
        is_wanted = self._is_all_stale or self._stale
        if not is_wanted or self.is_asking:
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
            self._rest()

        self._ask(lambda version: metadata.request(topics, version), answered, ANSWER_TIMEOUT_S)

    def _rest(self) -> None:
        """Until somebody needs more, or for a minute."""
        self._schedule()
        if self._timer is None or not self._timer.is_pending:
            self._timer = self._loop.call_later(PERIOD_S, self.refresh)
