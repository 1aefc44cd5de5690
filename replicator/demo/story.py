"""What the demo does, in order.

    start two clusters → create the topic → start two workers → when both run their tasks, produce, and find the rate
    for this machine → a consumer group processes the records on the source → switchover: the group goes on on the
    target → failback: it goes on on the source → kill one worker → the other one takes over → all records are
    replicated and processed → compare every record → print the figures

Each step is one or two lines of `_Story._live`. In a full run the records flow all the time; with few of them
(`--records`) the load waits at limits, so that there are records to process on either cluster and after the kill.
"""

from __future__ import annotations

import contextlib
import math
import shlex
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from replicator.config import WorkerSettings
from replicator.deadline import Deadline
from replicator.demo.calibration import WARM_UP_PER_S, Calibration
from replicator.demo.clusters import PARTITIONS, Names, Sides
from replicator.demo.compare import Comparison, Record, compare
from replicator.demo.display import Display, Status
from replicator.demo.flights import DemoError, Flights, number_of
from replicator.demo.group import MEMBERS, Journal
from replicator.demo.processes import Processes, open_processes, write_config
from replicator.demo.reading import TopicReader
from replicator.demo.summary import Kept, Latency, Measured, Summary, latencies, throughput
from replicator.demo.traffic import Load, SlowReader, Timeline
from replicator.demo.trip import Trip
from replicator.demo.workers import Worker, are_shared
from replicator.embedded import Clusters, ClusterSpec, open_clusters
from replicator.errors import TP, ReplicatorError

MOVE_AT = 0.3
"""Of the records: so many are produced when the switchover begins."""
AWAY_AT_MOST = 0.5
"""So many are produced, at most, until the group has moved to the target."""
ABROAD = 0.1
"""So many are processed, at least, on the target."""
HOME_AT_MOST = 0.65
"""So many are produced, at most, until the group is back on the source."""
KILL_AT = 0.66
"""So many are produced, at least, when a worker is killed; the others follow while its tasks are taken over."""
KILL_AT_MOST = 0.7
TASKS = 4
"""The default of `flows.*.tasks`."""
TURN_S = 0.05
WORKERS_TIMEOUT_S = 60.0
STALLED_AFTER_S = 60.0
COMPARE_TIMEOUT_S = 300.0
STOP_TIMEOUT_S = 5.0


@dataclass(frozen=True, slots=True)
class DemoSettings:
    """How to run it.

    Args:
        records: the first so many flights; None for all.
        source_bootstrap: an existing source cluster; None to start one.
        target_bootstrap: an existing target cluster; None to start one.
        keep: leave clusters and topics when done.
    """

    records: int | None = None
    source_bootstrap: str | None = None
    target_bootstrap: str | None = None
    keep: bool = False


def run_demo(settings: DemoSettings, display: Display) -> Summary:
    """Run the demo to its end; the summary says whether the comparison is clean.

    Nothing that it started runs afterwards, however it ends, except the clusters with `keep`, once it succeeded.

    Raises:
        ReplicatorError: it could not go on.
    """
    began_s = time.monotonic()
    flights = Flights(settings.records)
    uses_existing = bool(settings.source_bootstrap or settings.target_bootstrap)
    names = Names.unique() if uses_existing else Names()
    given = {names.source: settings.source_bootstrap, names.target: settings.target_bootstrap}
    existing = {alias: servers for alias, servers in given.items() if servers}
    specs = [ClusterSpec(names.source), ClusterSpec(names.target)]
    display.say("Connecting to the clusters" if len(existing) == len(specs) else "Starting two Kafka clusters")
    with open_clusters(specs, existing=existing, keep=settings.keep) as clusters:
        sides = Sides.of(names, clusters[names.source].bootstrap_servers, clusters[names.target].bootstrap_servers)
        display.say(f"Two clusters run after {time.monotonic() - began_s:.1f} s: {_addresses(sides)}")
        with _cleaned_up(sides, display) if uses_existing else contextlib.nullcontext() as cleaning:
            summary = _Story(sides, flights, display).tell()
            summary = replace(summary, duration_s=time.monotonic() - began_s)
            if settings.keep:
                if cleaning is not None:
                    cleaning.pop_all()
                summary = replace(summary, kept=_keep(sides, clusters))
        return summary


def _addresses(sides: Sides) -> str:
    return ", ".join(f"{alias} ({servers})" for alias, servers in sides.bootstrap_servers.items())


