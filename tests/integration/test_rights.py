"""The rights that docs/deployment.md asks for, on clusters that deny everything else."""

from __future__ import annotations

import contextlib
import itertools
import re
import shlex
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AclBinding,
    AclOperation,
    AclPermissionType,
    ConfigResource,
    ResourcePatternType,
    ResourceType,
)
from structlog.testing import capture_logs

from replicator.audit.audit import Audit, read_audit
from replicator.config import Settings, build
from replicator.deadline import Deadline
from replicator.embedded import Clusters, ClusterSpec, EmbeddedCluster, SecuritySpec
from replicator.errors import TP, KafkaOpError
from replicator.groups.offsets import tag
from replicator.kafka import offset_probe
from replicator.kafka.cluster import Cluster as Clients
from replicator.kafka.offset_probe import OffsetProbe
from replicator.metrics import Metrics
from replicator.moves.count import Refiner
from replicator.offset_map.map import Between
from replicator.operations.pause import Pause, PauseCommand
from replicator.planes import Batch, PlaneSettings
from replicator.planes.records import RecordsPlane
from replicator.worker.worker import FlowWorker
from tests.support.brokers import OwnClusters
from tests.support.eventually import eventually
from tests.support.groups import checkpoints, commit, committed
from tests.support.records import NewRecord, admin_client, create_topic, grow_topic, produce, read_topic

pytestmark = pytest.mark.xdist_group("rights")

GUIDE = Path(__file__).parents[2] / "docs/deployment.md"
TIMEOUT_S = 60.0
RESOURCES = {
    "--topic": ResourceType.TOPIC,
    "--group": ResourceType.GROUP,
    "--transactional-id": ResourceType.TRANSACTIONAL_ID,
}


@pytest.fixture(scope="module")
def secured(module_clusters: OwnClusters) -> Clusters:
    """`east` and `west`, where only ACLs allow anything."""
    users = {"admin": "admin-secret", "replicator": "secret", "limited": "secret", "nobody": "secret"}
    security = SecuritySpec("SASL_PLAINTEXT", users, acls=True)
    return module_clusters(ClusterSpec("east", security=security), ClusterSpec("west", security=security))


def settings(secured: Clusters, user: str) -> Settings:
    login = {"protocol": "SASL_PLAINTEXT", "mechanism": "SCRAM-SHA-512", "username": user, "password": "secret"}
    client = {"topic.metadata.refresh.interval.ms": 1000}
    clusters = {
        name: {"bootstrap_servers": cluster.bootstrap_servers, "security": login, "client": client}
        for name, cluster in secured.items()
    }
    flow = {"topics": ["orders", r"payments\..*"], "tasks": 2, "refresh_topics_interval_s": 1}
    return build({"clusters": clusters, "flows": {"east->west": flow}})


def documented_rights() -> Iterator[tuple[str, AclBinding]]:
    """(cluster, ACL) of every `kafka-acls.sh` command of the guide."""
    commands = re.findall(r"^kafka-acls\.sh (.*)$", GUIDE.read_text().replace("\\\n", " "), flags=re.MULTILINE)
    assert len(commands) == 10
    for command in commands:
        words = shlex.split(command)
        options = dict(itertools.pairwise(words))
        (flag,) = RESOURCES.keys() & options.keys()
        pattern = ResourcePatternType[options.get("--resource-pattern-type", "literal").upper()]
        for operation in (after for word, after in itertools.pairwise(words) if word == "--operation"):
            name = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", operation).upper()
            yield (
                options["--bootstrap-server"].removeprefix("$").lower(),
                AclBinding(
                    RESOURCES[flag], options[flag], pattern, options["--allow-principal"], "*", AclOperation[name],
                    AclPermissionType.ALLOW,
                ),
            )  # fmt: skip


def grant(cluster: EmbeddedCluster, acls: list[AclBinding]) -> None:
    admin = admin_client(cluster.admin_servers)
    for answer in admin.create_acls(acls).values():
        answer.result(TIMEOUT_S)


