"""The source at work: a producer with a steady rate, and groups that commit so many records behind it.

The topic is written by one idempotent producer without transactions, so on the source a record's offset is its number.
The groups read nothing: they only commit, as groups without members may, so their lag is exactly what it should be.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Self

from bench.accounts import Commit
from bench.backlog import KEY, Backlog, BenchError, payloads
from replicator.deadline import Deadline
from replicator.errors import TP
from replicator.groups.offsets import Committed
from replicator.groups.refusals import first_error
from replicator.groups.select import ClusterGroups
from replicator.kafka.cluster import Cluster, KafkaError, Message, Producer

TICK_S = 0.02
COMMIT_EVERY_S = 0.25
COMMIT_TIMEOUT_S = 20.0
STOP_TIMEOUT_S = 30.0


class Worker:
    """A thread that does something again and again until `stop`, and keeps what ended it for `check`."""

    def __init__(self, name: str, every_s: float, step: Callable[[], None]) -> None:
        self._every_s = every_s
        self._step = step
        self._stopping = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def check(self) -> None:
        """Raise what ended it."""
        if self._failure is not None:
            raise BenchError(f"{self._thread.name}: {self._failure}") from self._failure

    def stop(self) -> None:
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join(STOP_TIMEOUT_S)

    def _run(self) -> None:
        next_s = time.monotonic()
        try:
            while not self._stopping.is_set():
                self._step()
                next_s = max(next_s + self._every_s, time.monotonic())
                self._stopping.wait(next_s - time.monotonic())
        except BaseException as error:
            self._failure = error


class Load:
    """Writes on where the backlog ends, the same number to each partition.

    Args:
        records_per_s: of all partitions together.
        tick_s: how often records are written, all that are due.
    """

    def __init__(self, bootstrap_servers: str, backlog: Backlog, records_per_s: int, tick_s: float = TICK_S) -> None:
        self._topic = backlog.topic
        self._rate = records_per_s / backlog.partitions
        self._first = backlog.per_partition
        self._number = backlog.per_partition
        self._values = payloads(backlog.size_bytes - KEY.size)
        self.acknowledged = [backlog.per_partition] * backlog.partitions
        """By partition: all records before this number are on the source."""
        self._producer = Producer(
            {
                "bootstrap.servers": bootstrap_servers,
                "enable.idempotence": True,
                "compression.type": "lz4",
                "linger.ms": 5,
                "queue.buffering.max.messages": 1_000_000,
                "log_level": 0,
            }
        )
        self._began_s = time.monotonic()
        self._worker = Worker("the load", tick_s, self._write)

    def start(self) -> Self:
        """Begin."""
        self._began_s = time.monotonic()
        self._worker.start()
        return self

    def check(self) -> None:
        """Raise what ended it."""
        self._worker.check()

    @property
    def records(self) -> int:
        """On the source, as far as it acknowledged them."""
        return sum(self.acknowledged)

    def stop(self) -> None:
        """Stop; what the source has not acknowledged by now is given up, for it may be gone."""
        self._worker.stop()
        self._producer.poll(0)
        self._producer.purge()

    def finish(self) -> None:
        """Stop; every record that was written is on the source now.

        Raises:
            BenchError: the source does not take them.
        """
        self._worker.stop()
        if self._producer.flush(STOP_TIMEOUT_S):
            raise BenchError(f"the source did not take the load within {STOP_TIMEOUT_S:g} s")

    def _write(self) -> None:
        due = self._first + int((time.monotonic() - self._began_s) * self._rate)
        produce = self._producer.produce
        partitions = range(len(self.acknowledged))
        for number in range(self._number, due):
            key, value = KEY.pack(number), self._values[number % len(self._values)]
            is_last = number == due - 1
            for partition in partitions:
                reported = partial(self._acknowledge, partition, due) if is_last else None
                produce(self._topic, value, key, partition, reported)
        self._number = max(due, self._number)
        self._producer.poll(0)

    def _acknowledge(self, partition: int, number: int, error: KafkaError | None, _: Message) -> None:
        """Idempotence keeps the order: when the last of a tick is there, so are those before it."""
        if error is None:
            self.acknowledged[partition] = number


class Groups:
    """Groups that commit on the source, each so many records behind the load.

    Args:
        source: where they commit.
        lags: by group, in records over all partitions.
    """

    def __init__(self, source: Cluster, topic: str, load: Load, lags: Mapping[str, int]) -> None:
        self.commits: dict[str, list[Commit]] = {group: [] for group in lags}
        """What was committed and acknowledged, by group."""
        self._groups = ClusterGroups(source)
        self._topic = topic
        self._load = load
        self._lags = dict(lags)
        self._lock = threading.Lock()
        self._worker = Worker("the groups", COMMIT_EVERY_S, self._commit)

    def start(self) -> Self:
        """Commit once, and go on."""
        self._commit()
        self._worker.start()
        return self

    def check(self) -> None:
        """Raise what ended it."""
        self._worker.check()

    def stop(self) -> None:
        """No group commits from now on."""
        self.leave(list(self._lags))
        self._worker.stop()
        self._groups.close()

    def leave(self, groups: Iterable[str]) -> None:
        """The consumers of these groups stop: their last commit stays the last one."""
        with self._lock:
            for group in groups:
                self._lags.pop(group, None)

    @contextlib.contextmanager
    def at_rest(self) -> Iterator[None]:
        """No commit is on its way in this block, and none follows: the last one is known."""
        with self._lock:
            yield
            self._lags.clear()

    def _commit(self) -> None:
        with self._lock:
            if not self._lags:
                return
            ends = list(self._load.acknowledged)
            numbers = {
                group: tuple(max(0, end - lag // len(ends)) for end in ends) for group, lag in self._lags.items()
            }
            wanted = {
                group: {TP(self._topic, partition): Committed(number) for partition, number in enumerate(it)}
                for group, it in numbers.items()
            }
            at_s = time.monotonic()
            outcome = self._groups.commit(wanted, Deadline(COMMIT_TIMEOUT_S))
            for group, it in numbers.items():
                error = first_error(outcome[group])
                if error is not None:
                    raise error
                self.commits[group].append(Commit(at_s, it))
