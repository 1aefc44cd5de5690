"""What a fetch brought of one partition: its batches, where it goes on, or why it can't. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from replicator.errors import TP, PartitionError
from replicator.planes.batches.raw_batch import RawBatch


class Pack:
    """A batch of this plane (`replicator.planes.Batch`): consecutive record batches of one partition, of one answer."""

    __slots__ = ("first_offset", "max_timestamp_ms", "next_offset", "raw", "records", "size_bytes", "topic_id", "tp")

    def __init__(self, tp: TP, topic_id: bytes, raw: list[RawBatch]) -> None:
        last = raw[-1]
        self.tp = tp
        self.topic_id = topic_id
        self.raw = raw
        self.first_offset = raw[0].first_offset
        self.next_offset = last.next_offset
        self.max_timestamp_ms = last.max_timestamp_ms
        self.records = sum([it.records for it in raw])
        self.size_bytes = sum([it.size_bytes for it in raw])

    def let_go(self) -> list[RawBatch]:
        """Hand over the record batches; whoever still holds the pack holds no records any more."""
        raw, self.raw = self.raw, []
        return raw


@dataclass(slots=True)
class Arrived:
    """What came of one partition.

    Args:
        next_offset: the position after it; further than `pack`'s end where no record for us follows.
        is_behind: more is on the source already.
    """

    tp: TP
    pack: Pack | None = None
    next_offset: int = -1
    failure: PartitionError | None = None
    is_behind: bool = False