@contextlib.contextmanager
def running(ours: Settings) -> Iterator[FlowWorker]:
    worker = FlowWorker(ours.flow("east->west"), ours, Metrics())
    worker.start()
    try:
        yield worker
    finally:
        worker.stop()
        worker.join(TIMEOUT_S)


def test_without_rights_for_groups_records_are_replicated_all_the_same(
    secured: Clusters, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is missing is told with a hint, and stops nothing."""
    monkeypatch.setattr(offset_probe, "LOOK_AGAIN_S", 1.0)  # on a busy machine the first look may be too short
    east, west = secured["east"].admin_servers, secured["west"].admin_servers
    create_topic(east, "payments.us")
    produce(east, "payments.us", [b"1"])
    commit(east, "billing", {TP("payments.us", 0): 1})
    for name, cluster in secured.items():
        core = [acl for where, acl in documented_rights() if where == name and not is_for_groups(acl)]
        assert core
        grant(cluster, [as_limited(acl) for acl in core])
    grant(secured["west"], [right(ResourceType.GROUP, "replicator-east-west", AclOperation.READ, "limited")])
    with capture_logs() as events, running(settings(secured, "limited")) as worker:
        eventually(lambda: values(west, "east.payments.us") == {b"1"}, within_s=TIMEOUT_S)
        eventually(lambda: notes(worker, "heartbeats: create heartbeats"), within_s=TIMEOUT_S)
        assert "grant CREATE and WRITE on heartbeats to User:limited" in notes(worker, "heartbeats")
        eventually(lambda: notes(worker, "positions: commit for the group"), within_s=TIMEOUT_S)
        assert "grant READ on the group replicator-east-west to User:limited of clusters.east" in notes(worker, "pos")
        eventually(lambda: [it for it in events if it["event"] == "groups_none_visible"], within_s=TIMEOUT_S)
        grant(secured["east"], [right(ResourceType.GROUP, "billing", AclOperation.DESCRIBE, "limited")])
        eventually(lambda: notes(worker, "checkpoints: read the end of a remote topic"), within_s=TIMEOUT_S)
        assert "grant READ on east.payments.us" in notes(worker, "checkpoints")
        eventually(lambda: checkpoints(west, "east.checkpoints.internal", "billing"), within_s=TIMEOUT_S)
        produce(east, "payments.us", [b"2"])
        eventually(lambda: values(west, "east.payments.us") == {b"1", b"2"}, within_s=TIMEOUT_S)
        assert worker.not_ready() == ""
        eventually(lambda: notes(worker, "group-sync"), within_s=TIMEOUT_S)
        assert "grant DESCRIBE on the group billing to User:limited of clusters.west" in notes(worker, "group-sync")
    assert committed(west, "billing") == {}
    with capture_logs() as events, running(settings(secured, "limited")):
        commit(east, "billing", {TP("payments.us", 0): 2})
        copy, topic = TP("east.payments.us", 0), "east.checkpoints.internal"
        eventually(lambda: checkpoints(west, topic, "billing")[copy].upstream_next == 2, within_s=TIMEOUT_S)
        (event,) = [it for it in events if it["event"] == "checkpoints_not_readable"]
        assert f"grant READ on {topic}" in event["error"]


def is_for_groups(acl: AclBinding) -> bool:
    """Whether replication itself does without this right."""
    reads_copies = acl.name == "east." and acl.operation == AclOperation.READ
    return acl.restype == ResourceType.GROUP or acl.name == "heartbeats" or reads_copies


def right(
    kind: ResourceType,
    name: str,
    operation: AclOperation,
    user: str = "nobody",
    pattern: ResourcePatternType = ResourcePatternType.LITERAL,
) -> AclBinding:
    return AclBinding(kind, name, pattern, f"User:{user}", "*", operation, AclPermissionType.ALLOW)


def as_limited(acl: AclBinding) -> AclBinding:
    """The same right for another user."""
    return AclBinding(
        acl.restype, acl.name, acl.resource_pattern_type, "User:limited", "*", acl.operation, acl.permission_type
    )


def notes(worker: FlowWorker, beginning: str) -> str:
    """What the worker says beside its readiness of this duty."""
    return "\n".join(note for note in worker.notes() if note.startswith(beginning))


def test_documented_rights_are_enough(secured: Clusters) -> None:
    """With them and no others a worker copies records and settings, follows a topic that grows, and moves groups.

    An operator with the same rights pauses and resumes the flow.
    """
    east, west = secured["east"].admin_servers, secured["west"].admin_servers
    create_topic(east, "orders", config={"retention.ms": "123456789"})
    create_topic(east, "payments.eu")
    produce(east, "orders", [b"1", b"2"])
    produce(east, "payments.eu", [b"3"])
    rights = list(documented_rights())
    for name, cluster in secured.items():
        grant(cluster, [acl for where, acl in rights if where == name])
    with running(settings(secured, "replicator")) as worker:
        eventually(lambda: values(west, "east.orders") == {b"1", b"2"}, within_s=TIMEOUT_S)
        eventually(lambda: values(west, "east.payments.eu") == {b"3"}, within_s=TIMEOUT_S)
        grow_topic(east, "orders", 2)
        produce(east, "orders", [NewRecord(b"4", partition=1)])
        eventually(lambda: b"4" in values(west, "east.orders"), within_s=TIMEOUT_S)
        commit(east, "shipping", {TP("orders", 0): 1})
        eventually(lambda: committed(west, "shipping") == {TP("east.orders", 0): (1, tag("east->west", 1))}, TIMEOUT_S)
        eventually(lambda: values(west, "east.heartbeats"), within_s=TIMEOUT_S)
        eventually(lambda: TP("orders", 0) in committed(east, "replicator-east-west"), within_s=TIMEOUT_S)
        assert worker.not_ready() == ""
        assert worker.notes() == []
        pausing = Pause(settings(secured, "replicator").flow("east->west"), TIMEOUT_S)
        for command in PauseCommand:
            outcome = pausing.carry_out(command, command.value, pausing.look(), TIMEOUT_S)
            assert (outcome.state, outcome.texts) == ("done", ())
    audit = read_audit(on_target(secured, "replicator"), Deadline(TIMEOUT_S))
    assert [it.id for it in audit] == ["pause", "resume"]
    remote = ConfigResource(ConfigResource.Type.TOPIC, "east.orders")
    on_west = admin_client(west)
    assert on_west.describe_configs([remote])[remote].result(TIMEOUT_S)["retention.ms"].value == "123456789"


def on_target(secured: Clusters, user: str) -> Clients:
    return Clients("west", "target", settings(secured, user).clusters["west"], "replicator-east-west")


def test_an_audit_that_may_not_be_used_says_which_right_is_missing(secured: Clusters) -> None:
    """A history that may not be read is not an empty one."""
    west = on_target(secured, "nobody")
    with pytest.raises(KafkaOpError, match=r"grant READ on replicator\.audit to User:nobody"):
        read_audit(west, Deadline(TIMEOUT_S))
    flow = settings(secured, "nobody").flow("east->west")
    with (
        Audit(flow, west, west.connect(TIMEOUT_S)) as audit,
        pytest.raises(KafkaOpError, match=r"grant CREATE and WRITE on replicator\.audit to User:nobody"),
    ):
        audit.begin(Deadline(TIMEOUT_S))


def test_a_topic_that_may_not_be_read_is_said_until_it_may_be(
    secured: Clusters, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also while others are looked at that may be read."""
    monkeypatch.setattr(offset_probe, "PATIENCE_S", 5.0)
    west = secured["west"]
    shut, free = (TP(create_topic(west.admin_servers, f"end-of-{name}"), 0) for name in ("shut", "free"))
    kind = ResourceType.TOPIC
    grant(west, [right(kind, free.topic, AclOperation.READ), right(kind, shut.topic, AclOperation.DESCRIBE)])
    with closing(OffsetProbe(on_target(secured, "nobody"))) as ends:
        eventually(lambda: ends.first_at_or_after({shut: 0}, Deadline(TIMEOUT_S)) and ends.problem, within_s=TIMEOUT_S)
        assert "grant READ on end-of-shut" in ends.problem
        ends.first_at_or_after({shut: 0, free: 0}, Deadline(TIMEOUT_S))
        assert "grant READ on end-of-shut" in ends.problem
        grant(west, [right(kind, shut.topic, AclOperation.READ)])
        monkeypatch.setattr(offset_probe, "LOOK_AGAIN_S", 0)
        eventually(
            lambda: ends.first_at_or_after({shut: 0}, Deadline(TIMEOUT_S)) and not ends.problem, within_s=TIMEOUT_S
        )


def values(servers: str, topic: str) -> set[bytes | None]:
    if topic not in admin_client(servers).list_topics(timeout=TIMEOUT_S).topics:
        return set()
    return {record.value for record in read_topic(servers, topic)}


def test_topic_that_may_not_be_written_says_which_right_is_missing(secured: Clusters) -> None:
    """The client drops what it may not send: that is an error with a hint, and no flushed transaction."""
    create_topic(secured["east"].admin_servers, "open")
    create_topic(secured["west"].admin_servers, "closed")
    produce(secured["east"].admin_servers, "open", [b"1", b"2", b"3"])
    prefixed, write = ResourcePatternType.PREFIXED, AclOperation.WRITE
    grant(secured["east"], [right(ResourceType.TOPIC, "open", AclOperation.READ)])
    grant(
        secured["west"],
        [
            right(ResourceType.TOPIC, "closed", AclOperation.DESCRIBE),
            right(ResourceType.TRANSACTIONAL_ID, "trial", write, pattern=prefixed),
        ],
    )
    clusters = settings(secured, "nobody").clusters
    source = Clients("east", "source", clusters["east"], "trial")
    target = Clients("west", "target", clusters["west"], "trial")
    limits = PlaneSettings(
        transactional_id="trial-0", transaction_timeout_s=30, compression="lz4", buffer_bytes=33_554_432
    )
    plane = RecordsPlane(source, target, limits, lambda tp, records: None)
    try:
        plane.open(Deadline(TIMEOUT_S))
        plane.assign({TP("open", 0): 0})
        batches: list[Batch] = eventually(lambda: plane.fetch(0.1).batches, within_s=TIMEOUT_S)
        plane.begin()
        with pytest.raises(KafkaOpError, match="grant WRITE and DESCRIBE on the topic"):
            send(plane, batches)
    finally:
        plane.close()


def test_transactional_id_that_may_not_be_used_says_which_right_is_missing(secured: Clusters) -> None:
    """The first step of a task fails with the right that it lacks, not with a fault of the program."""
    grant(secured["west"], [right(ResourceType.TRANSACTIONAL_ID, "forbidden-0", AclOperation.DESCRIBE)])
    clusters = settings(secured, "nobody").clusters
    source = Clients("east", "source", clusters["east"], "forbidden")
    target = Clients("west", "target", clusters["west"], "forbidden")
    limits = PlaneSettings(
        transactional_id="forbidden-0", transaction_timeout_s=30, compression="lz4", buffer_bytes=33_554_432
    )
    plane = RecordsPlane(source, target, limits, lambda tp, records: None)
    try:
        with pytest.raises(KafkaOpError, match=r"grant WRITE and DESCRIBE on the transactional id.* forbidden-"):
            plane.open(Deadline(TIMEOUT_S))
    finally:
        plane.close()


def test_records_that_may_not_be_counted_say_which_right_is_missing(secured: Clusters) -> None:
    """At once, not when the time is over."""
    create_topic(secured["west"].admin_servers, "uncounted")
    grant(secured["west"], [right(ResourceType.TOPIC, "uncounted", AclOperation.DESCRIBE)])
    west = Clients("west", "target", settings(secured, "nobody").clusters["west"], "trial")
    between = Between(low=0, high=9, origin_low=0, origin_high=9, records=9, skip=3)
    with closing(Refiner(None, west, 1000)) as refiner, pytest.raises(KafkaOpError, match="grant READ on uncounted"):
        refiner.refine(TP("counted", 0), TP("uncounted", 0), 3, between, Deadline(TIMEOUT_S))


def send(plane: RecordsPlane, batches: list[Batch]) -> None:
    for batch in batches:
        plane.append(batch, "closed", Deadline(TIMEOUT_S))
    plane.flush(Deadline(TIMEOUT_S))
