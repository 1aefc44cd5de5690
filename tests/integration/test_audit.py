"""The audit on real brokers, and two operators at once."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from confluent_kafka.admin import ConfigResource  # type: ignore[attr-defined]

from replicator.audit.audit import UNREADABLE, Audit, AuditRecord, new_move_id, read_audit
from replicator.config import Flow, build
from replicator.deadline import Deadline
from replicator.embedded import EmbeddedCluster
from replicator.errors import RefusedError, RetriableError
from replicator.kafka.cluster import Cluster as Clients
from tests.support.brokers import UniqueName
from tests.support.records import NewRecord, admin_client, produce

TIMEOUT_S = 20.0


@pytest.fixture
def topic(unique: UniqueName, monkeypatch: pytest.MonkeyPatch) -> str:
    """A topic of the test's own: the real one is shared by all flows of a cluster."""
    name = unique("audit")
    monkeypatch.setattr("replicator.audit.audit.AUDIT_TOPIC", name)
    return name


@pytest.fixture
def flow(target: EmbeddedCluster, unique: UniqueName) -> Flow:
    east, west = unique("east"), unique("west")
    clusters = {east: {"bootstrap_servers": "none:1"}, west: {"bootstrap_servers": target.bootstrap_servers}}
    return build({"clusters": clusters, "flows": {f"{east}->{west}": {"topics": ["orders"]}}}).all_flows()[0]


@contextmanager
def audit_of(flow: Flow) -> Iterator[Audit]:
    target = Clients(flow.target, "target", flow.target_cluster, flow.group)
    with Audit(flow, target, target.connect(TIMEOUT_S)) as audit:
        yield audit


def read(flow: Flow) -> list[AuditRecord]:
    target = Clients(flow.target, "target", flow.target_cluster, flow.group)
    return read_audit(target, Deadline(TIMEOUT_S))


def record(flow: Flow, move_id: str, state: str) -> AuditRecord:
    plan = [{"group": "billing", "partition": 0, "state": state}]
    return AuditRecord.new(move_id, "switchover", flow.name, state, plan, "")


def test_moves_are_written_and_read_back(topic: str, flow: Flow, target: EmbeddedCluster) -> None:
    """The topic is made by the first of them, and keeps everything."""
    assert read(flow) == []
    first, second = new_move_id(), "z" + new_move_id()
    with audit_of(flow) as audit:
        began = record(flow, first, "started")
        audit.write(began, Deadline(TIMEOUT_S))
        audit.write(record(flow, first, "done"), Deadline(TIMEOUT_S))
        audit.write(record(flow, second, "started"), Deadline(TIMEOUT_S))
    one, two = read(flow)
    assert (one.id, one.state, one.plan[0]["state"], one.time) == (first, "done", "done", began.time)
    assert (two.id, two.state) == (second, "started")
    resource = ConfigResource(ConfigResource.Type.TOPIC, topic)
    admin = admin_client(target.bootstrap_servers)
    config = admin.describe_configs([resource])[resource].result(TIMEOUT_S)
    assert (config["cleanup.policy"].value, config["retention.ms"].value) == ("delete", "-1")


def test_of_two_operators_the_later_one_goes_on(topic: str, flow: Flow) -> None:
    """The earlier one is refused at its next record, and can't take the claim back by writing again."""
    with audit_of(flow) as alice, audit_of(flow) as bob:
        alice.begin(Deadline(TIMEOUT_S))
        alice.write(record(flow, "alices", "started"), Deadline(TIMEOUT_S))
        bob.begin(Deadline(TIMEOUT_S))
        with pytest.raises(RefusedError, match=r"another operator has started a command .*replicator history"):
            alice.write(record(flow, "alices", "done"), Deadline(TIMEOUT_S))
        bob.write(record(flow, "bobs", "started"), Deadline(TIMEOUT_S))
        with pytest.raises(RefusedError):
            alice.write(record(flow, "alices", "done"), Deadline(TIMEOUT_S))
        bob.write(record(flow, "bobs", "done"), Deadline(TIMEOUT_S))
        alice.begin(Deadline(TIMEOUT_S))
        alice.write(record(flow, "alices", "failed"), Deadline(TIMEOUT_S))
    assert [(it.id, it.state) for it in read(flow)] == [("alices", "failed"), ("bobs", "done")]


def test_a_large_plan_is_cut_to_what_a_broker_takes(topic: str, flow: Flow) -> None:
    row = {"group": "g" * 200, "topic": "t" * 200, "reason": "é" * 200}
    with audit_of(flow) as audit:
        audit.write(AuditRecord.new("large", "failover", flow.name, "done", [row] * 5000, "all"), Deadline(TIMEOUT_S))
    (found,) = read(flow)
    assert (len(found.plan) + found.plan_rows_left_out, found.result) == (5000, "all")
    assert 400 < len(found.plan) < 5000


def test_what_somebody_else_wrote_there_hides_nothing(topic: str, flow: Flow, target: EmbeddedCluster) -> None:
    with audit_of(flow) as audit:
        audit.write(record(flow, "ours", "done"), Deadline(TIMEOUT_S))
    produce(target.bootstrap_servers, topic, [NewRecord(b"not json", b"theirs")])
    assert [(it.id, it.state) for it in read(flow)] == [("ours", "done"), ("theirs", UNREADABLE)]


def test_a_dead_cluster_is_given_up_in_time(topic: str, flow: Flow) -> None:
    target = Clients(flow.target, "target", flow.target_cluster, flow.group)
    dead = Clients(flow.target, "target", flow.source_cluster, flow.group)
    with Audit(flow, dead, target.connect(TIMEOUT_S)) as audit:  # it answered a moment ago
        began_s = time.monotonic()
        with pytest.raises(RetriableError, match="no answer"):
            audit.begin(Deadline(2))
        with pytest.raises(RetriableError, match="no answer"):
            audit.write(record(flow, "never", "started"), Deadline(2))
    assert time.monotonic() - began_s < TIMEOUT_S
