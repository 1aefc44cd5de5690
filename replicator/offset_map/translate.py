"""Where a consumer group goes on, on the other cluster: each rule of a translation stands here, once. Pure.

The offset map says where a record is. A translation also knows whether the map is about the topics that both clusters
have now, where the log begins and ends that the group goes to, and how far that was read without meeting a record.

    the map says    the group goes on
    Exact           at the place of the first record that it has not read; at the replicated end past the markers
    Between         at the first place of the stretch: some records are read again, none is missed
    Ahead           at the replicated end, past the markers: it has read all that is there
    Expired         before the first record that was replicated; nowhere, when the map lost its beginning

    that place lies                   the group goes on
    before the beginning of the log   at the beginning, which says how many records it can't read any more (`Deleted`)
    behind the end of the log         at the end, which lost records (`Lost`)

It goes on nowhere (`NoPlace`) where the map is about another topic than either cluster has now.

Invariants:
    D: a place never passes a record that the group has not read and that the log still holds.
    No place lies before the beginning of its log, or behind the end, as far as those are known.
"""

from __future__ import annotations

import enum
import sys
from dataclasses import dataclass

from replicator.errors import StopReason
from replicator.offset_map.map import Ahead, Between, Exact, Expired, OffsetMap, Translation, Unknown
from replicator.offset_map.topic_id import NO_ID, TopicId

NO_END = sys.maxsize
"""The end of a log whose end is not known."""
OTHER_SOURCE_RECORDS = frozenset({StopReason.RECREATED, StopReason.SOURCE_LOG_SHORTER})
"""A partition that stopped for one of these has other records on the source than those that were replicated."""


@dataclass(frozen=True, slots=True)
class TargetLog:
    """The log of the partition that a group goes to, as its cluster tells it.

    Args:
        begin: the log start offset; 0 where it is not known.
        end: the high watermark; `NO_END` where it is not known.
        read_from, read_to: the log was read from the one to the other, and no record was met: only markers lie there.
    """

    begin: int = 0
    end: int = NO_END
    read_from: int = 0
    read_to: int = 0

    def past_markers(self, next_offset: int) -> int:
        """The place after the markers at `next_offset`, if the log was read from there."""
        return self.read_to if self.read_from == next_offset else next_offset


UNKNOWN_LOG = TargetLog()


class Why(enum.Enum):
    """Why a group goes on nowhere."""

    NOTHING_REPLICATED = enum.auto()
    """The map is empty."""
    OTHER_SOURCE = enum.auto()
    """The source has other records at these offsets than those that were replicated."""
    OTHER_TARGET = enum.auto()
    """The remote topic was deleted and created again."""
    OPEN_TRANSACTION = enum.auto()
    """On the way home: the group may have read records whose sync is not committed yet."""
    BEGINNING_LOST = enum.auto()
    """The position lies before the map's first run, and records may have been replicated before that one."""
    END_NOT_KNOWN = enum.auto()
    """The remote log lost records, and does not say where it ends."""


@dataclass(frozen=True, slots=True)
class NoPlace:
    """The group goes on nowhere: its consumers' `auto.offset.reset` would decide."""

    why: Why


Mapped = Exact | Between | Ahead | Expired | NoPlace
"""What the map says of a position, if it is about the topics that the clusters have now."""


@dataclass(frozen=True, slots=True)
class WithinLog:
    """The log holds all that the group has not read, as far as it was replicated."""


@dataclass(frozen=True, slots=True)
class Deleted:
    """Retention, or DeleteRecords, deleted what the group was to read next: it goes on at the log's beginning.

    Args:
        place: where it would have gone on.
        records: how many replicated records it can't read any more, at most; at least 1.
    """

    place: int
    records: int


@dataclass(frozen=True, slots=True)
class Lost:
    """The log ends before the group's place, because it lost records: the group goes on at its end.

    Args:
        place: where it would have gone on.
    """

    place: int


@dataclass(frozen=True, slots=True)
class Placed:
    """The group goes on here.

    Args:
        next_offset: never before the beginning of the log, nor behind its end, where those are known.
    """

    next_offset: int
    log: WithinLog | Deleted | Lost


WITHIN_LOG = WithinLog()


