"""The parts of `replicator.embedded` that need no broker."""

from __future__ import annotations

import os
import socket
import struct
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from replicator.deadline import Deadline
from replicator.embedded import (
    ClusterError,
    ClusterSpec,
    SecuritySpec,
    clusters,
    ensure_kafka,
    jars,
    ports,
    probe,
    properties,
)
from replicator.embedded.__main__ import main
from replicator.embedded.existing import ExistingCluster
from replicator.embedded.properties import Addresses, Listener

NODE_1 = Addresses(Listener("c:1", "c:1"), Listener("k:1", "k:1"))


# --- properties -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("brokers", "replicas", "min_isr"), [(1, "1", "1"), (2, "2", "2"), (3, "3", "2"), (5, "3", "2")]
)
def test_internal_topics_fit_the_number_of_brokers(brokers: int, replicas: str, min_isr: str) -> None:
    """One broker needs factor 1; more than three brokers need no more than three replicas."""
    spec = ClusterSpec("c", brokers=brokers)
    found = properties.server_properties(spec, 1, dict.fromkeys(spec.node_ids, NODE_1), Path("d"))
    for topic in ("offsets.topic", "transaction.state.log", "share.coordinator.state.topic"):
        assert found[f"{topic}.replication.factor"] == replicas
    assert found["transaction.state.log.min.isr"] == min_isr
    assert found["share.coordinator.state.topic.min.isr"] == min_isr


def test_the_properties_of_the_spec_win() -> None:
    """A test can turn on what is off by default."""
    spec = ClusterSpec("c", properties={"auto.create.topics.enable": "true"})
    found = properties.server_properties(spec, 1, {1: NODE_1}, Path("d"))
    assert found["auto.create.topics.enable"] == "true"
    assert "auto.create.topics.enable" not in ClusterSpec("c").properties


def test_clients_of_a_secured_cluster_have_the_secured_listener_only() -> None:
    """Brokers talk plaintext on a listener of their own, as a super user that no client can be."""
    security = SecuritySpec("SASL_SSL", {"ana": "x"}, acls=True, key_store=Path("k.pem"))
    addresses = Addresses(Listener("b:1", "a:1"), Listener("k:2", "k:2"), internal=Listener("i:3", "i:3"))
    found = properties.server_properties(ClusterSpec("c", security=security), 1, {1: addresses}, Path("d"))
    assert found["listeners"] == "CLIENT://b:1,INTERNAL://i:3,CONTROLLER://k:2"
    assert found["advertised.listeners"] == "CLIENT://a:1,INTERNAL://i:3"
    assert found["listener.security.protocol.map"] == "CLIENT:SASL_SSL,INTERNAL:PLAINTEXT,CONTROLLER:PLAINTEXT"
    assert found["inter.broker.listener.name"] == "INTERNAL"
    assert found["super.users"] == "User:admin;User:ANONYMOUS"
    assert found["listener.name.client.ssl.keystore.location"] == "k.pem"


def test_users_become_arguments_of_the_format_tool() -> None:
    """None for a cluster whose clients do not log in."""
    assert properties.scram_arguments(None) == []
    assert properties.scram_arguments(SecuritySpec("SSL", {"ana": "x"})) == []
    found = properties.scram_arguments(SecuritySpec("SASL_PLAINTEXT", {"ana": "x"}))
    assert found == ["--add-scram", "SCRAM-SHA-512=[name=ana,password=x]"]


def test_random_ids_are_what_kafka_accepts() -> None:
    """22 characters of URL-safe base64; a leading dash would read as an option of the format tool."""
    ids = {properties.random_id() for _ in range(500)}
    assert len(ids) == 500
    assert all(len(it) == 22 and not it.startswith("-") for it in ids)


def test_backslashes_survive_a_properties_file() -> None:
    """Java's reader takes a backslash as an escape."""
    assert properties.render({"a": "x\\y"}) == "a=x\\\\y\n"


@pytest.mark.parametrize("name", ["", "a/b", "../up", "a b", "-a"])
def test_a_cluster_name_is_a_directory_name(name: str) -> None:
    """Nothing that could leave the temporary directory."""
    with pytest.raises(ValueError, match="can't be called"):
        ClusterSpec(name)


# --- jars -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ('openjdk version "17.0.15" 2025-04-15', 17),
        ('java version "1.8.0_412"', 8),
        ('openjdk version "21" 2023-09-19', 21),
        ("no such thing", 0),
    ],
)
def test_java_versions(text: str, version: int) -> None:
    """Of both ways to write them."""
    assert jars.java_version(text) == version


def test_the_cache_is_where_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """$REPLICATOR_CACHE, else $XDG_CACHE_HOME/replicator, else ~/.cache/replicator."""
    monkeypatch.setenv("HOME", "/h")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("REPLICATOR_CACHE", raising=False)
    assert jars.cache_dir() == Path("/h/.cache/replicator")
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    assert jars.cache_dir() == Path("/x/replicator")
    monkeypatch.setenv("REPLICATOR_CACHE", "/r")
    assert jars.cache_dir() == Path("/r")


