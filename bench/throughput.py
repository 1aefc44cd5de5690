"""Contenders in turn over the same backlog, to a fresh target each, measured from outside."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass

from bench import proc
from bench.backlog import Backlog, BenchError, Watch
from bench.contenders import REPLAYER, SOURCE
from bench.results import Run, Sample, summarise
from bench.stage import Meter, Say, Stage, check_runs, open_stage
from replicator.embedded import OwnedProcess

PARTITIONS = 4
POLL_S = 0.05


@dataclass(frozen=True, slots=True)
class Options:
    """What to measure.

    Args:
        sizes: bytes of a record, and how many records; each once.
        limit_s: how long one run may take.
        count_all: read every record back in the first round of each contender, and compare their number.
        existing: bootstrap servers by cluster, for clusters that run already.
        batch_records: the most records in one batch of the source; None: as many as fit.
    """

    sizes: tuple[tuple[int, int], ...]
    rounds: int
    contenders: tuple[str, ...]
    limit_s: float
    count_all: bool
    existing: dict[str, str]
    batch_records: int | None = None


def measure(options: Options, say: Say) -> list[Run]:
    """All runs, contenders alternating within a round.

    Raises:
        BenchError, ClusterError: something did not start, ended early, or took too long.
    """
    runs: list[Run] = []
    with open_stage(options.contenders, options.existing) as stage:
        bench = _Bench(stage, options)
        for size, records in options.sizes:
            backlog = Backlog(f"bench-{size}-{records}", PARTITIONS, records // PARTITIONS, size)
            stage.clear()
            say(f"filling {backlog.topic}: {backlog.records:,} records of {size} bytes")
            backlog.create(stage.source.bootstrap_servers)
            backlog.fill(stage.source.bootstrap_servers, batch_records=options.batch_records)
            for number in range(1, options.rounds + 1):
                for name in options.contenders:
                    run = bench.run(name, backlog, number)
                    runs.append(run)
                    say(
                        f"{name:14} round {number}: {run.records_per_s:9,.0f} rec/s, second half "
                        f"{run.half_records_per_s:9,.0f} and {run.half_cpu_us:5.2f} µs, "
                        f"{run.peak_rss_bytes / 2**20:5,.0f} MiB, {run.markers} markers, others {run.other_cpu:.0%}"
                    )
        stage.clear()
    return runs


class _Bench:
    """Runs of one measurement."""

    def __init__(self, stage: Stage, options: Options) -> None:
        self._stage = stage
        self._options = options
        self._counted: set[tuple[str, str]] = set()

    def run(self, name: str, backlog: Backlog, number: int) -> Run:
        """One contender, from the start of its process to the last record."""
        self._stage.clear([backlog.topic])
        task = self._stage.task(backlog.topic, backlog.partitions)
        watch = Watch(self._stage.target.bootstrap_servers, {f"{SOURCE}.{backlog.topic}": backlog})
        with contextlib.closing(watch), self._stage.started(name, task) as (process, started_s):
            meter = Meter(self._stage, [process])
            samples, markers = self._follow(name, process, started_s, watch, backlog)
            usage = meter.read()
            peak = proc.peak_rss_bytes(proc.tree(process.pid))
            if self._options.count_all and (name, backlog.topic) not in self._counted:
                self._counted.add((name, backlog.topic))
                found = watch.count()
                if found != backlog.records:
                    raise BenchError(f"{name} made {found:,} records of {backlog.records:,}")
        figures = summarise(samples, backlog.records)
        return Run(
            contender=name,
            size_bytes=backlog.size_bytes,
            round=number,
            records=backlog.records,
            peak_rss_bytes=peak,
            markers=markers,
            other_cpu=usage.other_cpu,
            **{key: round(value, 3) for key, value in figures.items()},
        )

    def _follow(
        self, name: str, process: OwnedProcess, started_s: float, watch: Watch, backlog: Backlog
    ) -> tuple[Sequence[Sample], int]:
        """Look at the contender and the target until the last record is visible."""
        before_s = proc.cpu_s([process.pid]) if name == REPLAYER else 0.0  # its preparation
        samples: list[Sample] = []
        while True:
            ends = watch.ends()
            at_s = time.monotonic() - started_s
            pids = proc.tree(process.pid)
            total = sum(ends.values())
            cpu_s = proc.cpu_s(pids) - before_s
            samples.append(Sample(at_s, min(total, backlog.records), cpu_s, proc.rss_bytes(pids)))
            if total >= backlog.records and watch.is_complete(ends):
                return samples, total - backlog.records
            check_runs(name, process)
            if at_s > self._options.limit_s:
                text = f"{total:,} of {backlog.records:,} records after {at_s:.0f} s; the log ends with"
                raise BenchError(f"{text}\n{process.log_tail()}")
            time.sleep(POLL_S)
