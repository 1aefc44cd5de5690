"""The `batches` plane: record batches of the source pass through unopened, in transactions of the replicator.

    fetcher ──fetched batches──> plane ──batches──> producer ──placements──> plane
       └──────────────── event loop: every connection, one thread ───────────────┘

See `replicator.planes.Plane` for the contract, and the package for what passes unopened and what does not.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from operator import attrgetter

from replicator.deadline import Deadline
from replicator.errors import TP, AbortTransactionError, KafkaOpError, RetriableError
from replicator.kafka.client_properties import client_id
from replicator.kafka.cluster import Cluster
from replicator.offset_map.runs import Placement
from replicator.planes import Batch, Fetched, PlaneSettings
from replicator.planes.batches.fetch_session import FetchedBatches
from replicator.planes.batches.fetcher import Fetcher
from replicator.planes.batches.producer import Producer
from replicator.protocol.brokers import Brokers
from replicator.protocol.event_loop import EventLoop
from replicator.protocol.record_format.header import RawBatch
from replicator.protocol.record_format.records import build_batch
from replicator.protocol.transaction_manager import TransactionManager

PUSH_BYTES = 262_144
"""Batches are sent before `flush` once so much waits; less is sent together, after one AddPartitionsToTxn."""
UNPLACED_SHARE = 16
"""The part of the task's memory for batches that are not acknowledged yet: as much as one large response."""
OWN_BATCH_BYTES = 524_288
WRITE_TIMEOUT_S = 30.0
_UPSTREAM_BASE = attrgetter("upstream_base")


class _PlacementRecorder:
    """Records the offsets on the target at which the batches of one partition were appended."""

    __slots__ = ("_placements",)

    def __init__(self, placements: list[Placement]) -> None:
        self._placements = placements

    def __call__(self, batch: RawBatch, base_offset: int) -> None:
        self._placements.append(
            Placement(batch.first_offset, batch.next_offset, batch.records, batch.gaps, base_offset)
        )


