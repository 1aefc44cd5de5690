"""Halts a flow: a record in the syncs partition of each task stops the task; a tombstone lifts the halt.

The record is written as the task itself (`control_records`). That fences a running task: its next transaction fails, it
starts again, reads the record before it replicates anything, and waits (`copy.task`). A task that starts later reads
it, too. So one step stops every running task and every later one.

Needs only the target.

Invariants:
    C, G: see `control_records`.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping
from contextlib import closing
from typing import Any

from replicator.config import Flow
from replicator.deadline import Deadline
from replicator.kafka.cluster import Cluster, Message
from replicator.kafka.log_reader import LogReader
from replicator.offset_map.sync_format import HALTED, ControlRecord, encode_control, task_record, task_tp
from replicator.syncs.control_records import Records, check_topic, command_body, write_as_tasks


class HaltReason(enum.StrEnum):
    """Why a flow is halted. The values are in the syncs topic and in JSON: never rename one."""

    FAILOVER = "failover"
    PAUSED = "paused"


def halt_body(reason: str, move_id: str) -> dict[str, Any]:
    """The body of the record, with the current operator and time."""
    return {"reason": str(reason), **command_body(move_id)}


def halt_text(body: Mapping[str, Any]) -> str:
    """``failover: 20260131T030000-7f3a by alice at 2026-01-31T03:00:00.000+00:00``."""
    return f"{body.get('reason')}: {body.get('id')} by {body.get('by')} at {body.get('at')}"


def why_halted(flow: str, halted: Mapping[int, Mapping[str, Any]]) -> str:
    """Why a flow is halted, in words; empty if no task is halted. Pure."""
    return f"the flow {flow} is halted ({halt_text(halted[min(halted)])})" if halted else ""


def halted_text(flow: str, halted: Mapping[int, Mapping[str, Any]]) -> str:
    """As `why_halted`, and how to resume the flow. Pure."""
    why = why_halted(flow, halted)
    return f"{why}; to resume it: `replicator resume --flow '{flow}'`" if why else ""


def to_halt(halted: Mapping[int, Mapping[str, Any]], tasks: Iterable[int], reason: str) -> list[int]:
    """The tasks that are not halted yet; a failover also takes over tasks that are only paused. Pure."""
    takes_over = reason == HaltReason.FAILOVER
    return [
        task
        for task in tasks
        if task not in halted or (takes_over and halted[task].get("reason") != HaltReason.FAILOVER)
    ]


def halt_changes(shown: Mapping[int, Mapping[str, Any]], found: Mapping[int, Mapping[str, Any]]) -> list[str]:
    """Differences between the halts shown to the operator and those found now; one text each. Pure."""
    new = dict.fromkeys(halt_text(found[task]) for task in sorted(found) if found[task] != shown.get(task))
    lifted = dict.fromkeys(halt_text(shown[task]) for task in sorted(shown.keys() - found.keys()))
    return [*(f"halted since then ({it})" for it in new), *(f"no longer halted ({it})" for it in lifted)]


def halt(flow: Flow, target: Cluster, tasks: Iterable[int], body: Mapping[str, Any], deadline: Deadline) -> None:
    """Stop these tasks until `lift`, and read that back. Repeating it does no harm.

    Raises:
        RefusedError: the flow has no syncs topic: it never ran.
        PartlyDoneError: some tasks are not halted.
    """
    _write_all(flow, target, tasks, dict(body), deadline)


def lift(flow: Flow, target: Cluster, tasks: Iterable[int], deadline: Deadline) -> None:
    """Let these tasks run again, and read that back. Waiting workers start them at once.

    Raises:
        RefusedError, PartlyDoneError: as `halt`.
    """
    _write_all(flow, target, tasks, None, deadline)


def read_halts(flow: Flow, target: Cluster, tasks: Iterable[int], deadline: Deadline) -> dict[int, dict[str, Any]]:
    """The halt of each of these tasks; a task that is left out is not halted.

    Raises:
        RefusedError: the flow has no syncs topic.
        KafkaOpError: not read within `deadline`; a large history takes seconds.
    """
    halted: dict[int, dict[str, Any]] = {}

    def take(message: Message) -> None:
        record = task_record(message.key() or b"", message.value())
        if record is None or record.kind != HALTED:
            return
        halted.pop(record.tp.partition, None)
        if record.body is not None:
            halted[record.tp.partition] = record.body

    with closing(LogReader(target, flow.syncs_topic, list(tasks), take)) as reader:
        check_topic(flow, reader, deadline)
        reader.read_to_end(deadline)
    return halted


def _write_all(
    flow: Flow, target: Cluster, tasks: Iterable[int], body: dict[str, Any] | None, deadline: Deadline
) -> None:
    def make(task: int) -> Records:
        return [encode_control(ControlRecord(HALTED, task_tp(task), body))]

    op = f"{'resume' if body is None else 'halt'} {flow.name}"
    write_as_tasks(flow, target, tasks, make, deadline, op=op)
