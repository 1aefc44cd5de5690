"""Checkpoints and group offset sync, on real clusters."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing

import pytest
from confluent_kafka import Producer

from replicator.config import ClusterSettings
from replicator.deadline import Deadline
from replicator.embedded import EmbeddedCluster
from replicator.errors import TP
from replicator.groups.offsets import Committed, tag
from replicator.groups.refusals import is_passing, is_refusal_of_members
from replicator.groups.select import ClusterGroups
from replicator.kafka.cluster import Cluster as Clients
from tests.support.brokers import UniqueName
from tests.support.eventually import eventually
from tests.support.flows import REACT_S, FlowBench, FlowBenches
from tests.support.groups import Member, checkpoints, commit, committed, offsets
from tests.support.records import admin_client, create_topic, end_offsets, read_topic

SOON_S = 60.0
"""A checkpoint follows a commit within about a second; a machine that is busy gets more."""


@pytest.fixture
def bench(make_flow: FlowBenches, source: EmbeddedCluster, target: EmbeddedCluster) -> FlowBench:
    """A flow that has replicated ten records."""
    return make_flow(source, target).start_filled()


def remote(bench: FlowBench, partition: int = 0) -> TP:
    return TP(bench.remote(bench.topic), partition)


def await_offset(bench: FlowBench, group: str, expected: int) -> None:
    """Wait until group sync put a group there."""

    def is_there() -> bool:
        found = committed(bench.target, group)
        assert found.get(remote(bench)) == (expected, tag(bench.name, expected)), f"{found}\n{bench.log()}"
        return True

    eventually(is_there, SOON_S)


def test_a_commit_is_translated_soon(bench: FlowBench, unique: UniqueName) -> None:
    """The checkpoint has MM2's fields, and the group the same place on the target; then a rewind follows, too."""
    group = unique("billing")
    source_tp = TP(bench.topic, 0)
    commit(bench.source, group, {source_tp: 4}, "mine")
    await_offset(bench, group, 4)
    topic = bench.checkpoints_topic
    checkpoint = checkpoints(bench.target, topic, group)[remote(bench)]
    assert (checkpoint.upstream_next, checkpoint.downstream_next, checkpoint.metadata) == (4, 4, "mine")
    commit(bench.source, group, {source_tp: 7}, "mine")
    eventually(lambda: checkpoints(bench.target, topic, group)[remote(bench)].upstream_next == 7, SOON_S)
    await_offset(bench, group, 7)
    commit(bench.source, group, {source_tp: 2})
    await_offset(bench, group, 2)


def test_a_group_that_has_read_everything_has_no_lag(bench: FlowBench, unique: UniqueName) -> None:
    """Its place is past the transaction marker, and past those of transactions that aborted later."""
    group = unique("billing")
    commit(bench.source, group, {TP(bench.topic, 0): 10})
    end = end_offsets(bench.target, remote(bench).topic)[0]
    assert end > 10
    await_offset(bench, group, end)
    bench.produce(bench.topic, [b"more"])
    bench.await_caught_up(bench.topic)
    await_offset(bench, group, end)
    commit(bench.source, group, {TP(bench.topic, 0): 11})
    await_offset(bench, group, end_offsets(bench.target, remote(bench).topic)[0])


@pytest.mark.parametrize("protocol", ["classic", "consumer"])
@pytest.mark.parametrize("static", ["", "member-1"])
def test_a_group_with_members_is_not_touched(bench: FlowBench, unique: UniqueName, protocol: str, static: str) -> None:
    """Neither while it has members nor when it has committed; before that, its offsets follow the source again."""
    group = unique("billing")
    client = {"group.protocol": protocol, **({"group.instance.id": static} if static else {})}
    commit(bench.source, group, {TP(bench.topic, 0): 4})
    await_offset(bench, group, 4)
    with closing(Member(bench.target, group, remote(bench).topic, **client)) as member:
        commit(bench.source, group, {TP(bench.topic, 0): 6})
        bench.await_event("group_not_synced", group=group, state="active")
        assert offsets(bench.target, group) == {remote(bench): 4}
        eventually(lambda: member.poll(0.1), REACT_S)
        assert member.values[0] == b"4"
    if static:
        return  # it stays a member until its session times out
    await_offset(bench, group, 6)
    with closing(Member(bench.target, group, remote(bench).topic, **client)) as member:
        eventually(lambda: len(member.poll(0.1)) == 4, REACT_S)
        member.consumer.commit(asynchronous=False)
        moved_to = committed(bench.target, group)
    commit(bench.source, group, {TP(bench.topic, 0): 8})
    bench.await_event("group_not_synced", group=group, state="moved")
    assert committed(bench.target, group) == moved_to
    assert moved_to[remote(bench)][0] >= 10


def test_a_group_that_was_there_first_is_not_touched(bench: FlowBench, unique: UniqueName) -> None:
    """Its own offset stays, also where it is the same; topics that are not ours do not count."""
    first, elsewhere = unique("first"), unique("elsewhere")
    local = TP(create_topic(bench.target, unique("local")), 0)
    commit(bench.target, first, {remote(bench): 4})
    commit(bench.target, elsewhere, {local: 1})
    for group in (first, elsewhere):
        commit(bench.source, group, {TP(bench.topic, 0): 4})
    await_offset(bench, elsewhere, 4)
    bench.await_event("group_not_synced", group=first, state="moved")
    commit(bench.source, first, {TP(bench.topic, 0): 5})
    commit(bench.source, elsewhere, {TP(bench.topic, 0): 5})
    await_offset(bench, elsewhere, 5)
    assert committed(bench.target, first) == {remote(bench): (4, "")}
    assert committed(bench.target, elsewhere)[local] == (1, "")


