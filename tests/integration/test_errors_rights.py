"""Rights that are missing, or taken away: the text names the right and whom it is missing for; granted, all goes on."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    ResourcePatternType,
    ResourceType,
)

from replicator.embedded import ClusterSpec, EmbeddedCluster, SecuritySpec, open_clusters
from tests.support.eventually import eventually
from tests.support.flows import REACT_S, FlowBench, FlowBenches, on_any_plane, on_both_planes
from tests.support.records import NewRecord, admin_client, create_topic

pytestmark = pytest.mark.xdist_group("errors of rights")

SECRET = "not-to-be-seen-anywhere"
FILLED = 20
TOPIC, GROUP, TXN = ResourceType.TOPIC, ResourceType.GROUP, ResourceType.TRANSACTIONAL_ID


@pytest.fixture(scope="module")
def guarded() -> Iterator[list[EmbeddedCluster]]:
    """Source and target, which deny what no ACL allows; ACLs are the same on both, for two different users."""
    users = {"admin": "admin-secret", "reader": SECRET, "writer": SECRET}
    security = SecuritySpec("SASL_PLAINTEXT", users, acls=True)
    names = ("guarded-source", "guarded-target")
    with open_clusters([ClusterSpec(name, security=security) for name in names]) as opened:
        yield [opened[name] for name in names]


def allow(
    user: str,
    operation: AclOperation,
    kind: ResourceType,
    name: str,
    *,
    permission: str = "ALLOW",
    prefixed: bool = False,
) -> AclBinding:
    pattern = ResourcePatternType.PREFIXED if prefixed else ResourcePatternType.LITERAL
    return AclBinding(kind, name, pattern, f"User:{user}", "*", operation, AclPermissionType[permission])


def deny(user: str, operation: AclOperation, kind: ResourceType, name: str) -> AclBinding:
    return allow(user, operation, kind, name, permission="DENY")


class Guard:
    """Adds and removes ACLs on every cluster, as the super user."""

    def __init__(self, clusters: list[EmbeddedCluster]) -> None:
        self._admins = [admin_client(cluster.admin_servers) for cluster in clusters]

    def add(self, *acls: AclBinding) -> None:
        for admin in self._admins:
            for answer in admin.create_acls(list(acls)).values():
                answer.result(REACT_S)

    def remove(self, *acls: AclBinding) -> None:
        filters = [
            AclBindingFilter(
                it.restype, it.name, it.resource_pattern_type, it.principal, it.host, it.operation, it.permission_type
            )
            for it in acls
        ]
        for admin in self._admins:
            for answer in admin.delete_acls(filters).values():
                assert answer.result(REACT_S), acls


def everything(flow: FlowBench) -> list[AclBinding]:
    """What docs/deployment.md asks for, or more, except for what a test is about."""
    op = AclOperation
    return [
        allow("reader", op.READ, TOPIC, "*"),
        allow("reader", op.DESCRIBE_CONFIGS, TOPIC, "*"),
        allow("reader", op.READ, GROUP, "*"),
        allow("writer", op.READ, TOPIC, "*"),
        allow("writer", op.WRITE, TOPIC, "*"),
        allow("writer", op.CREATE, TOPIC, "*"),
        allow("writer", op.ALTER, TOPIC, "*"),
        allow("writer", op.DESCRIBE_CONFIGS, TOPIC, "*"),
        allow("writer", op.READ, GROUP, flow.group),
        allow("writer", op.WRITE, TXN, f"{flow.group}-", prefixed=True),
    ]


def login(user: str) -> dict[str, object]:
    security = {"protocol": "SASL_PLAINTEXT", "mechanism": "SCRAM-SHA-512", "username": user, "password": SECRET}
    return {"security": security}


@pytest.fixture
def flow(make_flow: FlowBenches, guarded: list[EmbeddedCluster]) -> Iterator[FlowBench]:
    """A flow with all rights and two topics on the source; what it logs never holds the password."""
    flow = make_flow(*guarded, clusters={"source": login("reader"), "target": login("writer")})
    flow.set(topics=[flow.topic, flow.other])  # on one cluster, a pattern would match the copies, too
    Guard(guarded).add(*everything(flow))
    flow.create(flow.topic, partitions=2)
    flow.create(flow.other)
    fill(flow)
    yield flow
    assert SECRET not in str(flow.events)
    assert flow.events


@pytest.fixture
def guard(guarded: list[EmbeddedCluster]) -> Guard:
    return Guard(guarded)


def fill(flow: FlowBench) -> None:
    flow.produce(flow.topic, [NewRecord(b"%d" % n, b"k%d" % len(flow.events), n % 2) for n in range(FILLED)])
    flow.produce(flow.other, [NewRecord(b"%d" % n, b"k%d" % len(flow.events)) for n in range(FILLED)])


def stopped_and_resumed(flow: FlowBench, guard: Guard, denied: AclBinding, reason: str, text: str) -> None:
    """With `denied` the topic's partitions stop for `reason` and the other topic goes on; without it all goes on."""
    guard.add(denied)
    fill(flow)
    for partition in range(2):
        assert text in flow.await_stopped(flow.topic, partition, reason)
    flow.verify(flow.other)
    fill(flow)
    flow.verify(flow.other)
    guard.remove(denied)
    flow.verify(flow.topic, flow.other, within_s=60)
    assert flow.metric("replicator_partition_stopped") == 0


