"""Record slices, the batches of the `records` plane, and how their offsets on the target become known.

Pure but for the client's `Message`. The attributes bound at the top save a lookup per record in the hottest loops.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from replicator.errors import TP
from replicator.kafka.cluster import KafkaError, Message
from replicator.offset_map.runs import Gaps, Placement, gaps_between

_PURGED = frozenset({KafkaError._PURGE_QUEUE, KafkaError._PURGE_INFLIGHT})
_OFFSET: Callable[[Message], int] = Message.offset  # type: ignore[assignment]
_TOPIC, _PARTITION, _ERROR = Message.topic, Message.partition, Message.error


class RecordSlice:
    """Records of one partition, consecutive in what the consumer returned: this plane's `replicator.planes.Batch`.

    It drops the records as soon as they are appended. A transaction of 100,000 small records would otherwise hold
    several times its size in Python objects until the commit, all of them visited by the garbage collector.
    """

    __slots__ = (
        "_gaps", "_offsets", "_reports", "first_offset", "last_offset", "max_timestamp_ms", "messages", "next_offset",
        "placed", "records", "size_bytes", "target_topic", "topic_id", "tp",
    )  # fmt: skip

    def __init__(self, tp: TP, messages: list[Message]) -> None:
        last = messages[-1]
        self.tp = tp
        self.topic_id = b""
        self.messages = messages
        self.records = len(messages)
        self.first_offset = _OFFSET(messages[0])
        self.last_offset = _OFFSET(last)
        self.next_offset = self.last_offset + 1
        self.max_timestamp_ms: int = last.timestamp()[1]
        self.size_bytes = sum(map(len, messages))
        self.placed: list[int] = []
        self.target_topic = ""
        self._gaps: Gaps = ()
        self._offsets: list[int] = []
        self._reports = 0

    @property
    def is_acknowledged(self) -> bool:
        return len(self.placed) >= self._reports

    def release_records(self, *, is_exact: bool) -> None:
        """Drop the records, but for what `placements` needs: with `is_exact`, the offset of each."""
        self._reports = self.records if is_exact else min(2, self.records)
        is_dense = self.last_offset - self.first_offset == self.records - 1
        if is_exact or self.records <= 2:  # first and last are always reported
            self._offsets = list(map(_OFFSET, self.messages))
        elif not is_dense:
            self._gaps = gaps_between(map(_OFFSET, self.messages))
        self.messages = []

    def placements(self) -> list[Placement] | None:
        """The offsets on the target; None: another producer's records lie between, and not all are known."""
        placed = self.placed
        if self._offsets:
            return list(_pieces(self._offsets, placed))
        if placed[-1] - placed[0] != self.records - 1:
            return None
        return [Placement(self.first_offset, self.next_offset, self.records, self._gaps, placed[0])]


class Deliveries:
    """Delivery reports of one open transaction: offsets on the target, and the first refusal."""

    def __init__(self) -> None:
        self.refused: tuple[TP, KafkaError, str] | None = None

    def callback(self, record_slice: RecordSlice) -> Callable[[KafkaError | None, Message], None]:
        """Make a callback that notes the offset of a record of `record_slice`; records report in order."""
        note = record_slice.placed.append

        def delivered(error: KafkaError | None, message: Message) -> None:
            if error is None:
                note(message.offset())  # type: ignore[arg-type]
            elif self.refused is None and error.code() not in _PURGED:
                self.refused = record_slice.tp, error, message.topic() or ""

        return delivered


def is_one_partition(messages: list[Message]) -> bool:
    """Whether all are records of one partition: the usual case, found without a line of Python per record."""
    return (
        len(set(map(_PARTITION, messages))) == 1
        and len(set(map(_TOPIC, messages))) == 1
        and set(map(_ERROR, messages)) == {None}
    )


def _pieces(offsets: list[int], placed: list[int]) -> Iterable[Placement]:
    """Split a slice into parts that are contiguous on the target, given every record's offset."""
    begin = 0
    for index in range(1, len(offsets) + 1):
        is_end = index == len(offsets) or placed[index] != placed[index - 1] + 1
        if is_end:
            part = offsets[begin:index]
            yield Placement(part[0], part[-1] + 1, index - begin, gaps_between(part), placed[begin])
            begin = index
