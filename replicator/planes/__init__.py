"""The data plane of one task: what carries record batches from the source into transactions on the target.

The order of calls, by one thread:

    open → assign → ( fetch* → begin → append* → flush → write* → commit | abort )* → close

`flush` returns the offsets of the records on the target; the task then writes the offset syncs with `write`, and both
are committed together. A plane knows nothing of syncs, tasks or remote topics beyond its arguments. Every
implementation passes the contract suite in `tests/contract`, on real brokers.

Read first: `Plane` below, then `batches.plane` or `records`; `select` decides which of the two a flow gets.

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
LONGEST_PATIENCE_S = 15.0
"""An election takes less."""


@dataclass(frozen=True, slots=True)
class PlaneSettings:
    """What a plane needs to know of the configuration.

    Args:
        transactional_id: the same for every owner of the task, never random.
        transaction_timeout_s: after this the coordinator aborts an open transaction.
        compression: codec, for planes that re-compress.
        buffer_bytes: memory for records of this task, read-ahead and unacknowledged together.
        batch_bytes: the largest batch of several records; one record alone may be larger.
    """

    transactional_id: str
    transaction_timeout_s: float
    compression: str
    buffer_bytes: int
    batch_bytes: int = BATCH_BYTES

    @property
    def partition_patience_s(self) -> float:
        """How long a target partition may take nothing, before it stops alone and the others go on without it.

        A small part of the transaction's timeout: the rest of it is needed to abort.
        """
        return min(LONGEST_PATIENCE_S, self.transaction_timeout_s / 3)


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
        """Id of the topic that it was read from; empty: unknown, the caller has to ask the source."""

    @property
    def max_timestamp_ms(self) -> int:
        """The last record's timestamp, or -1."""


@dataclass(slots=True)
class Fetched:
    """The result of one `fetch`.

    Args:
        batches: in log order per partition.
        passed: positions that moved over markers and aborted records, up to the last stable offset.
        failed: partitions that can't be read; nothing is fetched of them until they are assigned again.
        more: further records wait already: a larger transaction is worth its latency.
    """

    batches: list[Batch] = field(default_factory=list)
    passed: dict[TP, int] = field(default_factory=dict)
    failed: list[PartitionError] = field(default_factory=list)
    more: bool = False

    def add(self, later: Fetched) -> None:
        """Append the result of a later `fetch`."""
        self.batches += later.batches
        self.passed |= later.passed
        self.failed += later.failed
        self.more = later.more

    def without(self, tps: Collection[TP]) -> Fetched:
        """Return the results for all other partitions."""
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
    """Carries the records of one task from source to target. Threading: one thread at a time."""

    def open(self, deadline: Deadline) -> None:
        """Fence every earlier owner of the transactional id and end its open transaction (invariant C).

        Raises:
            RetriableError, FatalError: no answer within `deadline`, or refused.
        """

    def assign(self, positions: Mapping[TP, int]) -> None:
        """Fetch exactly these partitions, from these offsets; drop what was fetched earlier."""

    def add(self, positions: Mapping[TP, int]) -> None:
        """Fetch these partitions too."""

    def remove(self, tps: Iterable[TP]) -> None:
        """Stop fetching these."""

    def fetch(self, wait_s: float) -> Fetched:
        """Return what was fetched; wait up to `wait_s` for the first batch, and not for more.

        Raises:
            RetriableError, FatalError: no partition can be fetched.
        """

    def begin(self) -> None:
        """Open a transaction.

        Raises:
            RetriableError, FatalError: none can be opened; says nothing about the last one.
        """

    def append(self, batch: Batch, target_topic: str, deadline: Deadline) -> None:
        """Put the batch into the transaction; blocks while the target is slower than the source.

        Raises:
            PartitionError: this batch can't be written.
            AbortTransactionError, FatalError: the transaction is lost.
        """

    def flush(self, deadline: Deadline) -> dict[TP, list[Placement]]:
        """Wait until all that was appended is acknowledged; return its exact offsets on the target.

        Raises:
            PartitionError: the target refused records of one partition, or took none of it for
                `PlaneSettings.partition_patience_s`; the transaction has to be aborted.
            AbortTransactionError, FatalError: the transaction is lost.
        """

    def write(self, topic: str, partition: int, key: bytes, value: bytes | None) -> None:
        """Put a record of the replicator into the transaction."""

    def commit(self, deadline: Deadline) -> None:
        """Commit.

        Raises:
            AbortTransactionError: not committed; abort.
            FencedError: not committed, and a newer owner exists.
            FatalError: not committed, or not known to be: begin again from `open` of a new plane, which settles it.
        """

    def abort(self, deadline: Deadline) -> None:
        """Abort the open transaction. The caller then assigns the last committed positions again.

        Raises:
            RetriableError, FatalError: not aborted, or not known to be: begin again from `open` of a new plane.
        """

    def source_ends(self, tps: Iterable[TP]) -> dict[TP, int]:
        """The source's end offsets as last seen by the fetcher; partitions without one are left out."""

    def close(self) -> None:
        """Close both clients at once, whatever the clusters do; an open transaction is left to the next `open`."""