class BatchesPlane:
    """See `replicator.planes.Plane`.

    Args:
        source, target: the clusters.
        settings: of the task.
    """

    def __init__(self, source: Cluster, target: Cluster, settings: PlaneSettings) -> None:
        self._loop = EventLoop()
        source_brokers = Brokers(self._loop, source, client_id())
        self._target_brokers = target_brokers = Brokers(self._loop, target, client_id(), target.note_trouble)
        self._fetcher = Fetcher(
            self._loop, source_brokers, source, settings.buffer_bytes, max_batch_bytes=settings.batch_bytes
        )
        self._transaction_manager = TransactionManager(self._loop, target_brokers, target, settings)
        self._producer = Producer(self._loop, target_brokers, target, self._transaction_manager, settings)
        self._unplaced_limit_bytes = settings.buffer_bytes // UNPLACED_SHARE
        self._placements: dict[TP, list[Placement]] = {}
        self._own_records: dict[TP, list[tuple[bytes, bytes | None]]] = {}
        self._own_bytes = 0
        self._own_partitions: set[TP] = set()
        self._unpushed_bytes = 0

    def open(self, deadline: Deadline) -> None:
        self._transaction_manager.init_transactions(deadline)

    # --- source -------------------------------------------------------------------------------------------------------

    def assign(self, positions: Mapping[TP, int]) -> None:
        self._fetcher.assign(positions)
        self._fetcher.push()

    def add(self, positions: Mapping[TP, int]) -> None:
        self._fetcher.add(positions)
        self._fetcher.push()

    def remove(self, tps: Iterable[TP]) -> None:
        self._fetcher.remove(tps)

    def fetch(self, wait_s: float) -> Fetched:
        self._fetcher.wait(wait_s)
        self._producer.push()
        return self._fetcher.take()

    def source_ends(self, tps: Iterable[TP]) -> dict[TP, int]:
        return self._fetcher.ends(tps)

    # --- transaction --------------------------------------------------------------------------------------------------

    def begin(self) -> None:
        self._placements = {}
        self._unpushed_bytes = 0
        if self._transaction_manager.has_unanswered_request:
            self._bump_epoch(Deadline(WRITE_TIMEOUT_S))

    def append(self, batch: Batch, target_topic: str, deadline: Deadline) -> None:
        assert isinstance(batch, FetchedBatches)
        self._producer.check()
        target = TP(target_topic, batch.tp.partition)
        on_placed = _PlacementRecorder(self._placements.setdefault(batch.tp, []))
        for it in batch.take_batches():
            self._producer.append(target, batch.tp, it, on_placed)
        self._unpushed_bytes += batch.size_bytes
        if self._unpushed_bytes < PUSH_BYTES:
            return
        self._producer.push()
        self._loop.run_once(0)
        if not self._producer.run_until(lambda: self._producer.unplaced_bytes <= self._unplaced_limit_bytes, deadline):
            raise self._timed_out(f"the target acknowledged nothing for {deadline.seconds:g} s", "append")
        self._producer.check()

    def flush(self, deadline: Deadline) -> dict[TP, list[Placement]]:
        self._await_acknowledgements(deadline)
        placements, self._placements = self._placements, {}
        for places in placements.values():  # a batch whose response was lost is placed after those behind it
            places.sort(key=_UPSTREAM_BASE)
        return placements

    def _await_acknowledgements(self, deadline: Deadline) -> None:
        self._append_own_records()
        if not self._producer.run_until(lambda: not self._producer.unplaced_bytes, deadline):
            text = f"{self._producer.unplaced_bytes:,} bytes not acknowledged within {deadline.seconds:g} s"
            raise self._timed_out(text, "flush")

    def write(self, topic: str, partition: int, key: bytes, value: bytes | None) -> None:
        target = TP(topic, partition)
        self._own_records.setdefault(target, []).append((key, value))
        self._own_bytes += len(key) + len(value or b"") + 16
        if self._own_bytes >= OWN_BATCH_BYTES:
            self._append_own_records()
            deadline = Deadline(WRITE_TIMEOUT_S)
            limit = self._unplaced_limit_bytes
            if not self._producer.run_until(lambda: self._producer.unplaced_bytes <= limit, deadline):
                raise self._timed_out(
                    f"the target acknowledged nothing for {deadline.seconds:g} s", f"write to {topic}"
                )

    def _append_own_records(self) -> None:
        """Queue what `write` gathered, as one batch per partition."""
        now_ms = int(time.time() * 1000)
        for target, records in self._own_records.items():
            data = build_batch(records, now_ms)
            batch = RawBatch(0, len(records), len(records), (), now_ms, data)
            self._producer.append(target, None, batch, None)
            self._own_partitions.add(target)
        self._own_records.clear()
        self._own_bytes = 0

    def commit(self, deadline: Deadline) -> None:
        self._await_acknowledgements(deadline)
        if self._producer.has_begun:
            self._transaction_manager.end(deadline, commit=True)
        self._producer.ended()
        self._producer.accompany(self._own_partitions)
        self._own_partitions = set()

    def abort(self, deadline: Deadline) -> None:
        self._own_records.clear()
        self._own_bytes = 0
        self._own_partitions = set()
        self._placements = {}
        if self._producer.is_untouched:
            return
        self._producer.stop()
        # A batch that reaches its broker after markers of its own epoch is appended, and the next transaction commits
        # it, unless the broker verifies that a transaction is open (KIP-890). Fencing writes markers of a newer epoch.
        is_at_rest = self._loop.run_until(lambda: self._producer.is_at_rest, deadline)
        if not is_at_rest or self._producer.may_follow:
            text = "batches without a response may arrive later; the transaction ends when the task restarts"
            raise RetriableError(text, op="abort transaction")
        if self._producer.has_begun:
            self._transaction_manager.end(deadline, commit=False)
        self._bump_epoch(deadline)

    def _bump_epoch(self, deadline: Deadline) -> None:
        self._transaction_manager.bump_epoch(deadline)
        self._producer.begin_again()

    def close(self) -> None:
        self._loop.close()

    def _timed_out(self, text: str, op: str) -> KafkaOpError:
        recent = self._target_brokers.recent_error()
        return AbortTransactionError(text, op=op, hint=str(recent) if recent else "")
