"""Sends batches into the open transaction: to the leaders of their partitions, in order, each exactly once.

Every batch gets its sequence numbers when it is appended, and keeps them however often it is sent. Each target
partition has a queue (`partition_queue`). When a request fails with an error that may pass, its queues wait until all
their batches in flight were answered, and send again from the oldest batch that is not acknowledged; the broker
recognises a repeated batch by its sequence, and answers with the offset of the first one.

    queued ──send──> unanswered ──answer──> placed
       ^                 │
       └── a leader moved, a connection was lost: all of the queue, in order

The first error that will not pass stops the transaction: nothing more is sent, and everything raises it until
`begin_again`. Batches that the broker takes after such an error would otherwise be committed.

Source: KIP-98 (sequences), KIP-360; clients `Sender`, `TransactionManager`; core `ProducerStateManager`, which
remembers the last five batches of a producer and partition.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from replicator.deadline import Deadline, seconds_text
from replicator.errors import (
    TP,
    AbortTransactionError,
    FencedError,
    KafkaOpError,
    PartitionError,
    RetriableError,
    StopReason,
)
from replicator.kafka.cluster import Cluster, KafkaError
from replicator.planes import PlaneSettings
from replicator.planes.batches.partition_queue import PartitionQueue, Placed, QueuedBatch
from replicator.protocol.brokers import Brokers
from replicator.protocol.connection import Connection, NoResponseError, Request
from replicator.protocol.event_loop import EventLoop
from replicator.protocol.primitives import ProtocolError
from replicator.protocol.produce import API_KEY as PRODUCE
from replicator.protocol.produce import VERSIONS, PartitionResult, decode_produce, encode_produce, min_response_bytes
from replicator.protocol.record_format.header import RawBatch, stamp
from replicator.protocol.transaction_manager import Refusals, TransactionManager

IN_FLIGHT = 5
"""The most requests in flight per broker."""
REQUEST_BYTES = 4_194_304
REQUEST_TIMEOUT_S = 30.0
MISSING_AFTER_S = 5.0
"""How long brokers may not know a partition: they learn of a topic just created only after a while."""
PUSH_EVERY_S = 0.02
SECOND_PATIENCE_S = 1.0
"""How long a partition that was given up may hold up the others when it is tried again."""
NO_REPLICAS_HINT = "brokers that hold it are down: it has fewer in-sync replicas than min.insync.replicas"
NO_LEADER_HINT = "check the brokers that hold it"


class Producer:
    """See the module. Threading: the plane's thread.

    Args:
        source, target: for errors.
    """

    def __init__(
        self,
        loop: EventLoop,
        brokers: Brokers,
        target: Cluster,
        transaction_manager: TransactionManager,
        settings: PlaneSettings,
    ) -> None:
        self._loop = loop
        self._brokers = brokers
        self._target = target
        self._transaction_manager = transaction_manager
        self._id = settings.transactional_id
        self._patience_s = settings.partition_patience_s
        self._unavailable: set[TP] = set()
        """Target partitions that were stuck for too long, and took nothing since: no second time for as long."""
        self._queues: dict[TP, PartitionQueue] = {}
        self._busy: dict[TP, PartitionQueue] = {}
        """Queues with batches that are not acknowledged."""
        self._in_flight: dict[int, int] = {}
        self._no_earlier_than_s: dict[int, float] = {}
        self._adding: list[PartitionQueue] = []
        self._added_queues: list[PartitionQueue] = []
        self._companions: tuple[TP, ...] = ()
        self._is_stopped = False
        self.is_untouched = True
        """Nothing was appended since the last transaction ended."""
        self.failure: KafkaOpError | None = None
        self.unplaced_bytes = 0

    # --- the transaction ----------------------------------------------------------------------------------------------

    @property
    def has_begun(self) -> bool:
        """Whether the coordinator may know of the open transaction."""
        return bool(self._adding or self._added_queues)

    @property
    def is_at_rest(self) -> bool:
        """Whether no request is in flight."""
        return not self._adding and not any(self._in_flight.values())

    @property
    def may_follow(self) -> bool:
        """Whether a batch without an acknowledgement may still arrive at the target: its request got no response."""
        return any(it.is_lost and not it.is_placed for queue in self._busy.values() for it in queue.items)

    def stop(self) -> None:
        """Send nothing more of this transaction, which is about to be aborted."""
        self._is_stopped = True

    def ended(self) -> None:
        """Note that the transaction was committed: the next one begins without partitions; sequences go on."""
        for queue in self._added_queues:
            queue.is_added = False
        self._added_queues = []
        self.is_untouched = True

    def begin_again(self) -> None:
        """Forget everything, sequences too: the epoch was bumped, and no transaction is open."""
        self._queues.clear()
        self._busy.clear()
        self._adding = []
        self._added_queues = []
        self._is_stopped = False
        self.is_untouched = True
        self.failure = None
        self.unplaced_bytes = 0

    def accompany(self, partitions: Iterable[TP]) -> None:
        """Set the partitions for the replicator's own records, which each transaction adds with its first others."""
        self._companions = tuple(partitions)

    # --- batches ------------------------------------------------------------------------------------------------------

    def append(self, target: TP, source: TP | None, batch: RawBatch, on_placed: Placed | None) -> None:
        """Queue one batch; `push` sends.

        Args:
            source: the source partition of the records; None: records of the replicator.
            on_placed: called when the batch is acknowledged.
        """
        queue = self._queue(target, source)
        self.is_untouched = False
        transaction_manager = self._transaction_manager
        stamp(batch.data, transaction_manager.producer_id, transaction_manager.epoch, queue.take(batch.records))
        queue.items.append(QueuedBatch(batch, on_placed))
        self._busy[target] = queue
        self.unplaced_bytes += batch.size_bytes

    def _queue(self, target: TP, source: TP | None) -> PartitionQueue:
        queue = self._queues.get(target)
        if queue is None:
            queue = self._queues[target] = PartitionQueue(target, source)
        return queue

    def check(self) -> None:
        """Raise the transaction's error, if there is one."""
        if self.failure is not None:
            raise self.failure

    def push(self) -> None:
        """Send what can be sent now. To be called repeatedly while anything is not acknowledged."""
        if self._is_stopped or self.failure is not None or not self._busy:
            return
        self._add()
        by_node: dict[int, list[PartitionQueue]] = {}
        now_s = time.monotonic()
        self._stop_stuck(now_s)
        if self.failure is not None:
            return
        for queue in self._busy.values():
            if queue.is_sendable and queue.no_earlier_than_s <= now_s:
                leader = self._brokers.leader(queue.target.topic, queue.target.partition)
                if leader is None:
                    self._wait_for_leader(queue, now_s)
                else:
                    by_node.setdefault(leader.node, []).append(queue)
        for node, queues in by_node.items():
            self._send(node, queues, now_s)

    def _add(self) -> None:
        """Add new partitions to the transaction, with one request at a time."""
        if self._adding:
            return
        queues = [queue for queue in self._busy.values() if not queue.is_added]
        if not queues:
            return
        queues += [
            it for it in (self._queue(tp, None) for tp in self._companions) if not it.is_added and it not in queues
        ]
        self._adding = queues
        self._brokers.track_topics({queue.target.topic for queue in queues})
        self._transaction_manager.add_partitions([queue.target for queue in queues], self._added)

    def _added(self, refusals: Refusals) -> None:
        queues, self._adding = self._adding, []
        for queue in queues:
            code = refusals.get(queue.target)
            if code is None:
                queue.is_added = not refusals
                self._added_queues.append(queue)
            else:
                self._fail(code, queue, "", op=f"write to {queue.target.topic}")
        self.push()

    def _wait_for_leader(self, queue: PartitionQueue, now_s: float) -> None:
        """Wait for a leader; fail when the cluster has not known the partition for `MISSING_AFTER_S`."""
        topic = queue.target.topic
        queue.stuck(now_s)
        code = self._brokers.topic_error(topic)
        if code == KafkaError.TOPIC_AUTHORIZATION_FAILED:
            self._fail(code, queue, "", op=f"produce to {topic}")
        elif not self._brokers.lacks(*queue.target):
            queue.missing_since_s = 0.0
        elif not queue.missing_since_s:
            queue.missing_since_s = now_s
        elif now_s - queue.missing_since_s > MISSING_AFTER_S:
            has_topic = code != KafkaError.UNKNOWN_TOPIC_OR_PART
            missing = KafkaError._UNKNOWN_PARTITION if has_topic else KafkaError.UNKNOWN_TOPIC_OR_PART
            self._fail(missing, queue, "", op=f"produce to {topic}")
        self._brokers.refresh()

    # --- requests -----------------------------------------------------------------------------------------------------

    def _send(self, node: int, queues: list[PartitionQueue], now_s: float) -> None:
        connection = self._brokers.connection(node)
        if connection is None:
            for queue in queues:
                queue.stuck(now_s)
        if connection is None or self._no_earlier_than_s.get(node, 0.0) > now_s:
            return
        while queues and self._in_flight.get(node, 0) < IN_FLIGHT:
            sent: list[tuple[PartitionQueue, QueuedBatch]] = []
            size = 0
            for queue in queues:
                next_bytes = queue.items[queue.sent].batch.size_bytes
                if sent and size + next_bytes > REQUEST_BYTES:
                    break
                size += next_bytes
                sent.append((queue, queue.sends()))
            self._request(node, connection, sent)
            queues = [queue for queue in queues if queue.is_sendable]

    def _request(self, node: int, connection: Connection, sent: list[tuple[PartitionQueue, QueuedBatch]]) -> None:
        topics: dict[str, list[tuple[int, memoryview | bytearray]]] = {}
        for queue, item in sent:
            topics.setdefault(queue.target.topic, []).append((queue.target.partition, item.batch.data))
        known = self._brokers.version(node, PRODUCE)
        version = VERSIONS[0] if known is None else min(VERSIONS[1], known[1])
        self._in_flight[node] = self._in_flight.get(node, 0) + 1

        def done(answer: memoryview | NoResponseError) -> None:
            self._in_flight[node] -= 1
            self._answered(node, sent, answer)

        body = encode_produce(self._id, int(REQUEST_TIMEOUT_S * 1000), topics)
        timeout_s = REQUEST_TIMEOUT_S + 5.0
        connection.send(Request(PRODUCE, version, body, done, timeout_s, min_response_bytes=min_response_bytes(topics)))

    def _answered(
        self, node: int, sent: list[tuple[PartitionQueue, QueuedBatch]], answer: memoryview | NoResponseError
    ) -> None:
        results: dict[TP, PartitionResult] = {}
        if not isinstance(answer, NoResponseError):
            try:
                response = decode_produce(answer)
            except ProtocolError as error:
                self._close_after_invalid_response(node, error)
            else:
                results = {TP(it.topic, it.partition): it for it in response.partitions}
                if response.throttle_ms:
                    self._no_earlier_than_s[node] = time.monotonic() + response.throttle_ms / 1000
        if len(results) != len(sent):
            self._brokers.refresh()
        for queue, item in sent:
            item.is_answered = True
            item.is_lost |= isinstance(answer, NoResponseError)
            if self._queues.get(queue.target) is queue:  # else it belongs to a transaction that was aborted meanwhile
                self._settle(queue, item, results.get(queue.target))
        self.push()

    def _close_after_invalid_response(self, node: int, error: ProtocolError) -> None:
        """Treat a response that can't be decoded as none: send again, over another connection."""
        connection = self._brokers.connection(node)
        if connection is not None:
            connection.close_after_invalid_response(f"its answer to Produce can't be read: {error}")

    def _settle(self, queue: PartitionQueue, item: QueuedBatch, result: PartitionResult | None) -> None:
        if result is not None and result.error == 0:
            self._place(queue, item, result)
        elif result is None or self._is_retriable(queue, result):
            queue.back_off(time.monotonic())
        else:
            code, text = _culprit(result)
            self._fail(code, queue, text, op=f"produce to {queue.target.topic}")
        queue.resume_if_idle()

    def _place(self, queue: PartitionQueue, item: QueuedBatch, result: PartitionResult) -> None:
        queue.placed(item)
        self._unavailable.discard(queue.target)
        if not queue.items:
            self._busy.pop(queue.target, None)
        self.unplaced_bytes -= item.batch.size_bytes
        if item.on_placed is not None:
            item.on_placed(item.batch, result.base_offset)

    def _is_retriable(self, queue: PartitionQueue, result: PartitionResult) -> bool:
        """Whether to send again: the leader moved, replicas are missing, or an earlier batch of the queue failed."""
        if result.leader is not None:
            self._brokers.update_leader(*queue.target, *result.leader)
        if result.error == KafkaError.OUT_OF_ORDER_SEQUENCE_NUMBER:
            return queue.is_broken
        if result.error == KafkaError.UNKNOWN_TOPIC_OR_PART:
            now_s = time.monotonic()
            queue.missing_since_s = queue.missing_since_s or now_s
            self._brokers.refresh()
            return now_s - queue.missing_since_s <= MISSING_AFTER_S
        error = self._target.error(KafkaError(result.error), op="produce", tp=queue.source or queue.target)
        queue.problem = error.code
        if not isinstance(error, RetriableError) or result.error in _REFUSED:
            return False
        self._brokers.refresh()
        return True

    def _fail(self, code: int, queue: PartitionQueue, text: str, *, op: str) -> None:
        """Keep the transaction's first error; that of a fenced producer replaces any other."""
        topic = queue.target.topic
        cause = KafkaError(code, text) if text else KafkaError(code)
        error = self._target.error(cause, op=op, tp=queue.source, topic=topic)
        if code in _BROKEN_SEQUENCE or (queue.source is None and isinstance(error, RetriableError)):
            error = AbortTransactionError(error.message, op=op, tp=error.tp, hint=error.hint, code=error.code)
        if self.failure is None or (isinstance(error, FencedError) and not isinstance(self.failure, FencedError)):
            self.failure = error

    def _stop_stuck(self, now_s: float) -> None:
        """Give up partitions whose leader took nothing for too long, all of them at once: the others go on."""
        stuck = [queue for queue in self._busy.values() if queue.stuck_at_s]
        late = [queue for queue in stuck if now_s - queue.stuck_at_s > self._allowed_s(queue)]
        if not late or self.failure is not None:
            return
        half_s = self._patience_s / 2  # what was stuck soon after would only hold up the next transaction
        late += [queue for queue in stuck if queue not in late and now_s - queue.stuck_at_s > half_s]
        self._unavailable.update(queue.target for queue in late)
        own = [queue for queue in late if queue.source is None]
        if own:  # without the task's own records no partition can go on
            text, hint = _stuck_text(own[0], now_s)
            op = f"write to {own[0].target.topic}"
            self.failure = AbortTransactionError(text, op=op, hint=hint, code=own[0].problem)
            return
        failures = [_unavailable(queue, queue.source, now_s) for queue in late if queue.source is not None]
        failures[0].others = tuple(failures[1:])
        self.failure = failures[0]

    def _allowed_s(self, queue: PartitionQueue) -> float:
        return SECOND_PATIENCE_S if queue.target in self._unavailable else self._patience_s

    # --- waiting ------------------------------------------------------------------------------------------------------

    def run_until(self, is_done: Callable[[], bool], deadline: Deadline) -> bool:
        """Send and receive until `is_done`, an error, or the deadline; return whether it is done.

        Raises:
            KafkaOpError: the transaction's error.
        """
        while not is_done():
            self.check()
            if deadline.expired:
                return False
            self.push()
            # not longer: `push` sends queues that wait for a leader or for their backoff
            budget = Deadline(deadline.slice_s(PUSH_EVERY_S))
            self._loop.run_until(lambda: is_done() or self.failure is not None, budget)
        self.check()
        return True


