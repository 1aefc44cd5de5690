"""Finds the rate for this machine: the highest at which replication keeps up with the load.

The brokers have just started, so the first steps also warm them up. Latencies of the calibration are in no figure.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from replicator.demo.summary import percentile
from replicator.demo.traffic import Load, Timeline

WARM_UP_PER_S = 1_000
RATES_PER_S = (2_000, 3_000, 4_000, 6_000, 8_000)
"""Tried in this order. The first one is kept on any machine, so that the demo ends within minutes; the last one leaves
the demo's own clients enough CPU."""
STEP_S = 1.5
"""How long a rate is tried; its second half is judged."""
TRIES = 2
WARM_UP_TRIES = 6
LATENCY_S = 0.1
"""Replication keeps up when 90 % of the records take no longer. On a busy machine records take longer at every rate:
there it keeps up while they take at most half as long again as when warming up, and at most `BUSY_LATENCY_S`."""
BUSY_LATENCY_S = 0.5
ON_TIME = 0.9
"""So many of the records of a rate must be produced in time, else the load itself is too slow."""
RECORDS_AT_MOST = 0.15
"""Of all records: a short demo has none left for more."""


class Calibration:
    """One calibration of a load.

    Args:
        load: runs already.
        timeline: of the records that it produces.
        records: how many there will be.
        turn: called again and again while a rate is tried; raises what failed.

    Attributes:
        rate_per_s: the highest rate at which replication kept up; the lowest one when it never did.
        since_s: when the load went on at that rate, on the monotonic clock.
    """

    def __init__(self, load: Load, timeline: Timeline, records: int, turn: Callable[[], None]) -> None:
        self.rate_per_s = RATES_PER_S[0]
        self.since_s = math.inf
        self._load = load
        self._timeline = timeline
        self._records_at_most = math.ceil(records * RECORDS_AT_MOST)
        self._turn = turn

    def run(self) -> None:
        """Try the rates, and let the load go on at the best one."""
        warm_s = self._best_s(WARM_UP_PER_S, WARM_UP_TRIES, LATENCY_S)
        limit_s = max(LATENCY_S, min(1.5 * warm_s, BUSY_LATENCY_S))
        for rate_per_s in RATES_PER_S:
            if self._best_s(rate_per_s, TRIES, limit_s) > limit_s:
                break
            self.rate_per_s = rate_per_s
        if self._load.rate_per_s != self.rate_per_s:  # the last one was too high: its backlog goes first
            self._load.rate_per_s = self.rate_per_s
            self._best_s(self.rate_per_s, WARM_UP_TRIES, limit_s)
        self.since_s = time.monotonic()

    def _best_s(self, rate_per_s: int, tries: int, enough_s: float) -> float:
        """The least time in which 90 % of the records were replicated at a rate; infinite if none are left to try."""
        best_s = math.inf
        while tries and best_s > enough_s and self._load.records < self._records_at_most:
            best_s = min(best_s, self._try_s(rate_per_s))
            tries -= 1
        return best_s

    def _try_s(self, rate_per_s: int) -> float:
        self._load.rate_per_s = rate_per_s
        self._pass(STEP_S / 2)
        first = self._load.records
        self._pass(STEP_S / 2)
        last = self._load.records
        self._pass(LATENCY_S)
        if last - first < ON_TIME * rate_per_s * STEP_S / 2:
            return math.inf
        return most_took_s(self._timeline, first, last, time.monotonic())

    def _pass(self, seconds: float) -> None:
        end_s = time.monotonic() + seconds
        while time.monotonic() < end_s:
            self._turn()


def most_took_s(timeline: Timeline, first: int, last: int, now_s: float) -> float:
    """The time in which 90 % of the records from `first` until before `last` were visible, or not yet. Pure."""
    produced_s, visible_s = timeline.produced_s[first:last], timeline.visible_s[first:last]
    ages_s = [(visible or now_s) - produced for produced, visible in zip(produced_s, visible_s, strict=True)]
    return percentile(sorted(ages_s), 90) if ages_s else math.inf
