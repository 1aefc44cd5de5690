"""The contenders, each a process of its own, started from a configuration file written for the run.

`ours-batches`    `python -m replicator run` with its defaults, on the plane that passes record batches through unopened
`ours-records`    the same on the other plane; `ours`: on the one that it chooses itself
`ours…-tuned`     with as many `tasks` as MirrorMaker 2 has when it is tuned
`ours…-N`         with `--processes N`
`ours…@DIR`       out of another source tree: what a change is worth
`mm2-stock-eos`   MirrorMaker 2, dedicated, exactly once, everything else as it comes
`mm2-tuned-eos`   the same, tuned for throughput as its users do it
`replayer`        no replicator: sends batches that are in its memory already, as fast as the target takes them

MirrorMaker 2 runs with the JVM flags of Kafka's own start script.
"""

from __future__ import annotations

import compileall
import os
import re
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from bench.backlog import BenchError
from replicator.deadline import Deadline
from replicator.embedded import Kafka, OwnedProcess, Reaper
from replicator.embedded.ports import free_ports

SOURCE, TARGET = "source", "target"
REPLAYER = "replayer"
OURS = re.compile(r"ours(?:-(?P<plane>batches|records))?(?P<tuned>-tuned)?(?:-(?P<processes>\d+))?(?:@(?P<tree>.+))?")
KNOWN = "ours-batches, ours-records, ours, each also …-tuned, …-N and …@DIR, mm2-stock-eos, mm2-tuned-eos, replayer"
REPLAYER_IS_READY = "the replayer is ready"
PREPARE_TIMEOUT_S = 120.0
LOOK_S = 0.02
MM2_HEAP_MB = 2048
MM2_JVM = (
    "-Xms256M",
    "-server",
    "-XX:+UseG1GC",
    "-XX:MaxGCPauseMillis=20",
    "-XX:InitiatingHeapOccupancyPercent=35",
    "-XX:+ExplicitGCInvokesConcurrent",
)

MM2_STOCK = {
    "clusters": f"{SOURCE}, {TARGET}",
    f"{SOURCE}->{TARGET}.enabled": "true",
    f"{TARGET}->{SOURCE}.enabled": "false",
    "replication.factor": "1",
    "offset-syncs.topic.replication.factor": "1",
    "checkpoints.topic.replication.factor": "1",
    "heartbeats.topic.replication.factor": "1",
    "offset.storage.replication.factor": "1",
    "status.storage.replication.factor": "1",
    "config.storage.replication.factor": "1",
    f"{TARGET}.exactly.once.source.support": "enabled",
    "dedicated.mode.enable.internal.rest": "true",
    f"{SOURCE}.consumer.isolation.level": "read_committed",
}

MM2_TUNED = {
    f"{TARGET}.producer.batch.size": "524288",
    f"{TARGET}.producer.linger.ms": "20",
    f"{TARGET}.producer.compression.type": "lz4",
    f"{TARGET}.producer.buffer.memory": "134217728",
    f"{TARGET}.producer.enable.idempotence": "true",
    f"{TARGET}.producer.max.in.flight.requests.per.connection": "5",
    f"{TARGET}.producer.send.buffer.bytes": "1048576",
    f"{SOURCE}.consumer.max.poll.records": "10000",
    f"{SOURCE}.consumer.fetch.min.bytes": "100000",
    f"{SOURCE}.consumer.fetch.max.bytes": "67108864",
    f"{SOURCE}.consumer.max.partition.fetch.bytes": "8388608",
    f"{SOURCE}.consumer.receive.buffer.bytes": "1048576",
    f"{TARGET}.offset.flush.interval.ms": "10000",
    "offset.lag.max": "1",
    "emit.checkpoints.interval.seconds": "1",
    "sync.group.offsets.enabled": "true",
    "sync.group.offsets.interval.seconds": "1",
}
"""A transaction for each poll, of up to 10,000 records a task. `transaction.boundary=interval` is not read at the top
level of its file (`MirrorMakerConfig.allConfigNames`); as `source->target.transaction.boundary` it is, with fewer
transactions, and here both slower and dearer for a record, so tuning leaves it out."""


@dataclass(frozen=True, slots=True)
class Task:
    """What a contender has to do.

    Args:
        source_servers, target_servers: bootstrap addresses.
        topics: regular expression of the topics to replicate.
        partitions: how many there are.
        worker: settings of `worker` in our configuration; none: its defaults.
    """

    source_servers: str
    target_servers: str
    topics: str
    partitions: int
    worker: tuple[tuple[str, int], ...] = ()


