"""Records of a command in the tasks' partitions of the syncs topic, each written as the task itself: that fences it.

A task that runs fails with its next transaction and begins anew, so that it reads what was written before it copies
anything; one that starts later reads it, too. One that starts in the same moment opens the same id; the interleavings:

    command opens, task opens, command writes      the command is fenced: again, from opening
    task opens, command opens, task reads          the task misses the record; it is fenced, writes nothing, begins anew
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
"""How many tasks are written to side by side."""
Records = Sequence[tuple[bytes, bytes | None]]
"""Keys and values."""


class PartlyDoneError(KafkaOpError):
    """Some tasks of a flow were not written to; the command run again goes on with them.

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


def command_body(move_id: str) -> dict[str, Any]:
    """What a control record of a command says of it; the operator and the time are those of now."""
    at = dt.datetime.now(dt.UTC).isoformat(timespec="milliseconds")
    return {"id": move_id, "by": operator_name(), "at": at}


def write_as_tasks(
    flow: Flow, target: Cluster, tasks: Iterable[int], make: Callable[[int], Records], deadline: Deadline, *, op: str
) -> None:
    """Write what `make` gives into the tasks' partitions, each in one transaction, and read it back.

    Args:
        make: called once a task's former owners are fenced: what it reads of the partition then is all there is.
            Called from several threads, and again where the answer to a commit was lost and the task began since:
            what does harm written twice looks for what it wrote, and gives nothing.

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
    """`check_topic`, for who does not read the topic.

    Raises:
        RefusedError, KafkaOpError: as `check_topic`.
    """
    with closing(LogReader(target, flow.syncs_topic, [], lambda message: None)) as reader:
        check_topic(flow, reader, deadline)


def check_topic(flow: Flow, reader: LogReader, deadline: Deadline) -> None:
    """Make sure that the flow has a syncs topic.

    Raises:
        RefusedError: it has none.
        KafkaOpError: no answer.
    """
    if not reader.exists(deadline):
        text = f"{flow.target} has no topic {flow.syncs_topic}: the flow {flow.name} never ran"
        raise RefusedError(f"{text}, and there is nothing to be done with it")


def _write(flow: Flow, target: Cluster, task: int, make: Callable[[int], Records], deadline: Deadline) -> None:
    """Write one task's records and read them back; a task that starts in the same moment is outlasted."""
    waits = backoff_s(0.05, 0.5)
    while True:
        try:
            _write_once(flow, target, task, make, deadline)
        except (FatalError, AbortTransactionError):  # fenced most of all, be it after the commit
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
                text = f"the record at {offset} is not seen within {deadline.seconds:g} s"
                raise RetriableError(text, op=f"read {flow.syncs_topic} back", hint=target.recent_error())
            reader.follow(deadline.slice_s(0.1))
