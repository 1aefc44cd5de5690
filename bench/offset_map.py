"""One offset map through a long life: what it keeps, and what a run and a translation cost.

The history is that of one partition: transactions of ten records each, with one upstream offset inside that holds no
record, and a marker after them on both clusters. Pure code in one process: no Kafka, and no records.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bench.stage import Say
from replicator.offset_map.map import Between, OffsetMap, Translation
from replicator.offset_map.runs import MAX_LEVEL, RESOLUTION, Run
from replicator.offset_map.topic_id import NO_ID

RUNS = 10_000_000
MOST_RUNS = (MAX_LEVEL + 1) * RESOLUTION + 1
ALLOWED_US = 50.0
CHUNK = 10_000
PLACES = 2000
"""Positions looked up at each age and up to a tenth later, evenly spread."""
ROUNDS = 5
RECORDS, SPAN = 10, 12
"""Records of a run, and offsets that it takes: on the source a gap and a marker more, on the target two markers."""
TOPIC_ID = NO_ID


@dataclass(frozen=True, slots=True)
class Options:
    """What to measure."""

    runs: int


@dataclass(frozen=True, slots=True)
class Age:
    """Translations of positions `runs` transactions before the newest.

    Args:
        translate_us, back_us: mean of one call, in either direction.
        to_count: records in the longest stretch that an answer leaves to be counted; 0: all were exact.
    """

    runs: int
    translate_us: float
    back_us: float
    to_count: int


@dataclass(frozen=True, slots=True)
class Found:
    """What was found.

    Args:
        size_bytes: the map, its runs and their numbers.
        add_us: mean of one run.
    """

    runs: int
    kept: int
    most: int
    size_bytes: int
    add_us: float
    ages: tuple[Age, ...]

    def complaints(self) -> list[str]:
        """Bounds that were exceeded."""
        slowest = max(max(age.translate_us, age.back_us) for age in self.ages)
        found = []
        if self.kept > self.most:
            found.append(f"{self.kept} runs are kept, {self.most} are allowed")
        if slowest > ALLOWED_US:
            found.append(f"a translation takes {slowest:.1f} µs, {ALLOWED_US:g} are allowed")
        return found


def run(seq: int) -> Run:
    """The run of transaction `seq`, from 1."""
    base = (seq - 1) * SPAN
    return Run(seq, base, base, RECORDS, (seq - 1) * RECORDS, base + SPAN, TOPIC_ID, ((RECORDS // 2, 1),))


def measure(options: Options, say: Say) -> Found:
    """Add runs, then translate."""
    runs = options.runs
    offset_map = OffsetMap()
    took_s = 0.0
    for start in range(1, runs + 1, CHUNK):
        made = [run(seq) for seq in range(start, min(start + CHUNK, runs + 1))]
        began_s = time.perf_counter()
        for it in made:
            offset_map.add(it)
        took_s += time.perf_counter() - began_s
        if made[-1].seq % (100 * CHUNK) == 0:
            say(f"{made[-1].seq:,} runs: {len(offset_map)} kept")
    ages = tuple(_age(offset_map, runs, 10**power) for power in range(1, 19) if 10**power <= runs)
    return Found(runs, len(offset_map), MOST_RUNS, size_bytes(offset_map), took_s / runs * 1e6, ages)


def size_bytes(offset_map: OffsetMap) -> int:
    """What the kept runs take, with the objects that they alone refer to, and the map's list and index."""
    total = sum(sys.getsizeof(part) for part in (offset_map, offset_map._runs, offset_map._keys))
    total += sum(sys.getsizeof(key) + sys.getsizeof(seq) for key, seq in offset_map._keys.items())
    for it in offset_map:
        numbers = (it.seq, it.upstream_base, it.downstream_base, it.count, it.ordinal_base, it.upstream_next)
        total += sys.getsizeof(it) + sum(sys.getsizeof(number) for number in numbers) + sys.getsizeof(it.gaps)
    return total


def _age(offset_map: OffsetMap, runs: int, age: int) -> Age:
    oldest, offsets = (runs - age) * SPAN, age // 10 * SPAN
    places = [oldest + number * offsets // PLACES for number in range(PLACES)]
    answers = [offset_map.translate(place) for place in places]
    answers += [offset_map.translate_back(place) for place in places]
    to_count = max((it.records for it in answers if isinstance(it, Between)), default=0)
    translate_us = _mean_us(offset_map.translate, places)
    return Age(age, translate_us, _mean_us(offset_map.translate_back, places), to_count)


def _mean_us(call: Callable[[int], Translation], places: Sequence[int]) -> float:
    began_s = time.perf_counter()
    for _ in range(ROUNDS):
        for place in places:
            call(place)
    return (time.perf_counter() - began_s) / ROUNDS / len(places) * 1e6
