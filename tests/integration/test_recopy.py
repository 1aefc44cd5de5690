"""`recopy` on real brokers: lost copies are made anew, whole and once, and what is there is left alone."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from replicator.deadline import Deadline
from replicator.embedded import EmbeddedCluster
from replicator.errors import TP, FencedError, RetriableError
from replicator.kafka.cluster import Cluster as Clients
from replicator.kafka.transactions import FencingWriter
from replicator.names import task_of, transactional_id
from tests.support.compare import compare
from tests.support.desk import SOON_S
from tests.support.eventually import eventually
from tests.support.flows import FlowBench, FlowBenches, on_any_plane
from tests.support.groups import checkpoints, commit, committed
from tests.support.in_process import Run, Runs
from tests.support.records import NewRecord, create_topic, delete_topic, produce, read_topic

TASKS = 2
PARTITIONS = 4
FILLED = 40


def numbered(number: int, word: bytes = b"") -> list[NewRecord]:
    return [NewRecord(b"%s%d" % (word, n), b"k", n % PARTITIONS) for n in range(number)]


@pytest.fixture
def flow(make_flow: FlowBenches, source: EmbeddedCluster, target: EmbeddedCluster) -> FlowBench:
    """A flow with two topics replicated by two tasks."""
    flow = make_flow(source, target, flow={"tasks": TASKS, "checkpoint_interval_s": 0.1})
    for topic in (flow.topic, flow.other):
        flow.create(topic, partitions=PARTITIONS)
        flow.produce(topic, numbered(FILLED))
    flow.start()
    flow.verify(flow.topic, flow.other)
    return flow


@pytest.fixture
def run(flow: FlowBench, commands: Runs) -> Run:
    return commands(flow)


def a_group(flow: FlowBench) -> str:
    """One that has read 7 records of each partition, and is known on the target."""
    group = f"billing-{flow.topic}"
    commit(flow.source, group, {TP(flow.topic, p): 7 for p in range(PARTITIONS)})
    eventually(lambda: len(committed(flow.target, group)) == PARTITIONS, SOON_S)
    return group


def places(flow: FlowBench, next_offset: int) -> dict[TP, int]:
    """Where on the target a group goes on that stands there in each partition of the source."""
    first_unread = {it.partition: it.value for it in read_topic(flow.source, flow.topic) if it.offset == next_offset}
    remote = flow.remote(flow.topic)
    copies = read_topic(flow.target, remote)
    found = {TP(remote, it.partition): it.offset for it in copies if it.value == first_unread[it.partition]}
    assert found.keys() == {TP(remote, p) for p in range(PARTITIONS)}
    return found


def lose(flow: FlowBench, *, again: int | None = None) -> None:
    """Delete the copy; `again`: and create it again with so many records of somebody else, while no worker looks."""
    remote = flow.remote(flow.topic)
    if again is not None:
        flow.stop()
    seen = len(flow.events)
    delete_topic(flow.target, remote)
    if again is not None:
        create_topic(flow.target, remote, partitions=PARTITIONS)
        produce(flow.target, remote, numbered(again, b"other"))
        flow.start()
    flow.produce(flow.topic, numbered(FILLED, b"more"))
    reason = "target_gone" if again is None else "target_recreated"
    for partition in range(PARTITIONS):
        flow.await_stopped(flow.topic, partition, reason, after=seen)


@on_any_plane
def test_a_deleted_copy_is_made_anew_while_the_others_go_on(flow: FlowBench, run: Run) -> None:
    """A: of the tasks' other partitions nothing is lost or doubled, though each task is fenced in its work."""
    lose(flow)
    flow.produce(flow.other, numbered(50 * FILLED, b"others"))
    done = run("recopy", flow.topic, "--yes", "-o", "json")
    flow.produce(flow.other, numbered(FILLED, b"later"))
    assert done.code == 0, done.stderr
    found = done.json()
    assert (found["command"], found["flow"], found["state"]) == ("recopy", flow.name, "done")
    assert [(it["topic"], it["partition"], it["state"]) for it in found["partitions"]] == [
        (flow.topic, partition, "forgotten") for partition in range(PARTITIONS)
    ]
    assert {it["task"] for it in found["partitions"]} == set(range(TASKS))
    assert f"{flow.topic} (4 partitions) from the earliest offset" in done.stderr
    flow.verify(flow.topic, flow.other)
    assert len(read_topic(flow.target, flow.remote(flow.topic))) == 2 * FILLED
    assert flow.published(flow.topic, 0) is None
    entry = run("history", "-o", "json").json()[-1]
    assert (entry["id"], entry["command"], entry["state"]) == (found["id"], "recopy", "done")
    flow.stop()
    flow.start()
    flow.produce(flow.topic, numbered(FILLED, b"last"))
    flow.verify(flow.topic, flow.other)