@contextlib.contextmanager
def _cleaned_up(sides: Sides, display: Display) -> Iterator[contextlib.ExitStack]:
    """Remove our topics and groups at the end; `pop_all` on the stack keeps them."""
    had_audit = sides.audit_exists()

    def remove() -> None:
        try:
            left = sides.remove_ours(had_audit=had_audit)
        except ReplicatorError as error:
            left = [str(error)]
        for line in left:
            display.say(f"not removed: {line}", style="yellow")

    with contextlib.ExitStack() as stack:
        stack.callback(remove)
        yield stack


def _keep(sides: Sides, clusters: Clusters) -> Kept:
    """Leave the clusters running, and write a configuration to use them with."""
    directory = Path(tempfile.mkdtemp(prefix="replicator-demo-"))
    file = directory / "replicator.yaml"
    write_config(file, sides.names.config(sides.bootstrap_servers))
    commands = [clusters.detach(), f"rm -r {shlex.quote(str(directory))}"]
    return Kept(
        bootstrap_servers=dict(sides.bootstrap_servers),
        config=str(file),
        source_topic=sides.names.topic,
        remote_topic=sides.names.remote_topic,
        group=sides.names.group,
        stop=" && ".join(command for command in commands if command),
    )


class _StalledError(DemoError):
    """No record was replicated or processed for a long time."""


