"""Copying topics anew, by an operator: forget where their copies stand, so that the workers begin them again.

For what no retry heals: a remote topic that is gone or was created again, a log that lost records. The runs of the
topics' partitions are deleted from the syncs topic, with what was told of them, by the tasks themselves
(`task_writes`): each is fenced, begins anew, and finds partitions that were never replicated. Needs the target alone.

Without `behind` a partition is begun anew only where its copy is another topic by now, or gone, or cut, and empty: so
that no record is there twice, and the command can be run again after it was stopped half-way.

Invariants:
    B: what is forgotten is so in one transaction per task, once, read after its former owners are fenced.
    D: no checkpoint of a former copy is left as a place in the new one.
    G: what is refused has changed nothing; what is done was read back.
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
from replicator.kafka.topics import describe_topics, known_offsets, list_topics, topic_ids
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
class RecopyPlan:
    """What would be done. Pure.

    Args:
        forgotten: copies that are begun anew.
        kept: those that are not, and why.
        refusals: why nothing is done at all; one line each.
    """

    forgotten: tuple[Copy, ...]
    kept: Mapping[TP, str] = field(default_factory=dict)
    refusals: tuple[str, ...] = ()


Commands = Mapping[int, Mapping[str, Any]]
"""The command that did something to a task last: ``id``, ``by`` and ``at``."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What the target says, at one look.

    Args:
        halts: what halts each task that is halted: then nothing is copied until `resume`.
        recopied: by which command runs of each task were deleted last.
    """

    copies: tuple[Copy, ...]
    halts: Commands = field(default_factory=dict)
    recopied: Commands = field(default_factory=dict)


def plan_recopy(copies: Iterable[Copy], target: str, *, behind: bool) -> RecopyPlan:
    """Decide which copies are begun anew. Pure.

    Args:
        target: the alias of the target.
        behind: all of them, behind what the remote topics hold.
    """
    copies = sorted(copies, key=lambda it: it.tp)
    if behind:
        return RecopyPlan(tuple(copies))
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
    return RecopyPlan(lost, kept, tuple(refusals))


def plan_changes(shown: RecopyPlan, found: RecopyPlan) -> list[str]:
    """What of a plan that was shown does not hold any more; one text each. Pure."""
    before, now = ({it.tp for it in plan.forgotten} for plan in (shown, found))
    if before == now:
        return list(found.refusals)
    changes = {"not lost any more": before - now, "lost by now, too": now - before}
    return [f"{what}: {_named(tps)}" for what, tps in changes.items() if tps]


def _named(tps: Collection[TP]) -> str:
    more = f" and {len(tps) - SHOWN:,} more" if len(tps) > SHOWN else ""
    return ", ".join(map(str, sorted(tps)[:SHOWN])) + more


def _begun_anew(checkpoint: Checkpoint, copy: Copy) -> Checkpoint:
    """What the group has read, at the beginning of the copy that takes the place of this one."""
    topic_id = checkpoint.topic_id if checkpoint.topic_id.is_known else copy.newest.topic_id
    return replace(checkpoint, downstream_next=copy.end, topic_id=topic_id)


def _recopied_text(body: Mapping[str, Any] | None) -> str:
    it = body or {}
    return f"another recopy was done ({it.get('id')} by {it.get('by')} at {it.get('at')})"


class Recopy:
    """One flow's copies of some topics. Threading: one thread.

    Args:
        topics: their names on the source.
        timeout_s: for each request but the acting.
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
        """The copies of the topics as they are now.

        Raises:
            RefusedError: the flow never ran, or a topic was never replicated.
            KafkaOpError: no answer.
        """
        present = list_topics(self._target, self._admin, Deadline(self._timeout_s)).topics
        check_ran(self.flow, self._target, Deadline(self._timeout_s))
        self._tasks = len(present[self.flow.syncs_topic].partitions) if self.flow.syncs_topic in present else 0
        state = self._state(range(self._tasks), Deadline(READ_TIMEOUT_S))
        lacking = self._topics - {tp.topic for tp in state.newest}
        if lacking:
            names = ", ".join(sorted(lacking))
            known = ", ".join(sorted({tp.topic for tp in state.newest})[:SHOWN]) or "none"
            text = (
                f"{self.flow.name} has no position in {names}: nothing of it was replicated, or it is forgotten already"
            )
            raise RefusedError(f"{text} (some topics that it has: {known})")
        newest = {tp: run for tp, run in state.newest.items() if tp.topic in self._topics}
        copies = self._copies(newest, state, {name: len(it.partitions) for name, it in present.items()})
        return Seen(tuple(copies), state.halted, state.recopied)

    def _state(self, tasks: Iterable[int], deadline: Deadline) -> SyncsState:
        with closing(SyncsReader(self._target, self.flow.syncs_topic, tasks, SyncsState())) as reader:
            return reader.read_to_end(deadline)

    def plan(self, seen: Seen) -> RecopyPlan:
        """What would be done."""
        return plan_recopy(seen.copies, self.flow.target, behind=self._behind)

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

    def rows(
        self, plan: RecopyPlan, copies: Iterable[Copy], state: str, failed: Mapping[int, str] | None = None
    ) -> Rows:
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

    def carry_out(self, shown: Seen, move_id: str, timeout_s: float) -> CommandOutcome:
        """Forget what the plan says.

        Args:
            shown: what `look` found.
            timeout_s: for the acting.

        Raises:
            RefusedError: another operator is acting, or it is not what was shown any more; nothing was changed.
            KafkaOpError: the target gave no answer before anything was changed.
        """
        act = AuditedCommand(self.flow, self._target, self._admin, COMMAND, move_id, self._timeout_s)
        return act.carry_out(
            self.rows(self.plan(shown), shown.copies, "planned"),
            lambda: self._look_again(shown),
            lambda seen: self._forget(seen, move_id, Deadline(timeout_s)),
        )

    def _look_again(self, shown: Seen) -> Seen:
        """What there is now. After another recopy nothing is as it was shown, even what is lost once more.

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
        self._begin_groups_anew(plan, deadline)
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
            return CommandOutcome(state, self.rows(plan, seen.copies, "forgotten", failed), (str(error),))
        return CommandOutcome("done", self.rows(plan, seen.copies, "forgotten"))

    def _begin_groups_anew(self, plan: RecopyPlan, deadline: Deadline) -> None:
        """Put the checkpoints of the topics at the beginning of their new copies, until a worker translates them.

        What the group had read on the source stays, with the topic that it was of: if the source has created the topic
        again, its map says nothing of that (invariant D). MM2's clients, which know nothing of maps, begin with the new
        copy; on a record without a value they would fail.

        Before the runs are deleted: the command can be run again as long as they are there.
        """
        copies = {TP(it.target_topic, it.tp.partition): it for it in plan.forgotten}
        known = read_checkpoints(self._target, self.flow, deadline)
        anew = [_begun_anew(it, copies[it.tp]) for it in known.checkpoints.values() if it.tp in copies]
        if anew:
            writer = CheckpointWriter(self._target, self._admin, self.flow.naming.checkpoints_topic, deadline)
            writer.write(anew, deadline, times_ms=known.written_ms)

    def _records(
        self, task: int, tps: Collection[TP], recopied: Mapping[str, Any] | None, move_id: str, deadline: Deadline
    ) -> Records:
        """Deletes all that one task's partition of the syncs topic says of these partitions; then tells the task.

        Also what readers don't see: the end of the command's own transaction shows it where a marker was lost.

            commit, its answer is lost, task opens, task copies, command opens    nothing: it was told; the runs are new
            look, another command commits, task copies, command opens             refused: the runs are new

        Args:
            recopied: by which command runs of the task were deleted last, when it was looked at.

        Raises:
            RetriableError: another command did so since.
        """
        keys: dict[bytes, None] = {}
        last_told: Mapping[str, Any] | None = None

        def take(message: Message) -> None:
            key = message.key() or b""
            record = decode(key, message.value())
            has_value = record.body is not None if isinstance(record, ControlRecord) else message.value() is not None
            if has_value and record.tp in tps:
                keys[key] = None
            if isinstance(record, ControlRecord) and record.kind == RECOPIED:
                nonlocal last_told
                last_told = record.body

        with closing(LogReader(self._target, self.flow.syncs_topic, [task], take, committed=False)) as reader:
            reader.read_to_end(deadline)
        if last_told != recopied:  # perhaps in a transaction that was aborted
            told = self._state([task], deadline).recopied.get(task)
            if told is not None and told.get("id") == move_id:
                return []
            if told != recopied:
                raise RetriableError(_recopied_text(told), op=f"{COMMAND} {self.flow.name}")
        last = encode_control(ControlRecord(RECOPIED, task_tp(task), command_body(move_id)))
        return [*((key, None) for key in keys), last]
