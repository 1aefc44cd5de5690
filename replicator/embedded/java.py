"""Brokers that are Java processes on this machine."""

from __future__ import annotations

import shutil
import signal
import subprocess
from pathlib import Path

from replicator.embedded.brokers import BrokerCluster
from replicator.embedded.jars import Kafka
from replicator.embedded.ports import HOST, free_ports
from replicator.embedded.properties import (
    Addresses,
    Listener,
    meta_properties,
    random_id,
    render,
    scram_arguments,
    server_properties,
)
from replicator.embedded.reaper import OwnedProcess, Reaper, log_tail
from replicator.embedded.spec import STOP_TIMEOUT_S, ClusterError, ClusterSpec

FORMAT_TIMEOUT_S = 180.0
QUICK_START = ("-XX:TieredStopAtLevel=1",)
SERIAL_GC = ("-XX:+UseSerialGC",)  # fewer threads and less memory than G1; pauses are short with heaps this small


class JavaBroker:
    """See `Broker`. Its folder holds its configuration, its log and its data.

    Args:
        spec: of the cluster.
        kafka: the jars.
        reaper: owns the process.
        folder: complete with `server.properties` and a formatted data directory.
        addresses: of this broker.
    """

    def __init__(self, spec: ClusterSpec, kafka: Kafka, reaper: Reaper, folder: Path, addresses: Addresses) -> None:
        self._spec = spec
        self._kafka = kafka
        self._reaper = reaper
        self._folder = folder
        self._log = folder / "broker.log"
        self._process: OwnedProcess | None = None
        self.advertised = addresses.client.advertised
        self.admin = (addresses.internal or addresses.client).advertised

    @property
    def pid(self) -> int:
        if self._process is None:
            raise ClusterError(f"the broker in {self._folder} was never started")
        return self._process.pid

    def launch(self) -> None:
        compiler = QUICK_START if self._spec.quick_start else ()
        command = self._kafka.command(
            "kafka.Kafka",
            [str(self._folder / "server.properties")],
            heap_mb=self._spec.heap_mb,
            jvm_args=(*SERIAL_GC, *compiler, *self._spec.jvm_args),
        )
        self._process = self._reaper.spawn(command, log=self._log)

    def status(self) -> str | None:
        if self._process is None:
            return "was never started"
        status = self._process.poll()
        return None if status is None else f"ended with status {status}"

    def signal(self, signum: int) -> None:
        if self._process is not None:
            self._process.signal(signum)

    def log_tail(self) -> str:
        return log_tail(self._log)

    def close(self) -> None:
        if self._process is not None:
            self._process.signal(signal.SIGKILL)
            self._process.wait(STOP_TIMEOUT_S)
        shutil.rmtree(self._folder, ignore_errors=True)


def java_cluster(spec: ClusterSpec, kafka: Kafka, reaper: Reaper) -> BrokerCluster:
    """A cluster, formatted and not yet started, in the folder `<name>` of the reaper."""
    addresses = _choose_addresses(spec)
    folders = {node_id: reaper.directory / spec.name / f"broker-{node_id}" for node_id in spec.node_ids}
    _format(spec, kafka, addresses, folders)
    return BrokerCluster(
        spec, {node: JavaBroker(spec, kafka, reaper, folders[node], addresses[node]) for node in spec.node_ids}
    )


def _choose_addresses(spec: ClusterSpec) -> dict[int, Addresses]:
    places = (Listener(f"{HOST}:{port}", f"{HOST}:{port}") for port in free_ports(3 * spec.brokers))
    return {
        node_id: Addresses(
            client=next(places), controller=next(places), internal=next(places) if spec.security else None
        )
        for node_id in spec.node_ids
    }


def _format(spec: ClusterSpec, kafka: Kafka, addresses: dict[int, Addresses], folders: dict[int, Path]) -> None:
    """Write what `kafka-storage format` would; only users need that tool, once for all brokers."""
    cluster_id = random_id()
    checkpoint = kafka.checkpoint
    scram = scram_arguments(spec.security)
    for node_id, folder in folders.items():
        data = folder / "data"
        folder.mkdir(parents=True)
        (folder / "server.properties").write_text(render(server_properties(spec, node_id, addresses, data)))
        if scram and checkpoint == kafka.checkpoint:
            format_storage(kafka, folder / "server.properties", cluster_id, scram)
            checkpoint = data / "bootstrap.checkpoint"
        else:
            data.mkdir()
            (data / "meta.properties").write_text(render(meta_properties(cluster_id, node_id)))
            shutil.copyfile(checkpoint, data / "bootstrap.checkpoint")


def format_storage(kafka: Kafka, properties_file: Path, cluster_id: str, scram: list[str]) -> None:
    """Run `kafka-storage format`.

    Raises:
        ClusterError: it failed.
    """
    command = kafka.command(
        "kafka.tools.StorageTool",
        ["format", "-t", cluster_id, "-c", str(properties_file), *scram],
        jvm_args=(*SERIAL_GC, *QUICK_START),
    )
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=FORMAT_TIMEOUT_S, check=False
    )
    if done.returncode != 0:
        raise ClusterError(f"the data directory could not be formatted:\n{done.stdout[-2000:]}")
