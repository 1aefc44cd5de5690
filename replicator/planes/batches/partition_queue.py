"""One partition of the target, as a producer sees it: batches in order, which were sent, which are in its log. Pure.

Batches keep their sequence numbers however often they are sent. When one of them failed in a way that may pass, the
lane is *broken*: nothing more is sent until all that is on its way was answered; then it sends again from the oldest
batch that is not placed, and the broker tells repeated ones by their sequences.

Source: KIP-98; core `ProducerStateManager`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator

from replicator.deadline import backoff_s
from replicator.errors import TP
from replicator.protocol.record_format.header import RawBatch

REMEMBERED = 5
"""Batches of a producer and partition that a broker knows again when they are repeated."""
MAX_SEQUENCE = 0x7FFF_FFFF

Placed = Callable[[RawBatch, int], None]
"""Told the batch and the offset where its first record landed."""


class QueuedBatch:
    """One batch on its way."""

    __slots__ = ("batch", "is_answered", "is_lost", "is_placed", "on_placed")

    def __init__(self, batch: RawBatch, on_placed: Placed | None) -> None:
        self.batch = batch
        self.on_placed = on_placed
        self.is_answered = True
        """Not on its way: queued, or answered."""
        self.is_lost = False
        """It was sent, and nobody knows whether it arrived."""
        self.is_placed = False


class PartitionQueue:
    """One partition of the target.

    Attributes:
        source: the partition whose records these are, for errors; None: our own.
        items: in order, from the oldest that is not placed; those before `sent` have been sent.
        is_added: whether it is part of the open transaction.
        is_broken: has to send again, once nothing of it is on its way.
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
        self.not_before_s = 0.0
        self._waits: Iterator[float] | None = None
        self.gone_at_s = 0.0
        self.stuck_at_s = 0.0
        self.problem = ""

    def take(self, count: int) -> int:
        """The base sequence of the next batch of so many records."""
        base = self.sequence
        left = MAX_SEQUENCE - base
        self.sequence = base + count if count <= left else count - left - 1
        return base

    def rest(self, now_s: float) -> None:
        """Something failed that may pass: after a while, longer each time until a batch is placed, send again."""
        self.is_broken = True
        self.stuck(now_s)
        self._waits = self._waits or backoff_s(0.02, 1.0)
        self.not_before_s = now_s + next(self._waits)

    def stuck(self, now_s: float) -> None:
        """Nothing of it can be placed now."""
        self.stuck_at_s = self.stuck_at_s or now_s

    def mend(self) -> None:
        """Send again from the oldest batch, if nothing is on its way any more."""
        if self.is_broken and all(item.is_answered for item in self.items):
            self.is_broken = False
            self.sent = 0
            self._skip_placed()

    def sends(self) -> QueuedBatch:
        """The next batch, which is on its way from now on."""
        item = self.items[self.sent]
        item.is_answered = False
        self.sent += 1
        self._skip_placed()
        return item

    def _skip_placed(self) -> None:
        while self.sent < len(self.items) and self.items[self.sent].is_placed:
            self.sent += 1

    def placed(self, item: QueuedBatch) -> None:
        """The batch is in the target's log. It may not be the oldest: the answer about that one can be lost."""
        item.is_placed = True
        self.gone_at_s = self.stuck_at_s = 0.0
        self.problem = ""
        self._waits = None
        while self.items and self.items[0].is_placed:
            self.items.popleft()
            self.sent -= 1

    @property
    def is_sendable(self) -> bool:
        """Whether a batch may be sent: one further from the oldest could drive that out of the broker's mind."""
        return self.is_added and not self.is_broken and self.sent < min(len(self.items), REMEMBERED)