def test_a_copy_is_made_anew_before_a_worker_notices_that_it_is_gone(
    make_flow: FlowBenches, source: EmbeddedCluster, target: EmbeddedCluster, commands: Runs
) -> None:
    """The idle task is told, and does not begin with what it knew of the topics."""
    flow = make_flow(source, target, flow={"refresh_topics_interval_s": 600})
    flow.create(flow.topic, partitions=PARTITIONS)
    flow.produce(flow.topic, numbered(FILLED))
    flow.start()
    flow.verify(flow.topic)
    delete_topic(flow.target, flow.remote(flow.topic))
    assert commands(flow)("recopy", flow.topic, "--yes").code == 0
    flow.await_caught_up(flow.topic)
    flow.produce(flow.topic, numbered(FILLED, b"more"))
    assert flow.verify(flow.topic).records == 2 * FILLED
    assert flow.found("partition_stopped") == []


def test_a_copy_that_is_there_is_left_alone(flow: FlowBench, run: Run) -> None:
    before = [flow.position(flow.topic, partition) for partition in range(PARTITIONS)]
    done = run("recopy", flow.topic, "--yes", "-o", "json")
    assert (done.code, done.json()["state"]) == (3, "refused")
    assert f"{flow.remote(flow.topic)} on {flow.target_alias} lost no records" in done.stderr
    assert "delete the topic first, or pass --behind" in done.stderr
    assert [flow.position(flow.topic, partition) for partition in range(PARTITIONS)] == before
    assert {it["state"] for it in done.json()["partitions"]} == {"kept"}
    assert run("history", "-o", "json").json() == []


def test_nothing_is_forgotten_without_a_yes(flow: FlowBench, run: Run) -> None:
    lose(flow)
    done = run("recopy", flow.topic)
    assert done.code == 3
    assert "pass --yes" in done.stderr
    assert flow.position(flow.topic, 0) == FILLED // PARTITIONS
    assert flow.published(flow.topic, 0) is not None


def test_what_was_never_replicated_is_refused(
    flow: FlowBench, run: Run, make_flow: FlowBenches, source: EmbeddedCluster, target: EmbeddedCluster, commands: Runs
) -> None:
    done = run("recopy", flow.topic, "nothing", "--yes")
    assert done.code == 3
    assert f"{flow.name} has no position in nothing" in done.stderr
    assert flow.topic in done.stderr
    never = commands(make_flow(source, target))("recopy", "orders", "--yes")
    assert never.code == 3
    assert "never ran" in never.stderr


