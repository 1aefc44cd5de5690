"""The parts of `replicator.embedded` that own brokers, without a broker."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import pytest

from replicator.embedded import (
    ClusterError,
    ClusterSpec,
    Reaper,
    SecuritySpec,
    brokers,
    containers,
    jars,
    ports,
    probe,
)
from replicator.embedded.brokers import BrokerCluster
from tests.support.eventually import eventually

# --- brokers ----------------------------------------------------------------------------------------------------------


class FakeBroker:
    """Runs until a signal that it does not ignore."""

    pid = 0
    advertised = admin = "127.0.0.1:1"

    def __init__(self, *, ignores_sigterm: bool = False, dies_at_once: bool = False) -> None:
        self.signals: list[int] = []
        self._ignores = {signal.SIGTERM} if ignores_sigterm else set()
        self._dies = dies_at_once
        self._status: str | None = "was never started"

    def launch(self) -> None:
        self._status = "ended with status 1" if self._dies else None

    def status(self) -> str | None:
        return self._status

    def signal(self, signum: int) -> None:
        self.signals.append(signum)
        if signum not in self._ignores:
            self._status = "ended"

    def log_tail(self) -> str:
        return "the last words"

    def close(self) -> None:
        self._status = "removed"


@pytest.fixture
def always_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(brokers, "probe", lambda *_, **__: probe.Ready(frozenset({1, 2, 3})))
    monkeypatch.setattr(brokers, "warm_up", lambda *_, **__: None)
    monkeypatch.setattr(brokers, "STOP_TIMEOUT_S", 0.2)
    monkeypatch.setattr(brokers, "FLUSH_TIMEOUT_S", 0.1)


def test_a_broker_that_dies_shows_its_log() -> None:
    """At once, not at the deadline."""
    cluster = BrokerCluster(ClusterSpec("c"), {1: FakeBroker(dies_at_once=True)})
    with pytest.raises(ClusterError, match=r"broker 1 of cluster c ended with status 1.*\n.*the last words"):
        cluster.start()


def test_a_broker_that_never_answers_shows_why(monkeypatch: pytest.MonkeyPatch) -> None:
    """At the deadline, with the reason of the last probe."""
    monkeypatch.setattr(brokers, "START_TIMEOUT_S", 0.1)
    monkeypatch.setattr(brokers, "probe", lambda *_, **__: probe.NotReady("no controller"))
    with pytest.raises(ClusterError, match=r"not ready within 0\.1 s \(no controller\)"):
        BrokerCluster(ClusterSpec("c"), {1: FakeBroker()}).start()


@pytest.mark.usefixtures("always_ready")
def test_stopping_ends_in_a_kill_where_it_must() -> None:
    """All are asked first; whoever does not end in time is killed."""
    good, stubborn = FakeBroker(), FakeBroker(ignores_sigterm=True)
    cluster = BrokerCluster(ClusterSpec("c", brokers=2), {1: good, 2: stubborn})
    cluster.start()
    cluster.stop()
    assert good.signals == [signal.SIGTERM]
    assert stubborn.signals == [signal.SIGTERM, signal.SIGKILL]
    cluster.start()
    cluster.stop_broker(2)
    assert stubborn.signals[2:] == [signal.SIGTERM, signal.SIGKILL]
    with pytest.raises(ClusterError, match="no broker 3"):
        cluster.kill_broker(3)


# --- containers -------------------------------------------------------------------------------------------------------


def test_a_container_gets_everything_before_its_start_script(tmp_path: Path) -> None:
    """The script is the last file of the archive: the container starts as soon as it is there."""
    key_store = tmp_path / "k.pem"
    key_store.write_bytes(b"pem")
    security = SecuritySpec("SASL_SSL", {"ana": "it's"}, key_store=key_store)
    spec = ClusterSpec("c", brokers=3, security=security)
    files = containers.start_files(spec, 2, "some-id", "docker:31000", "docker:31001")
    with tarfile.open(fileobj=io.BytesIO(containers.tar(files))) as archive:
        assert archive.getnames() == ["key_store.pem", "server.properties", "start.sh"]
    config = files["server.properties"].decode()
    assert "advertised.listeners=CLIENT://docker:31000,INTERNAL://broker-2:9094,ADMIN://docker:31001\n" in config
    assert "controller.quorum.voters=1@broker-1:9093,2@broker-2:9093,3@broker-3:9093\n" in config
    assert "ssl.keystore.location=/tmp/key_store.pem\n" in config
    script = files["start.sh"].decode()
    assert "format --ignore-formatted -t some-id" in script
    assert "it'\"'\"'s" in script


class FakeContainer:
    """What a broker uses of a testcontainers container and of docker's own."""

    id = "abc"

    def __init__(self) -> None:
        self.status = "created"
        self.archives: list[bytes] = []
        self.killed_with: list[str] = []

    def start(self) -> None:
        self.status = "running"

    def stop(self) -> None:
        self.status = "removed"

    def reload(self) -> None:
        """Docker's objects are snapshots."""

    def kill(self, *, signal: str) -> None:
        self.killed_with.append(signal)
        self.status = "exited"

    def logs(self, *, tail: int) -> bytes:
        return f"the last {tail}".encode()

    def put_archive(self, path: str, data: bytes) -> None:
        assert path == "/tmp"
        self.archives.append(data)

    def get_wrapped_container(self) -> FakeContainer:
        return self

    def get_container_host_ip(self) -> str:
        return "docker"

    def get_exposed_port(self, port: int) -> int:
        return port + 20_000


