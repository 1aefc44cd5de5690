"""The offset map of one source partition: where a consumer group's position is on the other cluster.

Pure: no Kafka, no clock. It keeps the runs that compaction of the syncs topic keeps (`runs.retention_key`): the
newest ones all, older ones thinned by powers of two, the first one for ever.

    runs kept        seq 1 ... seq 40 | seq 48 | seq 56 | seq 60 seq 61 seq 62 seq 63
    a position    in seq 61, or in a gap, or between 61 and 62, which are neighbours   → Exact
                  after seq 48 and before seq 56, which are not                        → Between
                  after seq 63                                                         → Ahead
                  before seq 1                                                         → Expired

Invariants:
    D: a translation never passes a record that the group has not read; where it says exact, it is.

Source: connect/mirror `OffsetSyncStore` for what MM2 does: one offset per sync, so that between two syncs it can only
say "the record after the last sync".
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from replicator.offset_map.runs import Gaps, Run, retention_key
from replicator.offset_map.topic_id import NO_ID, TopicId

FIRST_SEQ = 1
"""Of the run that compaction keeps for ever: before it nothing was replicated."""


@dataclass(frozen=True, slots=True)
class Exact:
    """The place of the first record that the group has not read.

    Args:
        next_offset: on the other cluster.
        is_end: nothing is replicated after it; the place may be moved past transaction markers, for a lag of 0.
    """

    next_offset: int
    is_end: bool = False


@dataclass(frozen=True, slots=True)
class Between:
    """Somewhere in a stretch whose runs compaction removed, or whose gaps were too many to keep.

    Args:
        low: the first place of the stretch on the other cluster: never past an unread record.
        high: the first place after the stretch.
        origin_low, origin_high: the same borders on the cluster that is translated from.
        records: replicated records in the stretch.
        skip: how many of them the group has read, where that follows from the offsets; None: they have to be counted.
    """

    low: int
    high: int
    origin_low: int
    origin_high: int
    records: int
    skip: int | None


@dataclass(frozen=True, slots=True)
class Ahead:
    """The group has read what is not replicated yet.

    Args:
        replicated_next: the end of what is.
    """

    replicated_next: int


@dataclass(frozen=True, slots=True)
class Expired:
    """The position lies before everything the map knows: records that the group has not read were never copied.

    Args:
        known_from: the first position that can be translated.
        low: its place on the other cluster, before every record that is there; None when the map lost its beginning.
    """

    known_from: int
    low: int | None


@dataclass(frozen=True, slots=True)
class Unknown:
    """There is nothing to translate with.

    Args:
        reason: in words.
    """

    reason: str


Translation = Exact | Between | Ahead | Expired | Unknown


class OffsetMap:
    """The runs of one source partition, in both directions. Memory: at most ``21 * R + 1`` runs."""

    __slots__ = ("_keys", "_runs", "_topic_id")

    def __init__(self, runs: Iterable[Run] = ()) -> None:
        self._runs: list[Run] = []
        self._keys: dict[tuple[int, int], int] = {}
        self._topic_id = NO_ID
        for run in runs:
            self.add(run)

    def __len__(self) -> int:
        return len(self._runs)

    def __iter__(self) -> Iterator[Run]:
        """The kept runs, oldest first."""
        return iter(self._runs)

    @property
    def newest(self) -> Run | None:
        """The position (invariant B)."""
        return self._runs[-1] if self._runs else None

    @property
    def first_upstream(self) -> int:
        """The first position that can be translated; 0 when there is none."""
        return self._runs[0].upstream_base if self._runs else 0

    @property
    def topic_id(self) -> TopicId:
        """Of the source topic that the runs are of: the last one that a broker said."""
        return self._topic_id

    def add(self, run: Run) -> None:
        """Take a run in log order; one with a known number replaces that one (`copy.sync_repair`)."""
        newest = self.newest
        if newest is not None and run.seq <= newest.seq:
            at = bisect_left(self._runs, run.seq, key=_seq)
            if self._runs[at].seq == run.seq:
                self._runs[at] = run
            return
        if not run.topic_id.same_as(self._topic_id):  # another topic of the same name: other offsets
            self._runs.clear()
            self._keys.clear()
        if run.topic_id.is_known:
            self._topic_id = run.topic_id
        key = retention_key(run.seq)
        replaced = self._keys.get(key)
        if replaced is not None:
            del self._runs[bisect_right(self._runs, replaced, key=_seq) - 1]
        self._keys[key] = run.seq
        self._runs.append(run)

    def translate(self, upstream_next: int) -> Translation:
        """Where a group that has read everything before `upstream_next` goes on, on the target (invariant D)."""
        newest = self.newest
        if newest is None:
            return Unknown("nothing of this partition was replicated yet")
        if upstream_next > newest.upstream_next:
            return Ahead(newest.upstream_next)
        at = bisect_right(self._runs, upstream_next, key=_upstream_base) - 1
        if at < 0:
            first = self._runs[0]
            return Expired(first.upstream_base, first.downstream_base if first.seq == FIRST_SEQ else None)
        run = self._runs[at]
        following = self._runs[at + 1] if at + 1 < len(self._runs) else None
        is_inside = upstream_next < run.upstream_next
        found = self._inside(run, following, upstream_next) if is_inside else _after(run, following, upstream_next)
        if isinstance(found, Exact) and found.next_offset >= newest.downstream_next:
            return Exact(found.next_offset, is_end=True)  # what follows on the source are markers, or aborted
        return found

    def records_from(self, downstream_next: int) -> int:
        """How many replicated records lie at or after a place on the target; too many rather than too few."""
        newest = self.newest
        if newest is None:
            return 0
        at = bisect_right(self._runs, downstream_next, key=_downstream_base) - 1
        if at < 0:
            return newest.ordinal_next - self._runs[0].ordinal_base
        run = self._runs[at]
        return newest.ordinal_next - run.ordinal_base - min(run.count, downstream_next - run.downstream_base)

    def records_between(self, low: int, high: int, skip: int = 0) -> int:
        """How many replicated records lie in ``[low, high)`` on the target; too many rather than too few.

        Args:
            skip: so many from `low` on do not count.
        """
        return self._between(_DOWNSTREAM, low, high, skip)

    def records_between_upstream(self, low: int, high: int, skip: int = 0) -> int:
        """The same for offsets of the source."""
        return self._between(_UPSTREAM, low, high, skip)

    def _between(self, side: _Side, low: int, high: int, skip: int) -> int:
        if not self._runs or high <= low:
            return 0
        return max(0, self._ordinals(side, high)[1] - self._ordinals(side, low)[0] - skip)

    def _ordinals(self, side: _Side, next_offset: int) -> tuple[int, int]:
        """(at least, at most) how many records were replicated before a position on one side."""
        at = bisect_right(self._runs, next_offset, key=side.base) - 1
        if at < 0:
            return self._runs[0].ordinal_base, self._runs[0].ordinal_base
        run = self._runs[at]
        if next_offset < side.end(run):
            at_least, at_most = side.records_before(run, next_offset)
            return run.ordinal_base + at_least, run.ordinal_base + at_most
        if at + 1 == len(self._runs):
            return run.ordinal_next, run.ordinal_next
        following = self._runs[at + 1]  # between them runs may have been thinned out
        at_least = following.ordinal_base - (side.base(following) - next_offset)
        at_most = run.ordinal_next + next_offset - side.end(run)
        return max(run.ordinal_next, at_least), min(following.ordinal_base, at_most)

    def _inside(self, run: Run, following: Run | None, upstream_next: int) -> Translation:
        if run.gaps is None:
            ends = run.downstream_base, run.downstream_next, run.upstream_base, run.upstream_next
            is_first = upstream_next == run.upstream_base
            return Exact(run.downstream_base) if is_first else Between(*ends, run.count, None)
        before = records_before(run.gaps, upstream_next - run.upstream_base)
        if before < run.count:
            return Exact(run.downstream_base + before)
        return _after(run, following, run.upstream_next)

    def translate_back(self, downstream_next: int) -> Translation:
        """Where a group that has read everything before `downstream_next` on the target goes on, on the source.

        A place behind the last replicated record is the source's position after it: what lies between can only be
        markers, or records that never came from there.
        """
        if not self._runs:
            return Unknown("nothing of this partition was replicated yet")
        at = bisect_right(self._runs, downstream_next, key=_downstream_base) - 1
        if at < 0:
            first = self._runs[0]
            return Expired(first.downstream_base, first.upstream_base if first.seq == FIRST_SEQ else None)
        run = self._runs[at]
        following = self._runs[at + 1] if at + 1 < len(self._runs) else None
        before = downstream_next - run.downstream_base
        if before < run.count:
            return _inside_back(run, before)
        return _after_back(run, following, downstream_next)


def _seq(run: Run) -> int:
    return run.seq


def _upstream_base(run: Run) -> int:
    return run.upstream_base


def _downstream_base(run: Run) -> int:
    return run.downstream_base


def _downstream_next(run: Run) -> int:
    return run.downstream_next


def _upstream_next(run: Run) -> int:
    return run.upstream_next


def _before_downstream(run: Run, downstream_next: int) -> tuple[int, int]:
    records = downstream_next - run.downstream_base
    return records, records


def _before_upstream(run: Run, upstream_next: int) -> tuple[int, int]:
    if run.gaps is None:
        return 0, min(run.count, upstream_next - run.upstream_base)
    records = min(run.count, records_before(run.gaps, upstream_next - run.upstream_base))
    return records, records


@dataclass(frozen=True, slots=True)
class _Side:
    """One side of a map.

    Args:
        base, end: of a run.
        records_before: (at least, at most) how many records of a run lie before an offset inside it.
    """

    base: Callable[[Run], int]
    end: Callable[[Run], int]
    records_before: Callable[[Run, int], tuple[int, int]]


_DOWNSTREAM = _Side(_downstream_base, _downstream_next, _before_downstream)
_UPSTREAM = _Side(_upstream_base, _upstream_next, _before_upstream)


def _after(run: Run, following: Run | None, upstream_next: int) -> Translation:
    """At or after the end of `run`, and before `following`."""
    if following is None:
        return Exact(run.downstream_next)
    between = following.ordinal_base - run.ordinal_next
    if between == 0:
        return Exact(following.downstream_base)
    skip = upstream_next - run.upstream_next
    if skip == 0:
        return Exact(run.downstream_next)
    is_dense = between == following.upstream_base - run.upstream_next
    borders = run.downstream_next, following.downstream_base, run.upstream_next, following.upstream_base
    return Between(*borders, between, skip if is_dense else None)


def _inside_back(run: Run, before: int) -> Translation:
    if run.gaps is not None:
        return Exact(run.upstream_base + offset_of(run.gaps, before))
    if before == 0:
        return Exact(run.upstream_base)
    return Between(run.upstream_base, run.upstream_next, run.downstream_base, run.downstream_next, run.count, before)


def _after_back(run: Run, following: Run | None, downstream_next: int) -> Translation:
    if following is None:
        return Exact(run.upstream_next, is_end=True)
    between = following.ordinal_base - run.ordinal_next
    if between == 0:
        return Exact(following.upstream_base)
    if downstream_next == run.downstream_next:
        return Exact(run.upstream_next)
    borders = run.upstream_next, following.upstream_base, run.downstream_next, following.downstream_base
    return Between(*borders, between, None)


def records_before(gaps: Gaps, distance: int) -> int:
    """How many records of a run lie in its first `distance` upstream offsets."""
    records = passed = 0
    for until, length in gaps:
        if passed + until >= distance:
            break
        records += until
        passed += until + length
        if passed >= distance:
            return records
    return records + distance - passed


def offset_of(gaps: Gaps, record: int) -> int:
    """How many upstream offsets after the run's base its record number `record` (from 0) lies."""
    records = passed = 0
    for until, length in gaps:
        if records + until > record:
            break
        records += until
        passed += until + length
    return passed + record - records


def refine_on_destination(between: Between, skip: int, records: Iterable[int]) -> Exact | None:
    """The exact place, from the offsets of all records in ``[low, high)``; None when others wrote there, too.

    Args:
        skip: how many records of the stretch the group has read.
        records: record offsets on the cluster that is translated to.
    """
    place: int | None = between.high if skip == between.records else None
    found = 0
    for offset in records:
        if found == skip:
            place = offset
        found += 1
    is_ours_alone = found == between.records
    return Exact(place) if is_ours_alone and place is not None else None


def skip_on_origin(between: Between, position: int, records: Iterable[int]) -> int | None:
    """How many records of the stretch lie before `position`, from the offsets of all records in it on its own cluster.

    None when the cluster no longer holds all of them (compaction, retention), so that counting proves nothing.
    """
    found = before = 0
    for offset in records:
        found += 1
        before += offset < position
    return before if found == between.records else None
