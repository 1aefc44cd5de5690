"""Two clusters, a contender at work between them, and what it costs: what every measurement with contenders needs."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from bench import proc
from bench.backlog import BenchError, clean_up
from bench.contenders import REPLAYER, SOURCE, TARGET, Launcher, Task, check_name, compile_tree
from replicator.embedded import ClusterSpec, EmbeddedCluster, OwnedProcess, Reaper, ensure_kafka, open_clusters

HEAP_MB = 1024
BROKER = {"log.segment.delete.delay.ms": "1000", "transaction.max.timeout.ms": "900000"}
SETTLE_S = 2.0
STOP_TIMEOUT_S = 15.0

Say = Callable[[str], None]


def spec(name: str) -> ClusterSpec:
    """A broker that may use all its JVM has."""
    return ClusterSpec(name, heap_mb=HEAP_MB, quick_start=False, properties=BROKER)


@dataclass(frozen=True, slots=True)
class Stage:
    """One pair of clusters.

    Args:
        reaper: owns the contenders' processes.
    """

    source: EmbeddedCluster
    target: EmbeddedCluster
    reaper: Reaper
    launcher: Launcher

    def clear(self, keep: Sequence[str] = ()) -> None:
        """Both clusters as they were in the beginning, but for the topics `keep` of the source."""
        clean_up(self.target.bootstrap_servers, ())
        clean_up(self.source.bootstrap_servers, keep)
        time.sleep(SETTLE_S)

    def task(self, topics: str, partitions: int) -> Task:
        """Replicate `topics` from the one to the other."""
        return Task(self.source.bootstrap_servers, self.target.bootstrap_servers, topics, partitions)

    @contextlib.contextmanager
    def started(self, name: str, task: Task) -> Iterator[tuple[OwnedProcess, float]]:
        """The contender, and since when it runs (monotonic clock); stopped afterwards."""
        began_s = time.monotonic()
        process = self.launcher.launch(name, task)
        if name == REPLAYER:
            began_s = time.monotonic()
        try:
            yield process, began_s
        finally:
            process.stop(STOP_TIMEOUT_S)

    def broker_pids(self) -> list[int]:
        """Of those that are processes of this machine, and run."""
        clusters = [it for it in (self.source, self.target) if it.supports_kill]
        return [cluster.broker_pid(node) for cluster in clusters for node in range(1, cluster.broker_count + 1)]


@contextlib.contextmanager
def open_stage(contenders: Sequence[str], existing: Mapping[str, str] | None = None) -> Iterator[Stage]:
    """Start two clusters, or take those that exist; everything is stopped afterwards.

    Args:
        existing: bootstrap servers by cluster.

    Raises:
        BenchError: there is no such contender.
        ClusterError: a cluster did not start.
    """
    for name in contenders:
        check_name(name)
        compile_tree(name)
    kafka = ensure_kafka() if any(name.startswith("mm2") for name in contenders) else None
    with open_clusters([spec(SOURCE), spec(TARGET)], existing=existing or {}) as clusters, Reaper() as reaper:
        yield Stage(clusters[SOURCE], clusters[TARGET], reaper, Launcher(reaper, kafka))


def check_runs(name: str, process: OwnedProcess) -> None:
    """Raise when a contender has ended: it was not asked to."""
    status = process.poll()
    if status is not None:
        raise BenchError(f"{name} ended with status {status}; its log ends with\n{process.log_tail()}")


@dataclass(frozen=True, slots=True)
class Usage:
    """What a period took.

    Args:
        cpu_s: of the contender's processes.
        other_cpu: part of the machine's CPU that neither the contender, the brokers nor the bench used. High: not to be
            trusted.
    """

    seconds: float
    cpu_s: float
    other_cpu: float


class Meter:
    """Measures a period from here to `read`.

    Args:
        stage: its brokers are known, too.
        processes: the contender's; their children count.
    """

    def __init__(self, stage: Stage, processes: Sequence[OwnedProcess]) -> None:
        self._brokers = stage.broker_pids()
        self._processes = processes
        self._began_s = time.monotonic()
        self._cpu_s, self._other_s = self._look()

    def read(self) -> Usage:
        """From the beginning until now."""
        seconds = max(1e-9, time.monotonic() - self._began_s)
        cpu_s, other_s = self._look()
        other = max(0.0, other_s - self._other_s) / (seconds * (os.cpu_count() or 1))
        return Usage(seconds, cpu_s - self._cpu_s, round(other, 3))

    def _look(self) -> tuple[float, float]:
        """CPU time so far: of the contender, and of whatever has nothing to do with the measurement."""
        cpu_s = proc.cpu_s(pid for process in self._processes for pid in proc.tree(process.pid))
        return cpu_s, proc.machine_busy_s() - cpu_s - proc.cpu_s([*self._brokers, os.getpid()])