def test_a_container_is_created_once_and_started_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """So data and address stay; the files are sent once."""
    container = FakeContainer()
    monkeypatch.setattr(containers, "new_container", lambda *_: container)
    broker = containers.ContainerBroker(ClusterSpec("c"), 1, "id", mock.Mock())
    assert broker.status() == "was never started"
    broker.launch()
    assert (broker.advertised, broker.admin, broker.status()) == ("docker:29092", "docker:29092", None)
    broker.signal(signal.SIGKILL)
    broker.signal(signal.SIGKILL)  # it has ended: docker would refuse
    assert (broker.status(), container.killed_with) == ("is exited", ["SIGKILL"])
    broker.launch()
    assert broker.status() is None
    assert len(container.archives) == 1
    assert broker.log_tail() == "the last 40"
    broker.close()
    assert container.status == "removed"


def test_a_container_has_fixed_ports_and_its_own_heap(monkeypatch: pytest.MonkeyPatch) -> None:
    """Docker would give other host ports after a stop and a start."""
    core = pytest.importorskip("testcontainers.core.container")
    monkeypatch.setattr(core, "DockerClient", mock.Mock())
    spec = ClusterSpec("c", heap_mb=256, security=SecuritySpec("SASL_PLAINTEXT", {"ana": "x"}))
    container = containers.new_container(spec, 2, mock.Mock())
    assert container.image.endswith(f"apache/kafka:{jars.kafka_version()}")
    assert set(container.ports) == {"9092", "9095"}
    assert all(isinstance(host_port, int) for host_port in container.ports.values())
    assert container.env["KAFKA_HEAP_OPTS"] == "-Xmx256m"


# --- reaper -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def reaper() -> Iterator[Reaper]:
    with Reaper() as it:
        yield it


def test_closing_kills_and_removes(reaper: Reaper) -> None:
    """Twice is once."""
    process = reaper.spawn(["/bin/sleep", "60"], log=reaper.directory / "log")
    assert process.poll() is None
    reaper.close()
    reaper.close()
    assert not reaper.directory.exists()
    with pytest.raises(ProcessLookupError):
        os.kill(process.pid, 0)
    with pytest.raises(ClusterError, match="is gone"):
        process.poll()


def test_a_killed_reaper_takes_its_processes_along(reaper: Reaper) -> None:
    """On Linux; and the next request says so."""
    if sys.platform != "linux":
        pytest.skip("PR_SET_PDEATHSIG is Linux's")
    process = reaper.spawn(["/bin/sleep", "60"], log=reaper.directory / "log")
    os.kill(reaper.pid, signal.SIGKILL)

    def is_gone() -> bool:
        status = Path(f"/proc/{process.pid}/stat")
        return not status.exists() or status.read_text().split()[2] == "Z"

    eventually(is_gone, within_s=5)
    with pytest.raises(ClusterError, match="owns the Kafka brokers"):
        process.poll()
    for file in reaper.directory.iterdir():
        file.unlink()
    reaper.directory.rmdir()


def test_processes_report_status_output_and_errors(reaper: Reaper) -> None:
    """A program that does not exist is an error of the caller, not the end of the reaper."""
    with pytest.raises(ClusterError, match="FileNotFoundError"):
        reaper.spawn(["/no/such/program"], log=reaper.directory / "log")
    greet = ["/bin/sh", "-c", "echo $GREETING; exit 3"]
    process = reaper.spawn(greet, log=reaper.directory / "log", env={"GREETING": "hi"})
    assert process.wait(10) == 3
    assert process.log_tail() == "hi"
    process.signal(signal.SIGKILL)  # does nothing, and harms nobody who got its pid
    ignore = ["/bin/sh", "-c", "trap '' TERM; echo ready; while :; do sleep 0.1; done"]
    stubborn = reaper.spawn(ignore, log=reaper.directory / "stubborn.log")
    eventually(lambda: stubborn.log_tail() == "ready", within_s=5)
    assert stubborn.stop(timeout_s=0.2) == -signal.SIGKILL


def test_free_ports_are_different_and_out_of_the_way_of_outgoing_connections() -> None:
    """Else a client's connection could sit on the port of a broker that is down."""
    found = ports.free_ports(30)
    assert len(set(found)) == 30
    assert all(ports.FIRST_PORT <= port <= ports.LAST_PORT for port in found)


def test_a_port_is_nobody_elses_while_its_broker_is_down() -> None:
    """Nobody listens there now, and yet neither this process nor another one is given it."""
    (port,) = ports.free_ports(1)
    ask = f"from replicator.embedded import ports; ports.FIRST_PORT = ports.LAST_PORT = {port}; ports.free_ports(1)"
    other = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, timeout=30, check=False)
    assert f"no 1 free ports between {port} and {port}" in other.stderr
    with (
        mock.patch.object(ports, "FIRST_PORT", port),
        mock.patch.object(ports, "LAST_PORT", port),
        pytest.raises(ClusterError, match=f"between {port} and {port}"),
    ):
        ports.free_ports(1)
