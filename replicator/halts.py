"""Halting a flow: a record in the syncs partition of each task says that the task must not run; a tombstone lifts it.

The record is written in a transaction under the task's own transactional id. That fences a task that runs: its next
transaction fails, it begins anew, reads the record before it copies anything, and waits (`task`). A task that starts
later reads it, too. So one step ends every living task and holds back the next one.

A task that starts in the same moment opens the id, too. The interleavings:

    halt opens, task opens, halt writes      halt is fenced: again, from opening
    task opens, halt opens, task reads       the task misses the record; it is fenced, writes nothing, and begins anew
    halt commits, task opens, task reads     the task reads the record

Only the target is needed.

Invariants:
    C: the record is written as a task writes: between its own `init_transactions` and the next owner's.
    G: what is reported as halted or lifted was read back under read_committed.
"""

from __future__ import annotations

import datetime as dt
import enum
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

from replicator.audit import operator_name
from replicator.clients import Cluster, Message
from replicator.compacted import CompactedReader
from replicator.config import Flow
from replicator.deadline import Deadline, backoff_s
from replicator.errors import AbortTransactionError, FatalError, KafkaOpError, RefusedError, RetriableError
from replicator.names import transactional_id
from replicator.transactions import FencingWriter
from replicator.wire import HALTED, ControlRecord, decode, encode_control, encode_string, halted_tp

AT_ONCE = 8
"""How many tasks are halted side by side."""
_CONTROL_PREFIX = encode_string("")


class Reason(enum.StrEnum):
    """Why a flow is halted. The values are in the syncs topic and in JSON: never rename one."""

    FAILOVER = "failover"
    PAUSED = "paused"


class PartlyHaltedError(KafkaOpError):
    """Some tasks of a flow were not halted, or lifted; the command run again goes on with them.

    Args:
        done: tasks that were, and were read back.
        failed: why not, by task.
    """

    def __init__(self, op: str, done: Iterable[int], failed: Mapping[int, Exception]) -> None:
        self.done = frozenset(done)
        self.failed = dict(sorted(failed.items()))
        task, why = next(iter(self.failed.items()))
        tasks = ", ".join(map(str, self.failed))
        text = f"tasks {tasks} not done, {len(self.done)} done; task {task}: {why}"
        super().__init__(text, op=op, hint="run the command again: it goes on with those")


def halt_body(reason: str, move_id: str) -> dict[str, Any]:
    """What the record says; the operator and the time are those of now."""
    at = dt.datetime.now(dt.UTC).isoformat(timespec="milliseconds")
    return {"reason": str(reason), "id": move_id, "by": operator_name(), "at": at}


def halt_text(body: Mapping[str, Any]) -> str:
    """``failover: 20260131T030000-7f3a by alice at 2026-01-31T03:00:00.000+00:00``."""
    return f"{body.get('reason')}: {body.get('id')} by {body.get('by')} at {body.get('at')}"


def halted_text(flow: str, halted: Mapping[int, Mapping[str, Any]]) -> str:
    """Why a flow is halted, and what to do, in words; empty when none of its tasks is. Pure."""
    if not halted:
        return ""
    first = halt_text(halted[min(halted)])
    return f"the flow {flow} is halted ({first}); `replicator resume --flow '{flow}'` lifts it"


def to_halt(halted: Mapping[int, Mapping[str, Any]], tasks: Iterable[int], reason: str) -> list[int]:
    """The tasks that are not halted yet; a failover also takes over what is merely paused. Pure."""
    takes_over = reason == Reason.FAILOVER
    return [
        task for task in tasks if task not in halted or (takes_over and halted[task].get("reason") != Reason.FAILOVER)
    ]


def halt(flow: Flow, target: Cluster, tasks: Iterable[int], body: Mapping[str, Any], deadline: Deadline) -> None:
    """No task of these writes from now on, and none starts; read back. Doing it again does no harm.

    Raises:
        RefusedError: the flow has no syncs topic: it never ran.
        PartlyHaltedError: some tasks are not halted.
    """
    _write_all(flow, target, tasks, dict(body), deadline)


def lift(flow: Flow, target: Cluster, tasks: Iterable[int], deadline: Deadline) -> None:
    """These tasks may run again; read back. Workers that wait for it begin at once.

    Raises:
        RefusedError, PartlyHaltedError: as `halt`.
    """
    _write_all(flow, target, tasks, None, deadline)


