"""Which topics a flow replicates, and their copies on the target: found, created, grown.

Every worker keeps its own catalog and creates what its own tasks need, so that nothing waits for another worker;
two that create the same topic at once get one topic (TOPIC_ALREADY_EXISTS is success).

Source: connect/mirror `MirrorSourceConnector#createNewTopics`, `#computeAndCreateTopicPartitions`;
`DefaultConfigPropertyFilter` for the properties that are not copied.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from replicator.config import Flow
from replicator.deadline import Deadline
from replicator.errors import TP, KafkaOpError, RetriableError
from replicator.kafka.cluster import (
    AdminClient,
    Cluster,
    ConfigResource,
    KafkaError,
    KafkaException,
    NewPartitions,
    NewTopic,
    await_results,
    uuid_bytes,
)
from replicator.kafka.topic_queries import describe_topics, list_topics, topic_ids
from replicator.log import Logger
from replicator.offset_map.sync_format import TargetTopic
from replicator.offset_map.topic_id import NO_ID, TopicId

NOT_COPIED = re.compile(
    r"(follower|leader)\.replication\.throttled\.replicas|message\.timestamp\.(difference\.max\.ms|type)"
    r"|unclean\.leader\.election\.enable|min\.insync\.replicas"
)
DYNAMIC_TOPIC_CONFIG = 1
"""`ConfigEntry.source` of a value that was set on the topic itself."""


@dataclass(frozen=True, slots=True)
class SourceTopic:
    """A topic of the source that the flow replicates.

    Args:
        topic_id: `NO_ID` on brokers that have none.
        target_partitions: 0 when the remote topic does not exist.
        target_id: its topic id; zeros when it is not known.
    """

    name: str
    topic_id: TopicId
    partitions: int
    replicas: int
    target_topic: str
    target_partitions: int
    target_id: TopicId = NO_ID

    @property
    def target(self) -> TargetTopic:
        return TargetTopic(self.target_topic, self.target_id)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The flow's topics at one moment.

    Args:
        number: rises with each refresh.
        topics: by source name.
        unmatched: patterns of the configuration that match no topic.
        target_brokers: how many brokers the target has.
    """

    number: int
    topics: Mapping[str, SourceTopic]
    unmatched: tuple[str, ...]
    target_brokers: int

    def partitions(self) -> Iterable[TP]:
        """Every source partition."""
        return (TP(topic.name, p) for topic in self.topics.values() for p in range(topic.partitions))


