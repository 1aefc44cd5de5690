"""Copying topics anew, by an operator: forget where their copies stand, so that the workers begin them again.

For what no retry heals: a remote topic that is gone or was created again, a log that lost records. The runs of the
topics' partitions are deleted from the syncs topic, with what was told of them, by the tasks themselves
(`task_writes`): each is fenced, begins anew, and finds partitions that were never replicated. Needs the target alone.

Without `behind` a partition is begun anew only where its copy is another topic by now, or gone, or cut, and empty: so
that no record is there twice, and the command can be run again after it was stopped half-way.

Invariants:
    B: what is forgotten is so in one transaction per task, read after its former owners are fenced.
    G: what is refused has changed nothing; what is done was read back.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

from replicator.acting import READ_TIMEOUT_S, Act, Outcome, Rows
from replicator.clients import EARLIEST, LATEST, Cluster, Message
from replicator.compacted import CompactedReader
from replicator.config import Flow
from replicator.deadline import Deadline
from replicator.errors import TP, RefusedError
from replicator.move import counted
from replicator.names import task_of
from replicator.offsets import Run
from replicator.syncs import SyncsReader, SyncsState
from replicator.task_writes import PartlyDoneError, Records, check_ran, command_body, write_as_tasks
from replicator.topics import describe_topics, known_offsets, list_topics, topic_ids
from replicator.wire import NO_ID, RECOPIED, ControlRecord, TargetTopic, decode, encode_control, task_tp

COMMAND = "recopy"
SHOWN = 3


@dataclass(frozen=True, slots=True)
class Copy:
    """One partition's copy.

    Args:
        newest: its newest run.
        told: the topic that it was replicated to; None where that was not told.
        stopped: why the partition stands still; empty when it does not.
        found: the remote topic as it is now; None when there is none.
        begin, end: offsets of the remote partition now; 0 where it does not exist.
    """

    tp: TP
    target_topic: str
    newest: Run
    told: TargetTopic | None = None
    stopped: str = ""
    found: TargetTopic | None = None
    begin: int = 0
    end: int = 0

    @property
    def is_lost(self) -> bool:
        """Whether what was replicated is certainly not all there."""
        is_other = self.told is not None and self.found is not None and self.told.differs(self.found)
        return self.found is None or is_other or self.end < self.newest.downstream_next

    @property
    def offsets(self) -> int:
        """How many offsets the remote partition holds."""
        return self.end - self.begin

    def as_json(self, task: int, state: str, reason: str) -> dict[str, Any]:
        """A row of the contract of ``-o json``."""
        return {
            "topic": self.tp.topic,
            "partition": self.tp.partition,
            "target_topic": self.target_topic,
            "task": task,
            "replicated_next": self.newest.upstream_next,
            "target_offsets": self.offsets,
            "state": state,
            "reason": reason,
        }


@dataclass(frozen=True, slots=True)
class Plan:
    """What would be done. Pure.

    Args:
        forgotten: copies that are begun anew.
        kept: those that are not, and why.
        refusals: why nothing is done at all; one line each.
    """

    forgotten: tuple[Copy, ...]
    kept: Mapping[TP, str] = field(default_factory=dict)
    refusals: tuple[str, ...] = ()


def plan_recopy(copies: Iterable[Copy], target: str, *, behind: bool) -> Plan:
    """Decide which copies are begun anew. Pure.

    Args:
        target: the alias of the target.
        behind: all of them, behind what the remote topics hold.
    """
    copies = sorted(copies, key=lambda it: it.tp)
    if behind:
        return Plan(tuple(copies))
    lost = tuple(it for it in copies if it.is_lost)
    kept = {it.tp: it.stopped or "the copy is there" for it in copies if not it.is_lost}
    way_out = "delete it first, or add --behind: then every record comes again behind those that it holds"
    held: dict[str, list[int]] = {}
    for it in lost:
        if it.offsets:
            held.setdefault(it.target_topic, []).append(it.offsets)
    refusals = [
        f"{topic} on {target} holds {sum(offsets):,} offsets in {counted(len(offsets), 'partition')}: {way_out}"
        for topic, offsets in held.items()
    ]
    if not lost:
        whole = sorted({it.target_topic for it in copies})
        refusals = [f"{topic} on {target} still is what was replicated to: {way_out}" for topic in whole]
    return Plan(lost, kept, tuple(refusals))


class Recopy:
    """One flow's copies of some topics. Threading: one thread.

    Args:
        topics: their names on the source.
        timeout_s: for each request but the acting.
    """

    def __init__(self, flow: Flow, topics: Sequence[str], timeout_s: float) -> None:
        self.flow = flow
        self._topics = frozenset(topics)
        self._timeout_s = timeout_s
        self._target = Cluster(flow.target, "target", flow.target_cluster, flow.group)
        self._admin = self._target.connect(timeout_s)
        self._tasks = 0
        self.halted = False
        """Whether the flow is halted: then nothing is copied until `resume`. Known after `look`."""

    def look(self) -> list[Copy]:
        """The copies of the topics as they are now.

        Raises:
            RefusedError: the flow never ran, or a topic was never replicated.
            KafkaOpError: no answer.
        """
        present = list_topics(self._target, self._admin, Deadline(self._timeout_s)).topics
        check_ran(self.flow, self._target, Deadline(self._timeout_s))
        self._tasks = len(present[self.flow.syncs_topic].partitions) if self.flow.syncs_topic in present else 0
        state = self._state()
        self.halted = bool(state.halted)
        lacking = self._topics - {tp.topic for tp in state.newest}
        if lacking:
            names = ", ".join(sorted(lacking))
            known = ", ".join(sorted({tp.topic for tp in state.newest})[:SHOWN]) or "none"
            text = (
                f"{self.flow.name} has no position in {names}: nothing of it was replicated, or it is forgotten already"
            )
            raise RefusedError(f"{text} (some topics that it has: {known})")
        newest = {tp: run for tp, run in state.newest.items() if tp.topic in self._topics}
        return self._copies(newest, state, {name: len(it.partitions) for name, it in present.items()})

    def _state(self) -> SyncsState:
        with closing(SyncsReader(self._target, self.flow.syncs_topic, range(self._tasks), SyncsState())) as reader:
            return reader.read_to_end(Deadline(READ_TIMEOUT_S))

    def _copies(self, newest: Mapping[TP, Run], state: SyncsState, present: Mapping[str, int]) -> list[Copy]:
        remote = {tp: TP(self.flow.naming.remote_topic(tp.topic), tp.partition) for tp in newest}
        there = {tp: at for tp, at in remote.items() if at.partition < present.get(at.topic, 0)}
        deadline = Deadline(self._timeout_s)
        ids = topic_ids(describe_topics(self._admin, {at.topic for at in there.values()}, deadline))
        begins, ends = (
            known_offsets(self._target, self._admin, dict.fromkeys(there.values(), spec), deadline, committed=False)
            for spec in (EARLIEST, LATEST)
        )
        return [
            Copy(
                tp, at.topic, newest[tp], state.targets.get(tp), str(state.stopped.get(tp, {}).get("reason", "")),
                TargetTopic(at.topic, ids.get(at.topic, NO_ID)) if tp in there else None,
                begins.get(at, 0), ends.get(at, 0),
            )
            for tp, at in remote.items()
        ]  # fmt: skip

    def rows(self, plan: Plan, copies: Iterable[Copy], state: str, failed: Mapping[int, str] | None = None) -> Rows:
        """Each partition, as in the JSON: those of the plan in `state`, or failed with their task."""
        forgotten = {it.tp for it in plan.forgotten}
        rows = []
        for copy in sorted(copies, key=lambda it: it.tp):
            task = self._task(copy.tp)
            why = (failed or {}).get(task, "")
            if copy.tp not in forgotten:
                rows.append(copy.as_json(task, "kept", plan.kept.get(copy.tp, "")))
            else:
                rows.append(copy.as_json(task, "failed" if why else state, why or copy.stopped))
        return tuple(rows)

    def _task(self, tp: TP) -> int:
        return task_of(tp.topic, tp.partition, self._tasks)

    def carry_out(self, plan: Plan, copies: Sequence[Copy], move_id: str, deadline: Deadline) -> Outcome:
        """Forget what the plan says, for as long as `deadline`.

        Raises:
            RefusedError: another operator is acting; nothing was changed.
            KafkaOpError: the target gave no answer before anything was changed.
        """
        act = Act(self.flow, self._target, self._admin, COMMAND, move_id, self._timeout_s)
        return act.carry_out(self.rows(plan, copies, "planned"), lambda: self._forget(plan, copies, move_id, deadline))

    def _forget(self, plan: Plan, copies: Sequence[Copy], move_id: str, deadline: Deadline) -> Outcome:
        tps = {it.tp for it in plan.forgotten}
        tasks = {self._task(tp) for tp in tps}
        try:
            write_as_tasks(
                self.flow, self._target, tasks, lambda task: self._records(task, tps, move_id, deadline), deadline,
                op=f"{COMMAND} {self.flow.name}",
            )  # fmt: skip
        except PartlyDoneError as error:
            failed = {task: str(why) for task, why in error.failed.items()}
            state = "partly_done" if error.done else "failed"
            return Outcome(state, self.rows(plan, copies, "forgotten", failed), (str(error),))
        return Outcome("done", self.rows(plan, copies, "forgotten"))

    def _records(self, task: int, tps: Collection[TP], move_id: str, deadline: Deadline) -> Records:
        """Deletes all that one task's partition of the syncs topic says of these partitions; then tells the task.

        Also what readers don't see: the end of the command's own transaction shows it where a marker was lost.
        """
        keys: dict[bytes, None] = {}

        def take(message: Message) -> None:
            key = message.key() or b""
            record = decode(key, message.value())
            has_value = record.body is not None if isinstance(record, ControlRecord) else message.value() is not None
            if has_value and record.tp in tps:
                keys[key] = None

        with closing(CompactedReader(self._target, self.flow.syncs_topic, [task], take, committed=False)) as reader:
            reader.read_to_end(deadline)
        last = encode_control(ControlRecord(RECOPIED, task_tp(task), command_body(move_id)))
        return [*((key, None) for key in keys), last]
