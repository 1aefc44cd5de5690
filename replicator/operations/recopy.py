"""Re-replicates topics: deletes their positions, so that the workers start them again at `start_from`.

For what no retry repairs: a remote topic that was deleted or recreated, a log that lost records. The command deletes
the runs of the topics' partitions from the syncs topic, and their partition states, as the tasks themselves
(`control_records`): each task is fenced, starts again, and finds partitions that were never replicated. Needs only the
target.

Without `behind` a partition is re-replicated only if its remote partition is another topic by now, or is gone, or was
truncated, and is empty: no record is written twice, and the command can be run again after an interruption.

Invariants:
    B: the runs of a task are deleted in one transaction, once, and read after its former owners are fenced.
    D: no checkpoint of the former remote topic is left as an offset of the new one.
    G: a refused command changed nothing; what it reports as done was read back.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import Any

from replicator.audit.audited_command import READ_TIMEOUT_S, AuditedCommand, CommandOutcome, Rows, refuse_changes
from replicator.checkpoints.topic import CheckpointWriter, read_checkpoints
from replicator.config import Flow
from replicator.deadline import Deadline
from replicator.errors import TP, RefusedError, RetriableError
from replicator.kafka.cluster import EARLIEST, LATEST, Cluster, Message
from replicator.kafka.log_reader import LogReader
from replicator.kafka.topic_queries import describe_topics, known_offsets, list_topics, topic_ids
from replicator.moves.model import counted
from replicator.names import task_of
from replicator.offset_map.mm2_format import Checkpoint
from replicator.offset_map.runs import Run
from replicator.offset_map.sync_format import (
    RECOPIED,
    ControlRecord,
    TargetTopic,
    decode,
    encode_control,
    task_tp,
)
from replicator.offset_map.topic_id import NO_ID
from replicator.syncs.control_records import PartlyDoneError, Records, check_ran, command_body, write_as_tasks
from replicator.syncs.halts import halt_changes
from replicator.syncs.reader import SyncsReader
from replicator.syncs.state import SyncsState

COMMAND = "recopy"
SHOWN = 3


@dataclass(frozen=True, slots=True)
class RemotePartition:
    """The remote partition of one source partition.

    Args:
        newest: the newest run of the source partition.
        recorded: the topic that it was replicated to, from the syncs topic; None if that is not recorded.
        stopped: why the partition is stopped; empty while it runs.
        found: the remote topic as it is now; None if there is none.
        begin, end: offsets of the remote partition now; 0 if it does not exist.
    """

    tp: TP
    target_topic: str
    newest: Run
    recorded: TargetTopic | None = None
    stopped: str = ""
    found: TargetTopic | None = None
    begin: int = 0
    end: int = 0

    @property
    def is_lost(self) -> bool:
        """Whether replicated records are certainly missing."""
        is_other = self.recorded is not None and self.found is not None and self.recorded.differs(self.found)
        return self.found is None or is_other or self.end < self.newest.downstream_next

    @property
    def offsets(self) -> int:
        """The number of offsets that the remote partition holds."""
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
class RecopyPlan:
    """What would be done. Pure.

    Args:
        forgotten: partitions that are re-replicated.
        kept: those that are not, and why.
        refusals: why nothing is done at all; one line each.
    """

    forgotten: tuple[RemotePartition, ...]
    kept: Mapping[TP, str] = field(default_factory=dict)
    refusals: tuple[str, ...] = ()


Commands = Mapping[int, Mapping[str, Any]]
"""By task, the last command on it: ``id``, ``by`` and ``at``."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What one look at the target found.

    Args:
        halts: the halt of each halted task, which replicates nothing until `resume`.
        recopied: by task, the last command that deleted runs.
    """

    partitions: tuple[RemotePartition, ...]
    halts: Commands = field(default_factory=dict)
    recopied: Commands = field(default_factory=dict)


def plan_recopy(partitions: Iterable[RemotePartition], target: str, *, behind: bool) -> RecopyPlan:
    """Decide which partitions are re-replicated. Pure.

    Args:
        target: the alias of the target.
        behind: all of them, behind what the remote topics hold.
    """
    partitions = sorted(partitions, key=lambda it: it.tp)
    if behind:
        return RecopyPlan(tuple(partitions))
    lost = tuple(it for it in partitions if it.is_lost)
    kept = {it.tp: it.stopped or "no record is missing" for it in partitions if not it.is_lost}
    way_out = "delete the topic first, or pass --behind to write every record again behind those it holds"
    held: dict[str, list[int]] = {}
    for it in lost:
        if it.offsets:
            held.setdefault(it.target_topic, []).append(it.offsets)
    refusals = [
        f"{topic} on {target} holds {sum(offsets):,} offsets in {counted(len(offsets), 'partition')}; {way_out}"
        for topic, offsets in held.items()
    ]
    if not lost:
        whole = sorted({it.target_topic for it in partitions})
        refusals = [f"{topic} on {target} lost no records; {way_out}" for topic in whole]
    return RecopyPlan(lost, kept, tuple(refusals))


def plan_changes(shown: RecopyPlan, found: RecopyPlan) -> list[str]:
    """The differences between the plan that was shown and the plan now; one text each. Pure."""
    before, now = ({it.tp for it in plan.forgotten} for plan in (shown, found))
    if before == now:
        return list(found.refusals)
    changes = {"no longer lost": before - now, "lost since then": now - before}
    return [f"{what}: {_named(tps)}" for what, tps in changes.items() if tps]


def _named(tps: Collection[TP]) -> str:
    more = f" and {len(tps) - SHOWN:,} more" if len(tps) > SHOWN else ""
    return ", ".join(map(str, sorted(tps)[:SHOWN])) + more


def _at_new_beginning(checkpoint: Checkpoint, remote: RemotePartition) -> Checkpoint:
    """The group's position on the source, with the beginning of the re-replicated partition as its offset."""
    topic_id = checkpoint.topic_id if checkpoint.topic_id.is_known else remote.newest.topic_id
    return replace(checkpoint, downstream_next=remote.end, topic_id=topic_id)


