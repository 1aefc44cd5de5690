"""The proof that memory is bounded by configuration: many partitions, large records, and a target that stops answering.

The bound covers what the worker holds of records. Beside it there is what a process needs before the first record (the
base: Python, the clients, and librdkafka's books for each partition), so the bound is on the growth over the base:
at most `ALLOWED_FACTOR` times `worker.buffer_bytes`. The factor is over 1 because a fetch in flight is held compressed
and uncompressed for a moment, and because the allocator gives memory back late.
"""

from __future__ import annotations

import contextlib
import dataclasses
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bench import proc
from bench.backlog import Backlog, BenchError, Watch
from bench.contenders import SOURCE
from bench.stage import Say, open_stage
from replicator.config import WorkerSettings
from replicator.deadline import Deadline
from replicator.embedded import OwnedProcess

DEFAULT_BUFFER_BYTES = WorkerSettings().buffer_bytes
ALLOWED_FACTOR = 2.0
ALLOWED_BYTES = 350 << 20
"""Of the whole process, with the default buffer."""
SAMPLE_S = 0.2
LARGE_BYTES, SMALL_BYTES = 100_000, 1024
LIMIT_S = 900.0
STEADY_LOOKS = 15
STEADY_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Options:
    """What to measure.

    Args:
        partitions: of all topics together; half hold large records.
        backlog_bytes: keys and values, uncompressed.
        contender: one of the replicator's.
    """

    partitions: int
    backlog_bytes: int
    buffer_bytes: int
    stall_s: float
    contender: str


@dataclass(frozen=True, slots=True)
class Found:
    """What was found; `factor` is the growth over the base in units of the buffer."""

    partitions: int
    records: int
    backlog_bytes: int
    buffer_bytes: int
    stall_s: float
    base_bytes: int
    drain_peak_bytes: int
    stall_peak_bytes: int
    peak_bytes: int
    factor: float
    allowed_factor: float
    mib_per_s: float

    def complaints(self) -> list[str]:
        """Bounds that were exceeded."""
        found = []
        if self.factor > self.allowed_factor:
            found.append(f"it grew by {self.factor:.2f} times the buffer, {self.allowed_factor:g} are allowed")
        if self.buffer_bytes == DEFAULT_BUFFER_BYTES and self.peak_bytes > ALLOWED_BYTES:
            found.append(f"{self.peak_bytes / 2**20:.0f} MiB in all, {ALLOWED_BYTES / 2**20:.0f} are allowed")
        return found


@dataclass(frozen=True, slots=True)
class Look:
    """One look: seconds since the start, resident bytes, and whether the target was stopped."""

    at_s: float
    rss_bytes: int
    is_stalled: bool


def found(options: Options, backlogs: Sequence[Backlog], base_bytes: int, looks: Sequence[Look], high: int) -> Found:
    """The figures from the looks.

    Args:
        high: the kernel's peak of the process, which may lie between two looks.
    """
    total = sum(backlog.records * backlog.size_bytes for backlog in backlogs)
    stalled = [look for look in looks if look.is_stalled]
    seconds = looks[-1].at_s - looks[0].at_s - (stalled[-1].at_s - stalled[0].at_s if stalled else 0.0)
    return Found(
        partitions=sum(backlog.partitions for backlog in backlogs),
        records=sum(backlog.records for backlog in backlogs),
        backlog_bytes=total,
        buffer_bytes=options.buffer_bytes,
        stall_s=options.stall_s,
        base_bytes=base_bytes,
        drain_peak_bytes=max((look.rss_bytes for look in looks if not look.is_stalled), default=0),
        stall_peak_bytes=max((look.rss_bytes for look in stalled), default=0),
        peak_bytes=high,
        factor=round((high - base_bytes) / options.buffer_bytes, 3),
        allowed_factor=ALLOWED_FACTOR,
        mib_per_s=round(total / 2**20 / max(0.001, seconds), 1),
    )


