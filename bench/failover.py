"""What moves cost groups, under a steady load, next to MirrorMaker 2: records read twice or never, and time.

For each contender, on the same two clusters: fill the source, start the contender, the load, and two groups at each
lag that commit four times a second. Then, while the load goes on,

    planned     the consumers of one group of each lag stop; the operator moves the groups; consumers start there
    failover    the source's broker is killed with SIGKILL; the operator moves the other groups; consumers start there

Afterwards the target is read from beginning to end, and every position is compared by record numbers (`accounts`).
"""

from __future__ import annotations

import contextlib
import itertools
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bench import proc
from bench.accounts import Commit, account_of_group, delays_s, percentile
from bench.backlog import Backlog, BenchError, Watch, clean_up
from bench.contenders import SOURCE, TARGET, Launcher, Task, check_name, our_config
from bench.load import Groups, Load
from bench.moves import OurCommands, SyncedOffsets, Way
from bench.positions import Arrival, Kind, PositionWatch, arrive, read_offsets
from bench.throughput import Say, spec
from replicator import clients
from replicator.config import ClusterSettings
from replicator.deadline import Deadline
from replicator.embedded import Cluster, Reaper, ensure_kafka, open_clusters

TOPIC, REMOTE = "bench-moves", f"{SOURCE}.bench-moves"
CHECKPOINTS = f"{SOURCE}.checkpoints.internal"
PARTITIONS = 4
SIZE_BYTES = 100
RECORDS_PER_S = 10_000
LAGS = (0, 1_000, 10_000, 100_000)
CONNECT_TIMEOUT_S = 30.0
CAUGHT_UP_S = 5.0
"""How far behind the load, in seconds of it, a contender may be when the measurement begins."""
READY_TIMEOUT_S = 150.0
ARRIVE_TIMEOUT_S = 60.0
LOOK_S = 0.2


@dataclass(frozen=True, slots=True)
class Options:
    """What to measure.

    Args:
        warm_up_s: from when every group has a checkpoint until the measured commits begin.
        window_s: in which the measured commits are made.
    """

    contenders: tuple[str, ...]
    rounds: int
    warm_up_s: float
    window_s: float


@dataclass(frozen=True, slots=True)
class GroupCost:
    """The two groups at one lag.

    Args:
        lag_records: behind the load, when they committed.
        planned_first_s, failover_first_s: the operator's step and then the time to the first record on the target;
            None when there was none left to read.
        commits: that were timed.
        offset_p50_s, offset_p99_s: from a commit on the source until the group's offset on the target covers it; None
            when it never did.
        checkpoint_p50_s, checkpoint_p99_s: the same for the checkpoint.
    """

    lag_records: int
    planned_reread: int
    planned_skipped: int
    planned_first_s: float | None
    failover_reread: int
    failover_skipped: int
    failover_first_s: float | None
    commits: int
    offset_p50_s: float | None
    offset_p99_s: float | None
    checkpoint_p50_s: float | None
    checkpoint_p99_s: float | None


@dataclass(frozen=True, slots=True)
class Run:
    """One contender, one round.

    Args:
        records_per_s: that the source took while commits were timed.
        planned_s, failover_s: what the operator's step took; None where there is no step.
        unreplicated_records: acknowledged by the source before it was killed, and not on the target.
        other_cpu: share of the machine that neither the contender, the brokers nor the bench used while commits were
            timed. High: not to be trusted.
    """

    contender: str
    round: int
    records_per_s: float
    planned_s: float | None
    failover_s: float | None
    unreplicated_records: int
    other_cpu: float
    groups: list[GroupCost]

    def complaints(self) -> list[str]:
        """What was promised and not kept: nobody skips a record, and a planned move of ours repeats none."""
        found = []
        for it in self.groups:
            if it.planned_skipped or it.failover_skipped:
                found.append(f"{self.contender}: records skipped at a lag of {it.lag_records:,}")
            if self.contender.startswith("ours") and it.planned_reread:
                found.append(f"{self.contender}: {it.planned_reread:,} records read again after a switchover")
        return found


def measure(options: Options, say: Say) -> list[Run]:
    """All runs, contenders alternating within a round.

    Raises:
        BenchError, ClusterError: something did not start, ended early, or took too long.
    """
    for name in options.contenders:
        check_name(name)
    kafka = ensure_kafka() if any(name.startswith("mm2") for name in options.contenders) else None
    runs: list[Run] = []
    with open_clusters([spec(SOURCE), spec(TARGET)]) as clusters, Reaper() as reaper:
        bench = _Bench(clusters[SOURCE], clusters[TARGET], reaper, Launcher(reaper, kafka))
        for number in range(1, options.rounds + 1):
            for name in options.contenders:
                run = bench.run(name, number, options)
                runs.append(run)
                reread = ", ".join(f"{it.planned_reread:,} and {it.failover_reread:,}" for it in run.groups)
                say(f"{name:14} round {number}: read again after a planned move and a failover, by lag: {reread}")
    return runs


