"""A producer that writes numbered records to one topic while a test breaks things."""

from __future__ import annotations

import random
import threading
import time
import uuid
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from tests.support.eventually import eventually
from tests.support.records import NewRecord, end_offsets, enqueue

TICK_S = 0.1
TRANSACTION_TIMEOUT_S = 10
STABLE_WITHIN_S = 30
"""A broker ends what is older than the timeout, and looks for that every 10 s (`transaction.abort.timed.out.*`)."""
PATIENCE_MS = 30_000
"""What is not written by then is given up: a client that lost its brokers writes nothing any more."""
BEGIN_MS = 1_357_034_400_000
"""Records are years old, and each has a timestamp of its own: this and its number."""


class Pump:
    """Writes until `stop`: half of the records in transactions, a third of which are aborted.

    A record's value begins with its number, which rises over the whole topic. Null keys, null values, duplicate and
    null headers, and timestamps in the past occur.

    Args:
        bootstrap_servers: of the source.
        topic: must exist.
        partitions: of the topic.
        records_per_s: roughly.
        first: the number before the first record's; another pump on the same topic needs another range.
        padding: bytes in every value.
    """

    def __init__(
        self,
        bootstrap_servers: str,
        topic: str,
        partitions: int,
        records_per_s: int = 1500,
        first: int = 0,
        padding: int = 80,
    ) -> None:
        self.topic = topic
        self.errors: list[str] = []
        self.acknowledged = 0
        """Records that the source has committed, as far as the producer knows."""
        self.aborted = 0
        self._servers = bootstrap_servers
        self._partitions = partitions
        self._per_tick = max(2, int(records_per_s * TICK_S))
        self._random = random.Random(topic)
        self._number = first
        self._padding = bytes(padding)
        self._stopping = threading.Event()
        self._plain = Producer({**self._properties(), "enable.idempotence": True, "message.timeout.ms": PATIENCE_MS})
        self._ids: list[str] = []
        self._transactional = self._new_transactional()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _properties(self) -> dict[str, Any]:
        return {"bootstrap.servers": self._servers, "linger.ms": 20, "reconnect.backoff.max.ms": 500, "log_level": 0}

    def _new_transactional(self) -> Producer:
        self._ids.append(f"pump-{uuid.uuid4().hex}")
        return self._open_transactional(self._ids[-1])

    def _open_transactional(self, transactional_id: str) -> Producer:
        producer = Producer(
            {
                **self._properties(),
                "transactional.id": transactional_id,
                "transaction.timeout.ms": TRANSACTION_TIMEOUT_S * 1000,  # an unknown outcome must not hold readers back
            }
        )
        producer.init_transactions(30)
        return producer

    def start(self) -> Pump:
        self._thread.start()
        return self

    def await_more(self, records: int, within_s: float = 120.0) -> None:
        """Wait until so many records more are written."""
        enough = self._number + records
        eventually(lambda: self._number >= enough, within_s, every_s=0.01)

    def finish(self) -> None:
        """Stop writing, and wait until the last record is acknowledged or given up."""
        self._stopping.set()
        self._thread.join(60)
        assert not self._thread.is_alive(), "the pump hangs"
        left = self._plain.flush(60)
        assert left == 0, f"{left} records were neither acknowledged nor given up"

    def stop(self) -> None:
        """Stop writing, and wait until a read_committed reader finds the last record. Other pumps have to be finished.

        A commit is acknowledged before its markers are in the partitions: whoever looks at once may miss its records.
        """
        self.finish()
        try:
            eventually(self._is_stable, STABLE_WITHIN_S)
        except AssertionError as error:
            self.errors.append(f"no end within {STABLE_WITHIN_S} s: {error}")
            self._abort_what_has_no_end()
            eventually(self._is_stable, STABLE_WITHIN_S)

    def _abort_what_has_no_end(self) -> None:
        """Abort a transaction in every partition, in the name of every producer that was.

        A broker that stops or crashes may leave a partition without a transaction's marker, for ever (KAFKA-20734). The
        producer's next marker there ends both.
        """
        for transactional_id in self._ids:
            producer = self._open_transactional(transactional_id)
            producer.begin_transaction()
            for partition in range(self._partitions):
                enqueue(producer, self.topic, self._record(b"aborted")._replace(partition=partition))
            producer.flush(30)
            producer.abort_transaction(30)
            self.aborted += self._partitions

    def _is_stable(self) -> bool:
        """Whether no transaction is open."""
        stable = end_offsets(self._servers, self.topic)
        assert stable == end_offsets(self._servers, self.topic, isolation="read_uncommitted"), stable
        return True

    def abandon(self) -> None:
        """Stop without waiting for anything."""
        self._stopping.set()

    def _run(self) -> None:
        next_s = time.monotonic()
        while not self._stopping.is_set():
            self._write_plain()
            try:
                self._write_transaction()
            except KafkaException as error:
                self.errors.append(str(error))
                self._recover(error.args[0])
            next_s = max(next_s + TICK_S, time.monotonic() - 0.2)
            self._stopping.wait(max(0.0, next_s - time.monotonic()))

    def _write_plain(self) -> None:
        for _ in range(self._per_tick // 2):
            enqueue(self._plain, self.topic, self._record(b"plain"), self._delivered)
        self._plain.poll(0)

    def _write_transaction(self) -> None:
        is_to_abort = self._random.random() < 1 / 3
        self._transactional.begin_transaction()
        for _ in range(self._per_tick // 2):
            enqueue(self._transactional, self.topic, self._record(b"aborted" if is_to_abort else b"transaction"))
        if is_to_abort:
            self._transactional.flush(30)  # else librdkafka drops them from its queue, and the log has nothing aborted
            self._transactional.abort_transaction(30)
            self.aborted += self._per_tick // 2
        else:
            self._transactional.commit_transaction(30)
            self.acknowledged += self._per_tick // 2

    def _recover(self, error: KafkaError) -> None:
        """Go on after the source's broker went away: the outcome of this transaction is the source's business."""
        if error.txn_requires_abort():
            try:
                self._transactional.abort_transaction(30)
            except KafkaException as next_error:
                self.errors.append(str(next_error))
            else:
                return
        self._transactional = self._new_transactional()

    def _delivered(self, error: KafkaError | None, _: Message) -> None:
        if error is None:
            self.acknowledged += 1
        else:
            self.errors.append(error.str())

    def _record(self, mark: bytes) -> NewRecord:
        self._number += 1
        number = self._number
        value: bytes | None = b"%d %s %s" % (number, mark, self._padding)
        headers: list[tuple[str, bytes | None]] = []
        if number % 7 == 0:
            headers = [("number", b"%d" % number), ("number", None), ("empty", b"")]
        if number % 31 == 0:
            value = b"" if number % 2 else None
        key: Any = None if number % 5 == 0 else b"key-%d" % (number % 97)
        return NewRecord(value, key, self._random.randrange(self._partitions), BEGIN_MS + number, headers)