def measure(options: Options, say: Say) -> Found:
    """Measure the base without records, then drain a backlog, with the target stopped halfway.

    Raises:
        BenchError, ClusterError: something did not start, ended early, or took too long.
    """
    half = max(1, options.partitions // 2)
    shares = ((f"bench-{size}", size) for size in (SMALL_BYTES, LARGE_BYTES))
    backlogs = [Backlog(name, half, max(2, options.backlog_bytes // 2 // half // size), size) for name, size in shares]
    name = options.contender
    with open_stage([name]) as stage:
        source, target, launcher = stage.source, stage.target, stage.launcher
        buffer = ("buffer_bytes", options.buffer_bytes)
        task = dataclasses.replace(stage.task("bench-.*", 2 * half), worker=(buffer,))
        for backlog in backlogs:
            backlog.create(source.bootstrap_servers)
        watch = Watch(target.bootstrap_servers, {f"{SOURCE}.{backlog.topic}": backlog for backlog in backlogs})
        with contextlib.closing(watch):
            base_bytes = _base(launcher.launch(name, task), watch, 2 * half)
            say(f"base: {base_bytes / 2**20:.0f} MiB with {2 * half} empty partitions")
            for backlog in backlogs:
                say(f"filling {backlog.topic}: {backlog.records:,} records on {backlog.partitions} partitions")
                backlog.fill(source.bootstrap_servers)
            process = launcher.launch(name, task)
            looks = _drain(process, watch, backlogs, options.stall_s, lambda signum: target.signal_broker(1, signum))
            high = proc.peak_rss_bytes([process.pid])
            process.stop()
            count = watch.count()
    expected = sum(backlog.records for backlog in backlogs)
    if count != expected:
        raise BenchError(f"{count:,} records arrived, {expected:,} were to")
    return found(options, backlogs, base_bytes, looks, high)


def _base(process: OwnedProcess, watch: Watch, partitions: int) -> int:
    """Resident memory once every partition runs, without a record; ends the process."""
    deadline = Deadline(LIMIT_S)
    steady: list[int] = []
    while len(watch.ends()) < partitions or len(steady) < STEADY_LOOKS or max(steady) - min(steady) > STEADY_BYTES:
        _check(process, deadline)
        steady = [*steady, proc.rss_bytes([process.pid])][-STEADY_LOOKS:]
        time.sleep(SAMPLE_S)
    process.stop()
    return max(steady)


def _drain(
    process: OwnedProcess,
    watch: Watch,
    backlogs: Sequence[Backlog],
    stall_s: float,
    signal_target: Callable[[int], None],
) -> list[Look]:
    """Look at the process until everything has arrived; stop the target halfway, and continue it."""
    total = sum(backlog.records for backlog in backlogs)
    deadline = Deadline(LIMIT_S)
    began_s = time.monotonic()
    looks: list[Look] = []

    def look(is_stalled: bool) -> None:
        _check(process, deadline)
        looks.append(Look(time.monotonic() - began_s, proc.rss_bytes([process.pid]), is_stalled))
        time.sleep(SAMPLE_S)

    has_stalled = False
    while True:
        look(False)
        ends = watch.ends()
        visible = sum(ends.values())
        if not has_stalled and visible > total // 2:
            has_stalled = True
            signal_target(signal.SIGSTOP)
            try:
                until_s = time.monotonic() + stall_s
                while time.monotonic() < until_s:
                    look(True)
            finally:
                signal_target(signal.SIGCONT)
        if visible >= total and watch.is_complete(ends):
            return looks


def _check(process: OwnedProcess, deadline: Deadline) -> None:
    status = process.poll()
    if status is not None:
        raise BenchError(f"the worker ended with status {status}; its log ends with\n{process.log_tail()}")
    if deadline.expired:
        raise BenchError(f"not done after {deadline.seconds:.0f} s; the worker's log ends with\n{process.log_tail()}")
