"""Brokers that are containers, through testcontainers, where a Docker engine answers.

testcontainers' own KafkaContainer starts one broker of Confluent's image, in a configuration of its own. This is the
project's plain image instead, with the same version and the same properties as the Java way, so that a test means the
same on both. Like KafkaContainer, a container waits for its start script, which needs to know the address that Docker
gave it.

testcontainers is an optional dependency: it is imported only when a container is started.
"""

from __future__ import annotations

import dataclasses
import io
import os
import shlex
import signal
import tarfile
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from replicator.embedded.brokers import BrokerCluster
from replicator.embedded.jars import kafka_version
from replicator.embedded.ports import free_ports
from replicator.embedded.properties import (
    Addresses,
    Listener,
    random_id,
    render,
    scram_arguments,
    server_properties,
)
from replicator.embedded.spec import ClusterError, ClusterSpec, SecuritySpec

if TYPE_CHECKING:
    from testcontainers.core.container import DockerContainer
    from testcontainers.core.network import Network

CLIENT_PORT, CONTROLLER_PORT, INTERNAL_PORT, ADMIN_PORT = 9092, 9093, 9094, 9095
HOME = PurePosixPath("/tmp")  # the image's user may write here; the container has nothing else in it
START_SCRIPT = HOME / "start.sh"
DATA = HOME / "kafka-data"
WAIT_FOR_SCRIPT = f"while [ ! -f {START_SCRIPT} ]; do sleep 0.05; done; exec sh {START_SCRIPT}"
LOG_TAIL_LINES = 40


def docker_answers() -> bool:
    """Whether containers can be used: an engine answers and testcontainers is installed."""
    if not _may_have_docker():
        return False
    try:
        from testcontainers.core.docker_client import DockerClient  # noqa: PLC0415

        return bool(DockerClient().client.ping())
    except Exception:  # noqa: BLE001, RUF100 - whatever an engine or its absence raises: it does not answer
        return False


def _may_have_docker() -> bool:
    """Spares the import of the Docker client, a third of a second, where no engine can be."""
    variables = ("DOCKER_HOST", "DOCKER_CONTEXT")
    places = [
        Path("/var/run/docker.sock"),
        Path(os.environ.get("XDG_RUNTIME_DIR", "/run")) / "docker.sock",
        Path.home() / ".docker/run/docker.sock",
        Path.home() / ".testcontainers.properties",
    ]
    return any(os.environ.get(variable) for variable in variables) or any(place.exists() for place in places)


class ContainerBroker:
    """See `Broker`. The container is created at the first launch and keeps data and host port until `close`.

    Args:
        spec: of the cluster.
        node_id: of this broker.
        cluster_id: for formatting.
        network: joins the brokers of the cluster; each is known there as `broker-<node id>`.
    """

    def __init__(self, spec: ClusterSpec, node_id: int, cluster_id: str, network: Network) -> None:
        self._spec = spec
        self._node_id = node_id
        self._cluster_id = cluster_id
        self._network = network
        self._container: DockerContainer | None = None
        self.advertised = self.admin = ""

    @property
    def pid(self) -> int:
        raise ClusterError("a broker in a container has no process id here")

    def launch(self) -> None:
        if self._container is not None:
            self._container.get_wrapped_container().start()
            return
        container = new_container(self._spec, self._node_id, self._network)
        container.start()
        self._container = container
        host = container.get_container_host_ip()
        self.advertised = f"{host}:{container.get_exposed_port(CLIENT_PORT)}"
        has_admin = self._spec.security is not None
        self.admin = f"{host}:{container.get_exposed_port(ADMIN_PORT)}" if has_admin else self.advertised
        files = start_files(self._spec, self._node_id, self._cluster_id, self.advertised, self.admin)
        container.get_wrapped_container().put_archive(str(HOME), tar(files))

    def status(self) -> str | None:
        if self._container is None:
            return "was never started"
        docker = self._container.get_wrapped_container()
        docker.reload()
        return None if docker.status in ("created", "running", "paused") else f"is {docker.status}"

    def signal(self, signum: int) -> None:
        if self.status() is None and self._container is not None:
            self._container.get_wrapped_container().kill(signal=signal.Signals(signum).name)

    def log_tail(self) -> str:
        if self._container is None:
            return "(no log)"
        text = self._container.get_wrapped_container().logs(tail=LOG_TAIL_LINES)
        return bytes(text).decode(errors="replace")

    def close(self) -> None:
        if self._container is not None:
            self._container.stop()  # forces the removal of the container and its volumes
            self._container = None

    @property
    def container_id(self) -> str:
        """For `docker rm`."""
        return str(self._container.get_wrapped_container().id) if self._container is not None else ""