@dataclass(frozen=True, slots=True)
class ReplicatedPartition:
    """A partition of the source, its map, and what is known of the topics on both sides.

    Args:
        offset_map: empty where nothing was replicated.
        source_id: of the topic that has its name on the source now; `NO_ID` where that does not count.
        copied_to: of the topic that the map's places are in.
        target_id: of the topic that has the remote topic's name now.
        stop: the reason for which the partition is not replicated at the moment (`StopReason`); empty when it is.
        ignores_recreation: a failover goes by what was replicated, whatever the source has now: checkpoints are written
            only while the source has the topic that was replicated.
    """

    offset_map: OffsetMap
    source_id: TopicId = NO_ID
    copied_to: TopicId = NO_ID
    target_id: TopicId = NO_ID
    stop: str = ""
    ignores_recreation: bool = False

    @property
    def is_other_target(self) -> bool:
        """Whether the map's places are in another topic than the target has now."""
        return self.stop == StopReason.TARGET_RECREATED or not self.copied_to.same_as(self.target_id)

    @property
    def is_other_source(self) -> bool:
        """Whether the map's positions are of other records than the source has now; a log that was cut is one case."""
        is_ignored = self.ignores_recreation and self.stop == StopReason.RECREATED
        has_other_records = self.stop in OTHER_SOURCE_RECORDS and not is_ignored
        is_other_topic = not self.offset_map.topic_id.same_as(self.source_id)
        return has_other_records or is_other_topic

    @property
    def is_usable(self) -> bool:
        """Whether the map is about the topics that both clusters have now."""
        return not (self.is_other_target or self.is_other_source)

    def translate(self, upstream_next: int) -> Mapped:
        """What the map says of a position on the source."""
        unusable = self._unusable()
        return unusable if unusable is not None else _mapped(self.offset_map.translate(upstream_next))

    def translate_back(self, downstream_next: int, *, is_unfinished: bool = False) -> Mapped:
        """What the map says of a position on the target, for a failback.

        Args:
            is_unfinished: a transaction of the flow is open: records behind the last run may be replicated ones.
        """
        unusable = self._unusable()
        if unusable is not None:
            return unusable
        newest = self.offset_map.newest
        known_next = newest.downstream_next if newest is not None else 0
        if is_unfinished and downstream_next > known_next:
            return NoPlace(Why.OPEN_TRANSACTION)
        return _mapped(self.offset_map.translate_back(downstream_next))

    def _unusable(self) -> NoPlace | None:
        if self.is_other_target:
            return NoPlace(Why.OTHER_TARGET)
        return NoPlace(Why.OTHER_SOURCE) if self.is_other_source else None

    def place(self, mapped: Mapped, log: TargetLog) -> Placed | NoPlace:
        """Where a group goes on, on the target.

        Args:
            mapped: what `translate` said.
            log: of the remote partition.
        """
        newest = self.offset_map.newest
        is_cut = self.stop == StopReason.TARGET_LOG_SHORTER
        if is_cut and log.end == NO_END and not isinstance(mapped, NoPlace):
            return NoPlace(Why.END_NOT_KNOWN)
        if newest is not None and is_at_end(mapped):
            return _within(log, log.past_markers(newest.downstream_next), 0)
        place = _first_place(mapped)
        if isinstance(place, NoPlace):
            return place
        return _within(log, place, self.offset_map.records_between(place, log.begin, _skip(mapped)))

    def place_back(self, mapped: Mapped, log: TargetLog) -> Placed | NoPlace:
        """Where a group goes on, on the source; `mapped` is what `translate_back` said.

        Not past markers: what follows the last replicated record may not be replicated yet.
        """
        place = _first_place(mapped)
        if isinstance(place, NoPlace):
            return place
        return _within(log, place, self.offset_map.records_between_upstream(place, log.begin, _skip(mapped)))


def is_at_end(mapped: Mapped) -> bool:
    """Whether a group has read all that is replicated: then it may go past the markers at the end of the log."""
    return isinstance(mapped, Ahead) or (isinstance(mapped, Exact) and mapped.is_end)


def _mapped(translation: Translation) -> Mapped:
    return NoPlace(Why.NOTHING_REPLICATED) if isinstance(translation, Unknown) else translation


def _first_place(mapped: Mapped) -> int | NoPlace:
    """The place before which the group has read everything, whatever the log holds."""
    match mapped:
        case Exact(next_offset):
            return next_offset
        case Between(low):
            return low
        case Expired(low=int(low)):
            return low
        case Expired():
            return NoPlace(Why.BEGINNING_LOST)
        case NoPlace():
            return mapped
        case Ahead(replicated_next):  # of a map that is read backwards there is none
            return replicated_next


def _skip(mapped: Mapped) -> int:
    """How many records behind its first place the group has read, where that is known."""
    return mapped.skip or 0 if isinstance(mapped, Between) else 0


def _within(log: TargetLog, place: int, deleted_records: int) -> Placed:
    """The place, or the nearest one that the log has.

    Args:
        deleted_records: replicated ones before the log's beginning that the group has not read, at most.
    """
    if place > log.end:
        return Placed(log.end, Lost(place))
    is_before_beginning = place < log.begin
    if is_before_beginning and deleted_records:
        return Placed(log.begin, Deleted(place, deleted_records))
    return Placed(log.begin if is_before_beginning else place, WITHIN_LOG)
