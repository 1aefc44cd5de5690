"""What a cluster says of its topics and of their logs: metadata, ids, offsets."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import Future
from typing import Any

from replicator.deadline import Deadline
from replicator.errors import TP, KafkaOpError, RetriableError
from replicator.kafka.cluster import (
    AdminClient,
    Cluster,
    IsolationLevel,
    KafkaException,
    OffsetSpec,
    TopicCollection,
    TopicPartition,
    await_results,
    uuid_bytes,
)
from replicator.offset_map.topic_id import TopicId

BATCH_TOPICS = 1000
NO_SUCH_OFFSET = -1
"""The broker's answer for a timestamp later than every record."""
NO_LEADERS = "_NOENT"
"""librdkafka's word for a list of leaders that is empty at the moment, and for all that it does not find."""
ANSWER_TIMEOUT_S = 10.0
LEADER_PATIENCE_S = 5.0


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
