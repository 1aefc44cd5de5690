"""Small transactions under ids that fence: the records of a command.

Tasks do theirs through their plane (`planes`), with the records that they copy; those of group offsets are in `groups`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

from replicator.deadline import Deadline
from replicator.errors import TP, AbortTransactionError, FatalError, RetriableError
from replicator.kafka.cluster import (
    Cluster,
    KafkaError,
    KafkaException,
    Message,
    Producer,
    transaction_error,
)

SLICE_S = 1.0
TIMEOUT_MS = 15_000
"""How long a transaction of a killed process may hold back readers, unless its id is opened again earlier."""


class FencingWriter:
    """Writes under one transactional id. Whatever fails is its end: `close` it, and make another one.

    Args:
        transactional_id: whose every earlier producer `open` fences.

    Threading: one thread.
    """

    def __init__(self, cluster: Cluster, transactional_id: str) -> None:
        self._cluster = cluster
        self._producer: Producer = cluster.producer(
            {"transactional.id": transactional_id, "transaction.timeout.ms": TIMEOUT_MS, "linger.ms": 0}
        )

    def open(self, deadline: Deadline) -> None:
        """Fence every earlier producer of the id, and end its open transaction.

        Raises:
            RetriableError: no answer within `deadline`, or a right is missing.
            FatalError: refused.
        """
        with contextlib.suppress(KafkaException):  # connected, it finds the coordinator at once
            self._producer.cluster_id(deadline.slice_s(SLICE_S))
        while True:
            try:
                self._producer.init_transactions(max(0.1, deadline.slice_s(SLICE_S)))
            except (KafkaException, SystemError) as cause:
                error = self._cluster.error(cause, op="initialise transactions")
                if isinstance(error, FatalError) or error.code.endswith("AUTHORIZATION_FAILED"):
                    raise error from cause
                if deadline.expired:
                    raise self._silence("initialise transactions", deadline) from cause
            else:
                return

    def write(self, tp: TP, records: Sequence[tuple[bytes, bytes | None]], deadline: Deadline) -> int:
        """One transaction of some records (key, value) of one partition; the last one's offset, once it is committed.

        Raises:
            FencedError: somebody else opened the id; nothing was written, unless the commit was on its way.
            AbortTransactionError, RetriableError: nothing was written.
            FatalError: not written, or not known to be.
        """
        op = f"write to {tp.topic}"
        results: list[int] = []
        refused: list[KafkaError] = []

        def delivered(error: KafkaError | None, message: Message) -> None:
            if error is None:
                results.append(message.offset() or 0)
            else:
                refused.append(error)

        try:
            self._producer.begin_transaction()
            for key, value in records:
                while True:
                    try:
                        self._producer.produce(tp.topic, value, key, tp.partition, on_delivery=delivered)
                        break
                    except BufferError:
                        self._flush(op, tp.topic, deadline)
            self._flush(op, tp.topic, deadline)
        except (KafkaException, SystemError) as cause:
            raise self._cluster.error(cause, op=op, right="WRITE", topic=tp.topic) from cause
        if refused:
            why = transaction_error(self._producer) or refused[0]
            raise self._cluster.error(why, op=op, right="WRITE", topic=tp.topic)
        if len(results) < len(records):
            raise AbortTransactionError("records were dropped from the queue", op=op)
        self.commit(deadline)
        return max(results)

    def _flush(self, op: str, topic: str, deadline: Deadline) -> None:
        while self._producer.flush(max(0.01, deadline.slice_s(SLICE_S))):
            lost = transaction_error(self._producer)  # a transaction that is lost keeps its records in the queue
            if lost is not None:
                raise self._cluster.error(lost, op=op, right="WRITE", topic=topic)
            if deadline.expired:
                raise self._silence(op, deadline)

    def commit(self, deadline: Deadline) -> None:
        """Commit the transaction.

        Raises:
            FencedError, AbortTransactionError: it is not committed.
            FatalError: not committed, or not known to be.
        """
        op = "commit transaction"
        while True:
            try:
                self._producer.commit_transaction(max(0.1, deadline.slice_s(SLICE_S)))
            except (KafkaException, SystemError) as cause:
                error = self._cluster.error(cause, op=op)
                if isinstance(error, AbortTransactionError | FatalError):
                    raise error from cause
                if deadline.expired:
                    text = f"no answer within {deadline.seconds:g} s; it may be committed or not"
                    raise FatalError(text, op=op, hint=self._cluster.recent_error()) from cause
            else:
                return

    def _silence(self, op: str, deadline: Deadline) -> RetriableError:
        text = f"no answer from {self._cluster.alias} within {deadline.seconds:g} s"
        return RetriableError(text, op=op, hint=self._cluster.recent_error())

    def close(self) -> None:
        """Let go at once, whatever the cluster does; an open transaction is left to the next `open`."""
        # not Producer.close(): that aborts and flushes first, for as long as the cluster gives no answer
        producer: Producer | None = self.__dict__.pop("_producer", None)
        if producer is not None:
            producer.purge()