class ContainerCluster(BrokerCluster):
    """A `BrokerCluster` with a network of its own."""

    def __init__(self, spec: ClusterSpec, brokers: Mapping[int, ContainerBroker], network: Network) -> None:
        super().__init__(spec, brokers)
        self._containers = list(brokers.values())
        self._network = network

    def stop_command(self) -> str:
        """The command that removes what this cluster left running."""
        ids = " ".join(broker.container_id for broker in self._containers)
        return f"docker rm --force --volumes {ids} && docker network rm {self._network.id}"

    def close(self) -> None:
        super().close()
        self._network.remove()


def container_cluster(spec: ClusterSpec, *, keep: bool) -> ContainerCluster:
    """A cluster, not yet started.

    Args:
        spec: what to run.
        keep: the containers may outlive this process: testcontainers' own reaper (Ryuk) is not used for them.
    """
    from testcontainers.core.config import testcontainers_config  # noqa: PLC0415
    from testcontainers.core.network import Network  # noqa: PLC0415

    if keep:
        testcontainers_config.ryuk_disabled = True
    network = Network().create()
    cluster_id = random_id()
    brokers = {node_id: ContainerBroker(spec, node_id, cluster_id, network) for node_id in spec.node_ids}
    return ContainerCluster(spec, brokers, network)


def new_container(spec: ClusterSpec, node_id: int, network: Network) -> DockerContainer:
    """The container of one broker, which then waits for its start script."""
    from testcontainers.core.container import DockerContainer  # noqa: PLC0415

    compiler = "-XX:TieredStopAtLevel=1 " if spec.quick_start else ""
    container = (
        DockerContainer(f"apache/kafka:{kafka_version()}")
        .with_network(network)
        .with_network_aliases(f"broker-{node_id}")
        .with_env("KAFKA_HEAP_OPTS", f"-Xmx{spec.heap_mb}m")
        .with_env("KAFKA_JVM_PERFORMANCE_OPTS", f"-XX:+UseSerialGC {compiler}{' '.join(spec.jvm_args)}".strip())
        .with_command(["sh", "-c", WAIT_FOR_SCRIPT])
    )
    # Fixed host ports: Docker would give other ones after a stop and a start.
    exposed = (CLIENT_PORT, ADMIN_PORT) if spec.security else (CLIENT_PORT,)
    for port, host_port in zip(exposed, free_ports(len(exposed)), strict=True):
        container.with_bind_ports(port, host_port)
    return container


def start_files(spec: ClusterSpec, node_id: int, cluster_id: str, advertised: str, admin: str) -> dict[str, bytes]:
    """Everything the container needs, by file name; the start script last, because the container waits for it."""
    local = dataclasses.replace(spec, security=_security_in_container(spec.security))
    addresses = {node: container_addresses(spec, node, advertised, admin) for node in spec.node_ids}
    security = spec.security
    pems = {"key_store.pem": security.key_store, "trust_store.pem": security.trust_store} if security else {}
    properties = server_properties(local, node_id, addresses, DATA)
    return {
        **{name: path.read_bytes() for name, path in pems.items() if path is not None},
        "server.properties": render(properties).encode(),
        START_SCRIPT.name: start_script(cluster_id, scram_arguments(security)).encode(),
    }


def container_addresses(spec: ClusterSpec, node_id: int, advertised: str, admin: str) -> Addresses:
    """Clients come through the host's port; brokers find each other by their name in the network."""

    def inside(port: int) -> Listener:
        return Listener(f"0.0.0.0:{port}", f"broker-{node_id}:{port}")

    return Addresses(
        client=Listener(f"0.0.0.0:{CLIENT_PORT}", advertised),
        controller=inside(CONTROLLER_PORT),
        internal=inside(INTERNAL_PORT),
        admin=Listener(f"0.0.0.0:{ADMIN_PORT}", admin) if spec.security else None,
    )


def _security_in_container(security: SecuritySpec | None) -> SecuritySpec | None:
    if security is None:
        return None
    return dataclasses.replace(
        security,
        key_store=Path(HOME / "key_store.pem") if security.key_store else None,
        trust_store=Path(HOME / "trust_store.pem") if security.trust_store else None,
    )


def start_script(cluster_id: str, scram: list[str]) -> str:
    """Formats the data directory, unless it is, and becomes the broker."""
    config = HOME / "server.properties"
    users = shlex.join(scram)
    return (
        "set -e\n"
        f"/opt/kafka/bin/kafka-storage.sh format --ignore-formatted -t {cluster_id} -c {config} {users}\n"
        f"exec /opt/kafka/bin/kafka-server-start.sh {config}\n"
    )


def tar(files: Mapping[str, bytes]) -> bytes:
    """An archive of files that everybody may read, in the order given."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            member.mode = 0o644
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()
