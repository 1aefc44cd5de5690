"""Groups as real brokers have them: of every type, with odd ids, many at a time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from typing import Any

import pytest
from kafka.protocol.consumer.group import JoinGroupRequest

from replicator.config import ClusterSettings
from replicator.deadline import Deadline
from replicator.embedded import EmbeddedCluster
from replicator.errors import TP, FencedError
from replicator.groups.listing import group_states, list_groups, unlisted_groups
from replicator.groups.offsets import Committed, GroupOffsets
from replicator.groups.reader import OffsetsReader
from replicator.groups.refusals import is_passing
from replicator.groups.wire import WireGroups
from replicator.kafka.cluster import Cluster as Clients
from replicator.log import NO_LOG
from replicator.protocol.brokers import Brokers
from replicator.protocol.group_requests import GroupRequests
from tests.support.brokers import UniqueName
from tests.support.eventually import eventually
from tests.support.groups import Member, committed
from tests.support.records import create_topic

SOON_S = 60.0
GROUPS = 1000
HANDFUL = 12


@pytest.fixture
def clients(target: EmbeddedCluster) -> Clients:
    return Clients("west", "target", ClusterSettings(bootstrap_servers=target.admin_servers), "replicator-east-west")


@pytest.fixture
def groups(clients: Clients) -> Iterator[WireGroups]:
    with closing(WireGroups(clients)) as client:
        yield client


@pytest.fixture
def orders(target: EmbeddedCluster, unique: UniqueName) -> str:
    return create_topic(target.admin_servers, unique("orders"), partitions=2)


@pytest.fixture
def requests(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How many were sent, by name."""
    sent: Counter[str] = Counter()
    add = Brokers.ask

    def count(brokers: Brokers, node: int | None, make: Callable[[int], Any], *more: Any) -> None:
        def counted(at: int) -> Any:
            message, version = make(at)
            sent[message.name] += 1
            return message, version

        add(brokers, node, counted, *more)

    monkeypatch.setattr(Brokers, "ask", count)
    return sent


def read(groups: WireGroups, names: Any) -> Mapping[str, GroupOffsets]:
    reader = OffsetsReader(groups, NO_LOG)
    found = reader.read(names, Deadline(SOON_S))
    assert (reader.failures, reader.unsure) == ({}, set())
    return found


def test_a_thousand_groups_are_read_with_a_handful_of_requests(
    groups: WireGroups, orders: str, unique: UniqueName, requests: Counter[str]
) -> None:
    """In one transaction for all they would hold up consumers; so they are committed one by one here."""
    wanted = {unique(f"g{number}"): {TP(orders, 0): Committed(number)} for number in range(GROUPS)}
    assert not any(groups.commit(wanted, Deadline(5 * SOON_S)).values())
    requests.clear()
    assert read(groups, wanted) == wanted
    assert requests.keys() == {"OffsetFetch"}
    assert requests.total() <= HANDFUL
    with closing(WireGroups(groups.cluster)) as other:
        assert read(other, wanted) == wanted
    assert requests["FindCoordinator"] <= HANDFUL
    assert list_groups(groups, Deadline(SOON_S)).keys() >= wanted.keys()


def test_odd_ids_are_ids(groups: WireGroups, target: EmbeddedCluster, orders: str, unique: UniqueName) -> None:
    """The empty one has what every client without a group committed: only this topic is looked at."""
    names = ["", unique("größe ü"), unique("中" * 400), unique("a b/c"), unique("x" * 3000)]
    tp, metadata = TP(orders, 1), "日本" * 500
    wanted = {name: {tp: Committed(number, metadata)} for number, name in enumerate(names)}
    assert groups.commit(wanted, Deadline(SOON_S)) == {name: {} for name in names}
    assert {name: it[tp] for name, it in read(groups, names).items()} == {name: wanted[name][tp] for name in names}
    assert list_groups(groups, Deadline(SOON_S)).keys() >= set(names)
    assert {it.state for it in group_states(groups, names, Deadline(SOON_S)).values()} == {"EMPTY"}
    assert unlisted_groups(groups, [*names, unique("absent")], Deadline(SOON_S)) == set(names)
    transaction = groups.transaction(unique("id"), Deadline(SOON_S))
    again = {name: {tp: Committed(100 + number)} for number, name in enumerate(names)}
    refused = transaction.place(again, Deadline(SOON_S))
    assert {name: it.code for name, it in refused.items()} == {"": "INVALID_GROUP_ID"}, "Kafka has it in no transaction"
    assert not is_passing(refused[""])
    transaction.abort(Deadline(SOON_S))
    del names[0], again[""]
    assert transaction.place(again, Deadline(SOON_S)) == {}
    transaction.commit(Deadline(SOON_S))
    eventually(lambda: {name: it[tp] for name, it in read(groups, names).items()} == {
        name: it[tp] for name, it in again.items()
    }, SOON_S)  # fmt: skip
    assert committed(target.admin_servers, names[0])[tp] == (101, "")


