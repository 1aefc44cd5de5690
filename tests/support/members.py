"""A consumer group of several members that remember every record they processed; and what that adds up to.

The members do what exactly-once consumers do: records count as processed when their offsets are committed, as if both
were one transaction. They commit often, at once when a partition is taken from them, and before they leave. So what
they process twice or never is the mover's fault. A member whose commit is overtaken by a rebalance loses its partitions
without being asked (librdkafka, after ILLEGAL_GENERATION), and what it had read of them since is not processed.

A client may give a record again that it gave before, of a partition that its member had all the time (librdkafka, once,
while its group was rebalancing). That is neither the copy's doing, where each record has an offset of its own, nor a
move's, which begins with another member: it is left aside, as a consumer does that knows its positions.

Records are polled one by one: a rebalance then falls between two records, never between a record and its processing.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from replicator.errors import TP
from replicator.kafka.cluster import leave_group
from tests.support.eventually import eventually
from tests.support.pump import BEGIN_MS
from tests.support.records import read_topic

COMMIT_EVERY_S = 0.1
JOIN_TIMEOUT_S = 60.0
SHOWN = 40
"""Lines at the beginning and at the end of a group's story."""
_COMMIT_LATER = {KafkaError.REBALANCE_IN_PROGRESS, KafkaError.ILLEGAL_GENERATION, KafkaError._TIMED_OUT}
"""The group is between two generations: the partitions that the member keeps are committed in the next one."""


class Processed(NamedTuple):
    """One record, as a member met it.

    Args:
        number: the pump's.
    """

    tp: TP
    offset: int
    number: int


