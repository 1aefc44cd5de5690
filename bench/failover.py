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
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bench.accounts import Commit, account_of_group, delays_s, percentile
from bench.backlog import Backlog
from bench.contenders import SOURCE, TARGET, our_config
from bench.live import Live
from bench.load import Groups
from bench.moves import OurCommands, SyncedOffsets, Way
from bench.positions import Arrival, Kind, PositionWatch, arrive, read_offsets
from bench.stage import Meter, Say, Stage, Usage, open_stage
from replicator.config import ClusterSettings
from replicator.embedded import EmbeddedCluster
from replicator.kafka.cluster import AdminClient
from replicator.kafka.cluster import Cluster as Client

TOPIC = "bench-moves"
CHECKPOINTS = f"{SOURCE}.checkpoints.internal"
PARTITIONS = 4
SIZE_BYTES = 100
RECORDS_PER_S = 10_000
LAGS = (0, 1_000, 10_000, 100_000)
CONNECT_TIMEOUT_S = 30.0
ARRIVE_TIMEOUT_S = 60.0


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
        other_cpu: CPU that neither the contender, the brokers nor the bench used while commits were timed, as a
            fraction of the machine's. High: not to be trusted.
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
        """Bounds that were exceeded: no group skips a record, and a planned move by the replicator repeats none."""
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
    runs: list[Run] = []
    with open_stage(options.contenders) as stage:
        numbers = itertools.count(1)
        for round_number in range(1, options.rounds + 1):
            for name in options.contenders:
                stage.clear()
                try:
                    with contextlib.ExitStack() as stack:
                        run = _Episode(stage, stack, f"{next(numbers)}", name).run(round_number, options)
                finally:
                    stage.source.start()
                runs.append(run)
                reread = ", ".join(f"{it.planned_reread:,} and {it.failover_reread:,}" for it in run.groups)
                say(f"{name:14} round {round_number}: read again after a planned move and a failover, by lag: {reread}")
    return runs


class _Episode:
    """One contender from its start to its end. Everything that was started is in `stack`.

    Args:
        number: makes the groups' names unique on these clusters.
    """

    def __init__(self, stage: Stage, stack: contextlib.ExitStack, number: str, name: str) -> None:
        self._stage = stage
        self._name = name
        self._planned = {lag: f"planned-{number}-lag-{lag}" for lag in LAGS}
        self._failover = {lag: f"failover-{number}-lag-{lag}" for lag in LAGS}
        source, _ = _client(SOURCE, stage.source)
        backlog = Backlog(TOPIC, PARTITIONS, (max(LAGS) + RECORDS_PER_S) // PARTITIONS, SIZE_BYTES)
        self._live = Live(stage, stack, name, backlog, RECORDS_PER_S)
        self._load = self._live.load
        lags = {group: lag for names in (self._planned, self._failover) for lag, group in names.items()}
        self._groups = Groups(source, TOPIC, self._load, lags)
        stack.callback(self._groups.stop)
        self._groups.start()
        servers = stage.target.bootstrap_servers
        self._positions = PositionWatch(servers, CHECKPOINTS, list(lags), self._live.remote, PARTITIONS)
        stack.callback(self._positions.close)
        self._positions.start()
        self._live.checks += [self._groups.check, self._positions.check]
        self._way = self._new_way(number)

    def _new_way(self, number: str) -> Way:
        if self._name.startswith("ours"):
            config = self._stage.reaper.directory / f"moves-{number}.yaml"
            config.write_text(our_config(self._stage.task(TOPIC, PARTITIONS), self._name))
            return OurCommands(self._name, config)
        target, _ = _client(TARGET, self._stage.target)
        is_tuned = "tuned" in self._name
        return SyncedOffsets(target, self._live.remote, self._positions, is_tuned, self._live.check)

    def run(self, round_number: int, options: Options) -> Run:
        """Wait until it works, time commits, move half of the groups, kill the source, move the others."""
        self._live.await_caught_up(self._without_checkpoints)
        self._live.let_pass(options.warm_up_s)
        window = _Window(self._live, Meter(self._stage, self._live.processes))
        self._live.let_pass(options.window_s)
        window.close()
        planned_s, planned = self._move_planned()
        failover_s, failover = self._move_from_dead_source()
        for process in self._live.processes:
            process.stop(15)
        offsets = read_offsets(self._stage.target.bootstrap_servers, self._live.remote, PARTITIONS)
        return Run(
            contender=self._name,
            round=round_number,
            records_per_s=round(window.records / window.usage.seconds),
            planned_s=planned_s,
            failover_s=failover_s,
            unreplicated_records=self._load.records - sum(map(len, offsets)),
            other_cpu=window.usage.other_cpu,
            groups=[self._cost(lag, offsets, planned, failover, window) for lag in LAGS],
        )

    # --- steps --------------------------------------------------------------------------------------------------------

    def _without_checkpoints(self) -> list[str]:
        """Groups that lack the checkpoint of a partition."""
        groups = [*self._planned.values(), *self._failover.values()]
        return [it for it in groups if len(self._positions.newest("checkpoint", it)) < PARTITIONS]

    def _move_planned(self) -> tuple[float | None, Mapping[str, Arrival]]:
        groups = list(self._planned.values())
        self._groups.leave(groups)
        took_s = self._way.planned(groups)
        return took_s, self._arrive(groups, took_s)

    def _move_from_dead_source(self) -> tuple[float | None, Mapping[str, Arrival]]:
        groups = list(self._failover.values())
        with self._groups.at_rest():
            self._stage.source.kill_broker(1)
        took_s = self._way.failover(groups)
        arrivals = self._arrive(groups, took_s)
        self._load.stop()
        return took_s, arrivals

    def _arrive(self, groups: Sequence[str], took_s: float | None) -> Mapping[str, Arrival]:
        began_s = time.monotonic() - (took_s or 0.0)
        servers = self._stage.target.bootstrap_servers
        return arrive(servers, groups, self._live.remote, PARTITIONS, began_s, ARRIVE_TIMEOUT_S)

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
    """The time in which commits are timed, from here to `close`; what happened in it is known then."""

    def __init__(self, live: Live, meter: Meter) -> None:
        self._load = live.load
        self._meter = meter
        self._began_s = self._ended_s = time.monotonic()
        self.records = -self._load.records
        self.usage = Usage(0.0, 0.0, 0.0)

    def close(self) -> None:
        self._ended_s = time.monotonic()
        self.usage = self._meter.read()
        self.records += self._load.records

    def holds(self, commit: Commit) -> bool:
        """Whether the commit was made in it."""
        return self._began_s <= commit.at_s < self._ended_s


def _client(alias: str, cluster: EmbeddedCluster) -> tuple[Client, AdminClient]:
    settings = ClusterSettings(bootstrap_servers=cluster.bootstrap_servers)
    client = Client(alias, "source" if alias == SOURCE else "target", settings, "bench")
    return client, client.connect(CONNECT_TIMEOUT_S)
