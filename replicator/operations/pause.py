"""Pauses and resumes a flow: look, claim the flow, look again, act, read back, and write to the audit.

Needs only the target. Running a command again does what is left to do, or nothing.

Invariants:
    G: a refused command changed nothing; what it reports as done was read back.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Any

from replicator.audit.audited_command import READ_TIMEOUT_S, AuditedCommand, CommandOutcome, Rows, refuse_changes
from replicator.config import Flow
from replicator.deadline import Deadline
from replicator.errors import KafkaOpError, RefusedError, ReplicatorError
from replicator.kafka.cluster import Cluster
from replicator.kafka.topic_queries import list_topics
from replicator.syncs.control_records import PartlyDoneError
from replicator.syncs.halts import HaltReason, halt, halt_body, halt_changes, halt_text, lift, read_halts, to_halt


class PauseCommand(enum.StrEnum):
    """What the operator asked for. The values are in the audit and in JSON: never rename one."""

    PAUSE = "pause"
    RESUME = "resume"


Halts = Mapping[int, Mapping[str, Any]]
"""What halts each task that is halted."""


class Pause:
    """Pauses or resumes one flow. Threading: one thread.

    Args:
        timeout_s: for each request that only reads.
    """

    def __init__(self, flow: Flow, timeout_s: float) -> None:
        self.flow = flow
        self._timeout_s = timeout_s
        self._target = Cluster(flow.target, "target", flow.target_cluster, flow.group)
        self._admin = self._target.connect(timeout_s)
        self.tasks = 0
        """The number of tasks; known after `look`."""

    def look(self) -> Halts:
        """The tasks that are halted now.

        Raises:
            RefusedError: the flow never ran.
            KafkaOpError: the target did not answer.
        """
        topics = list_topics(self._target, self._admin, Deadline(self._timeout_s)).topics
        if self.flow.syncs_topic in topics:
            self.tasks = len(topics[self.flow.syncs_topic].partitions)
        return read_halts(self.flow, self._target, range(self.tasks), Deadline(READ_TIMEOUT_S))

    def left(self, command: PauseCommand, halts: Halts) -> list[int]:
        """The tasks that the command has to halt, or to resume."""
        return to_halt(halts, range(self.tasks), HaltReason.PAUSED) if command is PauseCommand.PAUSE else sorted(halts)

    def rows(self, halts: Halts) -> Rows:
        """``task``, ``state`` (halted | running | unknown) and ``reason`` of every task, as in the JSON."""
        return tuple(
            {
                "task": task,
                "state": "halted" if task in halts else "running",
                "reason": halt_text(halts[task]) if task in halts else "",
            }
            for task in range(self.tasks)
        )

    def carry_out(self, command: PauseCommand, move_id: str, shown: Halts, timeout_s: float) -> CommandOutcome:
        """Halt or resume the tasks that are left.

        Args:
            shown: what `look` found, and the operator confirmed.
            timeout_s: for the writes.

        Raises:
            RefusedError: another operator is acting, or the halts differ from `shown`; nothing was changed.
            KafkaOpError: the target did not answer before anything was changed.
        """
        act = AuditedCommand(self.flow, self._target, self._admin, command, move_id, self._timeout_s)
        return act.carry_out(
            self.rows(shown),
            lambda: self._look_again(shown),
            lambda halts: self._act(command, move_id, self.left(command, halts), Deadline(timeout_s)),
        )

    def _look_again(self, shown: Halts) -> Halts:
        """The tasks that are halted now.

        Raises:
            RefusedError: they are not those that were shown.
        """
        halts = self.look()
        refuse_changes(self.flow.name, halt_changes(shown, halts))
        return halts

    def _act(self, command: PauseCommand, move_id: str, tasks: list[int], deadline: Deadline) -> CommandOutcome:
        texts: list[str] = []
        done = set(tasks)
        try:
            if command is PauseCommand.PAUSE:
                halt(self.flow, self._target, tasks, halt_body(HaltReason.PAUSED, move_id), deadline)
            else:
                lift(self.flow, self._target, tasks, deadline)
        except PartlyDoneError as error:
            texts.append(str(error))
            done = set(error.done)
        except (KafkaOpError, RefusedError) as error:
            texts.append(str(error))
            done = set()
        try:
            halts = self.look()
        except ReplicatorError as error:
            texts.append(f"could not verify the result: {error}")
            rows: Rows = tuple({"task": task, "state": "unknown", "reason": ""} for task in range(self.tasks))
            return CommandOutcome("partly_done" if done else "failed", rows, tuple(texts))
        open_tasks = set(self.left(command, halts))
        state = "done" if not open_tasks else "partly_done" if set(tasks) - open_tasks else "failed"
        return CommandOutcome(state, self.rows(halts), tuple(texts))
