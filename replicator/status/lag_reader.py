"""Reads what `lag` and `status` show from both clusters. Needs DESCRIBE and READ, writes nothing.

Every step has a deadline of its own, by default `connect_timeout_s`: if a cluster dies meanwhile, the command reports
an error and does not hang.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

from replicator.config import Flow
from replicator.deadline import Deadline
from replicator.errors import TP, KafkaOpError, ReplicatorError
from replicator.kafka.cluster import (
    EARLIEST,
    LATEST,
    AdminClient,
    Cluster,
    KafkaError,
    KafkaException,
    Message,
    OffsetSpec,
    await_results,
    topic_partitions,
)
from replicator.kafka.topic_queries import list_offsets, list_topics
from replicator.kafka.topics import Catalog, Snapshot
from replicator.log import NO_LOG
from replicator.planes.select import choose
from replicator.status.lag import Lag, LagFacts, PartitionLag, Workers, partition_lags, unreplicated
from replicator.syncs.halts import halted_text
from replicator.syncs.reader import SyncsReader
from replicator.syncs.state import SyncsState

READ_TIMEOUT_S = 300.0
"""For the whole history of a large flow; a small one takes milliseconds."""
AGES_TIMEOUT_S = 2.0
MAX_AGES = 500
BATCH_PARTITIONS = 2000
CLIENT_PREFIX = "replicator@"
TIMESTAMP_NOT_AVAILABLE = 0


class Observer:
    """Looks at one flow repeatedly, and reads only what was added since the last look.

    Args:
        flow: the flow to look at.
        timeout_s: for each step.

    Threading: one thread, which must call `close`.
    """

    def __init__(self, flow: Flow, timeout_s: float) -> None:
        self.flow = flow
        self._timeout_s = timeout_s
        self._clusters = (
            Cluster(flow.source, "source", flow.source_cluster, flow.group),
            Cluster(flow.target, "target", flow.target_cluster, flow.group),
        )
        self._admins: dict[str, AdminClient] = {}
        self.brokers: dict[str, int] = {}
        """How many brokers each cluster has, by alias."""
        self.asked = flow.target
        """The cluster that was asked last: an error is about this one."""
        self.tasks: int | None = None
        """Partitions of the syncs topic; None while it does not exist."""
        self._catalog: Catalog | None = None
        self._listed_s = 0.0
        self._reader: SyncsReader[SyncsState] | None = None
        self._ages: _Ages | None = None

    def connect(self) -> dict[str, ReplicatorError]:
        """Connect to both clusters in parallel; the errors by alias."""
        failed: dict[str, ReplicatorError] = {}
        with ThreadPoolExecutor(2) as pool:
            waiting = {it.alias: pool.submit(it.connect, self._timeout_s) for it in self._clusters}
        for alias, future in waiting.items():
            try:
                self._admins[alias] = future.result()
            except ReplicatorError as error:
                failed[alias] = error
        return failed

    def renew(self) -> None:
        """Close every client and reconnect: one of them may have lost its brokers for good (`cluster.WATCHED`).

        Raises:
            KafkaOpError: a cluster can't be reached.
        """
        self.close()
        self._catalog = self._reader = self._ages = None
        for error in self.connect().values():
            raise error

    def data_plane(self) -> str:
        """The data plane that a worker of this release would choose, and why it is not `batches`."""
        try:
            return str(choose(self.flow, self._clusters, self._timeout_s))
        except ReplicatorError as error:
            return f"{self.flow.settings.data_plane} ({error})"

    def close(self) -> None:
        """Close the consumers."""
        if self._reader is not None:
            self._reader.close()
        if self._ages is not None:
            self._ages.close()

    # --- looking ------------------------------------------------------------------------------------------------------

    def facts(self) -> LagFacts:
        """What the clusters hold now; without the source's part if it was unreachable.

        Raises:
            KafkaOpError: a cluster that was reached no longer answers.
        """
        source, target = self._clusters
        topics = self._topics()
        self.asked = target.alias
        syncs = self._syncs()
        workers = describe_workers(target, self._admins[target.alias], self.flow.group, Deadline(self._timeout_s))
        facts = LagFacts(self.flow, self.tasks or self.flow.settings.tasks, topics, syncs, workers)
        if topics is None:
            return facts
        partitions = list(topics.partitions())
        ends = self._offsets(source, dict.fromkeys(partitions, LATEST))
        return replace(facts, ends=ends, begins=self._begins([tp for tp in partitions if tp not in syncs.newest]))

    def lag(self, topic: re.Pattern[str] | None = None, at_most: int = MAX_AGES) -> Lag:
        """The lag of every partition; ages for the first `at_most` that lag.

        Raises:
            KafkaOpError: as `facts`.
        """
        return self.lag_of(self.facts(), topic, at_most)

    def lag_of(self, facts: LagFacts, topic: re.Pattern[str] | None = None, at_most: int = MAX_AGES) -> Lag:
        """As `lag`, from facts that were read before."""
        lags = partition_lags(facts, topic)
        wanted = unreplicated(lags, at_most)
        if wanted and self._ages is None:
            self._ages = _Ages(self._clusters[0])
        if wanted and self._ages is not None:
            written_ms, empty = self._ages.look_up(wanted, Deadline(AGES_TIMEOUT_S))
            now_ms = time.time() * 1000
            lags = sorted((_aged(it, written_ms, empty, now_ms) for it in lags), key=lambda it: it.severity)
        unmatched = facts.topics.unmatched if facts.topics else ()
        halted = halted_text(facts.flow.name, facts.syncs.halted)
        return Lag(facts.flow.name, tuple(lags), facts.workers, unmatched, halted)

    def wait(self, seconds: float) -> None:
        """Read what is added to the syncs topic, for `seconds`."""
        deadline = Deadline(seconds)
        while not deadline.expired:
            if self._reader is None:
                time.sleep(deadline.slice_s(0.2))
            else:
                self._reader.follow(deadline.slice_s(0.2))

    # --- parts --------------------------------------------------------------------------------------------------------

    def _topics(self) -> Snapshot | None:
        """The flow's topics, looked up again at the flow's own interval."""
        source, target = self._clusters
        is_fresh = time.monotonic() - self._listed_s < min(10.0, self.flow.settings.refresh_topics_interval_s)
        if self._catalog is not None and is_fresh:
            return self._catalog.snapshot
        for cluster in self._clusters:
            if cluster.alias in self._admins:
                self.asked = cluster.alias
                metadata = list_topics(cluster, self._admins[cluster.alias], Deadline(self._timeout_s))
                self.brokers[cluster.alias] = len(metadata.brokers)
                if cluster is target:
                    syncs = metadata.topics.get(self.flow.syncs_topic)
                    self.tasks = len(syncs.partitions) if syncs else None
        if source.alias not in self._admins:
            return None
        if self._catalog is None:
            admins = (self._admins[source.alias], self._admins[target.alias])
            self._catalog = Catalog(self.flow, source, target, admins, NO_LOG)
        self.asked = source.alias
        snapshot = self._catalog.refresh(Deadline(self._timeout_s))
        self._listed_s = time.monotonic()
        return snapshot

    def _syncs(self) -> SyncsState:
        if not self.tasks:
            return SyncsState()
        if self._reader is None:
            reader = SyncsReader(self._clusters[1], self.flow.syncs_topic, range(self.tasks), SyncsState())
            self._reader = reader
            return reader.read_to_end(Deadline(max(READ_TIMEOUT_S, self._timeout_s)))
        return self._reader.follow(0)

    def _offsets(self, cluster: Cluster, specs: Mapping[TP, OffsetSpec]) -> dict[TP, int | KafkaOpError]:
        """As `list_offsets`, in batches of partitions.

        Raises:
            KafkaOpError: every partition of a batch failed.
        """
        self.asked = cluster.alias
        answers: dict[TP, int | KafkaOpError] = {}
        tps = list(specs)
        for start in range(0, len(tps), BATCH_PARTITIONS):
            batch = {tp: specs[tp] for tp in tps[start : start + BATCH_PARTITIONS]}
            found = list_offsets(cluster, self._admins[cluster.alias], batch, Deadline(self._timeout_s))
            errors = [it for it in found.values() if isinstance(it, KafkaOpError)]
            if len(errors) == len(batch):
                raise errors[0]
            answers |= found
        return answers

    def _begins(self, tps: list[TP]) -> dict[TP, int | KafkaOpError]:
        """Where partitions without a position will begin; empty with `latest`, which is resolved when they start."""
        start_from = self.flow.settings.start_from
        if start_from == "latest" or not tps:
            return {}
        spec = EARLIEST
        if start_from != "earliest":
            spec = OffsetSpec.for_timestamp(int(start_from.timestamp() * 1000))
        begins = self._offsets(self._clusters[0], dict.fromkeys(tps, spec))
        later_than_all = {tp: LATEST for tp, offset in begins.items() if offset == -1}
        return begins | (self._offsets(self._clusters[0], later_than_all) if later_than_all else {})


def describe_workers(target: Cluster, admin: AdminClient, group: str, deadline: Deadline) -> Workers:
    """The members of the workers' group, and the tasks assigned to each.

    Raises:
        KafkaOpError: the target did not answer, or refused.
    """
    futures = admin.describe_consumer_groups([group], request_timeout=max(0.1, deadline.left_s()))
    result = await_results(futures, deadline)[group]
    if isinstance(result, Exception):
        error = target.error(result, op=f"describe the group {group}", right="DESCRIBE")
        if error.code == "GROUP_ID_NOT_FOUND":
            return Workers()
        raise error
    return Workers(result.state.name, _tasks_by_worker(result.members))


def _tasks_by_worker(members: Iterable[Any]) -> dict[str, tuple[int, ...]]:
    tasks: dict[str, tuple[int, ...]] = {}
    for member in members:
        name = str(member.client_id).removeprefix(CLIENT_PREFIX)
        assigned = member.assignment.topic_partitions if member.assignment else []
        tasks[name] = tuple(sorted({*tasks.get(name, ()), *(it.partition for it in assigned)}))
    return dict(sorted(tasks.items()))


def _aged(it: PartitionLag, written_ms: Mapping[TP, int], empty: set[TP], now_ms: float) -> PartitionLag:
    if it.tp in empty:
        return replace(it, lag_records=0, lag_seconds=0.0)
    if it.tp in written_ms:
        return replace(it, lag_seconds=round(max(0.0, (now_ms - written_ms[it.tp]) / 1000), 3))
    return it


class _Ages:
    """Looks up when the records at given positions were written: one consumer, one record of each partition."""

    def __init__(self, source: Cluster) -> None:
        self._source = source
        self._consumer = source.consumer(
            {
                "auto.offset.reset": "earliest",  # of a log that was truncated: its first record is the next one
                "enable.partition.eof": True,
                "fetch.queue.backoff.ms": 5,
                "fetch.wait.max.ms": 50,
                "fetch.message.max.bytes": 131_072,
                "queued.min.messages": 1,
                "queued.max.messages.kbytes": 16_384,
            }
        )

    def look_up(self, positions: Mapping[TP, int], deadline: Deadline) -> tuple[dict[TP, int], set[TP]]:
        """(timestamp in ms of the first record at or after each position, partitions that have none there).

        A partition that did not answer within `deadline`, or whose record has no timestamp, is in neither.
        """
        waiting = set(positions)
        written_ms: dict[TP, int] = {}
        empty: set[TP] = set()
        try:
            self._consumer.assign(topic_partitions(positions.items()))
            while waiting and not deadline.expired:
                answered = set()
                for message in self._consume(deadline.slice_s(0.2)):
                    tp = TP(message.topic() or "", message.partition() or 0)
                    if tp in waiting:
                        _note(message, tp, written_ms, empty)
                        answered.add(tp)
                if answered:
                    waiting -= answered
                    self._consumer.pause(topic_partitions((tp, 0) for tp in answered))
            self._consumer.resume(topic_partitions(positions.items()))  # or they stay paused when assigned again
            self._consumer.unassign()
        except (KafkaException, SystemError) as cause:
            raise self._source.error(cause, op="read the age of records") from cause
        return written_ms, empty

    def _consume(self, wait_s: float) -> list[Message]:
        first = self._consumer.consume(1, wait_s)
        return first + self._consumer.consume(1000, 0) if first else first

    def close(self) -> None:
        self._consumer.close()


def _note(message: Message, tp: TP, written_ms: dict[TP, int], empty: set[TP]) -> None:
    error = message.error()
    if error is None:
        kind, timestamp_ms = message.timestamp()
        if kind != TIMESTAMP_NOT_AVAILABLE and timestamp_ms > 0:
            written_ms[tp] = timestamp_ms
    elif error.code() == KafkaError._PARTITION_EOF:
        empty.add(tp)
