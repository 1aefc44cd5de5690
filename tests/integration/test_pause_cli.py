"""`pause`, `resume` and `history` on real brokers, in this process: refusals, repeats, halves, and their exit codes."""

from __future__ import annotations

from typing import Any

import pytest

from replicator.audit.audited_command import AuditedCommand
from replicator.config import Flow
from replicator.deadline import Deadline
from replicator.embedded import EmbeddedCluster
from replicator.errors import RetriableError
from replicator.kafka.cluster import Cluster as Clients
from replicator.kafka.transactions import FencingWriter
from replicator.names import transactional_id
from replicator.syncs.halts import HaltReason, halt, halt_body, read_halts
from replicator.syncs.reader import ensure_topic
from tests.support.flows import FlowBench, FlowBenches
from tests.support.in_process import Run, Runs

TASKS = 3
TIMEOUT_S = 60.0


@pytest.fixture
def bench(make_flow: FlowBenches, source: EmbeddedCluster, target: EmbeddedCluster) -> FlowBench:
    """A flow whose source is gone: nothing here may need it."""
    return make_flow(source, target, flow={"tasks": TASKS}, clusters={"source": {"bootstrap_servers": "127.0.0.1:1"}})


@pytest.fixture
def flow(bench: FlowBench) -> Flow:
    return bench.settings().flow(bench.name)


@pytest.fixture
def cluster(flow: Flow) -> Clients:
    """The target, with the syncs topic of a flow that has run."""
    cluster = Clients(flow.target, "target", flow.target_cluster, flow.group)
    ensure_topic(cluster.connect(TIMEOUT_S), cluster, flow.syncs_topic, TASKS, flow.name, Deadline(TIMEOUT_S))
    return cluster


@pytest.fixture
def run(bench: FlowBench, commands: Runs) -> Run:
    return commands(bench)


def halts(flow: Flow, cluster: Clients) -> dict[int, dict[str, Any]]:
    return read_halts(flow, cluster, range(TASKS), Deadline(TIMEOUT_S))


def test_a_flow_that_never_ran_is_refused(run: Run) -> None:
    done = run("pause", "--yes", "-o", "json")
    assert (done.code, done.json()["state"], done.json()["tasks"]) == (3, "refused", [])
    assert "never ran" in done.stderr
    assert run("history", "-o", "json").json() == []


def test_nothing_changes_without_a_yes(run: Run, flow: Flow, cluster: Clients) -> None:
    done = run("pause", "-o", "json")
    assert (done.code, done.json()["state"]) == (3, "refused")
    assert {task["state"] for task in done.json()["tasks"]} == {"running"}
    assert "halt tasks 0, 1, 2" in done.stderr
    assert "pass --yes" in done.stderr
    assert halts(flow, cluster) == {}
    assert run("history", "-o", "json").json() == []


def test_pause_and_resume_and_what_is_left_of_them(run: Run, flow: Flow, cluster: Clients) -> None:
    """Repeated they do nothing, and the audit has one entry for each that did something."""
    paused = run("pause", "--yes", "-o", "json").json()
    assert (paused["state"], {it["state"] for it in paused["tasks"]}) == ("done", {"halted"})
    assert sorted(halts(flow, cluster)) == [0, 1, 2]
    again = run("pause", "-o", "json")
    assert (again.code, again.json()["tasks"]) == (0, paused["tasks"])
    assert "nothing to do: the flow" in again.stderr
    resumed = run("resume", "--yes")
    assert resumed.code == 0
    assert resumed.stdout.count("running") == TASKS
    assert "failback" not in resumed.stderr
    assert halts(flow, cluster) == {}
    nothing = run("resume")
    assert (nothing.code, "is not halted" in nothing.stderr) == (0, True)
    entries = [(it["id"], it["command"], it["state"]) for it in run("history", "-o", "json").json()]
    assert entries[0] == (paused["id"], "pause", "done")
    assert [it[1:] for it in entries[1:]] == [("resume", "done")]
    table = run("history", "--top", "1").stdout
    assert "resume" in table
    assert "pause" not in table


