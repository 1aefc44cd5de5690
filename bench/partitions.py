"""What partitions cost that have nothing to do: the same load on the same few, alone and among many idle ones."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

from bench import proc
from bench.backlog import Backlog, Watch
from bench.contenders import SOURCE
from bench.live import Live
from bench.stage import Meter, Say, Stage, open_stage

BUSY_TOPIC, IDLE_TOPIC = "bench-busy", "bench-idle"
SIZE_BYTES = 100
RECORDS_PER_S = 10_000


@dataclass(frozen=True, slots=True)
class Options:
    """What to measure.

    Args:
        busy: partitions with records.
        all: partitions in the second case of each contender.
        existing: bootstrap servers by cluster, for clusters that run already.
    """

    contenders: tuple[str, ...]
    rounds: int
    busy: int
    all: int
    records_per_s: int
    warm_up_s: float
    window_s: float
    existing: dict[str, str]


@dataclass(frozen=True, slots=True)
class Run:
    """One contender, one round, one number of partitions.

    Args:
        cores: CPU time of the contender for each second.
        other_cpu: see `bench.stage.Usage`.
    """

    contender: str
    round: int
    partitions: int
    busy: int
    records_per_s: float
    cores: float
    peak_rss_bytes: int
    other_cpu: float


def measure(options: Options, say: Say) -> list[Run]:
    """All runs: within a round each contender with few partitions, then with many.

    Raises:
        BenchError, ClusterError: something did not start, ended early, took too long, or was not replicated once.
    """
    runs: list[Run] = []
    with open_stage(options.contenders, options.existing) as stage:
        for number in range(1, options.rounds + 1):
            for name in options.contenders:
                for partitions in (options.busy, options.all):
                    run = _run(stage, name, number, partitions, options)
                    runs.append(run)
                    say(
                        f"{name:14} round {number}: {partitions:,} partitions, {run.records_per_s:,.0f} rec/s: "
                        f"{run.cores:.3f} cores, {run.peak_rss_bytes / 2**20:,.0f} MiB, others {run.other_cpu:.0%}"
                    )
        stage.clear()
    return runs


def _run(stage: Stage, name: str, number: int, partitions: int, options: Options) -> Run:
    stage.clear()
    idle = Backlog(IDLE_TOPIC, partitions - options.busy, 0, SIZE_BYTES)
    if idle.partitions:
        idle.create(stage.source.bootstrap_servers)
    backlog = Backlog(BUSY_TOPIC, options.busy, options.records_per_s // options.busy, SIZE_BYTES)
    with contextlib.ExitStack() as stack:
        task = stage.task("bench-.*", partitions)
        live = Live(stage, stack, name, backlog, options.records_per_s, task=task)
        watch = Watch(stage.target.bootstrap_servers, {f"{SOURCE}.{IDLE_TOPIC}": idle})
        stack.callback(watch.close)
        live.await_caught_up(lambda: idle.partitions - len(watch.ends()))
        live.let_pass(options.warm_up_s)
        meter = Meter(stage, live.processes)
        records = live.load.records
        live.let_pass(options.window_s)
        usage = meter.read()
        written = live.load.records - records
        peak = proc.peak_rss_bytes(pid for process in live.processes for pid in proc.tree(process.pid))
        live.finish()
    return Run(
        contender=name,
        round=number,
        partitions=partitions,
        busy=options.busy,
        records_per_s=round(written / usage.seconds),
        cores=round(usage.cpu_s / usage.seconds, 4),
        peak_rss_bytes=peak,
        other_cpu=usage.other_cpu,
    )