def test_a_deleted_group_keeps_what_it_has_on_the_target(bench: FlowBench, unique: UniqueName) -> None:
    """Checkpoint and offset stay; the others go on."""
    gone, stays = unique("gone"), unique("stays")
    for group in (gone, stays):
        commit(bench.source, group, {TP(bench.topic, 0): 3})
        await_offset(bench, group, 3)
    admin = admin_client(bench.source)
    admin.delete_consumer_groups([gone])[gone].result(30)
    commit(bench.source, stays, {TP(bench.topic, 0): 5})
    await_offset(bench, stays, 5)
    bench.await_event("groups_gone")
    assert offsets(bench.target, gone) == {remote(bench): 3}
    assert bench.worker.notes() == []


def test_offsets_of_a_transactional_topic_are_exact(
    make_flow: FlowBenches, source: EmbeddedCluster, target: EmbeddedCluster, unique: UniqueName
) -> None:
    """At each offset of a log with markers and aborted records, the group goes on at the same record."""
    bench = make_flow(source, target)
    bench.create(bench.topic)
    write_transactions(bench, unique("tx"))
    bench.start()
    bench.verify(bench.topic)
    places = places_of(bench)
    groups = {unique(f"at-{offset}"): offset for offset in places}
    for group, offset in groups.items():
        commit(bench.source, group, {TP(bench.topic, 0): offset})
    for group, offset in groups.items():
        await_offset(bench, group, places[offset])


def places_of(bench: FlowBench) -> dict[int, int]:
    """Each source offset up to the end → the offset on the target of the first record at or after it."""
    originals = read_topic(bench.source, bench.topic)
    copies = read_topic(bench.target, bench.remote(bench.topic))
    assert [it.value for it in originals] == [it.value for it in copies]
    assert len(originals) == 6
    end = end_offsets(bench.source, bench.topic)[0]
    places = dict.fromkeys(range(end + 1), end_offsets(bench.target, bench.remote(bench.topic))[0])
    for original, copy in reversed(list(zip(originals, copies, strict=True))):
        places |= dict.fromkeys(range(original.offset + 1), copy.offset)
    assert len(places) == 13
    return places


def write_transactions(bench: FlowBench, transactional_id: str) -> None:
    """Three transactions of three records; the second one aborts."""
    producer = Producer({"bootstrap.servers": bench.source, "transactional.id": transactional_id})
    producer.init_transactions(30)
    ends: list[Callable[[float], None]] = [
        producer.commit_transaction,
        producer.abort_transaction,
        producer.commit_transaction,
    ]
    for number, end in enumerate(ends):
        producer.begin_transaction()
        for record in range(3):
            producer.produce(bench.topic, b"%d-%d" % (number, record), partition=0)
        producer.flush(30)
        end(30)


def test_a_new_worker_goes_on(bench: FlowBench, unique: UniqueName) -> None:
    """It recognises what its predecessor committed, and that a group has moved meanwhile."""
    group, moved = unique("billing"), unique("moved")
    for name in (group, moved):
        commit(bench.source, name, {TP(bench.topic, 0): 4})
        await_offset(bench, name, 4)
    bench.stop()
    commit(bench.target, moved, {remote(bench): 9})
    for name in (group, moved):
        commit(bench.source, name, {TP(bench.topic, 0): 6})
    bench.start()
    await_offset(bench, group, 6)
    bench.await_event("group_not_synced", group=moved, state="moved")
    assert committed(bench.target, moved) == {remote(bench): (9, "")}


@pytest.mark.parametrize("protocol", ["classic", "consumer"])
def test_the_brokers_refuse_a_commit_for_a_group_with_members(
    target: EmbeddedCluster, unique: UniqueName, protocol: str
) -> None:
    """Invariant F does not depend on what was known of the group a moment ago."""
    servers, group = target.admin_servers, unique("billing")
    tp = TP(create_topic(servers, unique("orders")), 0)
    clients = Clients("west", "target", ClusterSettings(bootstrap_servers=servers), "replicator-east-west")
    with closing(ClusterGroups(clients)) as client:
        refuses_while_there_are_members(client, servers, group, tp, protocol)
    assert offsets(servers, group) == {tp: 1}


def refuses_while_there_are_members(client: ClusterGroups, servers: str, group: str, tp: TP, protocol: str) -> None:
    with closing(Member(servers, group, tp.topic, **{"group.protocol": protocol})):
        refused = client.commit({group: {tp: Committed(1)}}, Deadline(REACT_S))[group][tp]
        assert is_refusal_of_members(refused)
        assert not is_passing(refused)
    assert client.commit({group: {tp: Committed(1)}}, Deadline(REACT_S)) == {group: {}}
    gone = TP(f"{tp.topic}-gone", 0)
    unknown = client.commit({group: {gone: Committed(1)}}, Deadline(REACT_S))[group][gone]
    assert not is_passing(unknown)
