"""Clusters for tests behave as the tests rely on: data survives a kill, nothing survives us, secrets are checked."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin._acl import AclBinding, AclOperation, AclPermissionType
from confluent_kafka.admin._resource import ResourcePatternType, ResourceType

from replicator.embedded import (
    Clusters,
    ClusterSpec,
    EmbeddedCluster,
    Kafka,
    Reaper,
    SecuritySpec,
    ensure_kafka,
    open_clusters,
)
from replicator.embedded.clusters import Way, choose_way
from tests.support.brokers import OwnClusters, UniqueName
from tests.support.certificates import Authority
from tests.support.demo import is_running
from tests.support.eventually import eventually
from tests.support.records import NewRecord, admin_client, create_topic, produce, read_topic

REFUSED_WITHIN_S = 2.0

java_only = pytest.mark.skipif(choose_way() is not Way.JAVA, reason="about processes; these are containers")


def test_a_topic_reads_back_as_written(source: EmbeddedCluster, unique: UniqueName) -> None:
    """Keys, values, nulls, headers and timestamps come back, by partition and offset."""
    topic = create_topic(source.bootstrap_servers, unique("orders"), partitions=2)
    produce(
        source.bootstrap_servers,
        topic,
        [
            NewRecord(b"one", b"k", 0, 1, [("a", b"1"), ("a", None), ("b", b"")]),
            NewRecord(None, b"tombstone", 1, 1_357_034_400_000),
            NewRecord(b"", None, 1, 2),
        ],
    )
    found = read_topic(source.bootstrap_servers, topic)
    assert [(r.partition, r.offset, r.timestamp, r.key, r.value, r.headers) for r in found] == [
        (0, 0, 1, b"k", b"one", (("a", b"1"), ("a", None), ("b", b""))),
        (1, 0, 1_357_034_400_000, b"tombstone", None, ()),
        (1, 1, 2, None, b"", ()),
    ]


def test_a_killed_broker_comes_back_with_its_data(own_clusters: OwnClusters) -> None:
    """kill -9, then a start on the same address; then a clean stop and a start."""
    cluster = own_clusters(ClusterSpec("one"))["one"]
    address = cluster.bootstrap_servers
    create_topic(address, "orders")
    produce(address, "orders", [b"before"])
    cluster.kill_broker(1)
    cluster.start()
    produce(address, "orders", [b"after"])
    cluster.restart()
    assert cluster.bootstrap_servers == address
    assert [record.value for record in read_topic(address, "orders")] == [b"before", b"after"]


def test_three_brokers_go_on_without_one(own_clusters: OwnClusters) -> None:
    """A topic on all three takes records while one is down, and has them all when it is back."""
    cluster = own_clusters(ClusterSpec("three", brokers=3))["three"]
    address = cluster.bootstrap_servers
    create_topic(address, "orders", partitions=3, replication_factor=3, config={"min.insync.replicas": "2"})
    produce(address, "orders", [NewRecord(b"before", partition=p) for p in range(3)])
    cluster.kill_broker(2)
    produce(address, "orders", [NewRecord(b"without", partition=p) for p in range(3)])
    cluster.start_broker(2)
    produce(address, "orders", [NewRecord(b"after", partition=p) for p in range(3)])
    found = read_topic(address, "orders")
    written = (b"before", b"without", b"after")
    assert [(r.partition, r.value) for r in found] == [(p, value) for p in range(3) for value in written]


PARENT = """
import sys, time
from replicator.embedded import ClusterSpec, open_clusters
with open_clusters([ClusterSpec("orphan")], keep=True) as clusters:
    if "detach" in sys.argv:
        print(clusters.detach(), clusters["orphan"].broker_pid(1), flush=True)
    else:
        print(clusters["orphan"].broker_pid(1), flush=True)
        time.sleep(120)