def test_records_of_others_are_not_mixed_unless_asked_for(flow: FlowBench, run: Run) -> None:
    """Where the topic was created again and filled: refused; with --behind every record is there, behind them."""
    lose(flow, again=FILLED)
    done = run("recopy", flow.topic, "--yes")
    assert done.code == 3
    holds = f"{flow.remote(flow.topic)} on {flow.target_alias} holds {FILLED} offsets in {PARTITIONS} partitions"
    assert f"{holds}; delete the topic first" in done.stderr
    done = run("recopy", flow.topic, "--behind", "--yes")
    assert done.code == 0
    assert f"every record is written again behind the {FILLED} offsets that the remote topics hold" in done.stderr
    flow.await_caught_up(flow.topic)
    copies = [
        it for it in read_topic(flow.target, flow.remote(flow.topic)) if not (it.value or b"").startswith(b"other")
    ]
    assert compare(read_topic(flow.source, flow.topic), copies)[1:] == (0, 0, 0, 0)
    assert {it.offset >= FILLED // PARTITIONS for it in copies} == {True}


def test_half_done_is_exit_4_and_the_next_try_does_the_rest(
    flow: FlowBench, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also when the half that was done is copied by then: it is neither refused nor done again."""
    lose(flow)
    made = FencingWriter.__init__
    name, west = flow.name.split("->")
    lost = {p for p in range(PARTITIONS) if task_of(flow.topic, p, TASKS) == 1}

    def silent(writer: FencingWriter, on: Clients, id_: str) -> None:
        if id_ == transactional_id(name, west, 1):
            raise RetriableError("no answer", op="initialise transactions")
        made(writer, on, id_)

    with monkeypatch.context() as patch:
        patch.setattr(FencingWriter, "__init__", silent)
        done = run("recopy", flow.topic, "--yes", "-o", "json")
    assert (done.code, done.json()["state"]) == (4, "partly_done")
    states = {it["partition"]: it["state"] for it in done.json()["partitions"]}
    assert states == {p: "failed" if p in lost else "forgotten" for p in range(PARTITIONS)}
    assert "run it again" in done.stderr
    flow.await_caught_up(flow.topic, without=tuple(lost))
    rest = run("recopy", flow.topic, "--yes", "-o", "json")
    assert (rest.code, rest.json()["state"]) == (0, "done"), rest.stderr
    states = {it["partition"]: it["state"] for it in rest.json()["partitions"]}
    assert states == {p: "forgotten" if p in lost else "kept" for p in range(PARTITIONS)}
    flow.verify(flow.topic, flow.other)
    assert len(read_topic(flow.target, flow.remote(flow.topic))) == 2 * FILLED


@pytest.mark.parametrize("behind", [(), ("--behind",)])
def test_what_another_recopy_made_while_the_operator_was_asked_is_left_alone(
    flow: FlowBench, run: Run, monkeypatch: pytest.MonkeyPatch, behind: tuple[str, ...]
) -> None:
    """A, G: the other one is done, and copied is what it forgot, before the answer is yes."""
    lose(flow)

    def confirm(question: str, yes: bool) -> None:
        if not yes:
            assert run("recopy", flow.topic, "--yes").code == 0
            flow.await_caught_up(flow.topic)

    with monkeypatch.context() as patch:
        patch.setattr("replicator.cli.flow.confirm", confirm)
        done = run("recopy", flow.topic, *behind, "-o", "json")
    assert (done.code, done.json()["state"]) == (3, "refused")
    assert "another recopy has run since" in " ".join(done.stderr.split())
    flow.verify(flow.topic, flow.other)
    assert len(read_topic(flow.target, flow.remote(flow.topic))) == 2 * FILLED
    assert [it["state"] for it in run("history", "-o", "json").json()] == ["done", "refused"]


def test_a_commit_whose_answer_was_lost_is_not_done_again(
    flow: FlowBench, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A: what the tasks copied since they were told is there once."""
    lose(flow)
    lost: list[FencingWriter] = []

    class Unanswered(FencingWriter):
        def commit(self, deadline: Deadline) -> None:
            super().commit(deadline)
            if len(lost) < TASKS:
                lost.append(self)
                flow.await_caught_up(flow.topic)
                raise FencedError("fenced", op="commit transaction")

    with monkeypatch.context() as patch:
        patch.setattr("replicator.syncs.control_records.FencingWriter", Unanswered)
        done = run("recopy", flow.topic, "--yes", "--timeout", "120")
    assert done.code == 0, done.stderr
    assert len(lost) == TASKS
    flow.verify(flow.topic, flow.other)
    assert len(read_topic(flow.target, flow.remote(flow.topic))) == 2 * FILLED


def test_a_source_topic_created_again_is_copied_anew(flow: FlowBench, run: Run) -> None:
    """Its old copy is deleted by the operator; the new one holds the new topic's records and nothing else."""
    delete_topic(flow.source, flow.topic)
    create_topic(flow.source, flow.topic, partitions=PARTITIONS)
    flow.produce(flow.topic, numbered(3 * FILLED, b"new"))
    flow.await_stopped(flow.topic, 0, "recreated")
    delete_topic(flow.target, flow.remote(flow.topic))
    assert run("recopy", flow.topic, "--yes").code == 0
    flow.verify(flow.topic, flow.other)
    assert len(read_topic(flow.target, flow.remote(flow.topic))) == 3 * FILLED


@pytest.mark.parametrize("is_seen", [True, False], ids=["stopped for it", "no worker saw it"])
@pytest.mark.parametrize("is_behind", [False, True], ids=["anew", "behind the old one"])
def test_a_group_of_the_former_topic_begins_with_the_new_one(
    flow: FlowBench, run: Run, is_behind: bool, is_seen: bool
) -> None:
    """D: the source forgot its offsets with the topic; by its checkpoint it would skip records that it never read."""
    group, remote = a_group(flow), flow.remote(flow.topic)
    if not is_seen:
        flow.stop()
    delete_topic(flow.source, flow.topic)
    create_topic(flow.source, flow.topic, partitions=PARTITIONS)
    flow.produce(flow.topic, numbered(3 * FILLED, b"new"))
    if is_seen:
        flow.await_stopped(flow.topic, PARTITIONS - 1, "recreated")
    if not is_behind:
        delete_topic(flow.target, remote)
    assert run("recopy", flow.topic, *["--behind"] * is_behind, "--yes").code == 0
    if not is_seen:
        flow.start()
    flow.await_caught_up(flow.topic)
    moved = run("failover", group, "--accept-data-loss", "--yes", "-o", "json").json()
    first = {
        it.partition: it.offset
        for it in reversed(read_topic(flow.target, remote))
        if (it.value or b"").startswith(b"new")
    }
    assert {it["partition"]: it["downstream_next"] for it in moved["partitions"]} == first
    assert {tp.partition: it[0] for tp, it in committed(flow.target, group).items()} == first


def test_a_checkpoint_of_a_lost_copy_leads_to_the_new_one(flow: FlowBench, run: Run) -> None:
    """D: not past anything, until a worker translates it; what is known of the group stays, and how old that is."""
    group, topic = a_group(flow), flow.checkpoints_topic

    def newest_ms() -> int:
        return max(it.timestamp for it in read_topic(flow.target, topic) if it.key and group.encode() in it.key)

    flow.stop()
    before, written_ms = checkpoints(flow.target, topic, group), newest_ms()
    assert {tp: it.downstream_next for tp, it in before.items()} == places(flow, 7)
    delete_topic(flow.target, flow.remote(flow.topic))
    assert run("recopy", flow.topic, "--yes").code == 0
    after = checkpoints(flow.target, topic, group)
    assert after == {tp: replace(it, downstream_next=0) for tp, it in before.items()}
    assert all(any(it.topic_id) for it in after.values())
    assert newest_ms() == written_ms
    flow.start()
    flow.await_caught_up(flow.topic)
    wanted = {tp: replace(before[tp], downstream_next=at) for tp, at in places(flow, 7).items()}
    eventually(lambda: checkpoints(flow.target, topic, group) == wanted, SOON_S)


def test_groups_find_their_place_in_the_new_copy(flow: FlowBench, run: Run) -> None:
    """D: never a place of the old copy once the new one is there, and exact in the end."""
    group = a_group(flow)
    remote = {TP(flow.remote(flow.topic), p) for p in range(PARTITIONS)}

    def synced() -> dict[TP, Any]:
        found = committed(flow.target, group)
        assert found.keys() >= remote, found
        return found

    eventually(synced, SOON_S)
    lose(flow, again=1)
    assert run("recopy", flow.topic, "--behind", "--yes").code == 0
    flow.await_caught_up(flow.topic)
    wanted = places(flow, 7)

    def moved() -> bool:
        return {tp: it[0] for tp, it in synced().items() if tp in remote} == wanted

    eventually(moved, SOON_S)
    rows = [it for it in run("groups", "-o", "json").json()["partitions"] if it["group"] == group]
    assert {it["partition"]: it["downstream_next"] for it in rows} == {tp.partition: at for tp, at in wanted.items()}
    assert {it["translation"] for it in rows} == {"exact"}
