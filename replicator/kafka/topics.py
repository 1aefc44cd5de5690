"""Which topics a flow replicates, and their copies on the target: found, created, grown.

Every worker keeps its own catalog and creates what its own tasks need, so that nothing waits for another worker;
two that create the same topic at once get one topic (TOPIC_ALREADY_EXISTS is success).

Source: connect/mirror `MirrorSourceConnector#createNewTopics`, `#computeAndCreateTopicPartitions`;
`DefaultConfigPropertyFilter` for the properties that are not copied.
"""

from __future__ import annotations

import contextlib
import re
import threading
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from replicator.config import Flow
from replicator.deadline import Deadline
from replicator.errors import TP, KafkaOpError, RetriableError
from replicator.kafka.cluster import (
    AdminClient,
    Cluster,
    ConfigResource,
    IsolationLevel,
    KafkaError,
    KafkaException,
    NewPartitions,
    NewTopic,
    OffsetSpec,
    TopicCollection,
    TopicPartition,
    await_results,
    uuid_bytes,
)
from replicator.log import Logger
from replicator.offset_map.sync_format import TargetTopic
from replicator.offset_map.topic_id import NO_ID, TopicId

NOT_COPIED = re.compile(
    r"(follower|leader)\.replication\.throttled\.replicas|message\.timestamp\.(difference\.max\.ms|type)"
    r"|unclean\.leader\.election\.enable|min\.insync\.replicas"
)
DYNAMIC_TOPIC_CONFIG = 1
"""`ConfigEntry.source` of a value that was set on the topic itself."""
BATCH_TOPICS = 1000
NO_SUCH_OFFSET = -1
"""The broker's answer for a timestamp later than every record."""
NO_LEADERS = "_NOENT"
"""librdkafka's word for a list of leaders that is empty at the moment, and for all that it does not find."""
ANSWER_TIMEOUT_S = 10.0
LEADER_PATIENCE_S = 5.0


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


def list_topics(cluster: Cluster, admin: AdminClient, deadline: Deadline) -> Any:
    """Metadata of all topics that the principal may describe.

    Raises:
        KafkaOpError: no answer.
    """
    try:
        return admin.list_topics(timeout=max(0.1, deadline.left_s()))
    except KafkaException as cause:
        raise cluster.error(cause, op="list topics") from cause


def describe_topics(
    admin: AdminClient, names: Iterable[str], deadline: Deadline, *, rights: bool = False
) -> dict[str, Any]:
    """What the cluster says of topics, by name; an exception takes the place of what it does not tell.

    Args:
        rights: ask what we may do with them, too.
    """
    wanted = sorted(set(names))
    results: dict[str, Any] = {}
    for start in range(0, len(wanted), BATCH_TOPICS):
        results |= await_results(
            admin.describe_topics(
                TopicCollection(wanted[start : start + BATCH_TOPICS]),
                include_authorized_operations=rights,
                request_timeout=max(0.1, deadline.left_s()),
            ),
            deadline,
        )
    return results


def topic_ids(described: Mapping[str, Any]) -> dict[str, TopicId]:
    """The ids of those topics that the cluster describes; zeros on brokers that have none."""
    return {name: uuid_bytes(it.topic_id) for name, it in described.items() if not isinstance(it, Exception)}


def lacks_leader(described: Any, partition: int) -> bool:
    """Whether `describe_topics` says that a partition has no leader; no answer says nothing."""
    if described is None or isinstance(described, Exception):
        return False
    return any(it.id == partition and (it.leader is None or it.leader.id < 0) for it in described.partitions)


def list_offsets(
    cluster: Cluster, admin: AdminClient, specs: Mapping[TP, OffsetSpec], deadline: Deadline, *, committed: bool = True
) -> dict[TP, int | KafkaOpError]:
    """Offsets of partitions by specification; an error takes its partition's place.

    A partition that was just created, or whose leader moves, is asked again for up to five seconds.

    Args:
        specs: what is asked of each partition; for a timestamp later than every record the answer is -1.
        committed: whether ``latest`` is the last stable offset, not the high watermark.
    """
    patience = Deadline(deadline.slice_s(LEADER_PATIENCE_S))
    answers: dict[TP, int | KafkaOpError] = {}
    open_specs = dict(specs)
    while open_specs:
        budget = Deadline(deadline.slice_s(ANSWER_TIMEOUT_S))  # one partition without a leader holds up all answers
        answers |= _list_offsets_once(cluster, admin, open_specs, budget, committed)
        open_specs = {tp: spec for tp, spec in open_specs.items() if isinstance(answers[tp], RetriableError)}
        if patience.expired:
            break
        if open_specs:
            _forget_leaders(cluster, admin, patience)
            time.sleep(0.05)
    return answers


def known_offsets(
    cluster: Cluster, admin: AdminClient, specs: Mapping[TP, OffsetSpec], deadline: Deadline, *, committed: bool = True
) -> dict[TP, int]:
    """`list_offsets`, where every partition has to answer.

    Raises:
        KafkaOpError: one did not.
    """
    found: dict[TP, int] = {}
    for tp, answer in list_offsets(cluster, admin, specs, deadline, committed=committed).items():
        if isinstance(answer, KafkaOpError):
            raise answer
        found[tp] = answer
    return found


def _forget_leaders(cluster: Cluster, admin: AdminClient, patience: Deadline) -> None:
    """Have the client ask for the leaders again: after an election it would repeat the old epoch for a minute."""
    with contextlib.suppress(KafkaOpError):  # no answer here is no answer to the question: that says why
        list_topics(cluster, admin, patience)


def ask_offsets(
    admin: AdminClient, specs: Mapping[TP, OffsetSpec], timeout_s: float, *, committed: bool = True
) -> dict[TP, Future[Any]]:
    """Ask for offsets as `list_offsets` does, once, in the background; each answer's `offset` is below -1 without one.

    Args:
        timeout_s: every answer is there by then, or an exception in its place.
    """
    if not specs:
        return {}
    request = {TopicPartition(tp.topic, tp.partition): spec for tp, spec in specs.items()}
    level = IsolationLevel.READ_COMMITTED if committed else IsolationLevel.READ_UNCOMMITTED
    futures = admin.list_offsets(request, isolation_level=level, request_timeout=max(0.1, timeout_s))
    return {TP(partition.topic, partition.partition): future for partition, future in futures.items()}


def _list_offsets_once(
    cluster: Cluster, admin: AdminClient, specs: Mapping[TP, OffsetSpec], deadline: Deadline, committed: bool
) -> dict[TP, int | KafkaOpError]:
    futures = ask_offsets(admin, specs, deadline.left_s(), committed=committed)
    answers: dict[TP, int | KafkaOpError] = {}
    for tp, result in await_results(futures, deadline).items():
        if isinstance(result, Exception):
            error = cluster.error(result, op="list offsets", tp=tp, right="DESCRIBE", topic=tp.topic)
            if error.code == NO_LEADERS:
                error = RetriableError(f"no leader on {cluster.alias}", op="list offsets", tp=tp, code=error.code)
            answers[tp] = error
        elif result.offset < NO_SUCH_OFFSET:  # librdkafka's -1001, without an error, where the broker gave no answer
            answers[tp] = RetriableError(f"no answer from {cluster.alias}", op="list offsets", tp=tp)
        else:
            answers[tp] = result.offset
    return answers
