"""What operators do to a flow, against what others did since they looked: without clusters."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import pytest

from replicator.audit import audited_command
from replicator.audit.audited_command import AuditedCommand, CommandOutcome
from replicator.checkpoints.topic import KnownGroups
from replicator.config import Flow, build
from replicator.deadline import Deadline
from replicator.errors import TP, FencedError, RefusedError, RetriableError
from replicator.names import task_of
from replicator.offset_map.runs import Run
from replicator.offset_map.sync_format import (
    RECOPIED,
    ControlRecord,
    TargetTopic,
    encode_control,
    encode_sync,
    task_tp,
)
from replicator.offset_map.topic_id import NO_ID, TopicId
from replicator.operations import pause, recopy
from replicator.operations.pause import Halts, Pause, PauseCommand
from replicator.operations.recopy import Recopy, RemotePartition, Seen
from replicator.syncs import control_records, reader
from replicator.syncs.control_records import Records
from replicator.syncs.halts import HaltReason

TASKS = 2
TIMEOUT_S = 5.0
MINE, OTHERS = "move-1", "move-0"
ORDERS = TargetTopic("east.orders", TopicId([1] * 16))
RUN = Run(4, 90, 40, 10, 30, 100, NO_ID, ())
LOST = tuple(RemotePartition(TP("orders", p), ORDERS.name, RUN, ORDERS) for p in range(4))
WHOLE = tuple(RemotePartition(TP("orders", p), ORDERS.name, RUN, ORDERS, found=ORDERS, end=51) for p in range(4))
NEW = TargetTopic(ORDERS.name, TopicId([2] * 16))
REFILLED = tuple(RemotePartition(TP("orders", p), ORDERS.name, RUN, ORDERS, found=NEW, end=7) for p in range(4))
PAUSED = {"reason": "paused", "id": OTHERS, "by": "bob", "at": "2026-01-31T03:00:00.000+00:00"}
FAILED_OVER = PAUSED | {"reason": "failover"}
BOBS = {"id": OTHERS, "by": "bob", "at": "2026-01-31T03:00:00.000+00:00"}


class NoCluster:
    """The target: nobody may ask it anything."""

    def __init__(self, *arguments: object) -> None:
        pass

    def connect(self, timeout_s: float) -> None:
        return None


class Log:
    """The audit and the tasks' records, as they are written: ``(what, …)``."""

    def __init__(self) -> None:
        self.steps: list[tuple[Any, ...]] = []

    def states(self) -> list[str]:
        return [step[1] for step in self.steps if step[0] == "audit"]


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> Log:
    log = Log()

    class Audit:
        def __init__(self, *arguments: object) -> None:
            pass

        def __enter__(self) -> Audit:
            return self

        def __exit__(self, *exception: object) -> None:
            pass

        def begin(self, deadline: Deadline) -> None:
            log.steps.append(("claim",))

        def write(self, record: Any, deadline: Deadline) -> None:
            log.steps.append(("audit", record.state, record.result))

    monkeypatch.setattr(audited_command, "Audit", Audit)
    for module in (pause, recopy):
        monkeypatch.setattr(module, "Cluster", NoCluster)
    monkeypatch.setattr(recopy, "read_checkpoints", lambda *_: KnownGroups({}, {}, None, {}))
    return log


@pytest.fixture
def flow() -> Flow:
    clusters = {alias: {"bootstrap_servers": "none:1"} for alias in ("east", "west")}
    return build({"clusters": clusters, "flows": {"east->west": {"topics": ["orders"], "tasks": TASKS}}}).all_flows()[0]


# --- any of them ------------------------------------------------------------------------------------------------------


def an_act(flow: Flow) -> AuditedCommand:
    return AuditedCommand(flow, NoCluster(), None, "pause", MINE, TIMEOUT_S)  # type: ignore[arg-type]