class _Story:
    """One run on two clusters that are up.

    Args:
        sides: the clusters.
        flights: what to replicate.
        display: where to show it.
    """

    def __init__(self, sides: Sides, flights: Flights, display: Display) -> None:
        self._sides = sides
        self._flights = flights
        self._display = display
        self._timeline = Timeline(len(flights))
        self._journal = Journal(len(flights))
        names = sides.names
        self._load = Load(sides.source, names.topic, flights, self._timeline, WARM_UP_PER_S)
        self._watch = SlowReader(sides.target, names.remote_topic, PARTITIONS, self._timeline)
        self._trip = Trip(sides, self._journal, display, self._turn)
        self._calibration = Calibration(self._load, self._timeline, len(flights), self._turn)
        self._workers: list[Worker] = []
        self._killed_s = 0.0
        self._takeover_s = 0.0

    def tell(self) -> Summary:
        """Do all of it, in order; when records never arrive, the comparison says which."""
        self._sides.create_topic()
        with open_processes(self._sides.names.config(self._sides.bootstrap_servers)) as processes:
            self._start_workers(processes)
            self._sides.check_remote_topic()
            with self._traffic(), self._trip:
                try:
                    self._live(processes)
                except _StalledError as error:
                    self._display.say(f"{error}; comparing what was replicated", "bold red")
            for worker in self._workers:
                worker.stop()
        comparison = self._compare()
        moves = tuple(self._trip.moves)
        return Summary(len(self._flights), comparison, self._journal.account(), moves, self._measured(), 0.0)

    def _live(self, processes: Processes) -> None:
        """What happens while records flow."""
        names, records, load = self._sides.names, len(self._flights), self._load
        load.limit = math.ceil(records * AWAY_AT_MOST)
        load.start()
        self._trip.begin(names.source)
        self._calibrate()
        self._until(lambda: load.records >= records * MOVE_AT)

        self._trip.move(processes, "switchover", names.target)
        load.limit = math.ceil(records * HOME_AT_MOST)
        self._until(lambda: self._trip.processed_here >= int(records * ABROAD))
        self._trip.arrived()
        self._trip.move(processes, "failback", names.source)
        load.limit = math.ceil(records * KILL_AT_MOST)
        self._until(lambda: load.records >= records * KILL_AT and self._trip.processed_here > 0)
        self._trip.arrived()

        self._until(lambda: are_shared(self._workers, TASKS))
        self._kill(self._workers[0])
        load.limit = records
        survivor = self._workers[1]
        self._until(lambda: are_shared([survivor], TASKS))
        self._took_over(survivor)
        self._until(lambda: self._lag * 100 <= records)
        self._watch.end_standstills()
        self._until(lambda: load.is_done and min(self._watch.records, self._journal.processed) >= records)
        self._trip.end()

    # --- steps --------------------------------------------------------------------------------------------------------

    def _start_workers(self, processes: Processes) -> None:
        """Each runs some of the tasks."""
        self._workers = [Worker(name, processes.start(name, "run")) for name in ("worker-1", "worker-2")]
        deadline = Deadline(WORKERS_TIMEOUT_S)
        while not are_shared(self._workers, TASKS):
            for worker in self._workers:
                worker.refresh()
            if deadline.expired:
                raise DemoError(
                    f"the workers did not share the tasks within {deadline.seconds:g} s; "
                    + "\n".join(f"{worker.name} logged\n{worker.log_tail()}" for worker in self._workers)
                )
            time.sleep(TURN_S)
        names = self._sides.names
        running = ", ".join(f"{worker.name} (pid {worker.pid}) {worker.state}" for worker in self._workers)
        self._display.say(f"Two workers replicate {names.flow}: {running}")
        self._display.say(f"Consumer group {names.group} ({MEMBERS} members) processes {names.topic} on {names.source}")

    def _calibrate(self) -> None:
        """Find the rate, and go on at it."""
        self._display.say("Finding the rate for this machine")
        self._calibration.run()
        topic = f"topic {self._sides.names.topic} ({PARTITIONS} partitions)"
        rate = f"{self._calibration.rate_per_s:,} records/s"
        self._display.say(f"Producing {len(self._flights):,} flights to {topic} at {rate}")

    @contextlib.contextmanager
    def _traffic(self) -> Iterator[None]:
        self._watch.start()
        try:
            yield
        finally:
            self._load.stop(STOP_TIMEOUT_S)
            self._watch.stop(STOP_TIMEOUT_S)

    def _kill(self, worker: Worker) -> None:
        self._killed_s = time.monotonic()
        self._watch.begin_standstills(self._killed_s)
        worker.kill()
        self._display.say(
            f"kill -9 {worker.pid}: {worker.name} is dead, after {self._load.records:,} records", "bold red"
        )

    def _took_over(self, survivor: Worker) -> None:
        self._takeover_s = time.monotonic() - self._killed_s
        self._display.say(f"{survivor.name} runs all tasks, {self._takeover_s:.1f} s after the kill", "bold green")

    # --- waiting ------------------------------------------------------------------------------------------------------

    def _until(self, is_met: Callable[[], bool]) -> None:
        """Show the progress until `is_met`.

        Raises:
            _StalledError: there was no progress for `STALLED_AFTER_S`.
            ReplicatorError: something failed.
        """
        quiet = Deadline(STALLED_AFTER_S)
        seen = (-1, -1)
        while not is_met():
            self._turn()
            now = self._watch.records, self._journal.processed
            if now != seen:
                seen = now
                quiet = Deadline(STALLED_AFTER_S)
            elif quiet.expired:
                raise _StalledError(f"No record was replicated or processed for {quiet.seconds:g} s")

    def _turn(self) -> None:
        time.sleep(TURN_S)
        self._load.check()
        self._watch.check()
        self._trip.check()
        for worker in self._workers:
            worker.refresh()
        states = [(worker.name, worker.state) for worker in self._workers]
        done = self._load.records, self._watch.records, self._journal.processed
        self._display.update(Status(len(self._flights), *done, self._trip.where, states))

    @property
    def _lag(self) -> int:
        return max(0, self._load.records - self._watch.records)

    # --- results ------------------------------------------------------------------------------------------------------

    def _compare(self) -> Comparison:
        """Read both topics completely, one partition after the other, and compare record by record."""
        self._display.say("Comparing every record on both clusters")
        deadline = Deadline(COMPARE_TIMEOUT_S)
        names = self._sides.names
        total = Comparison()
        with TopicReader(self._sides.source) as source, TopicReader(self._sides.target) as target:
            for partition in range(PARTITIONS):
                before = source.read(TP(names.topic, partition), deadline)
                after = target.read(TP(names.remote_topic, partition), deadline)
                total += compare(partition, before, after, _identify)
        return total

    def _measured(self) -> Measured:
        produced_s, visible_s = self._timeline.produced_s, self._timeline.visible_s
        average_per_s, peak_per_s = throughput(produced_s, visible_s)
        return Measured(
            offered_per_s=self._calibration.rate_per_s,
            average_per_s=average_per_s,
            peak_per_s=peak_per_s,
            latency=Latency.of(latencies(produced_s, visible_s)),
            before_kill=Latency.of(latencies(produced_s, visible_s, self._calibration.since_s, self._killed_s)),
            takeover_s=self._takeover_s,
            standstill_s=self._watch.longest_standstill_s,
            session_timeout_s=WorkerSettings().session_timeout_s,
        )


def _identify(record: Record) -> int | Record:
    """The flight's number; the whole record when it has none."""
    number = number_of(record.value)
    return record if number is None else number
