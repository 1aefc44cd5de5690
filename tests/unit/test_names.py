"""Names on both clusters: MM2's rules, and ours."""

from __future__ import annotations

import collections
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicator.names import (
    AUDIT_TOPIC,
    Naming,
    TopicFilter,
    is_internal,
    syncs_topic,
    task_of,
    transactional_id,
    worker_group,
)

EAST = Naming("east")
EAST_IDENTITY = Naming("east", "identity")


def matches(topic: str, *include: str, exclude: tuple[str, ...] = (), naming: Naming = EAST) -> bool:
    """Whether a flow to `west` replicates `topic`."""
    return TopicFilter(include or (".*",), exclude, naming, "west").matches(topic)


@pytest.mark.parametrize(
    ("naming", "topic", "remote"),
    [
        (EAST, "orders", "east.orders"),
        (EAST, "west.orders", "east.west.orders"),
        (EAST, "heartbeats", "east.heartbeats"),
        (Naming("east", separator="__"), "orders", "east__orders"),
        (Naming("east", separator="_"), "heartbeats", "east_heartbeats"),
        (EAST_IDENTITY, "orders", "orders"),
        (EAST_IDENTITY, "west.orders", "west.orders"),
        (EAST_IDENTITY, "heartbeats", "east.heartbeats"),
        (EAST_IDENTITY, "west.heartbeats", "east.west.heartbeats"),
        (Naming("east", renames={"_schemas": "_schemas"}), "_schemas", "_schemas"),
        (Naming("east", "identity", renames={"orders": "bestellungen"}), "orders", "bestellungen"),
    ],
)
def test_remote_topics_are_named_as_mm2_names_them(naming: Naming, topic: str, remote: str) -> None:
    """`DefaultReplicationPolicy` and `IdentityReplicationPolicy` of Kafka; renames win over both."""
    assert naming.remote_topic(topic) == remote


@pytest.mark.parametrize(
    ("topic", "is_cycle"),
    [
        ("orders", False),
        ("west", False),
        ("west.orders", True),
        ("north.orders", False),
        ("north.west.orders", True),
        ("west.north.orders", True),
        ("western.orders", False),
        ("north.west", False),
        ("heartbeats", False),
        ("west.heartbeats", True),
        ("", False),
    ],
)
def test_cycles_are_seen_at_every_hop(topic: str, is_cycle: bool) -> None:
    """`MirrorSourceConnector#isCycle`: what came from the target never goes back to it."""
    assert EAST.is_cycle(topic, "west") is is_cycle
    assert Naming("east", separator="__").is_cycle(topic.replace(".", "__"), "west") is is_cycle


def test_cycles_are_seen_for_aliases_that_contain_the_separator() -> None:
    """Or records would circle for ever between `us.east` and `us.west`."""
    naming = Naming("us.east")
    assert naming.is_cycle("us.west.orders", "us.west")
    assert naming.is_cycle("north.us.west.orders", "us.west")
    assert not naming.is_cycle("us.orders", "us.west")
    assert not naming.is_cycle("bus.west.orders", "us.west")


def test_identity_knows_the_origin_of_heartbeats_alone() -> None:
    assert not EAST_IDENTITY.is_cycle("west.orders", "west")
    assert EAST_IDENTITY.is_cycle("west.heartbeats", "west")


@given(
    hops=st.lists(st.sampled_from(["east", "west", "north", "a-b", "c_d"]), max_size=5),
    target=st.sampled_from(["east", "west", "north", "a-b"]),
)
def test_a_topic_is_a_cycle_when_the_target_is_among_its_hops(hops: list[str], target: str) -> None:
    """The model: walk the prefixes that `remote_topic` put there."""
    topic = "orders"
    for hop in reversed(hops):
        topic = Naming(hop).remote_topic(topic)
    assert Naming("x").is_cycle(topic, target) == (target in hops)


