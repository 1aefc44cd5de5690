"""The data plane of one task: what carries record batches from the source into transactions on the target.

The order of calls, by one thread:

    open → assign → ( fetch* → begin → append* → flush → write* → commit | abort )* → close

`flush` tells where the records landed; the task then writes the syncs with `write`, and both are committed together.
A plane knows nothing of syncs, tasks or topics' names on the target beyond what it is handed. Every implementation
passes the contract suite in `tests/contract`, on real brokers.

Invariants:
    A: `append` keeps partition, order, key, value, headers and timestamp; only committed records are fetched.
    C: nothing is written before `open` returned.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from replicator.deadline import Deadline
from replicator.errors import TP, PartitionError
from replicator.offset_map.runs import Placement

BATCH_BYTES = 1_048_588
"""Kafka's default of `max.message.bytes`."""


@dataclass(frozen=True, slots=True)
class PlaneSettings:
    """What a plane needs to know of the configuration.

    Args:
        transactional_id: the task's; derived, never random.
        transaction_timeout_s: after this the broker aborts on its own.
        compression: codec, for planes that compress anew.
        buffer_bytes: memory for records of this task, read-ahead and unacknowledged together.
        batch_bytes: the largest batch of several records; one record alone may be larger.
    """

    transactional_id: str
    transaction_timeout_s: float
    compression: str
    buffer_bytes: int
    batch_bytes: int = BATCH_BYTES


class Batch(Protocol):
    """Records of one partition, consecutive in its log."""

    @property
    def tp(self) -> TP: ...
    @property
    def first_offset(self) -> int: ...
    @property
    def next_offset(self) -> int:
        """Source offset after the last record."""

    @property
    def records(self) -> int: ...
    @property
    def size_bytes(self) -> int: ...
    @property
    def topic_id(self) -> bytes:
        """Of the topic that it was read from; empty where the plane can't tell: then somebody has to ask the source."""

    @property
    def max_timestamp_ms(self) -> int:
        """The last record's timestamp, or -1."""


@dataclass(slots=True)
class Fetched:
    """What one `fetch` brought.

    Args:
        batches: in log order per partition.
        passed: positions that moved over offsets without a record for us, up to the end of the committed log.
        failed: partitions that can't be read on; they deliver nothing until assigned again.
        more: records are waiting already: there is a backlog, and a larger transaction is worth its latency.
    """

    batches: list[Batch] = field(default_factory=list)
    passed: dict[TP, int] = field(default_factory=dict)
    failed: list[PartitionError] = field(default_factory=list)
    more: bool = False

    def add(self, later: Fetched) -> None:
        """What a later `fetch` brought."""
        self.batches += later.batches
        self.passed |= later.passed
        self.failed += later.failed
        self.more = later.more

    def without(self, tps: Collection[TP]) -> Fetched:
        """What it brought of other partitions."""
        return Fetched(
            [it for it in self.batches if it.tp not in tps],
            {tp: offset for tp, offset in self.passed.items() if tp not in tps},
            [it for it in self.failed if it.tp not in tps],
            self.more,
        )

    @property
    def is_empty(self) -> bool:
        return not (self.batches or self.passed or self.failed)


class Plane(Protocol):
    """One task's way from source to target. Threading: one thread at a time."""

    def open(self, deadline: Deadline) -> None:
        """Fence every earlier owner of the transactional id and end its open transaction (invariant C).

        Raises:
            RetriableError, FatalError: no answer within `deadline`, or refused.
        """

    def assign(self, positions: Mapping[TP, int]) -> None:
        """Fetch exactly these partitions from these offsets; everything fetched earlier is dropped."""

    def add(self, positions: Mapping[TP, int]) -> None:
        """Fetch these partitions too."""

    def remove(self, tps: Iterable[TP]) -> None:
        """Stop fetching these."""

    def fetch(self, wait_s: float) -> Fetched:
        """What has arrived; waits up to `wait_s` for the first batch, and not for more.

        Raises:
            RetriableError, FatalError: the consumer as a whole can't go on.
        """

    def begin(self) -> None:
        """Open a transaction.

        Raises:
            RetriableError, FatalError: none can be opened; of the last one it says nothing.
        """

    def append(self, batch: Batch, target_topic: str, deadline: Deadline) -> None:
        """Put the batch into the transaction; blocks while the target is slower than the source.

        Raises:
            PartitionError: this batch can't be written.
            AbortTransactionError, FatalError: the transaction is lost.
        """

    def flush(self, deadline: Deadline) -> dict[TP, list[Placement]]:
        """Wait until all that was appended is acknowledged; where it landed, exactly.

        Raises:
            PartitionError: the target refused records of one partition; the transaction has to be aborted.
            AbortTransactionError, FatalError: the transaction is lost.
        """

    def write(self, topic: str, partition: int, key: bytes, value: bytes | None) -> None:
        """Put one record of our own into the transaction."""

    def commit(self, deadline: Deadline) -> None:
        """Commit.

        Raises:
            AbortTransactionError: not committed; abort.
            FencedError: not committed by us, and a newer owner exists.
            FatalError: not committed, or not known to be: begin again from `open` of a new plane, which settles it.
        """

    def abort(self, deadline: Deadline) -> None:
        """Abort the open transaction. The caller then assigns the last committed positions anew.

        Raises:
            RetriableError, FatalError: not aborted, or not known to be: begin again from `open` of a new plane.
        """

    def source_ends(self, tps: Iterable[TP]) -> dict[TP, int]:
        """The source's end offsets as the fetcher last saw them; partitions not heard of are left out."""

    def close(self) -> None:
        """Let go of both clients, at once, whatever the clusters do; an open transaction is left to the next `open`."""
