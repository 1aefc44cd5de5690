"""What a move cost a group, and how fresh its position on the target was: arithmetic on record numbers. Pure.

The records of a partition are numbered from 0, in the order of the source's log, and their keys hold the numbers. A
group that committed N on the source has read the records 0 to N - 1; one that goes on at an offset of the target goes
on at the first record there. So positions of both clusters are compared as record numbers, whatever their offsets are.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple


class Commit(NamedTuple):
    """What a group committed on the source: when it was sent (monotonic clock), and a record number per partition."""

    at_s: float
    numbers: tuple[int, ...]


class Seen(NamedTuple):
    """An offset of the target that a reader there saw: when (monotonic clock), and the offset."""

    at_s: float
    next_offset: int


@dataclass(frozen=True, slots=True)
class Account:
    """What a group reads a second time, and what it never reads."""

    reread_records: int = 0
    skipped_records: int = 0

    def __add__(self, other: Account) -> Account:
        return Account(
            self.reread_records + other.reread_records,
            self.skipped_records + other.skipped_records,
        )


def account(offsets: Sequence[int], committed: int, next_offset: int | None) -> Account:
    """One partition of one group.

    Args:
        offsets: of the records 0, 1, 2… on the target.
        committed: what the group had committed on the source, as a record number; those at and after
            `len(offsets)` are not on the target, so they are not read a second time there.
        next_offset: where the group goes on, on the target; None: it has no position there and begins at the beginning.
    """
    number = 0 if next_offset is None else bisect_left(offsets, next_offset)
    return Account(max(0, min(committed, len(offsets)) - number), max(0, number - committed))


def account_of_group(offsets: Sequence[Sequence[int]], committed: Commit, positions: Mapping[int, int]) -> Account:
    """All partitions of one group; `positions` on the target, by partition, those that there are."""
    found = Account()
    for partition, number in enumerate(committed.numbers):
        found += account(offsets[partition], number, positions.get(partition))
    return found


def delays_s(
    commits: Sequence[Commit], seen: Sequence[Sequence[Seen]], offsets: Sequence[Sequence[int]]
) -> list[float]:
    """How long each commit took to reach the target, in all partitions; `inf` where it never did.

    A commit has reached the target when a group that starts there would read nothing again that the commit covers.
    Positions that move backwards don't take that back.

    Args:
        commits: of one group, in order.
        seen: of the same group, by partition, in order.
        offsets: of the records on the target, by partition.
    """
    found = [0.0] * len(commits)
    for partition, looks in enumerate(seen):
        reached = [(look.at_s, bisect_left(offsets[partition], look.next_offset)) for look in looks]
        at = 0
        for index, commit in enumerate(commits):
            while at < len(reached) and reached[at][1] < commit.numbers[partition]:
                at += 1
            delay_s = reached[at][0] - commit.at_s if at < len(reached) else math.inf
            found[index] = max(found[index], delay_s)
    return found


def percentile(values: Sequence[float], share: float) -> float | None:
    """The nearest rank; None when that one is infinite, or there is no value."""
    if not values:
        return None
    found = sorted(values)[max(0, math.ceil(share * len(values)) - 1)]
    return round(found, 3) if math.isfinite(found) else None