class Catalog:
    """Looks up and creates a flow's topics.

    Threading: `refresh` and `ensure_targets` take a lock; `snapshot` may be read by every thread.
    """

    def __init__(
        self, flow: Flow, source: Cluster, target: Cluster, admins: tuple[AdminClient, AdminClient], log: Logger
    ) -> None:
        self._flow = flow
        self._source = source
        self._target = target
        self._source_admin, self._target_admin = admins
        self._log = log
        self._lock = threading.Lock()
        self._changed = threading.Condition()
        self._wanted = threading.Event()
        self.snapshot = Snapshot(0, {}, (), 1)
        self.problem = ""
        """Why the last refresh failed; empty after one that did not."""

    def refresh(self, deadline: Deadline) -> Snapshot:
        """Look at both clusters.

        Raises:
            KafkaOpError: one of them gave no answer.
        """
        with self._lock:
            return self._refresh(deadline)

    def _refresh(self, deadline: Deadline) -> Snapshot:
        names = sorted(name for name in list_topics(self._source, self._source_admin, deadline).topics)
        wanted = [name for name in names if self._flow.topic_filter.matches(name)]
        on_target = list_topics(self._target, self._target_admin, deadline)
        target_partitions = {name: len(topic.partitions) for name, topic in on_target.topics.items()}
        remote = {name: self._flow.naming.remote_topic(name) for name in wanted}
        target_ids = topic_ids(
            describe_topics(self._target_admin, target_partitions.keys() & remote.values(), deadline)
        )
        topics = {
            name: SourceTopic(
                name,
                uuid_bytes(topic.topic_id),
                len(topic.partitions),
                max((len(it.replicas) for it in topic.partitions), default=1),
                remote[name],
                target_partitions.get(remote[name], 0),
                target_ids.get(remote[name], NO_ID),
            )
            for name, topic in self._describe(wanted, deadline)
        }
        unmatched = tuple(self._flow.topic_filter.unmatched(names))
        with self._changed:
            snapshot = Snapshot(self.snapshot.number + 1, topics, unmatched, len(on_target.brokers))
            if unmatched and unmatched != self.snapshot.unmatched:
                hint = "a typing mistake, a topic still to be created, or a missing DESCRIBE right"
                self._log.warning("topics_pattern_matches_nothing", patterns=list(unmatched), hint=hint)
            self.snapshot = snapshot
            self._changed.notify_all()
        return snapshot

    def _describe(self, names: list[str], deadline: Deadline) -> Iterable[tuple[str, Any]]:
        """What the source says of these topics; those that are gone are left out."""
        for name, result in describe_topics(self._source_admin, names, deadline).items():
            if isinstance(result, Exception):
                error = self._source.error(result, op="describe topics", right="DESCRIBE")
                is_gone = error.code in {"UNKNOWN_TOPIC_OR_PART", "TOPIC_AUTHORIZATION_FAILED"}
                if is_gone:
                    continue
                raise error
            yield name, result

    def wait_for(self, number: int, deadline: Deadline) -> Snapshot | None:
        """The first snapshot whose number is at least `number`; None when `deadline` passed."""
        with self._changed:
            while self.snapshot.number < number:
                if deadline.expired:
                    return None
                self._changed.wait(deadline.left_s())
            return self.snapshot

    def ask_refresh(self) -> None:
        """Ask for a refresh now, not at the interval."""
        self._wanted.set()

    def keep_fresh(self, stop: threading.Event, timeout_s: float) -> None:
        """Refresh at the flow's interval until `stop`; a failure is logged and tried again sooner."""
        wait_s = 0.0
        while not self._wait(stop, wait_s):
            try:
                self.refresh(Deadline(timeout_s))
                self.problem = ""
                wait_s = self._flow.settings.refresh_topics_interval_s
            except KafkaOpError as error:
                self.problem = str(error)
                self._log.warning("topics_refresh_failed", error=str(error))
                wait_s = min(5.0, self._flow.settings.refresh_topics_interval_s)

    def _wait(self, stop: threading.Event, seconds: float) -> bool:
        end = time.monotonic() + seconds
        while not stop.is_set() and not self._wanted.is_set() and time.monotonic() < end:
            stop.wait(min(0.1, max(0.0, end - time.monotonic())))
        self._wanted.clear()
        return stop.is_set()

    def ensure_targets(self, names: Iterable[str], deadline: Deadline) -> dict[str, KafkaOpError]:
        """Create the remote topics of `names`, or grow them to the source's number of partitions.

        Returns:
            Why it was not possible, by source name; the others exist now.
        """
        with self._lock:
            topics = [self.snapshot.topics[name] for name in names if name in self.snapshot.topics]
            lacking = [topic for topic in topics if topic.target_partitions < topic.partitions]
            if not lacking:
                return {}
            failures = self._create([t for t in lacking if t.target_partitions == 0], deadline)
            failures |= self._grow([t for t in lacking if t.target_partitions], deadline)
            self._refresh(deadline)
            still = {t.name: self.snapshot.topics[t.name] for t in lacking if t.name in self.snapshot.topics}
            if any(t.target_partitions < t.partitions for name, t in still.items() if name not in failures):
                self._await_metadata(
                    {t.target_topic: t.partitions for n, t in still.items() if n not in failures}, deadline
                )
                self._refresh(deadline)
            return failures

    def _create(self, topics: list[SourceTopic], deadline: Deadline) -> dict[str, KafkaOpError]:
        if not topics:
            return {}
        configs = self._source_configs([topic.name for topic in topics], deadline)
        new = []
        for topic in topics:
            replicas = self._flow.settings.replication_factor or min(topic.replicas, self.snapshot.target_brokers)
            new.append(NewTopic(topic.target_topic, topic.partitions, replicas, config=configs.get(topic.name, {})))
        results = await_results(
            self._target_admin.create_topics(new, request_timeout=max(0.1, deadline.left_s())), deadline
        )
        failures: dict[str, KafkaOpError] = {}
        for topic in topics:
            result = results[topic.target_topic]
            if _failed(result, KafkaError.TOPIC_ALREADY_EXISTS):
                failures[topic.name] = self._target.error(
                    result, op=f"create {topic.target_topic}", right="CREATE", topic=topic.target_topic
                )
            else:
                self._log.info("remote_topic_created", topic=topic.target_topic, partitions=topic.partitions)
        return failures

    def _grow(self, topics: list[SourceTopic], deadline: Deadline) -> dict[str, KafkaOpError]:
        if not topics:
            return {}
        new = [NewPartitions(topic.target_topic, topic.partitions) for topic in topics]
        results = await_results(
            self._target_admin.create_partitions(new, request_timeout=max(0.1, deadline.left_s())), deadline
        )
        failures: dict[str, KafkaOpError] = {}
        for topic in topics:
            result = results[topic.target_topic]
            if _failed(result, KafkaError.INVALID_PARTITIONS):
                failures[topic.name] = self._target.error(
                    result, op=f"add partitions to {topic.target_topic}", right="ALTER", topic=topic.target_topic
                )
            else:
                self._log.info("remote_topic_grown", topic=topic.target_topic, partitions=topic.partitions)
        return failures

    def _source_configs(self, names: list[str], deadline: Deadline) -> dict[str, dict[str, str]]:
        """What was set on the source topics themselves, less what belongs to their cluster."""
        resources = [ConfigResource(ConfigResource.Type.TOPIC, name) for name in names]
        futures = self._source_admin.describe_configs(resources, request_timeout=max(0.1, deadline.left_s()))
        configs: dict[str, dict[str, str]] = {}
        for resource, result in await_results(futures, deadline).items():
            if isinstance(result, Exception):
                error = self._source.error(result, op="describe configs", right="DESCRIBE_CONFIGS", topic=resource.name)
                self._log.warning("remote_topic_gets_default_config", topic=resource.name, error=str(error))
                continue
            configs[resource.name] = {
                entry.name: entry.value
                for entry in result.values()
                if int(entry.source) == DYNAMIC_TOPIC_CONFIG and not NOT_COPIED.fullmatch(entry.name)
            }
        return configs

    def _await_metadata(self, partitions: Mapping[str, int], deadline: Deadline) -> None:
        """Wait until every broker that is asked knows the new topics and partitions."""
        while not deadline.expired:
            topics = list_topics(self._target, self._target_admin, deadline).topics
            if all(name in topics and len(topics[name].partitions) >= count for name, count in partitions.items()):
                return
            time.sleep(0.02)
        raise RetriableError(f"not visible within {deadline.seconds:g} s: {sorted(partitions)}", op="create topics")


def _failed(result: object, harmless: int) -> bool:
    """Whether an admin result is an error, other than the one that says that the work is done already."""
    is_harmless = isinstance(result, KafkaException) and result.args[0].code() == harmless
    return isinstance(result, Exception) and not is_harmless
