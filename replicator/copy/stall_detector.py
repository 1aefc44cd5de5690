"""Detects partitions of which the plane brings nothing although the source has more: the task then restarts.

A consumer may go silent while everything else works: librdkafka's does after it lost all of its brokers
(`kafka.cluster.WATCHED`). It reports no error, and its view of the log's end does not move either. So the source itself
is asked, through another client, for the ends of partitions that do not move. If one stays behind its end for too long,
the task restarts, with new clients. (librdkafka's statistics would show it sooner, but they list every partition.)

Only that time counts in which the task asked its plane for records and the source answered for the partition. A target
that hangs, a source that can't be reached and a leader that is being elected are no stalls.

Threading: the task's thread alone. It never waits for an answer.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from replicator.errors import TP, RetriableError

QUIET_S = 5.0
"""How long a partition must not have moved before the source is asked for its end."""
ASK_EVERY_S = 5.0
PATIENCE_S = 20.0
"""How long a partition may stay behind its end: longer than a broker throttles a client (quota windows: 10 s)."""
MAX_PATIENCE_S = 320.0
"""`PATIENCE_S` doubles with each restart up to this: if the source is only slow, a restart does not help."""
FORGIVEN_AFTER_S = 3600.0
REFRESH_EVERY_S = 15.0
MAX_ASKED = 200
"""How many partitions are asked for at once; if more are quiet, they take turns. Each costs 35 µs."""
LONGEST_STEP_S = 2.0
"""What the time between two calls of `look` counts at most: for the rest of it, the task was busy elsewhere."""

Answers = Mapping[TP, "Future[Any]"]


class StandstillError(RetriableError):
    """Nothing comes of a partition although the source has more: the task restarts, with new clients."""


@dataclass(slots=True)
class _Quiet:
    """A partition's position, since when it is there (in counted time), and whether its end was asked for since."""

    position: int
    since_s: float
    is_asked: bool = False


class StallDetector:
    """See the module. One per task; it outlives the task's restarts.

    Args:
        ask: asks the source, in the background, for the last stable offsets of partitions.
        refresh: updates the client's metadata: after an election, it would ask the old leader for ever.
    """

    def __init__(self, ask: Callable[[Iterable[TP]], Answers], refresh: Callable[[], None]) -> None:
        self._ask = ask
        self._refresh = refresh
        self._patience_s = PATIENCE_S
        self._raised_s = -math.inf
        self.begin()

    def begin(self) -> None:
        """Forget what was seen: the task restarts, with a new plane."""
        self._partitions: dict[TP, _Quiet] = {}
        self._ends: dict[TP, int] = {}
        self._behind: dict[TP, float] = {}
        self._asked: Answers = {}
        self._asked_s = 0.0
        self._refresh_s = 0.0
        self._turn = 0
        self._clock_s = 0.0
        self._looked_s: float | None = None

    def end(self, tp: TP) -> int:
        """The end of a partition's log as the source last answered; -1: it was not asked since the position moved."""
        return self._ends.get(tp, -1)

    def look(self, positions: Mapping[TP, int], now_s: float) -> None:
        """Note the positions, read the source's answers that came meanwhile, and ask again when it is time.

        Called every second or so while the task runs.

        Args:
            positions: of the running partitions.
            now_s: on the monotonic clock.

        Raises:
            StandstillError: the task has to restart.
        """
        self._clock_s += 0.0 if self._looked_s is None else min(now_s - self._looked_s, LONGEST_STEP_S)
        self._looked_s = now_s
        self._follow(positions)
        if self._asked:
            if all(answer.done() for answer in self._asked.values()):
                self._read(self._asked)
                self._asked = {}
        elif self._clock_s - self._asked_s >= ASK_EVERY_S:
            self._asked_s = self._clock_s
            self._asked = self._ask(self._due())
        self._judge(now_s)

    def _follow(self, positions: Mapping[TP, int]) -> None:
        for tp, position in positions.items():
            known = self._partitions.get(tp)
            if known is None or known.position != position:
                self._forget(tp)
                self._partitions[tp] = _Quiet(position, self._clock_s)
        if len(self._partitions) > len(positions):
            for tp in self._partitions.keys() - positions.keys():
                self._forget(tp)

    def _forget(self, tp: TP) -> None:
        for seen in (self._partitions, self._ends, self._behind):
            seen.pop(tp, None)

    def _due(self) -> list[TP]:
        """Which partitions to ask for: those behind, then those that just became quiet, then the others in turns."""
        quiet = [tp for tp, it in self._partitions.items() if self._clock_s - it.since_s >= QUIET_S]
        others = [tp for tp in quiet if tp not in self._behind]
        fresh = [tp for tp in others if not self._partitions[tp].is_asked]
        known = [tp for tp in others if self._partitions[tp].is_asked]
        due = [*self._behind, *fresh][:MAX_ASKED]
        room = min(MAX_ASKED - len(due), len(known))
        first = self._turn % max(1, len(known))
        self._turn = first + room
        due += (known + known)[first : first + room]
        for tp in due:
            self._partitions[tp].is_asked = True
        return due

    def _read(self, answers: Answers) -> None:
        is_stale = False
        for tp, answer in answers.items():
            end = -1 if answer.exception() else answer.result().offset
            is_stale |= end < 0
            known = self._partitions.get(tp)
            if known is not None and end > known.position:
                self._behind.setdefault(tp, self._clock_s)
                self._ends[tp] = end
            else:
                self._behind.pop(tp, None)
                self._ends.pop(tp, None)
        if is_stale and self._clock_s >= self._refresh_s:
            self._refresh_s = self._clock_s + REFRESH_EVERY_S
            self._refresh()

    def _judge(self, now_s: float) -> None:
        if now_s - self._raised_s > FORGIVEN_AFTER_S:
            self._patience_s = PATIENCE_S
        stalled = [tp for tp, since_s in self._behind.items() if self._clock_s - since_s >= self._patience_s]
        if not stalled:
            return
        tp = stalled[0]
        known = self._partitions[tp]
        self._patience_s = min(MAX_PATIENCE_S, 2 * self._patience_s)
        self._raised_s = now_s
        others = f"; {len(stalled) - 1} more partitions are stalled, too" if stalled[1:] else ""
        raise StandstillError(
            f"nothing came from offset {known.position} on for {self._clock_s - known.since_s:.0f} s, although the log "
            f"ends at {self._ends[tp]}{others}",
            op="fetch",
            tp=tp,
            hint="the task restarts, with new connections to the source",
        )