def test_it_is_looked_again_between_the_claim_and_the_first_record(flow: Flow, log: Log) -> None:
    """What is acted on is what was found then."""

    def look() -> str:
        log.steps.append(("look",))
        return "found"

    def act(found: str) -> CommandOutcome:
        log.steps.append(("act", found))
        return CommandOutcome("done", ())

    assert an_act(flow).carry_out((), look, act).state == "done"
    assert [step[:2] for step in log.steps] == [
        ("claim",), ("look",), ("audit", "started"), ("act", "found"), ("audit", "done"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("error", "state"), [(RefusedError("changed"), "refused"), (RetriableError("no answer", op="look"), "failed")]
)
def test_what_is_not_as_shown_is_not_done_and_the_audit_says_so(
    flow: Flow, log: Log, error: Exception, state: str
) -> None:
    """G."""

    def look() -> None:
        raise error

    def act(found: None) -> CommandOutcome:
        raise AssertionError("acted")

    with pytest.raises(type(error), match=str(error)):
        an_act(flow).carry_out((), look, act)
    assert log.steps == [("claim",), ("audit", state, str(error))]


# --- pause and resume -------------------------------------------------------------------------------------------------


class Looks(Pause):
    """Finds what it is given, one after the other; then the last one again."""

    def __init__(self, flow: Flow, *found: Halts) -> None:
        super().__init__(flow, TIMEOUT_S)
        self.tasks = TASKS
        self._found = list(found)

    def look(self) -> Halts:
        return self._found.pop(0) if len(self._found) > 1 else self._found[0]


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch, log: Log) -> Log:
    def halt(flow: Flow, target: object, tasks: Iterable[int], body: Mapping[str, Any], deadline: Deadline) -> None:
        log.steps.append(("halt", list(tasks), body["reason"]))

    def lift(flow: Flow, target: object, tasks: Iterable[int], deadline: Deadline) -> None:
        log.steps.append(("lift", list(tasks)))

    monkeypatch.setattr(pause, "halt", halt)
    monkeypatch.setattr(pause, "lift", lift)
    return log


@pytest.mark.parametrize(
    ("command", "shown", "found", "text"),
    [
        (
            PauseCommand.RESUME,
            dict.fromkeys(range(2), PAUSED),
            dict.fromkeys(range(2), FAILED_OVER),
            "since then (failover: ",
        ),
        (PauseCommand.RESUME, {0: PAUSED}, {0: PAUSED, 1: FAILED_OVER}, "halted since then (failover: move-0 by bob"),
        (PauseCommand.RESUME, {0: PAUSED}, {}, "no longer halted (paused: move-0 by bob"),
        (PauseCommand.PAUSE, {}, dict.fromkeys(range(2), FAILED_OVER), "halted since then (failover: move-0 by bob"),
        (PauseCommand.PAUSE, {}, {1: PAUSED}, "halted since then (paused: move-0 by bob"),
    ],
)
def test_a_halt_that_was_not_shown_is_neither_lifted_nor_written_over(
    flow: Flow, written: Log, command: PauseCommand, shown: Halts, found: Halts, text: str
) -> None:
    """G: the operator who resumes after a failover has been shown it."""
    it = Looks(flow, shown, found)
    seen = it.look()
    with pytest.raises(RefusedError) as refused:
        it.carry_out(command, MINE, seen, TIMEOUT_S)
    assert text in str(refused.value)
    assert str(refused.value).endswith("run the command again")
    assert [step[:2] for step in written.steps] == [("claim",), ("audit", "refused")]


def test_what_is_as_it_was_shown_is_done(flow: Flow, written: Log) -> None:
    it = Looks(flow, {}, {}, dict.fromkeys(range(2), PAUSED))
    assert it.carry_out(PauseCommand.PAUSE, MINE, it.look(), TIMEOUT_S).state == "done"
    it = Looks(flow, {1: FAILED_OVER}, {1: FAILED_OVER}, {})
    assert it.carry_out(PauseCommand.RESUME, MINE, it.look(), TIMEOUT_S).state == "done"
    assert [it for it in written.steps if it[0] in ("halt", "lift")] == [
        ("halt", [0, 1], HaltReason.PAUSED),
        ("lift", [1]),
    ]


# --- recopy -----------------------------------------------------------------------------------------------------------


