"""How old records are when a read_committed reader of the target gets them, under a steady load.

A row of its own says how old they are for a reader of the source: no replicator can be faster than that.
"""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass

from bench import proc
from bench.accounts import percentile
from bench.arrivals import Arrivals, ages_ms
from bench.backlog import Backlog, BenchError
from bench.live import Live
from bench.stage import Meter, Say, Stage, open_stage

TOPIC = "bench-latency"
PARTITIONS = 4
SIZE_BYTES = 100
RECORDS_PER_S = 10_000
TICK_S = 0.005
NOTHING = "reader-of-source"
"""No contender: the same reader, on the source."""
LAST_MS = 3000
"""How much longer is read than written: a slow record counts, too."""


@dataclass(frozen=True, slots=True)
class Options:
    """What to measure.

    Args:
        records_per_s: of the load, over all partitions.
        warm_up_s: from when the contender has caught up until the measured records begin.
        window_s: in which they are written.
        existing: bootstrap servers by cluster, for clusters that run already.
    """

    contenders: tuple[str, ...]
    rounds: int
    records_per_s: int
    warm_up_s: float
    window_s: float
    existing: dict[str, str]


@dataclass(frozen=True, slots=True)
class Run:
    """One contender, one round.

    Args:
        records_per_s: that the load wrote, and that were measured.
        p50_ms, p99_ms, max_ms: of the ages.
        cpu_us: CPU time of the contender for each record.
        other_cpu: see `bench.stage.Usage`.
    """

    contender: str
    round: int
    records_per_s: float
    p50_ms: float
    p99_ms: float
    max_ms: float
    cpu_us: float
    peak_rss_bytes: int
    other_cpu: float


def measure(options: Options, say: Say) -> list[Run]:
    """All runs, contenders alternating within a round.

    Raises:
        BenchError, ClusterError: something did not start, ended early, took too long, or was not replicated once.
    """
    runs: list[Run] = []
    with open_stage([it for it in options.contenders if it != NOTHING], options.existing) as stage:
        for number in range(1, options.rounds + 1):
            for name in options.contenders:
                run = _run(stage, name, number, options)
                runs.append(run)
                say(
                    f"{name:16} round {number}: p50 {run.p50_ms:,.0f} ms, p99 {run.p99_ms:,.0f}, at most "
                    f"{run.max_ms:,.0f}, {run.cpu_us:.1f} µs/record, others {run.other_cpu:.0%}"
                )
        stage.clear()
    return runs


def _run(stage: Stage, name: str, number: int, options: Options) -> Run:
    stage.clear()
    backlog = Backlog(TOPIC, PARTITIONS, options.records_per_s // PARTITIONS, SIZE_BYTES)
    is_nothing = name == NOTHING
    with contextlib.ExitStack() as stack:
        live = Live(stage, stack, "" if is_nothing else name, backlog, options.records_per_s, tick_s=TICK_S)
        place, topic = (stage.source, TOPIC) if is_nothing else (stage.target, live.remote)
        arrivals = Arrivals(place.bootstrap_servers, topic, PARTITIONS)
        stack.callback(arrivals.close)
        live.checks.append(arrivals.check)
        if not is_nothing:
            live.await_caught_up()
        live.let_pass(options.warm_up_s)
        meter, position = Meter(stage, live.processes), len(arrivals)
        began_ms = int(time.time() * 1000)
        live.let_pass(options.window_s)
        until_ms = int(time.time() * 1000)
        usage = meter.read()
        live.let_pass(LAST_MS / 1000)
        ages = ages_ms(arrivals.since(position), began_ms, until_ms)
        peak = proc.peak_rss_bytes(pid for process in live.processes for pid in proc.tree(process.pid))
        if not is_nothing:
            live.finish()
    if not ages:
        raise BenchError(f"{name}: no record arrived that was written in the window")
    return Run(
        contender=name,
        round=number,
        records_per_s=round(len(ages) / usage.seconds),
        p50_ms=percentile(ages, 0.5) or 0,
        p99_ms=percentile(ages, 0.99) or 0,
        max_ms=max(ages),
        cpu_us=round(usage.cpu_s / len(ages) * 1e6, 2),
        peak_rss_bytes=peak,
        other_cpu=usage.other_cpu,
    )
