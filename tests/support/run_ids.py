"""What makes the names of a test its own, so that its topics can be told from those of others, and go when it ends.

A broker with a thousand topics takes four times the processor time of an empty one, and five times as long to answer a
new client (measured): shared clusters would get slower with each test.
"""

from __future__ import annotations

import uuid

from confluent_kafka import KafkaError, KafkaException

from tests.support.records import ADMIN_TIMEOUT_S, admin_client

_given: list[str] = []


def new_run_id() -> str:
    """Eight characters that every name of a test contains."""
    _given.append(uuid.uuid4().hex[:8])
    return _given[-1]


def take_run_ids() -> list[str]:
    """Those that were given since the last call."""
    taken = list(_given)
    _given.clear()
    return taken


def delete_topics_of(run_ids: list[str], *clusters: str) -> None:
    """Delete the topics whose names contain one of the ids.

    Raises:
        KafkaException: a cluster refused.
    """
    for servers in clusters:
        admin = admin_client(servers)
        names = [
            name for name in admin.list_topics(timeout=ADMIN_TIMEOUT_S).topics if any(it in name for it in run_ids)
        ]
        for deleted in (admin.delete_topics(names) if names else {}).values():
            try:
                deleted.result(ADMIN_TIMEOUT_S)
            except KafkaException as error:
                if error.args[0].code() != KafkaError.UNKNOWN_TOPIC_OR_PART:
                    raise
