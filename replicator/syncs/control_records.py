"""Writes records of a command to the tasks' partitions of the syncs topic, as the task itself: that fences the task.

A running task fails with its next transaction and starts again, so that it reads the record before it replicates
anything; a task that starts later reads it, too. A task that starts at the same moment opens the same transactional id;
the interleavings:

    command opens, task opens, command writes      the command is fenced, and repeats from opening
    task opens, command opens, task reads          the task misses the record; it is fenced and starts again
    command commits, task opens, task reads        the task reads the record

Invariants:
    C: records are written as a task writes: between their own `init_transactions` and the next owner's.
    G: what is reported as written was read back under read_committed.
"""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

from replicator.audit.audit import operator_name
from replicator.config import Flow
from replicator.deadline import Deadline, backoff_s
from replicator.errors import TP, AbortTransactionError, FatalError, KafkaOpError, RefusedError, RetriableError
from replicator.kafka.cluster import Cluster, Message
from replicator.kafka.log_reader import LogReader
from replicator.kafka.transactions import FencingWriter
from replicator.names import transactional_id

AT_ONCE = 8
"""The number of tasks written to in parallel."""
Records = Sequence[tuple[bytes, bytes | None]]
"""Keys and values."""


class PartlyDoneError(KafkaOpError):
    """Some tasks of a flow were not written to; running the command again writes to them.

    Args:
        done: tasks that were written to and read back.
        failed: the errors of the others, by task.
    """

    def __init__(self, op: str, done: Iterable[int], failed: Mapping[int, Exception]) -> None:
        self.done = frozenset(done)
        self.failed = dict(sorted(failed.items()))
        task, why = next(iter(self.failed.items()))
        tasks = ", ".join(map(str, self.failed))
        text = f"tasks {tasks} not done, {len(self.done)} done; task {task}: {why}"
        super().__init__(text, op=op, hint="run the command again for those")


def command_body(move_id: str) -> dict[str, Any]:
    """The body of a command's control record, with the current operator and time."""
    at = dt.datetime.now(dt.UTC).isoformat(timespec="milliseconds")
    return {"id": move_id, "by": operator_name(), "at": at}


def write_as_tasks(
    flow: Flow, target: Cluster, tasks: Iterable[int], make: Callable[[int], Records], deadline: Deadline, *, op: str
) -> None:
    """Write the records of `make` to the tasks' partitions, one transaction each, and read them back.

    Args:
        make: called after a task's former owners are fenced, so that it reads the whole partition. It is called from
            several threads, and again if the answer to a commit was lost and the task has started since: a record that
            must not be written twice is then looked for, and not returned again.

    Raises:
        RefusedError: the flow has no syncs topic: it never ran.
        PartlyDoneError: some tasks were not written to.
    """
    check_ran(flow, target, deadline)
    numbers = sorted(set(tasks))
    with ThreadPoolExecutor(AT_ONCE) as pool:
        waiting = {task: pool.submit(_write, flow, target, task, make, deadline) for task in numbers}
    failed = {task: error for task, it in waiting.items() if (error := it.exception()) is not None}
    unexpected = [error for error in failed.values() if not isinstance(error, KafkaOpError)]
    if unexpected:
        raise unexpected[0]
    if failed:
        done = set(numbers) - failed.keys()
        raise PartlyDoneError(op, done, {task: it for task, it in failed.items() if isinstance(it, KafkaOpError)})


def check_ran(flow: Flow, target: Cluster, deadline: Deadline) -> None:
    """`check_topic`, for a caller that does not read the topic.

    Raises:
        RefusedError, KafkaOpError: as `check_topic`.
    """
    with closing(LogReader(target, flow.syncs_topic, [], lambda message: None)) as reader:
        check_topic(flow, reader, deadline)


def check_topic(flow: Flow, reader: LogReader, deadline: Deadline) -> None:
    """Make sure that the flow has a syncs topic.

    Raises:
        RefusedError: it has none.
        KafkaOpError: the target did not answer.
    """
    if not reader.exists(deadline):
        text = f"{flow.target} has no topic {flow.syncs_topic}: the flow {flow.name} never ran"
        raise RefusedError(f"{text}, so there is nothing to do")


def _write(flow: Flow, target: Cluster, task: int, make: Callable[[int], Records], deadline: Deadline) -> None:
    """Write one task's records and read them back; repeats while a task that starts at the same moment fences it."""
    waits = backoff_s(0.05, 0.5)
    while True:
        try:
            _write_once(flow, target, task, make, deadline)
        except (FatalError, AbortTransactionError):  # most likely fenced, perhaps after the commit
            if deadline.expired:
                raise
            time.sleep(deadline.slice_s(next(waits)))
        else:
            return


def _write_once(flow: Flow, target: Cluster, task: int, make: Callable[[int], Records], deadline: Deadline) -> None:
    with closing(FencingWriter(target, transactional_id(flow.source, flow.target, task))) as writer:
        writer.open(deadline)
        records = make(task)
        if not records:
            return
        offset = writer.write(TP(flow.syncs_topic, task), records, deadline)
    _read_back(flow, target, task, offset, records[-1][0], deadline)


def _read_back(flow: Flow, target: Cluster, task: int, offset: int, key: bytes, deadline: Deadline) -> None:
    seen: list[int] = []

    def take(message: Message) -> None:
        if message.offset() == offset and message.key() == key:
            seen.append(offset)

    with closing(LogReader(target, flow.syncs_topic, {task: offset}, take)) as reader:
        while not seen:  # a commit is acknowledged before its marker is in the partition
            if deadline.expired:
                text = f"the record at {offset} is not visible after {deadline.seconds:g} s"
                raise RetriableError(text, op=f"read {flow.syncs_topic} back", hint=target.recent_error())
            reader.follow(deadline.slice_s(0.1))