@pytest.mark.parametrize("protocol", ["classic", "consumer"])
def test_members_of_both_protocols_are_seen(
    groups: WireGroups, target: EmbeddedCluster, orders: str, unique: UniqueName, protocol: str
) -> None:
    name = unique("billing")
    with closing(Member(target.admin_servers, name, orders, **{"group.protocol": protocol, "client.id": "reader"})):
        for state in (group_states(groups, [name], Deadline(SOON_S))[name], described(groups, name)):
            assert state.is_active
            assert len(state.members) == 1
            assert state.members[0].startswith("reader at ")
        assert unlisted_groups(groups, [name], Deadline(SOON_S)) == {name}
        assert list_groups(groups, Deadline(SOON_S))[name] not in {"EMPTY", "DEAD"}


def described(groups: WireGroups, name: str) -> Any:
    return groups.describe([name], Deadline(SOON_S))[name]


def test_a_group_of_another_protocol_type_is_listed_and_has_no_offsets(
    groups: WireGroups, clients: Clients, unique: UniqueName
) -> None:
    """As a Connect cluster's."""
    name = unique("connect-cluster")
    with closing(GroupRequests(clients)) as raw:
        join_as_connect(raw, name)
        eventually(lambda: name in list_groups(groups, Deadline(SOON_S)), SOON_S)
        assert group_states(groups, [name], Deadline(SOON_S))[name].is_active
        assert read(groups, [name]) == {name: {}}


def join_as_connect(raw: GroupRequests, name: str) -> None:
    brokers, loop = raw.network.brokers, raw.network.loop
    query = raw.fetch([name], Deadline(SOON_S), stable=False)
    query.wait(Deadline(SOON_S), Deadline(SOON_S))
    node = raw.network.coordinators.node(name)
    kind = JoinGroupRequest.JoinGroupRequestProtocol
    message = JoinGroupRequest(
        group_id=name, session_timeout_ms=30_000, rebalance_timeout_ms=30_000, member_id="", group_instance_id=None,
        protocol_type="connect", protocols=[kind(name="default", metadata=b"x")],
    )  # fmt: skip
    answers: list[Any] = []
    brokers.send_async(node, message, 3, answers.append)
    assert loop.run_until(lambda: bool(answers), Deadline(SOON_S))
    assert answers[0].error_code == 0, answers[0]


def test_offsets_of_an_open_transaction_are_not_taken_for_known(
    groups: WireGroups, target: EmbeddedCluster, orders: str, unique: UniqueName
) -> None:
    """The other partitions are; and a reader that may look past the transaction does."""
    name, first, second = unique("billing"), TP(orders, 0), TP(orders, 1)
    before = {name: {first: Committed(1), second: Committed(2)}}
    assert groups.commit(before, Deadline(SOON_S)) == {name: {}}
    transaction = groups.transaction(unique("id"), Deadline(SOON_S))
    assert transaction.place({name: {first: Committed(9)}}, Deadline(SOON_S)) == {}
    reader, bold = OffsetsReader(groups, NO_LOG), OffsetsReader(groups, NO_LOG, stable=False)
    assert reader.read([name], Deadline(SOON_S)) == {name: {second: Committed(2)}}
    assert reader.unsure == {name}
    assert bold.read([name], Deadline(SOON_S)) == before
    assert bold.unsure == set()
    transaction.abort(Deadline(SOON_S))
    eventually(lambda: read(groups, [name]) == before, SOON_S)


def test_a_transaction_that_is_fenced_places_and_commits_nothing(
    groups: WireGroups, orders: str, unique: UniqueName
) -> None:
    name, id_ = unique("billing"), unique("id")
    wanted = {name: {TP(orders, 0): Committed(9)}}
    former = groups.transaction(id_, Deadline(SOON_S))
    assert former.place(wanted, Deadline(SOON_S)) == {}
    with closing(WireGroups(groups.cluster)) as other:
        other.transaction(id_, Deadline(SOON_S))
        with pytest.raises(FencedError):
            former.commit(Deadline(SOON_S))
        with pytest.raises(FencedError):
            former.place(wanted, Deadline(SOON_S))
    assert read(groups, [name]) == {name: {}}