class Recopies(Recopy):
    """Finds what it is given, one after the other."""

    def __init__(self, flow: Flow, *seen: Seen, behind: bool = False) -> None:
        super().__init__(flow, ["orders"], TIMEOUT_S, behind=behind)
        self._tasks = TASKS
        self._seen = list(seen)

    def look(self) -> Seen:
        return self._seen.pop(0)


@pytest.fixture
def forgotten(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The tasks that were written to."""
    forgotten: list[int] = []

    def write(flow: Flow, target: object, tasks: Iterable[int], make: object, deadline: Deadline, *, op: str) -> None:
        forgotten.extend(sorted(tasks))

    monkeypatch.setattr(recopy, "write_as_tasks", write)
    return forgotten


@pytest.mark.parametrize(
    ("shown", "found", "behind", "text"),
    [
        (Seen(LOST), Seen(WHOLE), False, "no longer lost: orders[0], orders[1], orders[2] and 1 more)"),
        (Seen(LOST), Seen((*LOST[:3], WHOLE[3])), False, "no longer lost: orders[3])"),
        (Seen(LOST), Seen(LOST[1:]), False, "no longer lost: orders[0])"),
        (Seen((*LOST[:3], WHOLE[3])), Seen(LOST), False, "lost since then: orders[3])"),
        (Seen(LOST), Seen(REFILLED), False, "holds 28 offsets in 4 partitions; delete the topic first"),
        (Seen(LOST), Seen(LOST, recopied={0: BOBS, 1: BOBS}), False, "another recopy has run since (move-0 by bob at"),
        (Seen(WHOLE), Seen(WHOLE, recopied={0: BOBS, 1: BOBS}), True, "another recopy has run since (move-0 by bob at"),
        (Seen(LOST), Seen(LOST, {0: FAILED_OVER}), False, "halted since then (failover: move-0 by bob at"),
        (Seen(LOST, {0: PAUSED}), Seen(LOST), False, "no longer halted (paused: move-0 by bob at"),
    ],
)
def test_what_was_copied_anew_since_it_was_shown_is_not_forgotten(
    flow: Flow, log: Log, forgotten: list[int], shown: Seen, found: Seen, behind: bool, text: str
) -> None:
    """A, G: by another operator's command that began and ended before the yes."""
    it = Recopies(flow, shown, found, behind=behind)
    with pytest.raises(RefusedError) as refused:
        it.carry_out(it.look(), MINE, TIMEOUT_S)
    assert text in str(refused.value)
    assert str(refused.value).endswith("run the command again")
    assert forgotten == []
    assert [step[:2] for step in log.steps] == [("claim",), ("audit", "refused")]


@pytest.mark.parametrize("behind", [False, True])
def test_lost_as_it_was_shown_it_is_forgotten(flow: Flow, log: Log, forgotten: list[int], behind: bool) -> None:
    """Also where another topic's copies, in another task, were begun anew meanwhile, and where copies go on."""
    copies = tuple(it for it in (WHOLE if behind else LOST) if task_of(*it.tp, TASKS) == 1)
    it = Recopies(flow, Seen(copies, {0: PAUSED}), Seen(copies, {0: PAUSED}, {0: BOBS}), behind=behind)
    assert it.carry_out(it.look(), MINE, TIMEOUT_S).state == "done"
    assert forgotten == [1]
    assert log.states() == ["started", "done"]


class Partition:
    """A task's partition of the syncs topic: keys, values, and whether they are committed.

    Attributes:
        fenced: of each commit that is answered by a fence, whether it is applied, and what the task writes then.
    """

    def __init__(self) -> None:
        self.records: list[tuple[bytes, bytes | None, bool]] = []
        self.fenced: list[tuple[bool, Records]] = []

    def put(self, *records: tuple[bytes, bytes | None], committed: bool = True) -> None:
        self.records += [(key, value, committed) for key, value in records]

    def deleted(self) -> list[bytes]:
        return [key for key, value, _ in self.records if value is None]


class Message:
    """As much of a record as readers ask for."""

    def __init__(self, offset: int, key: bytes, value: bytes | None) -> None:
        self._parts = offset, key, value

    def offset(self) -> int:
        return self._parts[0]

    def key(self) -> bytes:
        return self._parts[1]

    def value(self) -> bytes | None:
        return self._parts[2]


@pytest.fixture
def partition(monkeypatch: pytest.MonkeyPatch, log: Log) -> Partition:
    partition = Partition()

    class Reader:
        def __init__(self, on: object, topic: str, of: object, take: Any, *, committed: bool = True) -> None:
            self._take, self._committed = take, committed

        def exists(self, deadline: Deadline) -> bool:
            return True

        def read_to_end(self, deadline: Deadline, is_stopped: object = None) -> None:
            for offset, (key, value, is_committed) in enumerate(partition.records):
                if is_committed or not self._committed:
                    self._take(Message(offset, key, value))

        def follow(self, wait_s: float) -> None:
            self.read_to_end(Deadline(wait_s))

        def close(self) -> None:
            pass

    class Writer:
        def __init__(self, on: object, id_: str) -> None:
            pass

        def open(self, deadline: Deadline) -> None:
            pass

        def write(self, tp: TP, records: Records, deadline: Deadline) -> int:
            is_applied, then = partition.fenced.pop() if partition.fenced else (True, None)
            partition.put(*records, committed=is_applied)
            if then is not None:
                partition.put(*then)
                raise FencedError("fenced", op="commit transaction")
            return len(partition.records) - 1

        def close(self) -> None:
            pass

    for module in (recopy, reader, control_records):
        monkeypatch.setattr(module, "LogReader", Reader)
    monkeypatch.setattr(control_records, "FencingWriter", Writer)
    return partition


IN_TASK_0 = next(it for it in LOST if task_of(*it.tp, TASKS) == 0)
FIRST = Seen((IN_TASK_0,))


def run_of(number: int) -> tuple[bytes, bytes]:
    """A sync of the partition, under a key of its own."""
    run = Run(number, 90 + number, 40 + number, 1, 30 + number, 91 + number, NO_ID, ())
    return encode_sync(IN_TASK_0.tp, run)


def recopied_record(move_id: str) -> tuple[bytes, bytes | None]:
    return encode_control(ControlRecord(RECOPIED, task_tp(0), BOBS | {"id": move_id}))


def test_a_commit_whose_answer_was_lost_is_not_done_again(flow: Flow, partition: Partition) -> None:
    """A: the task knows, and what it has replicated since is not forgotten."""
    partition.put(run_of(1))
    partition.fenced.append((True, [run_of(2)]))
    it = Recopies(flow, FIRST, FIRST)
    assert it.carry_out(it.look(), MINE, TIMEOUT_S).state == "done"
    assert partition.deleted() == [run_of(1)[0]]
    assert partition.records[-1][:2] == run_of(2)


def test_a_commit_that_was_fenced_is_done_again(flow: Flow, partition: Partition) -> None:
    """What was written in an aborted transaction does not count."""
    partition.put(run_of(1), recopied_record(OTHERS))
    partition.fenced.append((False, []))
    seen = replace(FIRST, recopied={0: BOBS})
    it = Recopies(flow, seen, seen)
    assert it.carry_out(it.look(), MINE, TIMEOUT_S).state == "done"
    committed = [(key, value) for key, value, is_committed in partition.records if is_committed]
    assert [key for key, value in committed if value is None] == [run_of(1)[0]]
    assert committed[-1][0] == recopied_record(MINE)[0]


def test_what_another_command_forgot_after_the_second_look_is_left_alone(flow: Flow, partition: Partition) -> None:
    """A: it claimed the flow while this one acted already."""
    partition.put(run_of(1), recopied_record(OTHERS), run_of(2))
    it = Recopies(flow, FIRST, FIRST)
    done = it.carry_out(it.look(), MINE, TIMEOUT_S)
    assert done.state == "failed"
    assert "another recopy has run since (move-0 by bob at" in done.texts[0]
    assert partition.deleted() == []