@on_both_planes
def test_read_on_a_source_topic(flow: FlowBench, guard: Guard) -> None:
    """Taken away while running."""
    flow.start()
    flow.verify(flow.topic, flow.other)
    denied = deny("reader", AclOperation.READ, TOPIC, flow.topic)
    text = f"grant READ and DESCRIBE on {flow.topic} to User:reader of clusters.{flow.alias}"
    stopped_and_resumed(flow, guard, denied, "source_unauthorized", text)


@on_any_plane
def test_describe_on_a_source_topic(flow: FlowBench, guard: Guard) -> None:
    """Without it the topic is not even listed, so that it could be deleted as well: the text says both."""
    flow.start()
    flow.verify(flow.topic, flow.other)
    denied = deny("reader", AclOperation.DESCRIBE, TOPIC, flow.topic)
    guard.add(denied)
    text = flow.await_stopped(flow.topic, 0, "source_gone")
    assert "the DESCRIBE right was revoked" in text
    fill(flow)
    flow.verify(flow.other)
    guard.remove(denied)
    flow.verify(flow.topic, flow.other, within_s=60)


@on_both_planes
def test_write_on_a_target_topic(flow: FlowBench, guard: Guard) -> None:
    """Taken away while running: the broker refuses the transaction without naming a topic."""
    flow.start()
    flow.verify(flow.topic, flow.other)
    remote = flow.remote(flow.topic)
    denied = deny("writer", AclOperation.WRITE, TOPIC, remote)
    text = f"grant WRITE and DESCRIBE on {remote} to User:writer of clusters.{flow.target_alias}"
    stopped_and_resumed(flow, guard, denied, "target_unauthorized", text)


@on_any_plane
def test_write_on_a_target_topic_at_the_start(flow: FlowBench, guard: Guard) -> None:
    """Missing from the beginning: noticed before a transaction is spoilt by it."""
    remote = flow.remote(flow.topic)
    create_topic(flow.target, remote, partitions=2)
    denied = deny("writer", AclOperation.WRITE, TOPIC, remote)
    guard.add(denied)
    flow.start()
    flow.await_stopped(flow.topic, 0, "target_unauthorized")
    flow.verify(flow.other)
    assert not flow.found("transaction_aborted")
    guard.remove(denied)
    flow.verify(flow.topic, flow.other, within_s=60)


@on_any_plane
def test_create_on_the_target(flow: FlowBench, guard: Guard) -> None:
    """The remote topic can't be created: its partitions stop, and the text says that CREATE is missing."""
    denied = deny("writer", AclOperation.CREATE, TOPIC, flow.remote(flow.topic))
    guard.add(denied)
    flow.start()
    text = flow.await_stopped(flow.topic, 1, "target_unauthorized")
    assert f"grant CREATE on {flow.remote(flow.topic)} to User:writer of clusters.{flow.target_alias}" in text
    flow.verify(flow.other)
    guard.remove(denied)
    flow.verify(flow.topic, flow.other, within_s=60)