def test_two_processes_do_not_resolve_at_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The second waits for the first, up to its deadline."""
    monkeypatch.setenv("REPLICATOR_CACHE", str(tmp_path))
    refused = pytest.raises(ClusterError, match="another process holds")
    with jars.cache_lock(Deadline(1)), refused, jars.cache_lock(Deadline(0.1)):
        pass
    with jars.cache_lock(Deadline(0.1)):
        pass


def fake_maven(folder: Path, body: str) -> None:
    script = folder / "mvn"
    script.write_text(f"#!{sys.executable}\nimport sys, pathlib\n{body}\n")
    script.chmod(0o755)


def test_jars_appear_complete_or_not_at_all(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A Maven that fails half-way leaves nothing, and its last words are shown."""
    monkeypatch.setenv("REPLICATOR_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", str(tmp_path))
    copy = "out = pathlib.Path(sys.argv[-1].split('=')[1]); out.mkdir(); (out / 'kafka.jar').touch()"
    fake_maven(tmp_path, f"{copy}; print('no route to host'); sys.exit(1)")
    with pytest.raises(ClusterError, match="no route to host"):
        jars.resolve_jars(Deadline(30))
    assert list(jars.kafka_dir().iterdir()) == []
    fake_maven(tmp_path, copy)
    assert [jar.name for jar in jars.resolve_jars(Deadline(30)).iterdir()] == ["kafka.jar"]
    assert [it.name for it in jars.kafka_dir().iterdir()] == ["jars"]


def test_a_command_line_names_the_archive_before_the_class(tmp_path: Path) -> None:
    """The class path is sorted, because the archive holds for one order only."""
    for name in ("b.jar", "a.jar"):
        (tmp_path / name).touch()
    kafka = jars.Kafka(jars.Java(Path("/j/java"), "f"), tmp_path, tmp_path / "c", tmp_path / "classes.jsa")
    command = kafka.command("the.Main", ["x"], heap_mb=64, jvm_args=["-Dk=v"])
    assert command[0] == "/j/java"
    assert command[-4:] == ["-cp", f"{tmp_path}/a.jar{os.pathsep}{tmp_path}/b.jar", "the.Main", "x"]
    assert {"-Xmx64m", "-Dk=v", f"-XX:SharedArchiveFile={tmp_path}/classes.jsa"} <= set(command)


@pytest.mark.parametrize("missing", ["java", "mvn"])
def test_set_up_names_what_is_missing(
    missing: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 1 and one line."""
    monkeypatch.setenv("REPLICATOR_EMBEDDED", "java")
    monkeypatch.setenv("REPLICATOR_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("JAVA_HOME", raising=False)
    if missing == "mvn":
        java = tmp_path / "java"
        java.write_text("#!/bin/sh\necho 'openjdk version \"17.0.1\"' >&2\n")
        java.chmod(0o755)
    jars.find_java.cache_clear()
    ensure_kafka.cache_clear()
    try:
        assert main([]) == 1
    finally:
        jars.find_java.cache_clear()
    said = capsys.readouterr().err
    assert {"java": "no Java", "mvn": "no Maven"}[missing] in said
    assert said.count("\n") == 1


# --- which way --------------------------------------------------------------------------------------------------------


def test_containers_are_used_when_an_engine_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Java otherwise; the variable decides where it is set, and must make sense."""
    monkeypatch.delenv("REPLICATOR_EMBEDDED", raising=False)
    for answers, way in ((True, clusters.Way.DOCKER), (False, clusters.Way.JAVA)):
        monkeypatch.setattr(clusters, "docker_answers", lambda answers=answers: answers)
        assert clusters.choose_way() is way
    monkeypatch.setenv("REPLICATOR_EMBEDDED", "docker")
    assert clusters.choose_way() is clusters.Way.DOCKER
    monkeypatch.setenv("REPLICATOR_EMBEDDED", "podman")
    with pytest.raises(ClusterError, match="docker or java"):
        clusters.choose_way()


def test_an_existing_cluster_cannot_be_stopped() -> None:
    """It is somebody else's."""
    cluster = ExistingCluster("prod", "kafka:9092")
    for call in (cluster.stop, cluster.restart, lambda: cluster.kill_broker(1), lambda: cluster.stop_broker(1)):
        with pytest.raises(ClusterError, match="was not started here"):
            call()
    cluster.close()


# --- probe ------------------------------------------------------------------------------------------------------------


def text(value: str) -> bytes:
    return struct.pack(">h", len(value)) + value.encode()


def test_metadata_and_topic_answers_are_read() -> None:
    """Node ids with and without a rack; an error with and without a text."""
    body = struct.pack(">i", 2)
    body += struct.pack(">i", 1) + text("h") + struct.pack(">i", 9092) + struct.pack(">h", -1)
    body += struct.pack(">i", 7) + text("host") + struct.pack(">i", 9092) + text("rack")
    assert probe.parse_metadata(body + struct.pack(">ii", 1, 0)) == {1, 7}
    topic = struct.pack(">ii", 0, 1) + text("t")
    assert probe.parse_create_topics(topic + struct.pack(">hh", 0, -1)) == (0, "")
    assert probe.parse_create_topics(topic + struct.pack(">h", 38) + text("too few")) == (38, "too few")


@pytest.fixture
def garbage_server() -> Iterator[str]:
    """Answers every connection like a web server."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(100)
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"127.0.0.1:{listener.getsockname()[1]}"
        thread.join(5)


def test_something_else_on_the_port_is_not_ready(garbage_server: str) -> None:
    """Neither is a port where nobody listens, nor an address that makes no sense."""
    found = probe.probe(garbage_server, replication_factor=1)
    assert isinstance(found, probe.NotReady)
    assert "not a plaintext Kafka listener" in found.reason
    assert isinstance(probe.probe(f"127.0.0.1:{ports.free_ports(1)[0]}", replication_factor=1), probe.NotReady)
    assert isinstance(probe.probe("nonsense", replication_factor=1), probe.NotReady)
