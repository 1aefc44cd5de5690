"""Sends batches into the open transaction: to the leaders of their partitions, in order, each exactly once.

Every batch gets its sequence numbers when it is appended, and keeps them however often it is sent. A *lane* is one
partition of the target. When a request fails in a way that may pass, its lanes wait until everything of theirs that is
on its way was answered, and send again from the oldest batch that is not acknowledged; the broker tells a repeated
batch by its sequence, and answers with the place of the first one.

    queued ──send──> unanswered ──answer──> placed
       ^                 │
       └── a leader moved, a connection was lost: all of the lane, in order

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
"""Requests that a broker has unanswered."""
REQUEST_BYTES = 4_194_304
REQUEST_TIMEOUT_S = 30.0
GONE_AFTER_S = 5.0
"""How long a partition may be unknown to the brokers that should lead it: that of a topic just created is."""
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
        self._lanes: dict[TP, PartitionQueue] = {}
        self._busy: dict[TP, PartitionQueue] = {}
        """Lanes with batches that are not placed."""
        self._in_flight: dict[int, int] = {}
        self._not_before_s: dict[int, float] = {}
        self._adding: list[PartitionQueue] = []
        self._added_lanes: list[PartitionQueue] = []
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
        return bool(self._adding or self._added_lanes)

    @property
    def is_at_rest(self) -> bool:
        """Nothing is on its way."""
        return not self._adding and not any(self._in_flight.values())

    @property
    def may_follow(self) -> bool:
        """Whether a batch that is not in the target's log may still arrive there: the request got no answer."""
        return any(it.is_lost and not it.is_placed for lane in self._busy.values() for it in lane.items)

    def stop(self) -> None:
        """Send nothing more of this transaction: it is about to be aborted."""
        self._is_stopped = True

    def ended(self) -> None:
        """The transaction was committed: the next one begins without partitions; sequences go on."""
        for lane in self._added_lanes:
            lane.is_added = False
        self._added_lanes = []
        self.is_untouched = True

    def begin_again(self) -> None:
        """A new epoch was taken, and no transaction is open: forget everything, sequences too."""
        self._lanes.clear()
        self._busy.clear()
        self._adding = []
        self._added_lanes = []
        self._is_stopped = False
        self.is_untouched = True
        self.failure = None
        self.unplaced_bytes = 0

    def accompany(self, partitions: Iterable[TP]) -> None:
        """Partitions for our own records that every transaction will write to: added with the first others of it."""
        self._companions = tuple(partitions)

    # --- batches ------------------------------------------------------------------------------------------------------

    def append(self, target: TP, source: TP | None, batch: RawBatch, on_placed: Placed | None) -> None:
        """Queue one batch; `push` sends.

        Args:
            source: whose records these are; None: our own.
            on_placed: called when it is acknowledged.
        """
        lane = self._lane(target, source)
        self.is_untouched = False
        transaction_manager = self._transaction_manager
        stamp(batch.data, transaction_manager.producer_id, transaction_manager.epoch, lane.take(batch.records))
        lane.items.append(QueuedBatch(batch, on_placed))
        self._busy[target] = lane
        self.unplaced_bytes += batch.size_bytes

    def _lane(self, target: TP, source: TP | None) -> PartitionQueue:
        lane = self._lanes.get(target)
        if lane is None:
            lane = self._lanes[target] = PartitionQueue(target, source)
        return lane

    def check(self) -> None:
        """Raise what has gone wrong in the transaction, if anything has."""
        if self.failure is not None:
            raise self.failure

    def push(self) -> None:
        """Send what can be sent now. Called again and again while anything is not placed."""
        if self._is_stopped or self.failure is not None or not self._busy:
            return
        self._add()
        by_node: dict[int, list[PartitionQueue]] = {}
        now_s = time.monotonic()
        self._stop_stuck(now_s)
        if self.failure is not None:
            return
        for lane in self._busy.values():
            if lane.is_sendable and lane.not_before_s <= now_s:
                leader = self._brokers.leader(lane.target.topic, lane.target.partition)
                if leader is None:
                    self._has_no_leader(lane, now_s)
                else:
                    by_node.setdefault(leader.node, []).append(lane)
        for node, lanes in by_node.items():
            self._send(node, lanes, now_s)

    def _add(self) -> None:
        """Take new partitions into the transaction: one question at a time."""
        if self._adding:
            return
        lanes = [lane for lane in self._busy.values() if not lane.is_added]
        if not lanes:
            return
        lanes += [it for it in (self._lane(tp, None) for tp in self._companions) if not it.is_added and it not in lanes]
        self._adding = lanes
        self._brokers.track_topics({lane.target.topic for lane in lanes})
        self._transaction_manager.add_partitions([lane.target for lane in lanes], self._added)

    def _added(self, refusals: Refusals) -> None:
        lanes, self._adding = self._adding, []
        for lane in lanes:
            code = refusals.get(lane.target)
            if code is None:
                lane.is_added = not refusals
                self._added_lanes.append(lane)
            else:
                self._fail(code, lane, "", op=f"write to {lane.target.topic}")
        self.push()

    def _has_no_leader(self, lane: PartitionQueue, now_s: float) -> None:
        """Wait for it; give up when the cluster says that there is no such partition, for a while."""
        topic = lane.target.topic
        lane.stuck(now_s)
        code = self._brokers.topic_error(topic)
        if code == KafkaError.TOPIC_AUTHORIZATION_FAILED:
            self._fail(code, lane, "", op=f"produce to {topic}")
        elif not self._brokers.lacks(*lane.target):
            lane.gone_at_s = 0.0
        elif not lane.gone_at_s:
            lane.gone_at_s = now_s
        elif now_s - lane.gone_at_s > GONE_AFTER_S:
            has_topic = code != KafkaError.UNKNOWN_TOPIC_OR_PART
            gone = KafkaError._UNKNOWN_PARTITION if has_topic else KafkaError.UNKNOWN_TOPIC_OR_PART
            self._fail(gone, lane, "", op=f"produce to {topic}")
        self._brokers.refresh()

    # --- requests -----------------------------------------------------------------------------------------------------

    def _send(self, node: int, lanes: list[PartitionQueue], now_s: float) -> None:
        connection = self._brokers.connection(node)
        if connection is None:
            for lane in lanes:
                lane.stuck(now_s)
        if connection is None or self._not_before_s.get(node, 0.0) > now_s:
            return
        while lanes and self._in_flight.get(node, 0) < IN_FLIGHT:
            sent: list[tuple[PartitionQueue, QueuedBatch]] = []
            size = 0
            for lane in lanes:
                next_bytes = lane.items[lane.sent].batch.size_bytes
                if sent and size + next_bytes > REQUEST_BYTES:
                    break
                size += next_bytes
                sent.append((lane, lane.sends()))
            self._request(node, connection, sent)
            lanes = [lane for lane in lanes if lane.is_sendable]

    def _request(self, node: int, connection: Connection, sent: list[tuple[PartitionQueue, QueuedBatch]]) -> None:
        topics: dict[str, list[tuple[int, memoryview | bytearray]]] = {}
        for lane, item in sent:
            topics.setdefault(lane.target.topic, []).append((lane.target.partition, item.batch.data))
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
                self._brokers_answer_is_bad(node, error)
            else:
                results = {TP(it.topic, it.partition): it for it in response.partitions}
                if response.throttle_ms:
                    self._not_before_s[node] = time.monotonic() + response.throttle_ms / 1000
        if len(results) != len(sent):
            self._brokers.refresh()
        for lane, item in sent:
            item.is_answered = True
            item.is_lost |= isinstance(answer, NoResponseError)
            if self._lanes.get(lane.target) is lane:  # else it is of a transaction that was aborted meanwhile
                self._settle(lane, item, results.get(lane.target))
        self.push()

    def _brokers_answer_is_bad(self, node: int, error: ProtocolError) -> None:
        """An answer that can't be understood is as good as none: asked again, over another connection."""
        connection = self._brokers.connection(node)
        if connection is not None:
            connection.close_after_invalid_response(f"its answer to Produce can't be read: {error}")

    def _settle(self, lane: PartitionQueue, item: QueuedBatch, result: PartitionResult | None) -> None:
        if result is not None and result.error == 0:
            self._place(lane, item, result)
        elif result is None or self._may_pass(lane, result):
            lane.rest(time.monotonic())
        else:
            code, text = _culprit(result)
            self._fail(code, lane, text, op=f"produce to {lane.target.topic}")
        lane.mend()

    def _place(self, lane: PartitionQueue, item: QueuedBatch, result: PartitionResult) -> None:
        lane.placed(item)
        self._unavailable.discard(lane.target)
        if not lane.items:
            self._busy.pop(lane.target, None)
        self.unplaced_bytes -= item.batch.size_bytes
        if item.on_placed is not None:
            item.on_placed(item.batch, result.base_offset)

    def _may_pass(self, lane: PartitionQueue, result: PartitionResult) -> bool:
        """Whether to send again: the leader moved, replicas are missing, or an earlier batch of the lane failed so."""
        if result.leader is not None:
            self._brokers.update_leader(*lane.target, *result.leader)
        if result.error == KafkaError.OUT_OF_ORDER_SEQUENCE_NUMBER:
            return lane.is_broken
        if result.error == KafkaError.UNKNOWN_TOPIC_OR_PART:
            now_s = time.monotonic()
            lane.gone_at_s = lane.gone_at_s or now_s
            self._brokers.refresh()
            return now_s - lane.gone_at_s <= GONE_AFTER_S
        error = self._target.error(KafkaError(result.error), op="produce", tp=lane.source or lane.target)
        lane.problem = error.code
        if not isinstance(error, RetriableError) or result.error in _REFUSED:
            return False
        self._brokers.refresh()
        return True

    def _fail(self, code: int, lane: PartitionQueue, text: str, *, op: str) -> None:
        """Note the transaction's first error; one of a fenced producer counts for more than any other."""
        topic = lane.target.topic
        cause = KafkaError(code, text) if text else KafkaError(code)
        error = self._target.error(cause, op=op, tp=lane.source, topic=topic)
        if code in _BROKEN_SEQUENCE or (lane.source is None and isinstance(error, RetriableError)):
            error = AbortTransactionError(error.message, op=op, tp=error.tp, hint=error.hint, code=error.code)
        if self.failure is None or (isinstance(error, FencedError) and not isinstance(self.failure, FencedError)):
            self.failure = error

    def _stop_stuck(self, now_s: float) -> None:
        """Give up partitions whose leader took nothing for too long, all of them at once: the others go on."""
        stuck = [lane for lane in self._busy.values() if lane.stuck_at_s]
        late = [lane for lane in stuck if now_s - lane.stuck_at_s > self._allowed_s(lane)]
        if not late or self.failure is not None:
            return
        half_s = self._patience_s / 2  # what was stuck soon after would only hold up the next transaction
        late += [lane for lane in stuck if lane not in late and now_s - lane.stuck_at_s > half_s]
        self._unavailable.update(lane.target for lane in late)
        own = [lane for lane in late if lane.source is None]
        if own:  # without the task's own records no partition can go on
            text, hint = _stuck_text(own[0], now_s)
            op = f"write to {own[0].target.topic}"
            self.failure = AbortTransactionError(text, op=op, hint=hint, code=own[0].problem)
            return
        failures = [_unavailable(lane, lane.source, now_s) for lane in late if lane.source is not None]
        failures[0].others = tuple(failures[1:])
        self.failure = failures[0]

    def _allowed_s(self, lane: PartitionQueue) -> float:
        return SECOND_PATIENCE_S if lane.target in self._unavailable else self._patience_s

    # --- waiting ------------------------------------------------------------------------------------------------------

    def run_until(self, is_done: Callable[[], bool], deadline: Deadline) -> bool:
        """Send and receive until `is_done`, an error, or the deadline; whether it is done.

        Raises:
            KafkaOpError: the transaction's error.
        """
        while not is_done():
            self.check()
            if deadline.expired:
                return False
            self.push()
            # not longer: lanes that wait for a leader, or for their turn, are sent by `push`
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
"""Mended by aborting, and the new epoch that comes with it (KIP-360)."""
_REFUSED = frozenset({KafkaError.CLUSTER_AUTHORIZATION_FAILED, KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED})
"""May pass, but not soon: the task says so and begins again."""


def _culprit(result: PartitionResult) -> tuple[int, str]:
    """The error's code, and the broker's words about the record that it refused."""
    words = [text for _, text in result.record_errors if text]
    text = words[0] if words else result.message or ""
    return result.error, text


def _unavailable(lane: PartitionQueue, source: TP, now_s: float) -> PartitionError:
    text, hint = _stuck_text(lane, now_s)
    reason = StopReason.TARGET_UNAVAILABLE
    op = f"produce to {lane.target.topic}"
    return PartitionError(text, op=op, tp=source, reason=reason, hint=hint, code=lane.problem)


def _stuck_text(lane: PartitionQueue, now_s: float) -> tuple[str, str]:
    """What is known of a partition that takes nothing, and what an operator can do."""
    why = lane.problem or "its leader is missing or gives no answer"
    hint = NO_REPLICAS_HINT if lane.problem.startswith("NOT_ENOUGH_REPLICAS") else NO_LEADER_HINT
    return f"{lane.target} took nothing for {seconds_text(now_s - lane.stuck_at_s)}: {why}", hint
