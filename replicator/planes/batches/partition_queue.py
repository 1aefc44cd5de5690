"""Queues the batches for one target partition: their order, which were sent, which are in the log. Pure.

Batches keep their sequence numbers however often they are sent. After an error that may pass, the queue is *broken*:
nothing more is sent until everything in flight was answered; then it sends again from the oldest batch that is not
acknowledged, and the broker recognises repeated batches by their sequences.

Source: KIP-98; core `ProducerStateManager`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator

from replicator.deadline import backoff_s
from replicator.errors import TP
from replicator.protocol.record_format.header import RawBatch

BROKER_CACHE_BATCHES = 5
"""Batches of a producer and partition that a broker remembers, to recognise duplicates."""
MAX_SEQUENCE = 0x7FFF_FFFF

Placed = Callable[[RawBatch, int], None]
"""Called with a batch and its first record's offset on the target."""


class QueuedBatch:
    """One batch that is queued or in flight."""

    __slots__ = ("batch", "is_answered", "is_lost", "is_placed", "on_placed")

    def __init__(self, batch: RawBatch, on_placed: Placed | None) -> None:
        self.batch = batch
        self.on_placed = on_placed
        self.is_answered = True
        """Whether it is not in flight."""
        self.is_lost = False
        """Whether it was sent without a response: it may or may not have arrived."""
        self.is_placed = False


class PartitionQueue:
    """The batches for one target partition, in order.

    Attributes:
        source: the source partition of the records, for errors; None: records of the replicator.
        items: in order, from the oldest that is not acknowledged; those before `sent` were sent.
        is_added: whether it is part of the open transaction.
        is_broken: whether to send again, once nothing of it is in flight.
        stuck_at_s: since when its leader takes nothing, or is missing, on the monotonic clock; 0: it is not.
        problem: the last error's name since then; empty where there was no answer.
    """

    def __init__(self, target: TP, source: TP | None) -> None:
        self.target = target
        self.source = source
        self.items: deque[QueuedBatch] = deque()
        self.sent = 0
        self.sequence = 0
        self.is_added = False
        self.is_broken = False
        self.no_earlier_than_s = 0.0
        self._waits: Iterator[float] | None = None
        self.missing_since_s = 0.0
        self.stuck_at_s = 0.0
        self.problem = ""

    def take(self, count: int) -> int:
        """Take the base sequence for the next batch, of `count` records."""
        base = self.sequence
        left = MAX_SEQUENCE - base
        self.sequence = base + count if count <= left else count - left - 1
        return base

    def back_off(self, now_s: float) -> None:
        """Send again after a while, which grows until a batch is acknowledged: an error that may pass."""
        self.is_broken = True
        self.stuck(now_s)
        self._waits = self._waits or backoff_s(0.02, 1.0)
        self.no_earlier_than_s = now_s + next(self._waits)

    def stuck(self, now_s: float) -> None:
        """Nothing of it can be placed now."""
        self.stuck_at_s = self.stuck_at_s or now_s

    def resume_if_idle(self) -> None:
        """Send again from the oldest batch, if the queue is broken and nothing is in flight any more."""
        if self.is_broken and all(item.is_answered for item in self.items):
            self.is_broken = False
            self.sent = 0
            self._skip_placed()

    def sends(self) -> QueuedBatch:
        """Return the next batch, which is in flight from now on."""
        item = self.items[self.sent]
        item.is_answered = False
        self.sent += 1
        self._skip_placed()
        return item

    def _skip_placed(self) -> None:
        while self.sent < len(self.items) and self.items[self.sent].is_placed:
            self.sent += 1

    def placed(self, item: QueuedBatch) -> None:
        """Note that a batch is in the target's log. It may not be the oldest, whose response can be lost."""
        item.is_placed = True
        self.missing_since_s = self.stuck_at_s = 0.0
        self.problem = ""
        self._waits = None
        while self.items and self.items[0].is_placed:
            self.items.popleft()
            self.sent -= 1

    @property
    def is_sendable(self) -> bool:
        """Whether a batch may be sent: a sixth would evict the oldest from the broker's five-batch duplicate cache."""
        return self.is_added and not self.is_broken and self.sent < min(len(self.items), BROKER_CACHE_BATCHES)
