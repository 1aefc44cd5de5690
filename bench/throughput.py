"""Contenders in turn over the same backlog, to a fresh target each, measured from outside."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from bench import proc
from bench.backlog import Backlog, BenchError, Watch, clean_up
from bench.contenders import SOURCE, TARGET, Launcher, Task, check_name
from bench.results import Run, Sample, summarise
from replicator.embedded import Cluster, ClusterSpec, OwnedProcess, Reaper, ensure_kafka, open_clusters

SIZES = {100: 1_000_000, 1024: 250_000}
"""Record size → records by default: a quarter of what the published figures use."""
PARTITIONS = 4
POLL_S = 0.1
SETTLE_S = 2.0
HEAP_MB = 1024
BROKER = {"log.segment.delete.delay.ms": "1000", "transaction.max.timeout.ms": "900000"}

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Options:
    """What to measure.

    Args:
        sizes: record size → number of records.
        limit_s: how long one run may take.
        count_all: read every record back in the first round of each contender, and compare their number.
        existing: bootstrap servers by cluster, for clusters that run already.
    """

    sizes: dict[int, int]
    rounds: int
    contenders: tuple[str, ...]
    limit_s: float
    count_all: bool
    existing: dict[str, str]


def spec(name: str) -> ClusterSpec:
    """A broker that may use all its JVM has."""
    return ClusterSpec(name, heap_mb=HEAP_MB, quick_start=False, properties=BROKER)


def measure(options: Options, say: Say) -> list[Run]:
    """All runs, contenders alternating within a round.

    Raises:
        BenchError, ClusterError: something did not start, ended early, or took too long.
    """
    for name in options.contenders:
        check_name(name)
    needs_mm2 = any(name.startswith("mm2") for name in options.contenders)
    kafka = ensure_kafka() if needs_mm2 else None
    runs: list[Run] = []
    with open_clusters([spec(SOURCE), spec(TARGET)], existing=options.existing) as clusters, Reaper() as reaper:
        bench = _Bench(clusters[SOURCE], clusters[TARGET], Launcher(reaper, kafka), options)
        for size, records in options.sizes.items():
            backlog = Backlog(f"bench-{size}", PARTITIONS, records // PARTITIONS, size)
            say(f"filling {backlog.topic}: {backlog.records:,} records of {size} bytes")
            backlog.create(clusters[SOURCE].bootstrap_servers)
            backlog.fill(clusters[SOURCE].bootstrap_servers)
            for number in range(1, options.rounds + 1):
                for name in options.contenders:
                    run = bench.run(name, backlog, number)
                    runs.append(run)
                    say(
                        f"{name:14} round {number}: {run.records_per_s:9,.0f} rec/s, second half "
                        f"{run.half_records_per_s:9,.0f} and {run.half_cpu_us:5.2f} µs, "
                        f"{run.peak_rss_bytes / 2**20:5,.0f} MiB, {run.markers} markers, others {run.other_cpu:.0%}"
                    )
            clean_up(clusters[SOURCE].bootstrap_servers, ())
    return runs


class _Bench:
    """One pair of clusters."""

    def __init__(self, source: Cluster, target: Cluster, launcher: Launcher, options: Options) -> None:
        self._source = source
        self._target = target
        self._launcher = launcher
        self._options = options
        self._brokers = [cluster.broker_pid(1) for cluster in (source, target) if cluster.supports_kill]
        self._counted: set[tuple[str, int]] = set()

    def run(self, name: str, backlog: Backlog, number: int) -> Run:
        """One contender, from the start of its process to the last record."""
        clean_up(self._target.bootstrap_servers, ())
        clean_up(self._source.bootstrap_servers, (backlog.topic,))
        time.sleep(SETTLE_S)
        task = Task(self._source.bootstrap_servers, self._target.bootstrap_servers, backlog.topic, backlog.partitions)
        watch = Watch(self._target.bootstrap_servers, {f"{SOURCE}.{backlog.topic}": backlog})
        with contextlib.closing(watch), self._started(name, task) as (process, started_s):
            busy_s = proc.machine_busy_s() - self._known_cpu_s(process)
            samples, markers = self._follow(process, started_s, watch, backlog)
            busy_s = proc.machine_busy_s() - self._known_cpu_s(process) - busy_s
            peak = proc.peak_rss_bytes(proc.tree(process.pid))
            if self._options.count_all and (name, backlog.size_bytes) not in self._counted:
                self._counted.add((name, backlog.size_bytes))
                found = watch.count()
                if found != backlog.records:
                    raise BenchError(f"{name} made {found:,} records of {backlog.records:,}")
        other = max(0.0, busy_s) / (samples[-1].at_s * (os.cpu_count() or 1))
        figures = summarise(samples, backlog.records)
        return Run(
            contender=name,
            size_bytes=backlog.size_bytes,
            round=number,
            records=backlog.records,
            peak_rss_bytes=peak,
            markers=markers,
            other_cpu=round(other, 3),
            **{key: round(value, 3) for key, value in figures.items()},
        )

    def _known_cpu_s(self, process: OwnedProcess) -> float:
        return proc.cpu_s([*proc.tree(process.pid), *self._brokers, os.getpid()])

    @contextlib.contextmanager
    def _started(self, name: str, task: Task) -> Iterator[tuple[OwnedProcess, float]]:
        started_s = time.monotonic()
        process = self._launcher.launch(name, task)
        try:
            yield process, started_s
        finally:
            process.stop(15)

    def _follow(
        self, process: OwnedProcess, started_s: float, watch: Watch, backlog: Backlog
    ) -> tuple[Sequence[Sample], int]:
        """Look at the contender and the target until the last record is visible."""
        samples: list[Sample] = []
        while True:
            ends = watch.ends()
            at_s = time.monotonic() - started_s
            pids = proc.tree(process.pid)
            total = sum(ends.values())
            samples.append(Sample(at_s, min(total, backlog.records), proc.cpu_s(pids), proc.rss_bytes(pids)))
            if total >= backlog.records and watch.is_complete(ends):
                return samples, total - backlog.records
            status = process.poll()
            if status is not None:
                raise BenchError(f"a contender ended with status {status}; its log ends with\n{process.log_tail()}")
            if at_s > self._options.limit_s:
                text = f"{total:,} of {backlog.records:,} records after {at_s:.0f} s; the log ends with"
                raise BenchError(f"{text}\n{process.log_tail()}")
            time.sleep(POLL_S)
