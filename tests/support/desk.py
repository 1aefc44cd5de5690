"""An operator's desk: commands that move groups, run in this process against a flow of the test."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from replicator.deadline import Deadline
from replicator.errors import TP
from replicator.groups.client import OffsetsTransaction
from replicator.groups.offsets import Committed, tag
from replicator.groups.select import ClusterGroups
from replicator.kafka.cluster import Cluster as Clients
from replicator.kafka.transactions import FencingWriter
from replicator.moves.clusters import FlowClusters
from replicator.moves.world import MoveClusters
from replicator.names import transactional_id
from tests.support.eventually import eventually
from tests.support.flows import FlowBench
from tests.support.groups import commit, committed
from tests.support.in_process import Done, call
from tests.support.records import NewRecord, has_topic, read_topic

RECORDS = 50
"""In each of two partitions of the topic."""
UNREACHABLE = "127.0.0.1:1"
SOON_S = 60.0
AUDIT = "replicator.audit"


class Desk:
    """An operator's desk: a flow with a worker, its configuration, and commands.

    Args:
        folder: for the configurations.
    """

    def __init__(self, flow: FlowBench, folder: Path) -> None:
        self.flow = flow
        self.run_id = flow.run
        self._folder = folder
        self._files = 0
        flow.set(groups=[rf".*-{self.run_id}"], checkpoint_interval_s=0.1)

    def open(self) -> Desk:
        """Create the topic with its records, and start the worker."""
        flow = self.flow
        flow.create(flow.topic, partitions=2)
        flow.produce(flow.topic, [NewRecord(b"%d" % n, partition=n % 2) for n in range(2 * RECORDS)])
        flow.start()
        flow.await_caught_up(flow.topic)
        return self

    # --- groups -------------------------------------------------------------------------------------------------------

    def tp(self, partition: int = 0) -> TP:
        return TP(self.flow.topic, partition)

    def remote(self, partition: int = 0) -> TP:
        return TP(self.flow.remote(self.flow.topic), partition)

    @contextlib.contextmanager
    def placed(self, name: str, group: str) -> Iterator[OffsetsTransaction]:
        """A transaction on the target in which lies an offset of the group as group sync would write it."""
        with contextlib.closing(ClusterGroups(self._target())) as client:
            transaction = client.transaction(name, Deadline(SOON_S))
            wanted = {group: {self.remote(0): Committed(3, tag(self.flow.name, 3))}}
            assert not transaction.place(wanted, Deadline(SOON_S))
            yield transaction

    def write_as_task(self, task: int, records: Sequence[tuple[bytes, bytes | None]]) -> None:
        """Write into a task's partition of the syncs topic, as the task."""
        flow = self.flow
        with contextlib.closing(self._writer(transactional_id(flow.alias, flow.target_alias, task))) as writer:
            writer.write(TP(flow.syncs_topic, task), records, Deadline(SOON_S))

    def _writer(self, name: str) -> FencingWriter:
        """Of the target, open, under this transactional id."""
        writer = FencingWriter(self._target(), name)
        writer.open(Deadline(SOON_S))
        return writer

    def _target(self) -> Clients:
        flow = self.flow
        return Clients(flow.target_alias, "target", flow.settings().clusters[flow.target_alias], "workers")

    def group(self, name: str, *places: int, topic: str = "", synced: bool = True) -> str:
        """A group that committed these offsets, of the partitions from 0 on; `synced`: and group sync has seen it."""
        flow = self.flow
        group = f"{name}-{self.run_id}"
        commit(flow.source, group, {TP(topic or flow.topic, p): place for p, place in enumerate(places)})
        wanted = {TP(flow.remote(topic or flow.topic), p) for p in range(len(places))}
        if synced:
            eventually(lambda: committed(flow.target, group).keys() >= wanted, SOON_S)
        return group

    def traces(self, group: str) -> tuple[Any, ...]:
        """All that a move changes: the group's offsets on both clusters, and the audit."""
        return committed(self.flow.source, group), committed(self.flow.target, group), self._audit()

    def _audit(self) -> list[bytes | None]:
        """What the audit has of this flow."""
        if not has_topic(self.flow.target, AUDIT):
            return []
        about = self.flow.name.encode()
        return [it.value for it in read_topic(self.flow.target, AUDIT) if about in (it.value or b"")]

    # --- commands -----------------------------------------------------------------------------------------------------

    def file(self, *, down: str = "", **settings: Any) -> Path:
        """A configuration: of the flow, with one cluster out of reach, with other settings."""
        content = self.flow.settings().model_dump(mode="json") | settings
        if down:
            content["clusters"][down]["bootstrap_servers"] = UNREACHABLE
            content["connect_timeout_s"] = 2
        self._files += 1
        file = self._folder / f"{self._files}.yaml"
        file.write_text(json.dumps(content))
        return file

    @contextlib.contextmanager
    def clusters(self) -> Iterator[MoveClusters]:
        """What a move sees, in this process."""
        settings = self.flow.settings()
        clusters = FlowClusters(settings, settings.flow(self.flow.name))
        clusters.connect(needs_source=True)
        with contextlib.closing(MoveClusters(clusters, settings.hooks, lambda text: None)) as world:
            yield world

    def run(self, *arguments: str, code: int = 0, down: str = "", **settings: Any) -> Done:
        """Run a command to its end, in this process.

        Raises:
            AssertionError: another exit code.
        """
        done = call(self.file(down=down, **settings), *arguments)
        assert done.code == code, f"exit code {done.code}, not {code}: {done.report()}"
        return done

    def move(self, *arguments: str, code: int = 0, down: str = "", **settings: Any) -> dict[str, Any]:
        """A move without a question; its JSON."""
        document: dict[str, Any] = self.run(*arguments, "--yes", "-o", "json", code=code, down=down, **settings).json()
        return document

    def refuses(self, *arguments: str, group: str = "", **settings: Any) -> str:
        """Run a move that is refused and changes nothing (G); what it says."""
        before = self.traces(group) if group else ()
        done = self.run(*arguments, "-o", "json", code=3, **settings)
        assert done.json()["state"] == "refused", done.report()
        assert (self.traces(group) if group else ()) == before, done.report()
        return done.stderr

    def explain(self, group: str, **settings: Any) -> tuple[dict[str, str], dict[tuple[str, int], str]]:
        """(text of each reason of the whole group, reason code of each partition of the source)."""
        found = self.run("explain", group, "-o", "json", **settings).json()
        assert (found["flow"], found["group"]) == (self.flow.name, group)
        assert all(it["advice"] for it in found["reasons"])
        assert all(bool(row["reason"]) == bool(row["advice"]) for row in found["partitions"]), found["partitions"]
        rows = {(row["topic"], row["partition"]): row["reason"].partition(":")[0] for row in found["partitions"]}
        return {it["reason"]: it["text"] for it in found["reasons"]}, rows

    def check(self, down: str = "") -> tuple[int, set[str]]:
        """(exit code, names of the conditions that are not met)."""
        done = call(self.file(down=down), "check", "-o", "json")
        document = done.json()
        failing = {it["condition"] for it in document["conditions"] if not it["ok"]}
        assert document["ok"] == (not failing) == (done.code == 0), done.report()
        return done.code, failing


def states(document: dict[str, Any]) -> list[tuple[str, str]]:
    return [(row["translation"], row["state"]) for row in document["partitions"]]
