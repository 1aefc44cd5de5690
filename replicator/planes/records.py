"""The `records` plane: every record through librdkafka's consumer and transactional producer. Works with every cluster.

Cost per record decides everything here. A *record slice* is a series of records of one partition that one `fetch`
returned. Only its first and last record get a delivery callback: when their offsets on the target differ by as much as
there are records between them, every offset in between is known. When they don't, another producer writes to the
target partition: the transaction is aborted, and from then on every record of that partition gets a callback
(`_exact`), so that each run is exact. The same holds for gaps on the source: first and last offset tell whether there
are any.

After an error that names no partition, one transaction is sent with a callback for every record, to find the culprit.

Source: librdkafka CONFIGURATION.md for the properties; `bench/` measures the costs.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from replicator.deadline import Deadline, seconds_text
from replicator.errors import TP, AbortTransactionError, FatalError, PartitionError, StopReason
from replicator.kafka.cluster import (
    Cluster,
    Consumer,
    KafkaError,
    KafkaException,
    Message,
    Producer,
    kafka_error,
    topic_partitions,
    transaction_error,
)
from replicator.offset_map.runs import Placement
from replicator.planes import Batch, Fetched, PlaneSettings
from replicator.planes.record_slice import Deliveries, RecordSlice, is_one_partition

CHUNK_RECORDS = 1000
FLUSH_SLICE_S = 0.1
FULL_QUEUE_WAIT_S = 0.005
WRITE_TIMEOUT_S = 30.0
PATIENCE_S = 1.0
"""How long nothing may be acknowledged before the target is asked whether its topics still exist."""
NOT_TAKEN_HINT = "brokers that hold it are down: it has no leader, or fewer in-sync replicas than min.insync.replicas"
LINGER_MS = 100
"""How long a batch waits to be filled while a transaction goes on; `flush` sends at once what is left.

While batches wait for one of the five requests in flight, librdkafka's thread looks for work without a pause. Sent
after 5 ms, half-filled batches kept it there for half of all the CPU time used.
"""
FETCH_SHARE = 4
"""A fetch is decompressed and taken apart as a whole, whatever the queue's limit: its part of the queue's memory.

2 MiB of 100-byte records in lz4 batches become 40,000 records, 20 MiB in memory.
"""
RECORD_OVERHEAD_BYTES = 512
"""What librdkafka keeps in memory for a record besides its bytes, roughly; decides how many records may be queued."""

LARGEST_BATCH_BYTES = 1_000_000
"""A little below Kafka's default of `max.message.bytes`: librdkafka counts without some bytes of the framing."""

_EOF = KafkaError._PARTITION_EOF
_KEY, _VALUE, _TIMESTAMP, _HEADERS = Message.key, Message.value, Message.timestamp, Message.headers