"""


def start_parent(*arguments: str, temporary: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", PARENT, *arguments],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(temporary)},
    )


@java_only
def test_nothing_outlives_a_killed_parent(tmp_path: Path) -> None:
    """After kill -9 of the Python process its broker is gone, and so is every file."""
    with start_parent(temporary=tmp_path) as parent:
        assert parent.stdout is not None
        broker = int(parent.stdout.readline())
        assert is_running(broker)
        assert list(tmp_path.iterdir())
        parent.kill()
    eventually(lambda: not is_running(broker), within_s=60)
    eventually(lambda: not list(tmp_path.iterdir()), within_s=60)


@java_only
def test_detached_clusters_live_until_they_are_stopped(tmp_path: Path) -> None:
    """They survive their parent, and the printed command ends them."""
    with start_parent("detach", temporary=tmp_path) as parent:
        assert parent.stdout is not None
        *command, broker = parent.stdout.read().split()
    assert parent.returncode == 0
    assert is_running(int(broker))
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    eventually(lambda: not is_running(int(broker)), within_s=60)
    assert not list(tmp_path.iterdir())
    again = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert again.returncode == 1
    assert "no clusters run in" in again.stderr


@java_only
def test_a_hanging_broker_can_be_killed(own_clusters: OwnClusters) -> None:
    """SIGSTOP, then SIGKILL, reach the JVM itself."""
    cluster = own_clusters(ClusterSpec("hangs"))["hangs"]
    pid = cluster.broker_pid(1)
    cluster.signal_broker(1, signal.SIGSTOP)
    cluster.kill_broker(1)
    assert not is_running(pid)


@java_only
def test_console_tools_run_from_the_same_jars(source: EmbeddedCluster, tmp_path: Path) -> None:
    """`Kafka.command` gives a working command line, and the reaper runs it."""
    kafka: Kafka = ensure_kafka()
    arguments = ["--bootstrap-server", source.bootstrap_servers, "--list"]
    with Reaper() as reaper:
        command = kafka.command("org.apache.kafka.tools.TopicCommand", arguments)
        process = reaper.spawn(command, log=tmp_path / "out.log")
        assert process.wait(60) == 0, process.log_tail()


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"), "own-ca")


@pytest.fixture(scope="module")
def secured(authority: Authority) -> Iterator[Clusters]:
    """One cluster per way to be secured, and all of them at once."""
    users = {"admin": "admin-secret", "ana": "ana-secret"}
    key_store = authority.server()
    specs = [
        ClusterSpec("scram", security=SecuritySpec("SASL_SSL", users, key_store=key_store)),
        ClusterSpec("acls", security=SecuritySpec("SASL_PLAINTEXT", users, acls=True)),
        ClusterSpec(
            "mtls",
            security=SecuritySpec("SSL", key_store=key_store, trust_store=authority.file, client_auth="required"),
        ),
    ]
    with open_clusters(specs) as opened:
        yield opened


def login(user: str, password: str, protocol: str = "SASL_PLAINTEXT", **more: Any) -> dict[str, Any]:
    return {
        "security.protocol": protocol,
        "sasl.mechanism": "SCRAM-SHA-512",
        "sasl.username": user,
        "sasl.password": password,
        "log_level": 0,
        **{key.replace("_", "."): str(value) for key, value in more.items()},
    }


def can_connect(cluster: EmbeddedCluster, client: dict[str, Any]) -> bool:
    try:
        admin_client(cluster.bootstrap_servers, client).list_topics(timeout=REFUSED_WITHIN_S)
    except KafkaException as error:
        if error.args[0].code() == KafkaError._TRANSPORT:  # what librdkafka makes of any failure to get in
            return False
        raise
    return True


def test_the_right_password_over_tls_is_accepted(secured: Clusters, authority: Authority) -> None:
    """SASL_SSL with SCRAM-SHA-512, with the broker's name checked."""
    client = login("ana", "ana-secret", "SASL_SSL", ssl_ca_location=authority.file)
    cluster = secured["scram"]
    create_topic(cluster.bootstrap_servers, "orders", client=client)
    produce(cluster.bootstrap_servers, "orders", [b"secret"], client=client)
    assert [r.value for r in read_topic(cluster.bootstrap_servers, "orders", client=client)] == [b"secret"]


def test_a_wrong_password_is_refused(secured: Clusters, authority: Authority) -> None:
    """The broker is there and knows the user."""
    assert not can_connect(secured["scram"], login("ana", "wrong", "SASL_SSL", ssl_ca_location=authority.file))


def test_a_foreign_certificate_is_refused(secured: Clusters, tmp_path: Path) -> None:
    """The client trusts another CA than the one that signed the broker's certificate."""
    foreign = Authority(tmp_path, "foreign-ca")
    assert not can_connect(secured["scram"], login("ana", "ana-secret", "SASL_SSL", ssl_ca_location=foreign.file))


def test_acls_bind_everyone_but_the_super_user(secured: Clusters) -> None:
    """A user sees a topic only after an ACL allows it; the plaintext admin address may do everything."""
    cluster = secured["acls"]
    create_topic(cluster.admin_servers, "orders")
    ana, admin = login("ana", "ana-secret"), login("admin", "admin-secret")
    produce(cluster.bootstrap_servers, "orders", [b"1"], client=admin)
    with pytest.raises(KafkaException, match="TOPIC_AUTHORIZATION_FAILED"):
        read_topic(cluster.bootstrap_servers, "orders", client=ana)
    literal, allow = ResourcePatternType.LITERAL, AclPermissionType.ALLOW
    acl = AclBinding(ResourceType.TOPIC, "orders", literal, "User:ana", "*", AclOperation.READ, allow)
    as_admin = admin_client(cluster.bootstrap_servers, admin)
    as_admin.create_acls([acl])[acl].result(60)
    assert len(read_topic(cluster.bootstrap_servers, "orders", client=ana)) == 1


def test_mtls_wants_a_certificate_of_its_own_ca(secured: Clusters, authority: Authority, tmp_path: Path) -> None:
    """A client with a certificate gets in; one without, or with a foreign one, does not."""
    base = {"security.protocol": "SSL", "ssl.ca.location": str(authority.file), "log_level": 0}
    own, foreign = authority.client("ana"), Authority(tmp_path, "foreign-ca").client("ana")
    key_store = {"ssl.certificate.location": str(own), "ssl.key.location": str(own)}
    assert can_connect(secured["mtls"], base | key_store)
    assert not can_connect(secured["mtls"], base)
    assert not can_connect(secured["mtls"], base | {key: str(foreign) for key in key_store})
