"""One partition's log, as its leader keeps it.

Source: KIP-98; core `UnifiedLog`, `ProducerStateManager`, `ProducerAppendInfo`; KIP-320 for leader epochs.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from struct import Struct
from typing import Any

from aiokafka.record.default_records import DefaultRecordBatch

from replicator.kafka.cluster import KafkaError
from tests.unit.protocol.record_format.logs import marker

HEADER = Struct(">qiibIhiqqqhii")
TRANSACTIONAL, CONTROL = 0x10, 0x20
REMEMBERED = 5
OUT_OF_ORDER = int(KafkaError.OUT_OF_ORDER_SEQUENCE_NUMBER)
DUPLICATE = int(KafkaError.DUPLICATE_SEQUENCE_NUMBER)
OLD_EPOCH = int(KafkaError.INVALID_PRODUCER_EPOCH)


@dataclass(frozen=True, slots=True)
class Stored:
    """One record in a log."""

    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...]


@dataclass(slots=True)
class Entry:
    """One batch in a log.

    Args:
        transaction: that it belongs to, or that it ends; None: it is not transactional.
        ends: what a control batch says: True for a commit, False for an abort; None: it holds records.
    """

    base: int
    next: int
    producer_id: int
    epoch: int
    sequence: int
    leader_epoch: int
    records: list[Stored]
    data: bytes
    transaction: Any = None
    is_transactional: bool = False
    ends: bool | None = None


@dataclass(slots=True)
class ProducerState:
    """What a leader knows of one producer id."""

    epoch: int = -1
    batches: deque[tuple[int, int, int]] = field(default_factory=lambda: deque(maxlen=REMEMBERED))
    """(first sequence, last sequence, base offset)"""
    open_from: int | None = None

    def take_epoch(self, epoch: int) -> None:
        if epoch != self.epoch:
            self.epoch = epoch
            self.batches.clear()


class PartitionLog:
    """See the module.

    Attributes:
        start: the first offset that retention left.
        aborted: (producer id, first offset, offset of the marker).
    """

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.start = 0
        self.end = 0
        self.epoch = 0
        self.epochs: list[tuple[int, int]] = [(0, 0)]
        self.producers: dict[int, ProducerState] = {}
        self.aborted: list[tuple[int, int, int]] = []

    @property
    def stable(self) -> int:
        """The last stable offset."""
        return min((it.open_from for it in self.producers.values() if it.open_from is not None), default=self.end)

    # --- appending ----------------------------------------------------------------------------------------------------

    def append(self, data: bytes, transaction: Any = None) -> tuple[int, int]:
        """Append one batch of a client: (error code, base offset). A repeated one is answered with its first place."""
        entry = decoded(data)
        if entry.producer_id < 0:
            return 0, self._add(entry)
        state = self.producers.setdefault(entry.producer_id, ProducerState())
        if entry.epoch < state.epoch:
            return OLD_EPOCH, -1
        count = len(entry.records)
        last = entry.sequence + count - 1
        if entry.epoch == state.epoch:
            for first_known, last_known, base in state.batches:
                if (first_known, last_known) == (entry.sequence, last):
                    return 0, base
        code = self._refusal(state, entry)
        if code:
            return code, -1
        entry.transaction = transaction
        return 0, self._add(entry)

    def _refusal(self, state: ProducerState, entry: Entry) -> int:
        """`ProducerAppendInfo.checkSequence`."""
        if entry.epoch != state.epoch:
            is_known = state.epoch != -1
            return OUT_OF_ORDER if is_known and entry.sequence != 0 else 0
        if not state.batches:
            return 0
        newest = state.batches[-1][1]
        if entry.sequence == newest + 1:
            return 0
        return DUPLICATE if entry.sequence <= newest else OUT_OF_ORDER

    def end_transaction(self, producer_id: int, epoch: int, transaction: Any, *, commit: bool) -> None:
        """Append a marker, as `WriteTxnMarkers` does; one of an older epoch is refused."""
        state = self.producers.setdefault(producer_id, ProducerState())
        if epoch < state.epoch:
            return
        data = marker(self.end, producer_id, commit=commit)
        entry = Entry(self.end, self.end + 1, producer_id, epoch, -1, self.epoch, [], data, transaction, True, commit)
        self._add(entry)

    def _add(self, entry: Entry) -> int:
        shift = self.end - entry.base
        entry.base, entry.next = self.end, entry.next + shift
        entry.records = [
            Stored(it.offset + shift, it.timestamp_ms, it.key, it.value, it.headers) for it in entry.records
        ]
        entry.leader_epoch = self.epoch
        head = bytearray(entry.data)
        head[0:8] = entry.base.to_bytes(8, "big")
        head[12:16] = self.epoch.to_bytes(4, "big")
        entry.data = bytes(head)
        self.entries.append(entry)
        self.end = entry.next
        self._note(entry)
        return entry.base

    def _note(self, entry: Entry) -> None:
        """Keep the producers' states."""
        if entry.producer_id < 0:
            return
        state = self.producers.setdefault(entry.producer_id, ProducerState())
        state.take_epoch(entry.epoch)
        if entry.ends is not None:
            if state.open_from is not None and not entry.ends:
                self.aborted.append((entry.producer_id, state.open_from, entry.base))
            state.open_from = None
            return
        state.batches.append((entry.sequence, entry.sequence + len(entry.records) - 1, entry.base))
        if entry.is_transactional and state.open_from is None:
            state.open_from = entry.base

    # --- what happens to logs -----------------------------------------------------------------------------------------

    def new_leader(self) -> None:
        """An election."""
        self.epoch += 1
        self.epochs.append((self.epoch, self.end))

    def cut(self, end: int) -> list[Entry]:
        """Lose everything from `end` on (whole batches), as an unclean election does; what was lost."""
        kept = [it for it in self.entries if it.next <= end]
        lost = self.entries[len(kept) :]
        self.entries = []
        self.end = max(self.start, kept[-1].next if kept else self.start)
        self.producers, self.aborted = {}, []
        for entry in kept:
            self.entries.append(entry)
            self._note(entry)
        self.epochs = [(epoch, start) for epoch, start in self.epochs if start <= self.end]
        self.new_leader()
        return lost

    def trim(self, start: int) -> list[Entry]:
        """Delete everything before `start`, at most up to the last stable offset; what was deleted."""
        self.start = max(self.start, min(start, self.stable))
        gone = [it for it in self.entries if it.next <= self.start]
        self.entries = self.entries[len(gone) :]
        return gone

    # --- reading ------------------------------------------------------------------------------------------------------

    def from_offset(self, offset: int, *, committed: bool) -> Iterator[Entry]:
        """What a fetch from `offset` brings."""
        end = self.stable if committed else self.end
        return (it for it in self.entries if it.next > offset and it.base < end)

    def aborted_from(self, offset: int) -> list[tuple[int, int]]:
        return [(producer, first) for producer, first, last in self.aborted if last >= offset]

    def visible(self, offset: int = 0, *, committed: bool = True) -> Iterator[tuple[Entry, Stored]]:
        """The records that a consumer gets."""
        for entry in self.from_offset(offset, committed=committed):
            if entry.ends is None and not (committed and self._is_aborted(entry)):
                yield from ((entry, it) for it in entry.records if max(offset, self.start) <= it.offset)

    def _is_aborted(self, entry: Entry) -> bool:
        return entry.is_transactional and any(
            producer == entry.producer_id and first <= entry.base < last for producer, first, last in self.aborted
        )

    def diverging(self, last_epoch: int, offset: int) -> tuple[int, int] | None:
        """KIP-595: the largest epoch in common and its end, when the log before `offset` is another one."""
        found, end = -1, self.end
        for (epoch, _), following in zip(self.epochs, [*self.epochs[1:], None], strict=True):
            if epoch <= last_epoch:
                found, end = epoch, following[1] if following else self.end
        return (found, end) if last_epoch >= 0 and (found < last_epoch or end < offset) else None


def decoded(data: bytes) -> Entry:
    """A batch as a client sent it."""
    base, _, _, _, _, attributes, delta, _, _, producer_id, epoch, sequence, _ = HEADER.unpack_from(data)
    batch = DefaultRecordBatch(bytearray(data))
    assert batch.validate_crc()
    records = [Stored(it.offset, it.timestamp, it.key, it.value, tuple(it.headers)) for it in batch]
    is_transactional = bool(attributes & TRANSACTIONAL)
    return Entry(base, base + delta + 1, producer_id, epoch, sequence, -1, records, data, None, is_transactional)
