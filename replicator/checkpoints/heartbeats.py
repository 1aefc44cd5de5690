"""Heartbeats: a record each second in `heartbeats` on the source, in MM2's format, which travels the flow.

On the target it shows that the flow lives and how long the way takes, and MM2's `MirrorClient` finds upstream clusters
and hops by the names of the topics that it makes.

Source: connect/mirror `MirrorHeartbeatTask`.
"""

from __future__ import annotations

import time

from replicator.config import Flow
from replicator.deadline import StopToken
from replicator.errors import RetriableError
from replicator.kafka.cluster import AdminClient, Cluster, KafkaError, KafkaException, Message, Producer
from replicator.kafka.internal_topics import ensure_compacted
from replicator.kafka.topics import Catalog
from replicator.names import HEARTBEATS_TOPIC
from replicator.offset_map.mm2_format import Heartbeat, encode_heartbeat


class Heartbeats:
    """The duty: writes a heartbeat. Threading: `step` and `close` by one thread."""

    name = "heartbeats"

    def __init__(self, flow: Flow, source: Cluster, admin: AdminClient, catalog: Catalog) -> None:
        self.interval_s = flow.settings.heartbeat_interval_s
        self.note = ""
        self._flow = flow
        self._source = source
        self._admin = admin
        self._catalog = catalog
        self._producer: Producer | None = None

    def step(self, leash: StopToken, timeout_s: float) -> None:
        """Write one.

        Raises:
            KafkaOpError: it was not written.
        """
        budget = leash.budget(timeout_s)
        if self._producer is None:
            ensure_compacted(self._admin, self._source, HEARTBEATS_TOPIC, budget)
            if HEARTBEATS_TOPIC not in self._catalog.snapshot.topics:
                self._catalog.ask_refresh()
            self._producer = self._source.producer({"message.timeout.ms": int(timeout_s * 1000)})
        failed: list[KafkaError] = []

        def delivered(error: KafkaError | None, _: Message) -> None:
            if error is not None:
                failed.append(error)

        now_ms = int(time.time() * 1000)
        key, value = encode_heartbeat(Heartbeat(self._flow.source, self._flow.target, now_ms))
        op = f"write {HEARTBEATS_TOPIC}"
        try:
            self._producer.produce(HEARTBEATS_TOPIC, value, key, 0, timestamp=now_ms, on_delivery=delivered)
            while self._producer.flush(0.1) and not budget.expired:
                pass
        except (KafkaException, SystemError, BufferError) as cause:
            self._producer = None
            raise self._source.error(cause, op=op, right="WRITE", topic=HEARTBEATS_TOPIC) from cause
        if failed:
            self._producer = None
            raise self._source.error(failed[0], op=op, right="WRITE", topic=HEARTBEATS_TOPIC)
        if len(self._producer):
            self._producer = None
            raise RetriableError(f"not written within {timeout_s:g} s", op=op)

    def close(self) -> None:
        """Let go of the producer."""
        self._producer = None