class RecordsPlane:
    """See `replicator.planes.Plane`.

    Args:
        source, target: the clusters.
        settings: of the task.
        on_zero_timestamp: called with the partition and the number of records whose timestamp 0 became 1: librdkafka
            writes *now* for 0.
    """

    def __init__(
        self, source: Cluster, target: Cluster, settings: PlaneSettings, on_zero_timestamp: Callable[[TP, int], None]
    ) -> None:
        self._source = source
        self._target = target
        self._consumer: Consumer = source.consumer(consumer_properties(settings))
        self._producer: Producer = target.producer(producer_properties(settings))
        self._on_zero_timestamp = on_zero_timestamp
        self._deliveries = Deliveries()
        self._slices: list[RecordSlice] = []
        self._exact: set[TP] = set()
        self._trace_all = False
        self._partition_patience_s = settings.partition_patience_s

    def open(self, deadline: Deadline) -> None:
        # once connected, the coordinator is found at once; otherwise often only at librdkafka's next look, after 500 ms
        with contextlib.suppress(KafkaException):  # no answer: the next call says so, with the reason
            self._producer.cluster_id(deadline.slice_s(5.0))
        while True:
            try:
                self._producer.init_transactions(max(0.1, deadline.slice_s(5.0)))
            except (KafkaException, SystemError) as cause:
                with contextlib.suppress(KafkaException, SystemError):  # a fatal error is raised by every call
                    self._producer.poll(0)
                error = self._target.error(cause, op="initialise transactions")
                if isinstance(error, FatalError) or deadline.expired:
                    raise error from cause
            else:
                return

    def assign(self, positions: Mapping[TP, int]) -> None:
        self._consumer.assign(topic_partitions(positions.items()))

    def add(self, positions: Mapping[TP, int]) -> None:
        self._consumer.incremental_assign(topic_partitions(positions.items()))

    def remove(self, tps: Iterable[TP]) -> None:
        self._consumer.incremental_unassign(topic_partitions((tp, 0) for tp in tps))

    def fetch(self, wait_s: float) -> Fetched:
        try:
            messages = self._consumer.consume(CHUNK_RECORDS, 0)
            if not messages and wait_s > 0:
                messages = self._consumer.consume(1, wait_s)
                if messages:
                    messages += self._consumer.consume(CHUNK_RECORDS - 1, 0)
        except (KafkaException, SystemError) as cause:
            raise self._source.error(cause, op="fetch") from cause
        return self._split(messages)

    def _split(self, messages: list[Message]) -> Fetched:
        fetched = Fetched(more=len(messages) == CHUNK_RECORDS)
        if messages and is_one_partition(messages):
            tp = TP(messages[0].topic(), messages[0].partition())  # type: ignore[arg-type]
            fetched.batches.append(RecordSlice(tp, messages))
            return fetched
        start = 0
        topic: str | None = None
        partition: int | None = None
        for index, message in enumerate(messages):
            error = message.error()
            if error is None and message.partition() == partition and message.topic() == topic:
                continue
            if start < index:
                fetched.batches.append(RecordSlice(TP(topic, partition), messages[start:index]))  # type: ignore[arg-type]
            start = index
            if error is None:
                topic, partition = message.topic(), message.partition()
            else:
                self._event(error, message, fetched)
                start = index + 1
                topic = partition = None
        if start < len(messages):
            fetched.batches.append(RecordSlice(TP(topic, partition), messages[start:]))  # type: ignore[arg-type]
        return fetched

    def _event(self, error: KafkaError, message: Message, fetched: Fetched) -> None:
        """Handle an error in the record stream: the end of a partition, or an error of one partition."""
        topic, partition, offset = message.topic(), message.partition(), message.offset()
        tp = TP(topic, partition) if topic is not None and partition is not None and partition >= 0 else None
        if error.code() == _EOF:
            if tp is not None and offset is not None and offset >= 0:
                fetched.passed[tp] = offset
            return
        failure = self._source.error(error, op="fetch", tp=tp, topic=topic or "")
        if isinstance(failure, PartitionError):
            fetched.failed.append(failure)
        elif isinstance(failure, FatalError):
            raise failure

    def begin(self) -> None:
        self._deliveries = Deliveries()
        self._slices = []
        try:
            self._producer.begin_transaction()
        except (KafkaException, SystemError) as cause:
            raise self._target.error(cause, op="begin transaction") from cause

    def append(self, batch: Batch, target_topic: str, deadline: Deadline) -> None:
        assert isinstance(batch, RecordSlice)
        callback = self._deliveries.callback(batch)
        messages = batch.messages
        batch.target_topic = target_topic
        is_exact = self._trace_all or batch.tp in self._exact
        self._slices.append(batch)
        batch.release_records(is_exact=is_exact)
        if is_exact:
            self._produce(messages, target_topic, batch.tp, callback, deadline)
            return
        self._produce(messages[:1], target_topic, batch.tp, callback, deadline)
        if len(messages) > 1:
            self._produce(messages[1:-1], target_topic, batch.tp, None, deadline)
            self._produce(messages[-1:], target_topic, batch.tp, callback, deadline)

    def _produce(
        self, messages: list[Message], topic: str, tp: TP, callback: Callable[..., None] | None, deadline: Deadline
    ) -> None:
        lost: KafkaException | SystemError | None = None
        zeros = 0
        try:
            zeros = self._enqueue(messages, topic, tp.partition, callback, deadline)
        except (KafkaException, SystemError) as cause:
            lost = cause
        if lost is not None:
            raise self._append_error(lost, tp, topic) from lost
        if zeros:
            self._on_zero_timestamp(tp, zeros)

    def _enqueue(
        self,
        messages: list[Message],
        topic: str,
        partition: int,
        callback: Callable[..., None] | None,
        deadline: Deadline,
    ) -> int:
        """Hand the records to librdkafka; return how many had a timestamp of 0."""
        produce: Any = self._producer.produce
        zeros = 0
        is_fresh = False
        rows = zip(
            map(_VALUE, messages), map(_KEY, messages), map(_TIMESTAMP, messages), map(_HEADERS, messages), strict=True
        )
        for value, key, (_, timestamp_ms), headers in rows:
            if timestamp_ms == 0:
                timestamp_ms = 1  # noqa: PLW2901
                zeros += 1
            while True:
                failure: KafkaException | None = None
                try:
                    # by position, it is faster; the sixth is an alias of the fifth, and has to be None
                    if headers:
                        produce(topic, value, key, partition, callback, None, timestamp_ms, headers)
                    else:
                        produce(topic, value, key, partition, callback, None, timestamp_ms)
                    break
                except BufferError:
                    pass
                except KafkaException as cause:
                    failure = cause
                # outside of the handlers: an exception that a client's call raises there would keep this frame
                if failure is None:
                    self._make_room(deadline)
                elif is_fresh or not self._is_new_partition(failure):
                    raise failure
                else:
                    is_fresh = True
                    self._look_for({topic})
        return zeros

    def _is_new_partition(self, cause: KafkaException) -> bool:
        """Whether the producer does not know the partition, which may have been added since it asked last."""
        error = kafka_error(cause)
        is_unknown = error is not None and error.code() == KafkaError._UNKNOWN_PARTITION
        return is_unknown and transaction_error(self._producer) is None

    def _append_error(self, cause: BaseException, tp: TP, topic: str) -> Exception:
        """Return why a record can't be appended: an earlier error of this transaction comes first."""
        earlier = transaction_error(self._producer)
        if earlier is None:
            return self._target.error(cause, op=f"append to {topic}", tp=tp, topic=topic)
        return self._refusal() or self._lost(earlier, "append")

    def _make_room(self, deadline: Deadline) -> None:
        """Wait a little for room in the queue; an aborted transaction shows at the next `produce`."""
        self._serve(FULL_QUEUE_WAIT_S)
        refusal = self._refusal()
        if refusal is not None:
            raise refusal
        if deadline.expired:
            raise AbortTransactionError(
                f"the target acknowledged nothing for {deadline.seconds:g} s",
                op="append",
                hint=self._target.recent_error(),
            )

    def flush(self, deadline: Deadline) -> dict[TP, list[Placement]]:
        waiting, patience = -1, Deadline(PATIENCE_S)
        stuck = Deadline(self._partition_patience_s)
        while True:
            try:
                left = self._producer.flush(max(0.001, deadline.slice_s(FLUSH_SLICE_S)))
            except (KafkaException, SystemError) as cause:
                raise self._lost(cause, "flush") from cause
            if left == 0 and self._deliveries.refused is None:
                break
            refusal = self._refusal()
            if refusal is not None:
                raise refusal
            if deadline.expired:
                text = f"{left} records not acknowledged within {deadline.seconds:g} s"
                raise AbortTransactionError(text, op="flush", hint=self._target.recent_error())
            if left != waiting:
                waiting, patience = left, Deadline(PATIENCE_S)
                stuck = Deadline(self._partition_patience_s)
            elif stuck.expired and (unavailable := self._unavailable(stuck.seconds)):
                raise unavailable
            elif patience.expired:
                self._check("flush")
                self._look_for(
                    {record_slice.target_topic for record_slice in self._slices if not record_slice.is_acknowledged}
                )
                patience = Deadline(PATIENCE_S)
        if not all(record_slice.is_acknowledged for record_slice in self._slices):
            self._check("flush")  # records that may not be sent are dropped: an empty queue alone proves nothing
            raise AbortTransactionError("records were dropped from the queue", op="flush")
        return self._placements()

    def _unavailable(self, seconds: float) -> PartitionError | None:
        """The partitions that take nothing, where others do, or where no broker is out of reach; None: can't tell."""
        left = {it.tp: it.target_topic for it in self._slices if not it.is_acknowledged}
        is_all = all(it.tp in left for it in self._slices)
        if not left or (is_all and self._target.recent_error(seconds)):
            return None
        failures = [
            PartitionError(
                f"{TP(topic, tp.partition)} took nothing for {seconds_text(seconds)}", op=f"produce to {topic}", tp=tp,
                reason=StopReason.TARGET_UNAVAILABLE, hint=NOT_TAKEN_HINT,
            )
            for tp, topic in left.items()
        ]  # fmt: skip
        failures[0].others = tuple(failures[1:])
        return failures[0]

    def _look_for(self, topics: Iterable[str]) -> None:
        """Ask the target for topics now, so that librdkafka learns of new partitions, and fails a lost topic's records.

        By itself it asks too late: it waits for the transaction's coordinator, which knows no such topic.
        """
        patience = Deadline(PATIENCE_S)
        for topic in topics:
            if patience.expired:
                return
            with contextlib.suppress(KafkaException):  # no response: `flush` has a deadline
                self._producer.list_topics(topic, timeout=max(0.1, patience.left_s()))

    def _check(self, op: str) -> None:
        """Raise what has gone wrong in the open transaction, if anything has."""
        refusal = self._refusal()
        if refusal is not None:
            raise refusal
        earlier = transaction_error(self._producer)
        if earlier is not None:
            raise self._lost(earlier, op)

    def _refusal(self) -> Exception | None:
        if self._deliveries.refused is None:
            return None
        tp, error, topic = self._deliveries.refused
        return self._target.error(error, op=f"produce to {topic}", tp=tp, topic=topic)

    def _lost(self, cause: BaseException, op: str) -> Exception:
        """The transaction's error; the next one is traced record by record if this one names no partition."""
        error = self._target.error(cause, op=op)
        self._trace_all = isinstance(error, AbortTransactionError)
        return error

    def _serve(self, wait_s: float) -> None:
        try:
            self._producer.poll(wait_s)
        except (KafkaException, SystemError) as cause:
            raise self._lost(cause, "poll") from cause

    def _placements(self) -> dict[TP, list[Placement]]:
        placements: dict[TP, list[Placement]] = {}
        shared: list[TP] = []
        for record_slice in self._slices:
            places = record_slice.placements()
            if places is None:
                shared.append(record_slice.tp)
            else:
                placements.setdefault(record_slice.tp, []).extend(places)
        self._slices = []
        if shared:
            self._exact.update(shared)
            raise AbortTransactionError(
                f"another producer writes to the target of {shared[0]}: its records lie between the replicator's",
                op="flush",
                tp=shared[0],
                hint="the transaction is repeated with every record's place noted; that costs some CPU from now on",
                code="INTERLEAVED",
            )
        return placements

    def write(self, topic: str, partition: int, key: bytes, value: bytes | None) -> None:
        deadline = Deadline(WRITE_TIMEOUT_S)
        while True:
            try:
                self._producer.produce(topic, value, key, partition)
            except BufferError:  # a task may have more partitions, hence syncs, than the queue holds
                self._make_room(deadline)
            except (KafkaException, SystemError) as cause:
                raise self._lost(cause, f"write to {topic}") from cause
            else:
                return

    def commit(self, deadline: Deadline) -> None:
        while True:
            try:
                self._producer.commit_transaction(max(0.1, deadline.slice_s(5.0)))
            except (KafkaException, SystemError) as cause:
                error = self._target.error(cause, op="commit transaction")
                if isinstance(error, AbortTransactionError | FatalError):
                    self._trace_all = isinstance(error, AbortTransactionError)
                    raise error from cause
                if deadline.expired:
                    text = f"no answer within {deadline.seconds:g} s; the next owner finds out whether it was committed"
                    raise FatalError(text, op="commit transaction", hint=self._target.recent_error()) from cause
            else:
                self._trace_all = False
                return

    def abort(self, deadline: Deadline) -> None:
        self._slices = []
        while True:
            try:
                self._producer.abort_transaction(max(0.1, deadline.slice_s(5.0)))
            except (KafkaException, SystemError) as cause:
                error = self._target.error(cause, op="abort transaction")
                if isinstance(error, FatalError) or deadline.expired:
                    raise error from cause
            else:
                return

    def source_ends(self, tps: Iterable[TP]) -> dict[TP, int]:
        ends: dict[TP, int] = {}
        for partition in topic_partitions((tp, 0) for tp in tps):
            marks = self._consumer.get_watermark_offsets(partition, cached=True)
            if marks is not None and marks[1] >= 0:
                ends[TP(partition.topic, partition.partition)] = marks[1]
        return ends

    def close(self) -> None:
        with contextlib.suppress(KafkaException, SystemError):
            self._consumer.close()
        # not Producer.close(): that aborts and flushes first, for as long as the target gives no answer
        producer: Producer | None = self.__dict__.pop("_producer", None)
        if producer is not None:
            producer.purge()


