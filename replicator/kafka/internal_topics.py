"""Topics of one partition: checkpoints and heartbeats, which are compacted, and the audit.

The first two get a record each second, and the segment that is written to is never compacted: small ones keep reading
short.

Source: connect/mirror `MirrorUtils#createSinglePartitionCompactedTopic`.
"""

from __future__ import annotations

from collections.abc import Mapping

from replicator.deadline import Deadline
from replicator.kafka.cluster import AdminClient, Cluster, KafkaError, KafkaException, NewTopic, await_results
from replicator.kafka.topic_queries import list_topics

WANTED_REPLICAS = 3
CONFIG = {"cleanup.policy": "compact", "segment.bytes": "16777216", "min.cleanable.dirty.ratio": "0.1"}


def ensure_compacted(admin: AdminClient, cluster: Cluster, topic: str, deadline: Deadline) -> None:
    """As `ensure_topic`, for a topic that keeps the newest record of each key."""
    ensure_topic(admin, cluster, topic, CONFIG, deadline)


def ensure_topic(
    admin: AdminClient, cluster: Cluster, topic: str, config: Mapping[str, str], deadline: Deadline
) -> None:
    """Create `topic`, with one partition, if it is not there; one that is there is taken as it is.

    Raises:
        KafkaOpError: it can't be created.
    """
    metadata = list_topics(cluster, admin, deadline)
    if topic in metadata.topics:
        return
    replicas = min(WANTED_REPLICAS, len(metadata.brokers))
    new = NewTopic(topic, 1, replicas, config=dict(config))
    result = await_results(admin.create_topics([new], request_timeout=max(0.1, deadline.left_s())), deadline)[topic]
    exists = isinstance(result, KafkaException) and result.args[0].code() == KafkaError.TOPIC_ALREADY_EXISTS
    if isinstance(result, Exception) and not exists:
        raise cluster.error(result, op=f"create {topic}", right="CREATE and WRITE", topic=topic)
