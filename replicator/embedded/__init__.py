"""Kafka clusters for the demo, the tests and the bench, in one of three ways:

1. clusters that exist, by their bootstrap addresses;
2. containers, when a Docker engine answers;
3. brokers as Java processes, with the jars from Maven Central.

`REPLICATOR_EMBEDDED=docker` or `java` chooses between the last two. Whatever happens to this process, the
clusters that it started end with it, unless it detached them.

Read first: `spec` (what a cluster can be and do), then `clusters`.

    with open_clusters([ClusterSpec("east"), ClusterSpec("west", brokers=3)]) as clusters:
        clusters["west"].kill_broker(2)

    files    spec.py        ClusterSpec, SecuritySpec, the interface Cluster
             clusters.py    open_clusters: which way, all in parallel
             containers.py  existing.py  java.py      the three ways
             properties.py  the brokers' configuration      probe.py   is it ready?      ports.py   where it listens
             provision.py   jars.py  pom.xml      what Java needs, made once in a cache
             reaper.py  reaper_main.py            processes that end with this one
"""

from replicator.embedded.clusters import Clusters, open_clusters
from replicator.embedded.jars import Kafka
from replicator.embedded.provision import ensure_kafka
from replicator.embedded.reaper import OwnedProcess, Reaper, stop_detached
from replicator.embedded.spec import ClusterError, ClusterSpec, EmbeddedCluster, SecuritySpec

__all__ = [
    "ClusterError",
    "ClusterSpec",
    "Clusters",
    "EmbeddedCluster",
    "Kafka",
    "OwnedProcess",
    "Reaper",
    "SecuritySpec",
    "ensure_kafka",
    "open_clusters",
    "stop_detached",
]