class _Bench:
    """One pair of clusters."""

    def __init__(self, source: Cluster, target: Cluster, reaper: Reaper, launcher: Launcher) -> None:
        self.source = source
        self.target = target
        self.reaper = reaper
        self.launcher = launcher
        self._numbers = itertools.count(1)

    def run(self, name: str, round_number: int, options: Options) -> Run:
        """One contender; the source is up again afterwards."""
        servers = self.source.bootstrap_servers
        for cluster in (self.target, self.source):
            clean_up(cluster.bootstrap_servers, ())
        backlog = Backlog(TOPIC, PARTITIONS, (max(LAGS) + RECORDS_PER_S) // PARTITIONS, SIZE_BYTES)
        backlog.create(servers)
        backlog.fill(servers)
        try:
            with contextlib.ExitStack() as stack:
                episode = _Episode(self, stack, f"{next(self._numbers)}", name, backlog)
                return episode.run(round_number, options)
        finally:
            self.source.start()


class _Episode:
    """One contender from its start to its end. Everything that was started is in `stack`.

    Args:
        number: makes the groups' names unique on these clusters.
    """

    def __init__(self, bench: _Bench, stack: contextlib.ExitStack, number: str, name: str, backlog: Backlog) -> None:
        self._bench = bench
        self._name = name
        self._planned = {lag: f"planned-{number}-lag-{lag}" for lag in LAGS}
        self._failover = {lag: f"failover-{number}-lag-{lag}" for lag in LAGS}
        source, admin = _client(SOURCE, bench.source)
        self._load = Load(bench.source.bootstrap_servers, backlog, RECORDS_PER_S)
        stack.callback(self._load.stop)
        lags = {group: lag for names in (self._planned, self._failover) for lag, group in names.items()}
        self._groups = Groups(source, admin, TOPIC, self._load, lags)
        stack.callback(self._groups.stop)
        self._load.start()
        self._groups.start()
        servers = bench.target.bootstrap_servers
        self._task = Task(bench.source.bootstrap_servers, servers, TOPIC, PARTITIONS)
        self._process = bench.launcher.launch(name, self._task)
        stack.callback(self._process.stop, 15)
        self._positions = PositionWatch(servers, CHECKPOINTS, list(lags), REMOTE, PARTITIONS)
        stack.callback(self._positions.close)
        self._positions.start()
        self._way = self._new_way(number)
        self._target_watch = Watch(servers, {REMOTE: backlog})
        stack.callback(self._target_watch.close)

    def _new_way(self, number: str) -> Way:
        if self._name.startswith("ours"):
            config = self._bench.reaper.directory / f"moves-{number}.yaml"
            config.write_text(our_config(self._task))
            return OurCommands(self._name, config)
        target, admin = _client(TARGET, self._bench.target)
        return SyncedOffsets(target, admin, REMOTE, self._positions, "tuned" in self._name, self._check)

    def run(self, round_number: int, options: Options) -> Run:
        """Wait until it works, time commits, move half of the groups, kill the source, move the others."""
        self._await_ready()
        self._pass(options.warm_up_s)
        window = _Window(self._load, self._known_pids())
        self._pass(options.window_s)
        window.close()
        planned_s, planned = self._move_planned()
        failover_s, failover = self._move_from_dead_source()
        self._process.stop(15)
        offsets = read_offsets(self._bench.target.bootstrap_servers, REMOTE, PARTITIONS)
        return Run(
            contender=self._name,
            round=round_number,
            records_per_s=round(window.records_per_s),
            planned_s=planned_s,
            failover_s=failover_s,
            unreplicated_records=self._load.records - sum(map(len, offsets)),
            other_cpu=window.other_cpu,
            groups=[self._cost(lag, offsets, planned, failover, window) for lag in LAGS],
        )

    # --- steps --------------------------------------------------------------------------------------------------------

    def _await_ready(self) -> None:
        """Until the contender has caught up with the load, and every group has a checkpoint for every partition."""
        deadline = Deadline(READY_TIMEOUT_S)
        groups = [*self._planned.values(), *self._failover.values()]
        while True:
            missing = [it for it in groups if len(self._positions.newest("checkpoint", it)) < PARTITIONS]
            behind = self._load.records - sum(self._target_watch.ends().values())
            if not missing and behind < RECORDS_PER_S * CAUGHT_UP_S:
                return
            if deadline.expired:
                text = f"{self._name} is not ready: {behind:,} records behind, no checkpoints of {missing}"
                raise BenchError(f"{text}; its log ends with\n{self._process.log_tail()}")
            self._pass(LOOK_S)

    def _move_planned(self) -> tuple[float | None, Mapping[str, Arrival]]:
        groups = list(self._planned.values())
        self._groups.leave(groups)
        took_s = self._way.planned(groups)
        return took_s, self._arrive(groups, took_s)

    def _move_from_dead_source(self) -> tuple[float | None, Mapping[str, Arrival]]:
        groups = list(self._failover.values())
        with self._groups.at_rest():
            self._bench.source.kill_broker(1)
        took_s = self._way.failover(groups)
        arrivals = self._arrive(groups, took_s)
        self._load.stop()
        return took_s, arrivals

    def _arrive(self, groups: Sequence[str], took_s: float | None) -> Mapping[str, Arrival]:
        began_s = time.monotonic() - (took_s or 0.0)
        return arrive(self._bench.target.bootstrap_servers, groups, REMOTE, PARTITIONS, began_s, ARRIVE_TIMEOUT_S)

    def _pass(self, seconds: float) -> None:
        """Let time pass, as long as all goes well."""
        deadline = Deadline(seconds)
        while not deadline.expired:
            self._check()
            time.sleep(deadline.slice_s(LOOK_S))

    def _check(self) -> None:
        for it in (self._load, self._groups, self._positions):
            it.check()
        status = self._process.poll()
        if status is not None:
            raise BenchError(f"{self._name} ended with status {status}; its log ends with\n{self._process.log_tail()}")

    def _known_pids(self) -> list[int]:
        brokers = [cluster.broker_pid(1) for cluster in (self._bench.source, self._bench.target)]
        return [*proc.tree(self._process.pid), *brokers, os.getpid()]

    # --- figures ------------------------------------------------------------------------------------------------------

    def _cost(
        self, lag: int, offsets: Sequence[Sequence[int]], planned: Mapping[str, Arrival],
        failover: Mapping[str, Arrival], window: _Window,
    ) -> GroupCost:  # fmt: skip
        by_plan, by_failure = self._planned[lag], self._failover[lag]
        moved = account_of_group(offsets, self._groups.commits[by_plan][-1], planned[by_plan].positions)
        failed = account_of_group(offsets, self._groups.commits[by_failure][-1], failover[by_failure].positions)
        commits = [it for it in self._groups.commits[by_failure] if window.holds(it)]
        kinds: tuple[Kind, ...] = ("group offset", "checkpoint")
        delays = {kind: delays_s(commits, self._positions.seen(kind, by_failure), offsets) for kind in kinds}
        return GroupCost(
            lag_records=lag,
            planned_reread=moved.reread_records,
            planned_skipped=moved.skipped_records,
            planned_first_s=planned[by_plan].first_s,
            failover_reread=failed.reread_records,
            failover_skipped=failed.skipped_records,
            failover_first_s=failover[by_failure].first_s,
            commits=len(commits),
            offset_p50_s=percentile(delays["group offset"], 0.5),
            offset_p99_s=percentile(delays["group offset"], 0.99),
            checkpoint_p50_s=percentile(delays["checkpoint"], 0.5),
            checkpoint_p99_s=percentile(delays["checkpoint"], 0.99),
        )


class _Window:
    """The time in which commits are timed, from here to `close`."""

    def __init__(self, load: Load, pids: Sequence[int]) -> None:
        self._load = load
        self._pids = pids
        self._records = load.records
        self._other_s = self._now_other_s()
        self._began_s = self._ended_s = time.monotonic()
        self.records_per_s = 0.0
        self.other_cpu = 0.0

    def close(self) -> None:
        """What happened in it is known from now on."""
        self._ended_s = time.monotonic()
        seconds = self._ended_s - self._began_s
        self.records_per_s = (self._load.records - self._records) / seconds
        other_s = max(0.0, self._now_other_s() - self._other_s)
        self.other_cpu = round(other_s / (seconds * (os.cpu_count() or 1)), 3)

    def holds(self, commit: Commit) -> bool:
        """Whether the commit was made in it."""
        return self._began_s <= commit.at_s < self._ended_s

    def _now_other_s(self) -> float:
        return proc.machine_busy_s() - proc.cpu_s(self._pids)


def _client(alias: str, cluster: Cluster) -> tuple[clients.Cluster, clients.AdminClient]:
    settings = ClusterSettings(bootstrap_servers=cluster.bootstrap_servers)
    client = clients.Cluster(alias, "source" if alias == SOURCE else "target", settings, "bench")
    return client, client.connect(CONNECT_TIMEOUT_S)