@pytest.mark.parametrize(
    ("topic", "expected"),
    [
        ("__consumer_offsets", True),
        ("__transaction_state", True),
        (".hidden", True),
        ("mm2-offset-syncs.west.internal", True),
        ("mm2-configs.east.internal", True),
        ("east.checkpoints.internal", True),
        ("app-internal", True),
        ("replicator.east.syncs", True),
        (syncs_topic("us-east-1"), True),
        (AUDIT_TOPIC, True),
        ("heartbeats", False),
        ("east.heartbeats", False),
        ("_schemas", False),
        ("orders", False),
        ("internal", False),
        ("internals.orders", False),
        ("replicator", False),
        ("replicator.orders", False),
        ("my.syncs", False),
    ],
)
def test_internal_topics_are_recognised(topic: str, expected: bool) -> None:
    """`ReplicationPolicy#isInternalTopic` of Kafka, and our own topics."""
    assert is_internal(topic) is expected


def test_internal_topics_with_another_separator() -> None:
    """KIP-949: MM2 writes its internal topics with the separator, too."""
    assert is_internal("mm2-offset-syncs__west__internal", "__")
    assert is_internal("mm2-offset-syncs.west.internal", "__")
    assert not is_internal("mm2-offset-syncs__west__internal")


@pytest.mark.parametrize(
    "topic", ["app-internal", "x.replica", "__x", "east.checkpoints.internal", "replicator.a.syncs"]
)
def test_internal_topics_never_match(topic: str) -> None:
    """Whatever the filter says."""
    assert not matches(topic, ".*")
    assert not matches(topic, topic)


def test_filters_match_whole_names() -> None:
    assert matches("orders", "orders")
    assert not matches("orders2", "orders")
    assert not matches("my-orders", "orders")
    assert matches("payments.eu", r"payments\..*")
    assert not matches("payments", r"payments\..*")
    assert matches("b", "a|b")
    assert matches("bc", "a", "b.")


def test_exclusion_wins() -> None:
    assert not matches("orders", "orders", exclude=("ord.*",))
    assert matches("orders", "orders", exclude=("ord",))


def test_nothing_included_matches_nothing_but_heartbeats() -> None:
    """`MirrorUtils#compilePatternList`: an empty list matches nothing; heartbeats travel all the same."""
    nothing = TopicFilter((), (), EAST, "west")
    assert [t for t in ("orders", "heartbeats", "north.heartbeats") if nothing.matches(t)] == [
        "heartbeats",
        "north.heartbeats",
    ]


def test_heartbeats_travel_whatever_is_excluded_and_never_back() -> None:
    """`MirrorSourceConnector#shouldReplicateTopic`."""
    assert matches("heartbeats", "orders", exclude=("heartbeats",))
    assert not matches("west.heartbeats", ".*")
    assert not matches("west.heartbeats", ".*", naming=EAST_IDENTITY)
    assert not matches("myheartbeats", "orders")


def test_cycles_never_match() -> None:
    assert not matches("west.orders", ".*")
    assert not matches("west.orders", r"west\.orders")
    assert matches("north.orders", ".*")


def test_unmatched_patterns_are_told() -> None:
    """A pattern that matches no topic is usually a typing mistake."""
    wanted = TopicFilter(["orders", "ordres", "pay.*"], (), EAST, "west")
    assert wanted.unmatched(["orders", "payments", "x"]) == ["ordres"]
    assert wanted.unmatched([]) == ["orders", "ordres", "pay.*"]


def test_names_that_other_programs_and_other_versions_rely_on() -> None:
    """C: a changed transactional id would not fence the last owner; a changed topic would lose the positions."""
    assert syncs_topic("east") == "replicator.east.syncs"
    assert worker_group("east", "west") == "replicator-east-west"
    assert transactional_id("east", "west", 3) == "replicator-east-west-3"


@given(st.text(min_size=1, max_size=60), st.integers(0, 5000), st.integers(1, 1000))
def test_every_partition_has_one_task(topic: str, partition: int, tasks: int) -> None:
    """The owner is `(crc32(topic) + partition) mod tasks`: the same in every process and every release."""
    assert task_of(topic, partition, tasks) == (zlib.crc32(topic.encode()) + partition) % tasks
    assert 0 <= task_of(topic, partition, tasks) < tasks


def test_partitions_of_a_topic_spread_evenly() -> None:
    owners = collections.Counter(task_of("orders", partition, 4) for partition in range(12))
    assert owners == {0: 3, 1: 3, 2: 3, 3: 3}
    assert task_of("orders", 0, 4) == zlib.crc32(b"orders") % 4
