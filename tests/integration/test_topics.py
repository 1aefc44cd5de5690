"""Questions about topics, asked of clusters that have just changed."""

from __future__ import annotations

import signal

from replicator.config import ClusterSettings
from replicator.deadline import Deadline
from replicator.embedded import Clusters
from replicator.errors import TP
from replicator.kafka.cluster import LATEST, Cluster
from replicator.kafka.topic_queries import list_offsets
from tests.support.brokers import UniqueName, on_killable_pair
from tests.support.eventually import eventually
from tests.support.records import create_topic


@on_killable_pair
def test_offsets_are_known_again_after_an_election(killable_pair: Clusters, unique: UniqueName) -> None:
    """The client keeps the leaders' epochs: after an election it would be refused for as long as it keeps them."""
    broker = killable_pair["target"]
    topic = create_topic(broker.bootstrap_servers, unique("orders"), partitions=2)
    cluster = Cluster("elected", "target", ClusterSettings(bootstrap_servers=broker.bootstrap_servers), "group")
    admin = cluster.connect(10)
    asked = dict.fromkeys([TP(topic, 0), TP(topic, 1)], LATEST)

    def answers() -> list[object]:
        return list(list_offsets(cluster, admin, asked, Deadline(10)).values())

    eventually(lambda: answers() == [0, 0], 30)
    broker.signal_broker(1, signal.SIGSTOP)  # past its session with the controller: it is led anew afterwards
    try:
        eventually(lambda: answers() != [0, 0], 60)
    finally:
        broker.signal_broker(1, signal.SIGCONT)
    eventually(lambda: answers() == [0, 0], 60)
    watched = Deadline(5)  # the election comes shortly after the broker's first answers
    while not watched.expired:
        assert answers() == [0, 0]