def read_halts(flow: Flow, target: Cluster, tasks: Iterable[int], deadline: Deadline) -> dict[int, dict[str, Any]]:
    """What halts each of these tasks; one that is left out is not halted.

    Raises:
        RefusedError: the flow has no syncs topic.
        KafkaOpError: not read within `deadline`, which a large history takes some of.
    """
    halted: dict[int, dict[str, Any]] = {}

    def take(message: Message) -> None:
        record = halt_record(message)
        if record is None:
            return
        halted.pop(record.tp.partition, None)
        if record.body is not None:
            halted[record.tp.partition] = record.body

    with closing(CompactedReader(target, flow.syncs_topic, list(tasks), take)) as reader:
        _check_topic(flow, reader, deadline)
        reader.read_to_end(deadline)
    return halted


def halt_record(message: Message) -> ControlRecord | None:
    """What a record of the syncs topic says of a task; None when it is another one: runs are not even decoded."""
    key = message.key() or b""
    if not key.startswith(_CONTROL_PREFIX):
        return None
    record = decode(key, message.value())
    return record if isinstance(record, ControlRecord) and record.kind == HALTED else None


def _check_topic(flow: Flow, reader: CompactedReader, deadline: Deadline) -> None:
    if not reader.exists(deadline):
        text = f"{flow.target} has no topic {flow.syncs_topic}: the flow {flow.name} never ran"
        raise RefusedError(f"{text}, and there is nothing to halt or to resume")


# --- writing ----------------------------------------------------------------------------------------------------------


def _write_all(
    flow: Flow, target: Cluster, tasks: Iterable[int], body: dict[str, Any] | None, deadline: Deadline
) -> None:
    with closing(CompactedReader(target, flow.syncs_topic, [], lambda message: None)) as reader:
        _check_topic(flow, reader, deadline)
    numbers = sorted(set(tasks))
    op = f"{'resume' if body is None else 'halt'} {flow.name}"
    with ThreadPoolExecutor(AT_ONCE) as pool:
        waiting = {task: pool.submit(_write, flow, target, task, body, deadline) for task in numbers}
    failed = {task: error for task, it in waiting.items() if (error := it.exception()) is not None}
    unexpected = [error for error in failed.values() if not isinstance(error, KafkaOpError)]
    if unexpected:
        raise unexpected[0]
    if failed:
        done = set(numbers) - failed.keys()
        raise PartlyHaltedError(op, done, {task: it for task, it in failed.items() if isinstance(it, KafkaOpError)})


def _write(flow: Flow, target: Cluster, task: int, body: dict[str, Any] | None, deadline: Deadline) -> None:
    """Write the record of one task and read it back; a task that starts in the same moment is outlasted."""
    waits = backoff_s(0.05, 0.5)
    key, value = encode_control(ControlRecord(HALTED, halted_tp(task), body))
    while True:
        try:
            offset = _write_once(flow, target, task, key, value, deadline)
            _read_back(flow, target, task, offset, key, deadline)
        except (FatalError, AbortTransactionError):  # fenced most of all; written twice does no harm
            if deadline.expired:
                raise
            time.sleep(deadline.slice_s(next(waits)))
        else:
            return


def _write_once(flow: Flow, target: Cluster, task: int, key: bytes, value: bytes | None, deadline: Deadline) -> int:
    with closing(FencingWriter(target, transactional_id(flow.source, flow.target, task))) as writer:
        writer.open(deadline)
        return writer.write(halted_tp(task)._replace(topic=flow.syncs_topic), key, value, deadline)


def _read_back(flow: Flow, target: Cluster, task: int, offset: int, key: bytes, deadline: Deadline) -> None:
    seen: list[int] = []

    def take(message: Message) -> None:
        if message.offset() == offset and message.key() == key:
            seen.append(offset)

    with closing(CompactedReader(target, flow.syncs_topic, {task: offset}, take)) as reader:
        while not seen:  # a commit is acknowledged before its marker is in the partition
            if deadline.expired:
                text = f"the record at {offset} is not seen within {deadline.seconds:g} s"
                raise RetriableError(text, op=f"read {flow.syncs_topic} back", hint=target.recent_error())
            reader.follow(deadline.slice_s(0.1))