class Launcher:
    """Starts contenders by name.

    Args:
        reaper: owns their processes.
        kafka: the jars with MirrorMaker 2; None when no contender needs them.
    """

    def __init__(self, reaper: Reaper, kafka: Kafka | None) -> None:
        self._reaper = reaper
        self._kafka = kafka
        self._started = 0

    def launch(self, name: str, task: Task) -> OwnedProcess:
        """Start the contender `name` on `task`.

        Raises:
            BenchError: there is no such contender.
        """
        check_name(name)
        self._started += 1
        folder = self._reaper.directory / f"run-{self._started}"
        folder.mkdir()
        environment = {}
        if name == REPLAYER:
            remote = f"{SOURCE}.{task.topics}"
            arguments = [task.source_servers, task.target_servers, task.topics, str(task.partitions), remote]
            command = [sys.executable, "-m", "bench.replayer", *arguments]
            environment = our_environment("ours")
        elif (match := OURS.fullmatch(name)) is not None:
            config = folder / "replicator.yaml"
            config.write_text(our_config(task, name))
            processes = ["--processes", match["processes"]] if match["processes"] else []
            command = [sys.executable, "-m", "replicator", "-c", str(config), "run", *processes]
            environment = our_environment(name)
        else:
            assert self._kafka is not None
            config = folder / "mm2.properties"
            config.write_text(mm2_config(task, is_tuned="tuned" in name, rest_port=free_ports(1)[0]))
            main_class = "org.apache.kafka.connect.mirror.MirrorMaker"
            arguments = [str(config), "--clusters", TARGET]
            command = self._kafka.command(main_class, arguments, heap_mb=MM2_HEAP_MB, jvm_args=MM2_JVM)
        process = self._reaper.spawn(command, log=folder / "output.log", env=environment)
        if name == REPLAYER:
            _await_prepared(process)
        return process


def _await_prepared(process: OwnedProcess) -> None:
    """Until the replayer has everything in its memory: that is not a part of what it measures."""
    deadline = Deadline(PREPARE_TIMEOUT_S)
    while REPLAYER_IS_READY not in process.log_tail():
        if deadline.expired or process.poll() is not None:
            raise BenchError(f"the replayer could not prepare itself:\n{process.log_tail()}")
        time.sleep(LOOK_S)


def check_name(name: str) -> None:
    """Refuse a contender that does not exist."""
    match = OURS.fullmatch(name)
    if match is not None and match["tree"] and not (Path(match["tree"]) / "replicator").is_dir():
        raise BenchError(f"no replicator in {match['tree']}")
    if not (OURS.fullmatch(name) or name in {"mm2-stock-eos", "mm2-tuned-eos", REPLAYER}):
        raise BenchError(f"no contender {name!r}: {KNOWN}")


def our_environment(name: str) -> dict[str, str]:
    """Variables that make Python run the replicator of the contender `ours…`: out of its tree, or this one."""
    return {"PYTHONPATH": str(_tree(name)), "PYTHONSAFEPATH": "1"}


def compile_tree(name: str) -> None:
    """Give the contender's tree its byte code, as an installed package has it: compiling is no part of a start."""
    compileall.compile_dir(_tree(name) / "replicator", quiet=1)


def _tree(name: str) -> Path:
    match = OURS.fullmatch(name)
    return Path((match["tree"] if match is not None else None) or Path(__file__).parents[1])


def tuned_tasks(task: Task) -> int:
    """More than there are CPUs only stand in each other's way: so users of MirrorMaker 2 set it, and ours may."""
    return min(task.partitions, os.cpu_count() or 1)


def our_config(task: Task, name: str) -> str:
    """The configuration file of `ours…`: the clusters, the topics, what the name says, and the defaults."""
    match = OURS.fullmatch(name)
    assert match is not None
    flow = [f"topics: ['{task.topics}']"]
    if match["plane"]:
        flow.append(f"data_plane: {match['plane']}")
    if match["tuned"]:
        flow.append(f"tasks: {tuned_tasks(task)}")
    lines = [
        "clusters:",
        f"  {SOURCE}: {{bootstrap_servers: '{task.source_servers}'}}",
        f"  {TARGET}: {{bootstrap_servers: '{task.target_servers}'}}",
        "flows:",
        f"  {SOURCE}->{TARGET}: {{{', '.join(flow)}}}",
        "http: {port: 0}",
    ]
    if task.worker:
        lines.append("worker: {" + ", ".join(f"{key}: {value}" for key, value in task.worker) + "}")
    return "\n".join(lines) + "\n"


def mm2_config(task: Task, *, is_tuned: bool, rest_port: int) -> str:
    """MirrorMaker 2's properties."""
    properties = MM2_STOCK | {
        f"{SOURCE}.bootstrap.servers": task.source_servers,
        f"{TARGET}.bootstrap.servers": task.target_servers,
        f"{SOURCE}->{TARGET}.topics": task.topics,
        "listeners": f"http://127.0.0.1:{rest_port}",
    }
    if is_tuned:
        properties |= MM2_TUNED | {"tasks.max": str(tuned_tasks(task))}
    return "".join(f"{key}={value}\n" for key, value in properties.items())