def _recopied_text(body: Mapping[str, Any] | None) -> str:
    it = body or {}
    return f"another recopy has run since ({it.get('id')} by {it.get('by')} at {it.get('at')})"


class Recopy:
    """Re-replicates some topics of one flow. Threading: one thread.

    Args:
        topics: their names on the source.
        timeout_s: for each request that only reads.
        behind: as in `plan_recopy`.
    """

    def __init__(self, flow: Flow, topics: Sequence[str], timeout_s: float, *, behind: bool) -> None:
        self.flow = flow
        self._topics = frozenset(topics)
        self._behind = behind
        self._timeout_s = timeout_s
        self._target = Cluster(flow.target, "target", flow.target_cluster, flow.group)
        self._admin = self._target.connect(timeout_s)
        self._tasks = 0

    def look(self) -> Seen:
        """The remote partitions of the topics as they are now.

        Raises:
            RefusedError: the flow never ran, or a topic was never replicated.
            KafkaOpError: the target did not answer.
        """
        present = list_topics(self._target, self._admin, Deadline(self._timeout_s)).topics
        check_ran(self.flow, self._target, Deadline(self._timeout_s))
        self._tasks = len(present[self.flow.syncs_topic].partitions) if self.flow.syncs_topic in present else 0
        state = self._state(range(self._tasks), Deadline(READ_TIMEOUT_S))
        lacking = self._topics - {tp.topic for tp in state.newest}
        if lacking:
            names = ", ".join(sorted(lacking))
            known = ", ".join(sorted({tp.topic for tp in state.newest})[:SHOWN]) or "none"
            text = f"{self.flow.name} has no position in {names}: it was never replicated, or recopy has already run"
            raise RefusedError(f"{text} (topics with a position: {known})")
        newest = {tp: run for tp, run in state.newest.items() if tp.topic in self._topics}
        partitions = self._partitions(newest, state, {name: len(it.partitions) for name, it in present.items()})
        return Seen(tuple(partitions), state.halted, state.recopied)

    def _state(self, tasks: Iterable[int], deadline: Deadline) -> SyncsState:
        with closing(SyncsReader(self._target, self.flow.syncs_topic, tasks, SyncsState())) as reader:
            return reader.read_to_end(deadline)

    def plan(self, seen: Seen) -> RecopyPlan:
        """What would be done."""
        return plan_recopy(seen.partitions, self.flow.target, behind=self._behind)

    def _partitions(
        self, newest: Mapping[TP, Run], state: SyncsState, present: Mapping[str, int]
    ) -> list[RemotePartition]:
        remote = {tp: TP(self.flow.naming.remote_topic(tp.topic), tp.partition) for tp in newest}
        there = {tp: at for tp, at in remote.items() if at.partition < present.get(at.topic, 0)}
        deadline = Deadline(self._timeout_s)
        ids = topic_ids(describe_topics(self._admin, {at.topic for at in there.values()}, deadline))
        begins, ends = (
            known_offsets(self._target, self._admin, dict.fromkeys(there.values(), spec), deadline, committed=False)
            for spec in (EARLIEST, LATEST)
        )
        return [
            RemotePartition(
                tp, at.topic, newest[tp], state.targets.get(tp), str(state.stopped.get(tp, {}).get("reason", "")),
                TargetTopic(at.topic, ids.get(at.topic, NO_ID)) if tp in there else None,
                begins.get(at, 0), ends.get(at, 0),
            )
            for tp, at in remote.items()
        ]  # fmt: skip

    def rows(
        self,
        plan: RecopyPlan,
        partitions: Iterable[RemotePartition],
        state: str,
        failed: Mapping[int, str] | None = None,
    ) -> Rows:
        """Each partition, as in the JSON: those of the plan in `state`, or failed together with their task."""
        forgotten = {it.tp for it in plan.forgotten}
        rows = []
        for it in sorted(partitions, key=lambda it: it.tp):
            task = self._task(it.tp)
            why = (failed or {}).get(task, "")
            if it.tp not in forgotten:
                rows.append(it.as_json(task, "kept", plan.kept.get(it.tp, "")))
            else:
                rows.append(it.as_json(task, "failed" if why else state, why or it.stopped))
        return tuple(rows)

    def _task(self, tp: TP) -> int:
        return task_of(tp.topic, tp.partition, self._tasks)

    def carry_out(self, shown: Seen, move_id: str, timeout_s: float) -> CommandOutcome:
        """Delete the positions of the planned partitions.

        Args:
            shown: what `look` found, and the operator confirmed.
            timeout_s: for the writes.

        Raises:
            RefusedError: another operator is acting, or the target differs from `shown`; nothing was changed.
            KafkaOpError: the target did not answer before anything was changed.
        """
        act = AuditedCommand(self.flow, self._target, self._admin, COMMAND, move_id, self._timeout_s)
        return act.carry_out(
            self.rows(self.plan(shown), shown.partitions, "planned"),
            lambda: self._look_again(shown),
            lambda seen: self._forget(seen, move_id, Deadline(timeout_s)),
        )

    def _look_again(self, shown: Seen) -> Seen:
        """What the target holds now. After another recopy nothing is as it was shown, not even what is lost again.

        Raises:
            RefusedError: it is not what was shown.
        """
        seen = self.look()
        plan = self.plan(shown)
        tasks = {self._task(it.tp) for it in plan.forgotten}
        others = {
            _recopied_text(seen.recopied.get(task)): None
            for task in sorted(tasks)
            if seen.recopied.get(task) != shown.recopied.get(task)
        }
        changes = [*others, *plan_changes(plan, self.plan(seen)), *halt_changes(shown.halts, seen.halts)]
        refuse_changes(self.flow.name, changes)
        return seen

    def _forget(self, seen: Seen, move_id: str, deadline: Deadline) -> CommandOutcome:
        plan = self.plan(seen)
        self._reset_checkpoints(plan, deadline)
        tps = {it.tp for it in plan.forgotten}
        tasks = {self._task(tp) for tp in tps}
        try:
            write_as_tasks(
                self.flow, self._target, tasks,
                lambda task: self._records(task, tps, seen.recopied.get(task), move_id, deadline),
                deadline, op=f"{COMMAND} {self.flow.name}",
            )  # fmt: skip
        except PartlyDoneError as error:
            failed = {task: str(why) for task, why in error.failed.items()}
            state = "partly_done" if error.done else "failed"
            return CommandOutcome(state, self.rows(plan, seen.partitions, "forgotten", failed), (str(error),))
        return CommandOutcome("done", self.rows(plan, seen.partitions, "forgotten"))

    def _reset_checkpoints(self, plan: RecopyPlan, deadline: Deadline) -> None:
        """Set the topics' checkpoints to the beginning of the re-replicated partitions, until a worker translates them.

        The upstream offset stays, with its topic id: if the topic was recreated on the source, its map does not apply
        to that offset (invariant D). MM2's clients, which read checkpoints without a map, begin with the new remote
        topic; a checkpoint without a value would make them fail.

        This comes before the runs are deleted: the command can be run again as long as the runs are there.
        """
        remote = {TP(it.target_topic, it.tp.partition): it for it in plan.forgotten}
        known = read_checkpoints(self._target, self.flow, deadline)
        reset = [_at_new_beginning(it, remote[it.tp]) for it in known.checkpoints.values() if it.tp in remote]
        if reset:
            writer = CheckpointWriter(self._target, self._admin, self.flow.naming.checkpoints_topic, deadline)
            writer.write(reset, deadline, times_ms=known.written_ms)

    def _records(
        self, task: int, tps: Collection[TP], recopied: Mapping[str, Any] | None, move_id: str, deadline: Deadline
    ) -> Records:
        """The tombstones for every record of these partitions in one task's partition, and the record of this command.

        Covers uncommitted records, too: the command's own transaction marker would make them visible if the marker of
        their transaction was lost.

            commit, its answer is lost, task starts, task writes, command opens    nothing to do: the runs are new
            look, another command commits, task writes, command opens              refused: the runs are new

        Args:
            recopied: the last command that had deleted runs of the task, when it was looked at.

        Raises:
            RetriableError: another command has deleted runs since.
        """
        keys: dict[bytes, None] = {}
        last_command: Mapping[str, Any] | None = None

        def take(message: Message) -> None:
            key = message.key() or b""
            record = decode(key, message.value())
            has_value = record.body is not None if isinstance(record, ControlRecord) else message.value() is not None
            if has_value and record.tp in tps:
                keys[key] = None
            if isinstance(record, ControlRecord) and record.kind == RECOPIED:
                nonlocal last_command
                last_command = record.body

        with closing(LogReader(self._target, self.flow.syncs_topic, [task], take, committed=False)) as reader:
            reader.read_to_end(deadline)
        if last_command != recopied:  # perhaps of an aborted transaction
            committed = self._state([task], deadline).recopied.get(task)
            if committed is not None and committed.get("id") == move_id:
                return []
            if committed != recopied:
                raise RetriableError(_recopied_text(committed), op=f"{COMMAND} {self.flow.name}")
        last = encode_control(ControlRecord(RECOPIED, task_tp(task), command_body(move_id)))
        return [*((key, None) for key in keys), last]