def test_resuming_after_a_failover_says_what_it_does_not_do(run: Run, flow: Flow, cluster: Clients) -> None:
    halt(flow, cluster, range(TASKS), halt_body(HaltReason.FAILOVER, "move-1"), Deadline(TIMEOUT_S))
    done = run("resume")
    assert done.code == 3
    assert "failover: move-1 by" in done.stderr
    assert f"groups that moved to {flow.target} stay there; `replicator failback`" in done.stderr
    assert len(halts(flow, cluster)) == TASKS
    assert run("pause", "--yes").code == 0
    assert {it["reason"] for it in halts(flow, cluster).values()} == {"failover"}


def test_half_done_is_exit_4_and_the_next_try_does_the_rest(
    run: Run, flow: Flow, cluster: Clients, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = FencingWriter.__init__

    def silent(writer: FencingWriter, on: Clients, name: str) -> None:
        if name == transactional_id(flow.source, flow.target, 1):
            raise RetriableError("no answer", op="initialise transactions")
        made(writer, on, name)

    with monkeypatch.context() as patch:
        patch.setattr(FencingWriter, "__init__", silent)
        done = run("pause", "--yes", "-o", "json")
    assert (done.code, done.json()["state"]) == (4, "partly_done")
    assert [it["state"] for it in done.json()["tasks"]] == ["halted", "running", "halted"]
    assert "task 1: " in done.stderr
    assert run("history", "-o", "json").json()[-1]["state"] == "partly_done"
    rest = run("pause", "--yes", "-o", "json")
    assert (rest.code, [it["state"] for it in rest.json()["tasks"]]) == (0, ["halted"] * TASKS)
    assert "halt task 1" in rest.stderr


def test_of_two_operators_the_earlier_one_is_refused(
    run: Run, flow: Flow, cluster: Clients, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another one claims the flow between the claim and the first record."""
    record = AuditedCommand._record

    def overtaken(self: AuditedCommand, *arguments: Any) -> Any:
        rival = FencingWriter(cluster, f"replicator-{flow.source}-{flow.target}-moves")
        rival.open(Deadline(TIMEOUT_S))
        rival.close()
        return record(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(AuditedCommand, "_record", overtaken)
        done = run("pause", "--yes")
    assert done.code == 3
    assert "another operator has started a command on this flow" in done.stderr
    assert halts(flow, cluster) == {}


@pytest.mark.parametrize("command", ["pause", "resume"])
def test_a_failover_that_was_not_shown_is_left_as_it_is(
    run: Run, flow: Flow, cluster: Clients, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    """G: it began and ended while the operator was asked, so that no claim fences it."""
    if command == "resume":
        halt(flow, cluster, range(TASKS), halt_body(HaltReason.PAUSED, "move-1"), Deadline(TIMEOUT_S))

    def confirm(question: str, yes: bool) -> None:
        halt(flow, cluster, range(TASKS), halt_body(HaltReason.FAILOVER, "move-2"), Deadline(TIMEOUT_S))

    with monkeypatch.context() as patch:
        patch.setattr("replicator.cli.flow.confirm", confirm)
        done = run(command, "-o", "json")
    assert (done.code, done.json()["state"]) == (3, "refused")
    assert "halted since then (failover: move-2 by" in " ".join(done.stderr.split())
    assert {it["id"] for it in halts(flow, cluster).values()} == {"move-2"}
    entry = run("history", "-o", "json").json()[-1]
    assert (entry["command"], entry["state"]) == (command, "refused")
    assert "halted since then (failover: move-2 by" in entry["result"]


def test_a_target_that_gives_no_answer_is_exit_1(
    make_flow: FlowBenches, source: EmbeddedCluster, target: EmbeddedCluster, commands: Runs
) -> None:
    settings = {"connect_timeout_s": 1}
    bench = make_flow(source, target, clusters={"target": {"bootstrap_servers": "127.0.0.1:1"}}, settings=settings)
    assert commands(bench)("pause", "--yes").code == 1
