"""The offset map: runs, and which of them the syncs topic keeps.

Pure: no Kafka, no clock. A *run* is what one transaction put on one partition, contiguous on the target:

    upstream     40 41 42 -- 44 45 -- --        gaps ((3, 1),)   43 was compacted away or aborted
                  |  |  |     |  |              upstream_base 40, upstream_next 48, count 5
    downstream   17 18 19    20 21              downstream_base 17

Offsets 46 and 47 are passed over: no record there, and none will come (a commit marker, an aborted record). The gaps
before `upstream_base` belong to no run: whatever lies there is answered by this run's `downstream_base`.

Invariants:
    B: the newest run of a partition, by `seq`, is its position.
    The runs of a partition tile its ordinals: ``next.ordinal_base == this.ordinal_base + this.count``.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from replicator.offset_map.topic_id import TopicId

Gaps = tuple[tuple[int, int], ...]
"""Pairs (records until the gap, upstream offsets in the gap), in order; the first number counts from the last gap."""

RESOLUTION = 32
"""R: runs kept at each level."""
MAX_LEVEL = 20
FLOOR_LEVEL = 127
"""The level of seq 1, which no other run shares: the floor of the map stays for ever."""


@dataclass(frozen=True, slots=True)
class Run:
    """One sync.

    Args:
        seq: 1, 2, 3… per partition.
        upstream_base: offset of the first record (or `upstream_next`, when `count` is 0).
        downstream_base: offset of that record on the target.
        count: records.
        ordinal_base: records of this partition replicated before this run.
        upstream_next: the position after it: the next upstream offset to fetch.
        topic_id: the source topic's id.
        gaps: None when the list was too long to keep.
    """

    seq: int
    upstream_base: int
    downstream_base: int
    count: int
    ordinal_base: int
    upstream_next: int
    topic_id: TopicId
    gaps: Gaps | None

    @property
    def downstream_next(self) -> int:
        """The offset on the target after the last record (a marker's, or a record of somebody else)."""
        return self.downstream_base + self.count

    @property
    def ordinal_next(self) -> int:
        return self.ordinal_base + self.count


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a stretch of records of one partition landed, contiguous on the target.

    Args:
        upstream_base: offset of the first record.
        upstream_next: offset of the last record, plus one.
        count: records, at least 1.
        gaps: the offsets inside without a record.
        downstream_base: offset of the first record on the target.
    """

    upstream_base: int
    upstream_next: int
    count: int
    gaps: Gaps
    downstream_base: int


def retention_key(seq: int, resolution: int = RESOLUTION) -> tuple[int, int]:
    """(level, slot) of a run: runs with the same key replace each other by compaction.

    The last ``2 * resolution`` runs have keys of their own; older ones thin out by powers of two.
    """
    if seq == 1:
        return FLOOR_LEVEL, 0
    level = min((seq & -seq).bit_length() - 1, MAX_LEVEL)
    return level, (seq >> (level + 1)) % resolution


def gaps_between(offsets: Iterable[int]) -> Gaps:
    """The gaps in an ascending series of record offsets."""
    gaps: list[tuple[int, int]] = []
    records = 0
    expected: int | None = None
    for offset in offsets:
        if expected is not None and offset != expected:
            gaps.append((records, offset - expected))
            records = 0
        records += 1
        expected = offset + 1
    return tuple(gaps)


class RunBuilder:
    """Turns the placements of one transaction on one partition into runs, merging what is contiguous on the target.

    Args:
        seq: the newest run's (0 when there is none).
        ordinal: records replicated so far.
        topic_id: of the source topic.
    """

    def __init__(self, seq: int, ordinal: int, topic_id: TopicId) -> None:
        self._seq = seq
        self._ordinal = ordinal
        self._topic_id = topic_id

    def build(self, placements: Iterable[Placement], upstream_next: int, downstream_next: int) -> list[Run]:
        """Runs for `placements`, in order.

        Args:
            placements: ascending on both sides.
            upstream_next: the position to end at; at or after the last placement's end.
            downstream_next: where the next record will be written at the earliest; used by a run without records.

        Returns:
            At least one run: without placements, a run of count 0 that only moves the position.
        """
        runs: list[Run] = []
        group: list[Placement] = []
        for placement in placements:
            if group and group[-1].downstream_base + group[-1].count != placement.downstream_base:
                runs.append(self._run(group, group[-1].upstream_next))
                group = []
            group.append(placement)
        if group:
            runs.append(self._run(group, upstream_next))
        elif not runs:
            runs.append(self._next(upstream_next, downstream_next, 0, upstream_next, ()))
        return runs

    def _run(self, group: list[Placement], upstream_next: int) -> Run:
        count = sum(p.count for p in group)
        return self._next(group[0].upstream_base, group[0].downstream_base, count, upstream_next, _joined_gaps(group))

    def _next(self, upstream_base: int, downstream_base: int, count: int, upstream_next: int, gaps: Gaps) -> Run:
        self._seq += 1
        run = Run(self._seq, upstream_base, downstream_base, count, self._ordinal, upstream_next, self._topic_id, gaps)
        self._ordinal += count
        return run


def _joined_gaps(group: list[Placement]) -> Gaps:
    """The gaps inside and between neighbouring placements, as one list."""
    gaps: list[tuple[int, int]] = []
    since_gap = 0
    expected = group[0].upstream_base
    for placement in group:
        if placement.upstream_base != expected:
            gaps.append((since_gap, placement.upstream_base - expected))
            since_gap = 0
        inside = 0
        for records, length in placement.gaps:
            gaps.append((since_gap + records, length))
            since_gap = 0
            inside += records
        since_gap += placement.count - inside
        expected = placement.upstream_next
    return tuple(gaps)