def consumer_properties(settings: PlaneSettings) -> dict[str, Any]:
    """The fetcher's: an eighth of the task's memory for the queue; one fetch, taken apart, takes as much."""
    share = settings.buffer_bytes // 8
    return {
        "auto.offset.reset": "error",
        "enable.partition.eof": True,
        "check.crcs": True,
        "fetch.queue.backoff.ms": 5,
        "fetch.wait.max.ms": 100,
        "fetch.max.bytes": max(1_048_576, share // FETCH_SHARE),
        "fetch.message.max.bytes": 1_048_576,
        "message.max.bytes": 1_000_000,
        "queued.min.messages": max(1000, share // RECORD_OVERHEAD_BYTES),
        "queued.max.messages.kbytes": max(1024, share // 1024),
        "receive.message.max.bytes": 1_000_000_000,
        "partition.assignment.strategy": "cooperative-sticky",
    }


def producer_properties(settings: PlaneSettings) -> dict[str, Any]:
    """The producer's: a quarter of the task's memory for the queue; its batches in flight take as much."""
    share = settings.buffer_bytes // 4
    return {
        "transactional.id": settings.transactional_id,
        "transaction.timeout.ms": int(settings.transaction_timeout_s * 1000),
        "compression.type": settings.compression,
        "linger.ms": LINGER_MS,
        "batch.size": min(settings.batch_bytes, LARGEST_BATCH_BYTES),
        "batch.num.messages": 100_000,
        "message.max.bytes": 1_000_000_000,
        "topic.metadata.propagation.max.ms": 10_000,
        "queue.buffering.max.messages": max(10_000, share // RECORD_OVERHEAD_BYTES),
        "queue.buffering.max.kbytes": max(4096, share // 1024),
    }
