"""Which data plane a flow gets, and why."""

from __future__ import annotations

from typing import Any

import pytest

from replicator.config import build
from replicator.errors import ConfigError, RetriableError
from replicator.kafka.cluster import Cluster
from replicator.planes import select
from replicator.planes.select import Choice, choose
from replicator.protocol.capabilities import NEEDED

NEWEST = dict.fromkeys(NEEDED, (0, 20))


def chosen(wanted: str, client: dict[str, Any] | None = None) -> Choice:
    content = {
        "clusters": {
            "east": {"bootstrap_servers": "e:1"},
            "west": {"bootstrap_servers": "w:1", "client": client or {}},
        },
        "flows": {"east->west": {"topics": ["orders"], "data_plane": wanted}},
    }
    flow = build(content).flow()
    clusters = (
        Cluster("east", "source", flow.source_cluster, "g"),
        Cluster("west", "target", flow.target_cluster, "g"),
    )
    return choose(flow, clusters, 1.0)


@pytest.fixture
def brokers(monkeypatch: pytest.MonkeyPatch) -> dict[str, dict[int, tuple[int, int]]]:
    """What the brokers of each cluster speak."""
    spoken = {"east": dict(NEWEST), "west": dict(NEWEST)}
    monkeypatch.setattr(select, "probe", lambda cluster, timeout_s: spoken[cluster.alias])
    return spoken


Spoken = dict[str, dict[int, tuple[int, int]]]


@pytest.mark.parametrize("wanted", ["auto", "batches"])
def test_batches_wherever_both_clusters_allow_it(brokers: Spoken, wanted: str) -> None:
    assert chosen(wanted) == Choice("batches")
    assert str(chosen(wanted)) == "batches"


def test_records_when_the_configuration_says_so_and_nobody_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(select, "probe", lambda *_: pytest.fail("asked"))
    assert chosen("records") == Choice("records", "as configured")


def test_brokers_that_are_too_old_get_records(brokers: Spoken) -> None:
    brokers["west"][1] = (0, 11)
    assert str(chosen("auto")) == (
        "records (clusters.west: the brokers speak Fetch 0 to 11, and 12 is needed (Kafka 2.8 or newer does))"
    )


def test_properties_for_librdkafka_get_records(brokers: Spoken) -> None:
    found = chosen("auto", {"ssl.cipher.suites": "x", "queued.min.messages": 5})
    assert found.kind == "records"
    assert found.reason == "clusters.west: client: ssl.cipher.suites is for librdkafka, which this plane does without"
    assert chosen("auto", {"queued.min.messages": 5, "client.rack": "a"}).kind == "batches"


def test_batches_that_are_impossible_are_refused(brokers: Spoken) -> None:
    del brokers["east"][26]
    with pytest.raises(
        ConfigError, match=r"flows.east->west.data_plane: batches is not possible: clusters.east: .*EndTxn"
    ):
        chosen("batches")


def test_no_answer_decides_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker tries again: it must not get another plane because a broker was slow."""

    def silent(cluster: Cluster, timeout_s: float) -> dict[int, tuple[int, int]]:
        raise RetriableError("no answer", op="ask")

    monkeypatch.setattr(select, "probe", silent)
    with pytest.raises(RetriableError):
        chosen("auto")
