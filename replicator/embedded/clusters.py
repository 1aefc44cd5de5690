"""Open several clusters at once, in whichever way this machine can."""

from __future__ import annotations

import contextlib
import enum
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from replicator.embedded.containers import ContainerCluster, container_cluster, docker_answers
from replicator.embedded.existing import ExistingCluster
from replicator.embedded.java import java_cluster
from replicator.embedded.provision import ensure_kafka
from replicator.embedded.reaper import Reaper
from replicator.embedded.spec import ClusterError, ClusterSpec, EmbeddedCluster

CHOICE = "REPLICATOR_EMBEDDED"


class Way(enum.StrEnum):
    """How clusters are started here."""

    DOCKER = "docker"
    JAVA = "java"


def choose_way() -> Way:
    """Containers when a Docker engine answers, else Java processes; `REPLICATOR_EMBEDDED` overrides.

    Raises:
        ClusterError: the variable has another value.
    """
    if (chosen := os.environ.get(CHOICE)) is not None:
        if chosen not in list(Way):
            raise ClusterError(f"{CHOICE} is {chosen!r}; it may be docker or java")
        return Way(chosen)
    return Way.DOCKER if docker_answers() else Way.JAVA


class Clusters(Mapping[str, EmbeddedCluster]):
    """Clusters by name. Closing removes them with their data, unless they were detached.

    Args:
        specs: what to make, in this order; nothing is started yet.
        existing: see `open_clusters`.
        keep: see `open_clusters`.
    """

    def __init__(self, specs: Sequence[ClusterSpec], existing: Mapping[str, str], keep: bool) -> None:
        self._clusters: dict[str, EmbeddedCluster] = {}
        self._reaper: Reaper | None = None
        self._is_open = True
        ours = [spec for spec in specs if spec.name not in existing]
        try:
            if ours and choose_way() is Way.DOCKER:
                for spec in ours:
                    self._clusters[spec.name] = container_cluster(spec, keep=keep)
            elif ours:
                self._make_java(ours)
        except BaseException:
            self.close()
            raise
        self._clusters |= {
            spec.name: ExistingCluster(spec.name, existing[spec.name]) for spec in specs if spec not in ours
        }

    def _make_java(self, specs: Sequence[ClusterSpec]) -> None:
        kafka = ensure_kafka()
        self._reaper = reaper = Reaper()
        with ThreadPoolExecutor(len(specs)) as pool:  # for secured clusters this runs a Java tool
            made = [pool.submit(java_cluster, spec, kafka, reaper) for spec in specs]
        self._clusters |= {spec.name: future.result() for spec, future in zip(specs, made, strict=True)}

    def __getitem__(self, name: str) -> EmbeddedCluster:
        return self._clusters[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._clusters)

    def __len__(self) -> int:
        return len(self._clusters)

    def start(self) -> None:
        """Start all at the same time. The first error, or Ctrl-C, ends them all."""
        pool = ThreadPoolExecutor(max(1, len(self)))
        started = [pool.submit(cluster.start) for cluster in self.values()]
        try:
            for future in started:
                future.result()
        except BaseException:
            self.close()  # the other threads then find their brokers gone and end too
            raise
        finally:
            pool.shutdown()

    def detach(self) -> str:
        """Let the clusters live on after `close` and after us. They must have been opened with `keep`.

        Returns:
            The command that ends them; empty when none of them is ours.
        """
        commands = [cluster.stop_command() for cluster in self.values() if isinstance(cluster, ContainerCluster)]
        if self._reaper is not None:
            commands.append(f"{sys.executable} -m replicator.embedded stop {self._reaper.detach()}")
        self._is_open = False
        return " && ".join(commands)

    def close(self) -> None:
        """Kill all brokers and remove their data. Does nothing a second time."""
        if not self._is_open:
            return
        self._is_open = False
        if self._reaper is not None:
            self._reaper.close()  # takes all its processes and its directory along, faster than one by one
            return
        with contextlib.ExitStack() as stack:  # each is closed, even when another one fails to
            for cluster in self.values():
                stack.callback(cluster.close)


@contextlib.contextmanager
def open_clusters(
    specs: Sequence[ClusterSpec], *, existing: Mapping[str, str] | None = None, keep: bool = False
) -> Iterator[Clusters]:
    """Start clusters in parallel and remove them at the end.

    Args:
        specs: what is wanted.
        existing: name → bootstrap servers, for clusters that run already; the spec of that name is not started.
        keep: they may be detached later.

    Raises:
        ClusterError: a prerequisite is missing, or a cluster did not start.
    """
    opened = Clusters(specs, existing or {}, keep)
    try:
        opened.start()
        yield opened
    finally:
        opened.close()
