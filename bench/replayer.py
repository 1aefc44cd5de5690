"""What the target's broker can take, with no source behind it: a process that only sends.

    python -m bench.replayer SOURCE_SERVERS TARGET_SERVERS TOPIC PARTITIONS REMOTE_TOPIC

First it fetches all record batches of TOPIC into its memory and says so. Then it sends them to REMOTE_TOPIC, in
transactions, through the `batches` plane: stamped, checked and acknowledged like those of a replicator, but nothing is
fetched, no position is kept and no sync is written meanwhile. Nothing that uses this producer is faster on these
brokers. Then it waits for a signal.
"""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Sequence

from bench.contenders import REPLAYER_IS_READY
from replicator.config import ClusterSettings
from replicator.deadline import Deadline
from replicator.errors import TP
from replicator.kafka.cluster import AdminClient, Cluster, KafkaException, NewTopic
from replicator.planes import BATCH_BYTES, Batch, PlaneSettings
from replicator.planes.batches.plane import BatchesPlane

GROUP = "bench-replayer"
BUFFER_BYTES = 16 << 30
"""No bound: the topic has to fit."""
TRANSACTION_BYTES = 32 << 20
TIMEOUT_S = 60.0
IDLE_S = 0.5


def main(arguments: Sequence[str]) -> int:
    """Fetch, say so, send, wait."""
    source_servers, target_servers, topic, partitions, remote = arguments
    source = Cluster("source", "source", ClusterSettings(bootstrap_servers=source_servers), GROUP)
    target = Cluster("target", "target", ClusterSettings(bootstrap_servers=target_servers), GROUP)
    tps = [TP(topic, number) for number in range(int(partitions))]
    create_topic(target_servers, remote, len(tps))
    plane = BatchesPlane(source, target, PlaneSettings(GROUP, TIMEOUT_S, "lz4", BUFFER_BYTES, BATCH_BYTES))
    plane.open(Deadline(TIMEOUT_S))
    fetched = fetch_all(plane, tps)
    print(f"{sum(it.records for it in fetched):,} records, {sum(it.size_bytes for it in fetched):,} bytes", flush=True)
    print(REPLAYER_IS_READY, flush=True)
    began_s = time.monotonic()
    for some in transactions(fetched, TRANSACTION_BYTES):
        send(plane, some, remote)
    print(f"sent in {time.monotonic() - began_s:.2f} s", flush=True)
    signal.pause()
    return 0


def create_topic(servers: str, topic: str, partitions: int) -> None:
    """On the target; it may be there already."""
    admin = AdminClient({"bootstrap.servers": servers, "log_level": 0})
    future = admin.create_topics([NewTopic(topic, num_partitions=partitions, replication_factor=1)])[topic]
    try:
        future.result(TIMEOUT_S)
    except KafkaException as error:
        print(f"{topic}: {error}", flush=True)


def fetch_all(plane: BatchesPlane, tps: Sequence[TP]) -> list[Batch]:
    """Every batch of these partitions, as it is now, in the order in which they come."""
    plane.assign(dict.fromkeys(tps, 0))
    found: list[Batch] = []
    deadline = Deadline(TIMEOUT_S)
    quiet_s = time.monotonic() + IDLE_S
    while (time.monotonic() < quiet_s or not found) and not deadline.expired:
        fetched = plane.fetch(0.1)
        if fetched.failed:
            raise fetched.failed[0]
        found += fetched.batches
        if fetched.batches:
            quiet_s = time.monotonic() + IDLE_S
    plane.remove(tps)
    return found


def transactions(batches: Sequence[Batch], size_bytes: int) -> list[list[Batch]]:
    """In order, cut into pieces of at least so many bytes, the last one excepted."""
    found: list[list[Batch]] = [[]]
    room = size_bytes
    for batch in batches:
        if room <= 0:
            found.append([])
            room = size_bytes
        found[-1].append(batch)
        room -= batch.size_bytes
    return found


def send(plane: BatchesPlane, batches: Sequence[Batch], topic: str) -> None:
    """One transaction."""
    deadline = Deadline(TIMEOUT_S)
    plane.begin()
    for batch in batches:
        plane.append(batch, topic, deadline)
    plane.flush(deadline)
    plane.commit(deadline)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