_BROKEN_SEQUENCE = frozenset(
    {
        KafkaError.OUT_OF_ORDER_SEQUENCE_NUMBER,
        KafkaError.DUPLICATE_SEQUENCE_NUMBER,
        KafkaError.UNKNOWN_PRODUCER_ID,
        KafkaError.INVALID_PRODUCER_ID_MAPPING,
        KafkaError.INVALID_TXN_STATE,
    }
)
"""Repaired by an abort and the new epoch that follows it (KIP-360)."""
_REFUSED = frozenset({KafkaError.CLUSTER_AUTHORIZATION_FAILED, KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED})
"""May pass, but not soon: the task reports it and restarts."""


def _culprit(result: PartitionResult) -> tuple[int, str]:
    """Return the error code, and the broker's text about the record that it rejected."""
    words = [text for _, text in result.record_errors if text]
    text = words[0] if words else result.message or ""
    return result.error, text


def _unavailable(queue: PartitionQueue, source: TP, now_s: float) -> PartitionError:
    text, hint = _stuck_text(queue, now_s)
    reason = StopReason.TARGET_UNAVAILABLE
    op = f"produce to {queue.target.topic}"
    return PartitionError(text, op=op, tp=source, reason=reason, hint=hint, code=queue.problem)


def _stuck_text(queue: PartitionQueue, now_s: float) -> tuple[str, str]:
    """Describe a partition that acknowledges nothing, with a hint for the operator."""
    why = queue.problem or "its leader is missing or gives no answer"
    hint = NO_REPLICAS_HINT if queue.problem.startswith("NOT_ENOUGH_REPLICAS") else NO_LEADER_HINT
    return f"{queue.target} took nothing for {seconds_text(now_s - queue.stuck_at_s)}: {why}", hint
