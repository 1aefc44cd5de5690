"""Source against target, record by record: what is lost, duplicated, out of order, changed or unknown.

Pure. Records are matched by an identity that the caller gives, and then compared in full.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

EXAMPLES = 5

Headers = tuple[tuple[str, bytes | None], ...]


class Record(NamedTuple):
    """What replication has to keep of a record, besides its partition and its place in it."""

    key: bytes | None
    value: bytes | None
    headers: Headers
    timestamp_ms: int


@dataclass(frozen=True, slots=True)
class Comparison:
    """What was found; add two to get both.

    Args:
        source_records: read on the source.
        target_records: read on the target.
        lost: on the source and not on the target.
        duplicated: on the target more often than on the source; each surplus copy counts.
        out_of_order: the fewest records that would have to move for the target to be in the source's order.
        changed: there, but with another key, value, timestamp or headers.
        unknown: on the target and never on the source.
        examples: a few of these, in words.
    """

    source_records: int = 0
    target_records: int = 0
    lost: int = 0
    duplicated: int = 0
    out_of_order: int = 0
    changed: int = 0
    unknown: int = 0
    examples: tuple[str, ...] = ()

    @property
    def is_clean(self) -> bool:
        """Whether the target has what the source has, and something was compared at all."""
        differences = self.lost + self.duplicated + self.out_of_order + self.changed + self.unknown
        return differences == 0 and self.source_records == self.target_records > 0

    def __add__(self, other: Comparison) -> Comparison:
        return Comparison(
            self.source_records + other.source_records,
            self.target_records + other.target_records,
            self.lost + other.lost,
            self.duplicated + other.duplicated,
            self.out_of_order + other.out_of_order,
            self.changed + other.changed,
            self.unknown + other.unknown,
            (self.examples + other.examples)[:EXAMPLES],
        )


def compare(
    partition: int, source: Sequence[Record], target: Sequence[Record], identify: Callable[[Record], Hashable]
) -> Comparison:
    """Compare one partition.

    Args:
        partition: its number, for the examples.
        source: its records on the source, in offset order.
        target: its records on the target, in offset order.
        identify: tells records apart; the same for a record and its copy, also for a damaged copy if possible.
    """
    if source == target:
        return Comparison(len(source), len(target))
    waiting: dict[Hashable, deque[int]] = {}
    for index, record in enumerate(source):
        waiting.setdefault(identify(record), deque()).append(index)
    examples: list[str] = []
    matched: list[int] = []
    duplicated = changed = unknown = 0
    for place, record in enumerate(target):
        identity = identify(record)
        where = f"partition {partition}, record {place} of the target (n = {identity})"
        indexes = waiting.get(identity)
        if indexes is None:
            unknown += 1
            examples.append(f"unknown: {where}")
        elif not indexes:
            duplicated += 1
            examples.append(f"duplicated: {where}")
        else:
            index = indexes.popleft()
            if matched and index < matched[-1]:
                examples.append(f"out of order: {where}")
            matched.append(index)
            if record != source[index]:
                changed += 1
                examples.append(f"changed: {where}: {_difference(source[index], record)}")
    lost = [(identity, index) for identity, indexes in waiting.items() for index in indexes]
    examples += [f"lost: partition {partition}, record {index} of the source (n = {n})" for n, index in lost[:EXAMPLES]]
    return Comparison(
        source_records=len(source),
        target_records=len(target),
        lost=len(lost),
        duplicated=duplicated,
        out_of_order=len(matched) - longest_rise(matched),
        changed=changed,
        unknown=unknown,
        examples=tuple(examples[:EXAMPLES]),
    )


def _difference(source: Record, target: Record) -> str:
    fields = zip(Record._fields, source, target, strict=True)
    return "; ".join(f"{name} was {before!r}, is {after!r}" for name, before, after in fields if before != after)


def longest_rise(numbers: Iterable[int]) -> int:
    """How many numbers the longest strictly rising subsequence has; the others are the fewest out of place."""
    ends: list[int] = []
    for number in numbers:
        place = bisect_left(ends, number)
        ends[place : place + 1] = [number]
    return len(ends)
