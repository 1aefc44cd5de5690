"""A consumer group of several members, wherever it works, and the account of every record that it processed.

The members commit the offsets of the records that they really processed, at once when a partition is taken from them,
and before they leave. Records are polled one by one, so that a rebalance falls between two of them. What they process
twice or never is then due to the move.
"""

from __future__ import annotations

import math
import threading
import time

from replicator.deadline import Deadline
from replicator.demo.flights import DemoError, number_of
from replicator.demo.summary import Account
from replicator.demo.traffic import Part
from replicator.errors import TP, RetriableError
from replicator.groups.refusals import is_refusal_of_members
from replicator.kafka.cluster import Cluster, Consumer, KafkaException, Message, TopicPartition, leave_group

MEMBERS = 3
COMMIT_EVERY_S = 0.2
WAIT_S = 0.05
LEAVE_TIMEOUT_S = 30.0
CLOSE_TIMEOUT_S = 5.0
REVOKE_TIMEOUT_S = 5.0
"""What a member may take to commit when partitions are taken from it."""


class Journal:
    """How often each record was processed, by whichever member, on whichever cluster.

    Args:
        records: how many there will be.

    Threading: safe.
    """

    def __init__(self, records: int) -> None:
        self.processed = 0
        """Different records so far."""
        self._times = [0] * records
        self._first = [""] * records
        """Who processed each record first, and where."""
        self._again: dict[int, list[str]] = {}
        self._unknown = 0
        self._lock = threading.Lock()

    def note(self, number: int | None, by: str = "") -> None:
        """A record was processed; None for one that is not of the demo.

        Args:
            by: which member, on which cluster; for the examples.
        """
        with self._lock:
            if number is None or number >= len(self._times):
                self._unknown += 1
                return
            self._times[number] += 1
            if self._times[number] == 1:
                self.processed += 1
                self._first[number] = by
            else:
                self._again.setdefault(number, [self._first[number]]).append(by)

    def account(self) -> Account:
        """Of all so far."""
        with self._lock:
            return Account.of(self._times, self._unknown, self._again)


class Group:
    """The group at work on one cluster, from `start` to `stop`.

    Args:
        cluster: whose clients' group is the group.
        topic: as it is called there.
    """

    def __init__(self, cluster: Cluster, topic: str, journal: Journal) -> None:
        self._members = [_Member(cluster, topic, journal, f"{cluster.group}-{n + 1}") for n in range(MEMBERS)]
        for member in self._members:
            member.start()

    @property
    def records(self) -> int:
        """Processed here."""
        return sum(member.records for member in self._members)

    @property
    def first_s(self) -> float:
        """When the first record was processed here, on the monotonic clock; infinite while none was."""
        return min(member.first_s for member in self._members)

    def check(self) -> None:
        """Raise what ended a member, if an error did."""
        for member in self._members:
            member.check()

    def stop(self) -> None:
        """The members commit what they processed, and leave.

        Raises:
            DemoError: one of them did not leave in time.
        """
        for member in self._members:
            member.stop(0)
        for member in self._members:
            member.stop(LEAVE_TIMEOUT_S)
            if member.is_alive():
                raise DemoError(f"the consumer {member.name} did not leave within {LEAVE_TIMEOUT_S:g} s")
        self.check()

    def close(self) -> None:
        """The same after a failure: further errors are ignored."""
        for member in self._members:
            member.stop(0)
        for member in self._members:
            member.stop(CLOSE_TIMEOUT_S)


class _Member(Part):
    """One consumer."""

    def __init__(self, cluster: Cluster, topic: str, journal: Journal, name: str) -> None:
        super().__init__(name)
        self.first_s = math.inf
        self._cluster = cluster
        self._topic = topic
        self._journal = journal
        self._processed: dict[TP, int] = {}
        self._committed: dict[TP, int] = {}

    def _work(self) -> None:
        consumer = self._cluster.consumer(
            {
                "client.id": self.name,
                "auto.offset.reset": "earliest",  # a partition without an offset is one without a processed record
                "partition.assignment.strategy": "cooperative-sticky",
                "heartbeat.interval.ms": 300,  # how soon a member hears that the group is rebalancing
                "session.timeout.ms": 10_000,  # one that leaves while it joins again stays a member for so long
                "fetch.queue.backoff.ms": 5,
                "fetch.wait.max.ms": 50,
                "queued.max.messages.kbytes": 8192,
            }
        )
        try:
            consumer.subscribe([self._topic], on_revoke=self._revoked, on_lost=self._lost)
            self._consume(consumer)
        except KafkaException as cause:
            raise self._cluster.error(cause, op=f"consume {self._topic}") from cause
        finally:
            leave_group(consumer)

    def _consume(self, consumer: Consumer) -> None:
        commit_s = time.monotonic() + COMMIT_EVERY_S
        while not self._stopping.is_set():
            self._process(consumer.poll(WAIT_S))
            if time.monotonic() >= commit_s:
                self._commit(consumer, self._processed)
                commit_s = time.monotonic() + COMMIT_EVERY_S
        deadline = Deadline(LEAVE_TIMEOUT_S)
        while not self._commit(consumer, self._processed):  # it is rebalancing: only `poll` gets on with that
            if deadline.expired:
                raise DemoError(f"the consumer {self.name} could not commit within {deadline.seconds:g} s")
            self._process(consumer.poll(WAIT_S))

    def _process(self, message: Message | None) -> None:
        if message is None:
            return
        if (error := message.error()) is not None:
            failure = self._cluster.error(error, op=f"consume {self._topic}")
            if not isinstance(failure, RetriableError):
                raise failure
            return
        place = f"{self.name} on {self._cluster.alias}[{message.partition()}] at {message.offset()}"
        self._journal.note(number_of(message.value()), place)
        self.records += 1
        self.first_s = min(self.first_s, time.monotonic())
        self._processed[TP(self._topic, message.partition() or 0)] = (message.offset() or 0) + 1

    def _commit(self, consumer: Consumer, positions: dict[TP, int]) -> bool:
        """Commit, and wait for it; False: not possible at the moment."""
        wanted = {tp: it for tp, it in positions.items() if self._committed.get(tp) != it}
        if not wanted:
            return True
        offsets = [TopicPartition(tp.topic, tp.partition, it) for tp, it in wanted.items()]
        try:
            results = consumer.commit(offsets=offsets, asynchronous=False) or []
            refusal = next((it.error for it in results if it.error), None)
        except KafkaException as cause:
            refusal = cause.args[0]
        if refusal is not None:
            failure = self._cluster.error(refusal, op="commit", right="READ", group=self._cluster.group)
            if isinstance(failure, RetriableError) or is_refusal_of_members(failure):
                return False
            raise failure
        self._committed |= wanted
        return True

    def _revoked(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        """Partitions go to another member: commit first what was processed of them."""
        gone = {TP(it.topic, it.partition) for it in partitions}
        last = {tp: it for tp, it in self._processed.items() if tp in gone}
        deadline = Deadline(REVOKE_TIMEOUT_S)
        while not self._commit(consumer, last) and not deadline.expired:
            time.sleep(deadline.slice_s(WAIT_S))
        self._lost(consumer, partitions)

    def _lost(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        for it in partitions:
            self._processed.pop(TP(it.topic, it.partition), None)
            self._committed.pop(TP(it.topic, it.partition), None)