@on_any_plane
def test_alter_on_the_target(flow: FlowBench, guard: Guard) -> None:
    """A remote topic that may not grow: the partitions that it has go on, the others stop and say why."""
    remote = create_topic(flow.target, flow.remote(flow.topic), partitions=1)
    denied = deny("writer", AclOperation.ALTER, TOPIC, remote)
    guard.add(denied)
    flow.start()
    text = flow.await_stopped(flow.topic, 1, "target_too_few_partitions")
    assert f"grant ALTER on {remote} to User:writer of clusters.{flow.target_alias}" in text
    fill(flow)
    flow.await_caught_up(flow.topic, without=(1,))
    flow.verify(flow.other)
    guard.remove(denied)
    flow.verify(flow.topic, flow.other, within_s=60)


def not_ready_until_granted(flow: FlowBench, guard: Guard, denied: AclBinding, text: str) -> None:
    """With `denied` nothing runs and the readiness probe says `text`; without it all goes on by itself."""
    guard.add(denied)
    worker = flow.start(runs=False)

    def says_so() -> bool:
        assert text in worker.not_ready(), f"{worker.not_ready()}\n{flow.log()}"
        return True

    eventually(says_so, REACT_S)
    assert text in flow.log()
    assert worker.is_alive_inside()
    guard.remove(denied)
    flow.verify(flow.topic, flow.other, within_s=60)
    eventually(lambda: worker.not_ready() == "", REACT_S)


@on_both_planes
def test_the_transactional_id(flow: FlowBench, guard: Guard) -> None:
    """InitProducerId is refused."""
    denied = deny("writer", AclOperation.WRITE, TXN, f"{flow.group}-0")
    text = f"grant WRITE and DESCRIBE on the transactional ids that begin with {flow.group}- to User:writer"
    not_ready_until_granted(flow, guard, denied, text)


@on_both_planes
def test_the_transactional_id_while_running(flow: FlowBench, guard: Guard) -> None:
    """AddPartitionsToTxn is refused: fatal for the producer; the task begins again until it may."""
    flow.start()
    flow.verify(flow.topic, flow.other)
    denied = deny("writer", AclOperation.WRITE, TXN, f"{flow.group}-0")
    guard.add(denied)
    fill(flow)
    restart = flow.await_event("task_restarts")
    assert "transactional ids that begin with" in restart["error"]
    guard.remove(denied)
    flow.verify(flow.topic, flow.other, within_s=60)


@on_any_plane
def test_the_workers_group(flow: FlowBench, guard: Guard) -> None:
    """JoinGroup is refused."""
    denied = deny("writer", AclOperation.READ, GROUP, flow.group)
    text = f"grant READ on the group {flow.group} to User:writer of clusters.{flow.target_alias}"
    not_ready_until_granted(flow, guard, denied, text)


@on_any_plane
def test_create_on_the_syncs_topic(flow: FlowBench, guard: Guard) -> None:
    """The worker can't even begin."""
    denied = deny("writer", AclOperation.CREATE, TOPIC, flow.syncs_topic)
    not_ready_until_granted(flow, guard, denied, f"grant CREATE on {flow.syncs_topic} to User:writer")


@on_any_plane
def test_write_on_the_syncs_topic(flow: FlowBench, guard: Guard) -> None:
    """No position can be stored, so nothing is replicated."""
    denied = deny("writer", AclOperation.WRITE, TOPIC, flow.syncs_topic)
    not_ready_until_granted(flow, guard, denied, f"grant WRITE and DESCRIBE on {flow.syncs_topic} to User:writer")


@on_any_plane
def test_read_on_the_syncs_topic(flow: FlowBench, guard: Guard) -> None:
    """No position can be read, so nothing is replicated."""
    denied = deny("writer", AclOperation.READ, TOPIC, flow.syncs_topic)
    not_ready_until_granted(flow, guard, denied, f"grant READ on {flow.syncs_topic} to User:writer")


@on_both_planes
def test_the_source_needs_no_right_on_a_group(flow: FlowBench, guard: Guard) -> None:
    """The fetcher names a group, as librdkafka wants, and never joins it."""
    denied = deny("reader", AclOperation.READ, GROUP, flow.group)
    guard.add(denied)
    flow.start()
    flow.verify(flow.topic, flow.other)
    guard.remove(denied)
