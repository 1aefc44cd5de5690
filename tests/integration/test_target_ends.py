"""The place of a caught-up group: past markers, never past a record, committed or still open."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import pytest
from confluent_kafka import Consumer, Producer

from replicator.config import ClusterSettings
from replicator.deadline import Deadline
from replicator.embedded import EmbeddedCluster
from replicator.errors import TP
from replicator.kafka import offset_probe
from replicator.kafka.cluster import Cluster as Clients
from replicator.kafka.offset_probe import OffsetProbe, Presence
from tests.support.brokers import UniqueName
from tests.support.eventually import eventually
from tests.support.records import create_topic, delete_topic, end_offsets


@pytest.fixture
def ends(target: EmbeddedCluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[OffsetProbe]:
    monkeypatch.setattr(offset_probe, "PATIENCE_S", 5.0)  # a busy machine may take more than a second
    settings = ClusterSettings(bootstrap_servers=target.admin_servers)
    with closing(OffsetProbe(Clients("west", "target", settings, "replicator-east-west"))) as it:
        yield it


class Log:
    """One partition, written to in transactions."""

    def __init__(self, servers: str, unique: UniqueName) -> None:
        self.tp = TP(create_topic(servers, unique("orders")), 0)
        self.servers = servers
        self.producer = Producer({"bootstrap.servers": servers, "transactional.id": unique("tx")})
        self.producer.init_transactions(30)

    def write(self, records: int) -> None:
        """In a transaction that stays open."""
        self.producer.begin_transaction()
        for record in range(records):
            self.producer.produce(self.tp.topic, b"%d" % record, partition=0)
        self.producer.flush(30)


@pytest.fixture
def log(target: EmbeddedCluster, unique: UniqueName) -> Log:
    """Three records and their marker: the end is 4."""
    log = Log(target.admin_servers, unique)
    log.write(3)
    log.producer.commit_transaction(30)
    return log


def find(ends: OffsetProbe, log: Log, start: int) -> int:
    return ends.first_at_or_after({log.tp: start}, Deadline(30))[log.tp]


def presence(ends: OffsetProbe, log: Log, place: int) -> Presence:
    return ends.has_record({log.tp: place}, Deadline(30))[log.tp]


def test_a_marker_is_passed(ends: OffsetProbe, log: Log) -> None:
    """Also when the place before it was asked for first."""
    assert find(ends, log, 3) == 4
    assert find(ends, log, 2) == 2
    assert find(ends, log, 3) == 4


def test_a_record_is_not_passed(ends: OffsetProbe, log: Log) -> None:
    """A later transaction's: open, then committed, then looked for anew."""
    log.write(2)
    assert find(ends, log, 3) == 4
    log.producer.commit_transaction(30)
    assert end_offsets(log.servers, log.tp.topic)[0] == 7
    assert find(ends, log, 3) == 4
    assert find(ends, log, 6) == 7


def test_aborted_records_are_passed_in_time(ends: OffsetProbe, log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    """A place that was looked up is looked up again."""
    assert find(ends, log, 3) == 4
    log.write(2)
    log.producer.abort_transaction(30)
    assert end_offsets(log.servers, log.tp.topic)[0] == 7
    assert find(ends, log, 3) == 4
    monkeypatch.setattr(offset_probe, "LOOK_AGAIN_S", 0)
    eventually(lambda: find(ends, log, 3) == 7, within_s=60)


def test_a_place_without_an_answer_stays(
    ends: OffsetProbe, log: Log, target: EmbeddedCluster, unique: UniqueName
) -> None:
    """A topic that is gone holds up the others for as long as we are patient, once."""
    gone = TP(create_topic(target.admin_servers, unique("gone")), 0)
    delete_topic(target.admin_servers, gone.topic)
    assert ends.first_at_or_after({gone: 5, log.tp: 3}, Deadline(30)) == {gone: 5, log.tp: 4}


def test_a_client_that_gives_nothing_is_replaced(
    ends: OffsetProbe, log: Log, target: EmbeddedCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It knows no broker: librdkafka forgets them when a cluster that shuts down says that it has none."""
    monkeypatch.setattr(offset_probe, "LOOK_AGAIN_S", 0.0)
    ends._consumer.close()
    ends._consumer = Consumer({"group.id": "nobody"})
    assert find(ends, log, 3) == 3
    assert find(ends, log, 3) == 4


def test_only_a_committed_record_is_one(ends: OffsetProbe, log: Log) -> None:
    """Not a marker, not the end of the log, and not what is still open."""
    log.write(2)
    held = [presence(ends, log, place) for place in range(5)]
    assert held == [Presence.RECORD] * 3 + [Presence.NO_RECORD] * 2
    log.producer.commit_transaction(30)
    eventually(lambda: presence(ends, log, 4) is Presence.RECORD, within_s=30)
    assert presence(ends, log, 7) is Presence.NO_RECORD


def test_nothing_is_behind_the_end_of_a_log(ends: OffsetProbe, log: Log) -> None:
    """A consumer there begins at the log's first record, which is none of the place that was asked for (A, B)."""
    assert presence(ends, log, 4) is Presence.NO_RECORD, "the end itself"
    for place in (5, 99):
        assert presence(ends, log, place) is Presence.BEHIND_END
        assert find(ends, log, place) == place