class _Member(threading.Thread):
    """One consumer in a thread of its own."""

    def __init__(
        self, consumer: Consumer, topics: Sequence[str], take: Callable[[Processed], None], tell: Callable[[str], None]
    ) -> None:
        super().__init__(daemon=True)
        self.leaving = threading.Event()
        self.commits_at_the_end = True
        self.assigned: set[TP] = set()
        self.failure: BaseException | None = None
        self._consumer = consumer
        self._topics = topics
        self._take = take
        self._tell = tell
        self._open: list[Processed] = []
        """What it has read and not committed yet."""
        self._positions: dict[TP, int] = {}
        self._committed: dict[TP, int] = {}
        self._committed_s = 0.0

    def run(self) -> None:
        try:
            self._consumer.subscribe(
                list(self._topics), on_assign=self._assigned, on_revoke=self._revoked, on_lost=self._lost
            )
            while not self.leaving.is_set():
                self._process(self._consumer.poll(0.05))
                if time.monotonic() - self._committed_s > COMMIT_EVERY_S:
                    self._commit(self._positions)
            while self.commits_at_the_end and not self._commit(self._positions):
                self._process(self._consumer.poll(0.05))  # it is rebalancing: only `poll` gets on with that
            self._take_open(set(self._positions))  # of one that is killed, processed and never committed
        except BaseException as error:
            self.failure = error
        finally:
            leave_group(self._consumer)

    def _process(self, message: Message | None) -> None:
        if message is None:
            return
        error = message.error()
        if error is not None:
            if error.retriable() or error.code() in {KafkaError._ALL_BROKERS_DOWN, KafkaError._TRANSPORT}:
                return
            raise KafkaException(error)
        tp = TP(message.topic() or "", message.partition() or 0)
        offset = message.offset() or 0
        if offset < self._positions.get(tp, 0):
            self._tell(f"is given {tp.partition}@{offset} again")
            return
        self._open.append(Processed(tp, offset, message.timestamp()[1] - BEGIN_MS))
        self._positions[tp] = offset + 1

    def _commit(self, positions: dict[TP, int]) -> bool:
        """Commit, synchronously; False: not possible at the moment."""
        self._committed_s = time.monotonic()
        wanted = {tp: it for tp, it in positions.items() if self._committed.get(tp) != it}
        if not wanted:
            return True
        try:
            offsets = [TopicPartition(tp.topic, tp.partition, it) for tp, it in wanted.items()]
            results = self._consumer.commit(offsets=offsets, asynchronous=False) or []
        except KafkaException as error:
            code = error.args[0].code()
            self._tell(f"commits not {_places(wanted)}: {error}")
            if code in _COMMIT_LATER or error.args[0].retriable():
                return False
            raise
        refused = [it.error for it in results if it.error]
        if refused:
            raise KafkaException(refused[0])
        self._committed |= wanted
        self._tell(f"commits {_places(wanted)}")
        self._take_open(set(wanted))
        return True

    def _take_open(self, tps: set[TP]) -> None:
        for it in self._open:
            if it.tp in tps:
                self._take(it)
        self._forget_open(tps)

    def _forget_open(self, tps: set[TP]) -> None:
        self._open = [it for it in self._open if it.tp not in tps]

    # --- rebalances ---------------------------------------------------------------------------------------------------

    def _assigned(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self._tell(f"gets {sorted(it.partition for it in partitions)}")
        self.assigned |= {TP(it.topic, it.partition) for it in partitions}

    def _revoked(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        gone = {TP(it.topic, it.partition) for it in partitions}
        self._tell(f"gives up {sorted(tp.partition for tp in gone)}")
        if self.commits_at_the_end:
            last = {tp: it for tp, it in self._positions.items() if tp in gone}
            eventually(lambda: self._commit(last), within_s=60)
        self._forget(gone)

    def _lost(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        gone = {TP(it.topic, it.partition) for it in partitions}
        self._tell(f"has lost {sorted(tp.partition for tp in gone)}")
        self._forget(gone)

    def _forget(self, gone: set[TP]) -> None:
        self._forget_open(gone)
        for tp in gone:
            self.assigned.discard(tp)
            self._positions.pop(tp, None)
            self._committed.pop(tp, None)


def _places(positions: dict[TP, int]) -> str:
    return ", ".join(f"{tp.partition}@{it}" for tp, it in sorted(positions.items()))


class Members:
    """A group at work, from `start` to `stop` or `kill`.

    Args:
        servers: of the cluster where it works.
        topics: as they are called there.
        count: of members.
        reset: where a partition begins for which the group has no offset; `error` makes that a failure of the test.
        is_eager: rebalance by giving all partitions up first.
    """

    def __init__(
        self, servers: str, group: str, topics: Sequence[str], *, count: int = 3, reset: str = "earliest",
        is_eager: bool = False,
    ) -> None:  # fmt: skip
        self.group = group
        self.processed: list[Processed] = []
        """In order, per partition; appending is atomic."""
        self.story: list[str] = []
        """What the members did with their group, in order: for the text of a failed assertion."""
        conf = {
            "bootstrap.servers": servers,
            "group.id": group,
            "enable.auto.commit": False,
            "auto.offset.reset": reset,
            "isolation.level": "read_committed",
            "partition.assignment.strategy": "range" if is_eager else "cooperative-sticky",
            "session.timeout.ms": 12_000,  # who is only slow must not lose its place; who has left must, in time
            "heartbeat.interval.ms": 300,
            "fetch.wait.max.ms": 50,
            "fetch.queue.backoff.ms": 5,
            "topic.metadata.refresh.interval.ms": 1000,
            "log_level": 0,
        }
        self._members = [
            _Member(
                Consumer({**conf, "client.id": f"{group}-{number}"}),
                topics,
                self.processed.append,
                self._teller(number),
            )
            for number in range(count)
        ]

    def _teller(self, number: int) -> Callable[[str], None]:
        return lambda text: self.story.append(f"{time.time():.3f} member {number} {text}")

    def start(self, partitions: int) -> Members:
        """Start all, and wait until each has some of so many partitions, and together they have them all."""
        for member in self._members:
            member.start()

        def has_all() -> bool:
            self.check()
            shares = [set(member.assigned) for member in self._members]
            assert all(shares), f"members without a partition: {shares}"
            return sum(map(len, shares)) == partitions == len(set().union(*shares))

        eventually(has_all, JOIN_TIMEOUT_S)
        return self

    def check(self) -> None:
        """Raise what ended a member."""
        for member in self._members:
            if member.failure is not None:
                raise member.failure

    def await_more(self, records: int, within_s: float = 120.0) -> None:
        """Wait until so many records more are processed."""
        enough = len(self.processed) + records
        self._await(lambda: len(self.processed) >= enough, within_s)

    def await_partitions(self, partitions: int, within_s: float = 120.0) -> None:
        """Wait until a record of so many partitions each is processed: the group then leaves with a place in each."""

        def has_them() -> bool:
            return len({it.tp for it in self.processed}) >= partitions

        self._await(has_them, within_s)

    def await_numbers(self, numbers: Iterable[int], within_s: float = 120.0) -> None:
        """Wait until all of these are processed here."""
        wanted = set(numbers)

        def has_them() -> bool:
            left = wanted - {it.number for it in self.processed}
            assert not left, f"{len(left)} of {len(wanted)} records are not processed: {sorted(left)[:10]}"
            return True

        self._await(has_them, within_s)

    def _await(self, condition: Callable[[], bool], within_s: float) -> None:
        def is_met() -> bool:
            self.check()
            return condition()

        eventually(is_met, within_s)

    def stop(self) -> None:
        """Commit what is processed, and leave."""
        self._end(commits=True)

    def kill(self) -> None:
        """Leave without a last commit: what was processed since the commit before will be processed again."""
        self._end(commits=False)

    def _end(self, *, commits: bool) -> None:
        for member in self._members:
            member.commits_at_the_end = commits
            member.leaving.set()
        for member in self._members:
            if member.ident is not None:
                member.join(JOIN_TIMEOUT_S)
                assert not member.is_alive(), f"a member of {self.group} hangs"
        self.check()


class Account(NamedTuple):
    """What a group did with the records that were written; all but the first are 0 after moves without a loss."""

    records: int
    twice: int
    never: int
    invented: int


def numbers_in(servers: str, topic: str) -> set[int]:
    """The numbers of the records that a read_committed reader finds in a pump's topic."""
    return {record.timestamp - BEGIN_MS for record in read_topic(servers, topic)}


def account(written: Iterable[int], *groups: Members) -> Account:
    """Hold what a group processed, wherever it worked, against what was written."""
    wanted = set(written)
    found = Counter(it.number for group in groups for it in group.processed)
    twice = sum(count - 1 for count in found.values())
    if twice:
        _print_twice({number for number, count in found.items() if count > 1}, groups)
    return Account(len(wanted), twice, len(wanted - found.keys()), len(found.keys() - wanted))


def _print_twice(numbers: set[int], groups: Sequence[Members]) -> None:
    """Tell where a group, the first one is 0, met records that were met again, and what it did there."""
    for number, group in enumerate(groups):
        places: dict[TP, list[int]] = {}
        for it in group.processed:
            if it.number in numbers:
                places.setdefault(it.tp, []).append(it.offset)
        for tp, offsets in sorted(places.items()):
            every = [it.offset for it in group.processed if it.tp == tp]
            print(f"group {number}: {tp}: read {every[0]} to {every[-1]}, of it also read elsewhere: {offsets}")
        if places:
            print("\n".join((*group.story[:SHOWN], "…", *group.story[-SHOWN:])))
