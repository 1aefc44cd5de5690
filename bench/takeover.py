"""How long partitions get no record when their process is killed with SIGKILL, and another takes over.

Two workers share a flow under load. The one that worked more is killed. The time of a partition ends when a
read_committed reader of the target gets the first record that was written on the source after the kill; that of the
takeover is the longest of all partitions. Afterwards every record has to be there once.
"""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass

from bench import proc
from bench.arrivals import Arrivals, note_first_reads
from bench.backlog import Backlog
from bench.live import LOOK_S, Live
from bench.stage import Meter, Say, Stage, open_stage
from replicator.deadline import Deadline

TOPIC = "bench-takeover"
PARTITIONS = 4
SIZE_BYTES = 100
RECORDS_PER_S = 10_000
WORKERS = 2


@dataclass(frozen=True, slots=True)
class Options:
    """What to measure.

    Args:
        warm_up_s: from when the workers have caught up until the kill.
        limit_s: how long a takeover is waited for.
        existing: bootstrap servers by cluster, for clusters that run already.
    """

    contenders: tuple[str, ...]
    rounds: int
    warm_up_s: float
    limit_s: float
    existing: dict[str, str]


@dataclass(frozen=True, slots=True)
class Run:
    """One contender, one round.

    Args:
        takeover_s: see the module; None: not within `limit_s`.
        partitions_s: of each partition.
        killed_share: of the CPU time of both workers before, that of the one that was killed.
        other_cpu: see `bench.stage.Usage`.
    """

    contender: str
    round: int
    takeover_s: float | None
    partitions_s: list[float | None]
    killed_share: float
    limit_s: float
    other_cpu: float


def measure(options: Options, say: Say) -> list[Run]:
    """All runs, contenders alternating within a round.

    Raises:
        BenchError, ClusterError: something did not start, ended early, took too long, or was not replicated once.
    """
    runs: list[Run] = []
    with open_stage(options.contenders, options.existing) as stage:
        for number in range(1, options.rounds + 1):
            for name in options.contenders:
                run = _run(stage, name, number, options)
                runs.append(run)
                found = f"not within {options.limit_s:g} s" if run.takeover_s is None else f"{run.takeover_s:.1f} s"
                say(f"{name:14} round {number}: taken over: {found}, by partition {run.partitions_s}")
        stage.clear()
    return runs


def _run(stage: Stage, name: str, number: int, options: Options) -> Run:
    stage.clear()
    backlog = Backlog(TOPIC, PARTITIONS, RECORDS_PER_S // PARTITIONS, SIZE_BYTES)
    with contextlib.ExitStack() as stack:
        live = Live(stage, stack, name, backlog, RECORDS_PER_S, workers=WORKERS)
        arrivals = Arrivals(stage.target.bootstrap_servers, live.remote, PARTITIONS)
        stack.callback(arrivals.close)
        live.checks.append(arrivals.check)
        live.await_caught_up()
        position, meter = len(arrivals), Meter(stage, live.processes)
        share, killed_ms = _kill_the_busier(live, options.warm_up_s)
        deadline = Deadline(options.limit_s)
        reads: list[int | None] = [None] * PARTITIONS
        while None in reads and not deadline.expired:
            live.let_pass(LOOK_S)
            new = arrivals.since(position)
            position += len(new)
            note_first_reads(reads, new, killed_ms)
        usage = meter.read()
        if None not in reads:
            live.finish()
    partitions_s = [None if it is None else (it - killed_ms) / 1000 for it in reads]
    times_s = [it for it in partitions_s if it is not None]
    return Run(
        contender=name,
        round=number,
        takeover_s=max(times_s) if len(times_s) == PARTITIONS else None,
        partitions_s=partitions_s,
        killed_share=share,
        limit_s=options.limit_s,
        other_cpu=usage.other_cpu,
    )


def _kill_the_busier(live: Live, warm_up_s: float) -> tuple[float, int]:
    """Let them work, kill one; returns its part of the CPU time, and when it was killed (ms since 1970)."""
    trees = [proc.tree(process.pid) for process in live.processes]
    before_s = [proc.cpu_s(pids) for pids in trees]
    live.let_pass(warm_up_s)
    worked_s = [proc.cpu_s(pids) - earlier_s for pids, earlier_s in zip(trees, before_s, strict=True)]
    victim = live.processes.pop(worked_s.index(max(worked_s)))
    killed_ms = int(time.time() * 1000)
    victim.kill()
    return round(max(worked_s) / max(1e-9, sum(worked_s)), 2), killed_ms
