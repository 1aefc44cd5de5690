"""Group sync writes over nothing of anybody else's, wherever it is held up (invariants F and G)."""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterator, Mapping
from contextlib import closing
from typing import Any

import pytest

from replicator.checkpoints import group_sync
from replicator.checkpoints.offset_cas import Look, OffsetCas, Tell
from replicator.config import ClusterSettings
from replicator.deadline import Deadline
from replicator.embedded import EmbeddedCluster
from replicator.errors import TP, FencedError, KafkaOpError, RetriableError
from replicator.groups import listing
from replicator.groups.offsets import Committed, GroupOffsets, move_tag, tag
from replicator.groups.reader import OffsetsReader
from replicator.groups.select import ClusterGroups
from replicator.groups.wire import WireOffsetsTransaction
from replicator.kafka.cluster import Cluster as Clients
from replicator.log import NO_LOG
from replicator.protocol.capabilities import reason_against
from tests.support.brokers import UniqueName
from tests.support.eventually import eventually
from tests.support.flows import REACT_S, FlowBench, FlowBenches
from tests.support.groups import Member, commit, committed
from tests.support.records import create_topic

OURS = Committed(5, tag("east->west", 5))


@pytest.fixture(params=["our own client", "librdkafka"])
def clients(target: EmbeddedCluster, request: pytest.FixtureRequest) -> Clients:
    """With a property that only librdkafka heeds, all goes through librdkafka."""
    is_librdkafka = request.param == "librdkafka"
    settings = ClusterSettings(
        bootstrap_servers=target.admin_servers,
        client={"client.dns.lookup": "use_all_dns_ips"} if is_librdkafka else {},
    )
    assert (reason_against(settings) is not None) == is_librdkafka
    return Clients("west", "target", settings, "replicator-east-west")


@pytest.fixture
def client(clients: Clients) -> Iterator[ClusterGroups]:
    with closing(ClusterGroups(clients)) as client:
        yield client


@pytest.fixture
def commits(client: ClusterGroups, unique: UniqueName) -> Iterator[OffsetCas]:
    with closing(OffsetCas(client, unique("groups"))) as commits:
        yield commits


@pytest.fixture
def orders(target: EmbeddedCluster, unique: UniqueName) -> TP:
    return TP(create_topic(target.admin_servers, unique("orders")), 0)


def commit_outcomes(
    commits: OffsetCas, wanted: Mapping[str, GroupOffsets], look: Look
) -> dict[str, KafkaOpError | None]:
    """Commit; what became of each group."""
    outcome: dict[str, KafkaOpError | None] = {}
    commits.commit(wanted, look, outcome.__setitem__, Deadline(REACT_S))
    return outcome


def everything(groups: Collection[str]) -> Collection[str]:
    return groups


def test_what_is_committed_while_ours_are_placed_stays(
    target: EmbeddedCluster, commits: OffsetCas, orders: TP, unique: UniqueName
) -> None:
    """The broker compares places in its log, whatever the look says; ours for another group take effect."""
    moved, left = unique("moved"), unique("left")

    def look(groups: Collection[str]) -> Collection[str]:
        commit(target.admin_servers, moved, {orders: 100}, "theirs")
        return groups

    assert commit_outcomes(commits, {moved: {orders: OURS}, left: {orders: OURS}}, look) == {moved: None, left: None}
    eventually(lambda: committed(target.admin_servers, left) == {orders: tuple_of(OURS)}, REACT_S)
    assert committed(target.admin_servers, moved) == {orders: (100, "theirs")}


def tuple_of(it: Committed) -> tuple[int, str]:
    return it.next_offset, it.metadata


def test_what_the_look_takes_out_is_not_written(
    target: EmbeddedCluster, client: ClusterGroups, commits: OffsetCas, orders: TP, unique: UniqueName
) -> None:
    """And the look sees past the open transaction."""
    out, left = unique("out"), unique("left")
    commit(target.admin_servers, out, {orders: 100}, "theirs")
    reader = OffsetsReader(client, NO_LOG, stable=False)
    looks: list[set[str]] = []

    def look(groups: Collection[str]) -> Collection[str]:
        looks.append(set(groups))
        found = reader.read(groups, Deadline(REACT_S))
        assert not reader.unsure
        return {group for group in groups if not found[group]}

    assert commit_outcomes(commits, {out: {orders: OURS}, left: {orders: OURS}}, look) == {left: None}
    assert looks == [{out, left}, {left}]
    eventually(lambda: committed(target.admin_servers, left) == {orders: tuple_of(OURS)}, REACT_S)
    assert committed(target.admin_servers, out) == {orders: (100, "theirs")}


def test_one_that_is_refused_costs_the_others_nothing(
    target: EmbeddedCluster, commits: OffsetCas, orders: TP, unique: UniqueName
) -> None:
    good, bad = unique("a-good"), unique("b-bad")
    wanted = {good: {orders: OURS}, bad: {TP(unique("no-topic"), 0): OURS}}
    outcome = commit_outcomes(commits, wanted, everything)
    assert outcome[good] is None
    assert outcome[bad] is not None
    assert f"commit for the group {bad}" in str(outcome[bad])
    eventually(lambda: committed(target.admin_servers, good) == {orders: tuple_of(OURS)}, REACT_S)


def test_one_that_is_refused_is_told_whatever_comes_after(
    target: EmbeddedCluster, commits: OffsetCas, orders: TP, unique: UniqueName
) -> None:
    """Else a pass that has no time left for the others would begin with the same refusal for ever."""
    good, bad = unique("a-good"), unique("b-bad")
    wanted = {good: {orders: OURS}, bad: {TP(unique("no-topic"), 0): OURS}}
    outcome: dict[str, KafkaOpError | None] = {}

    def look(groups: Collection[str]) -> Collection[str]:
        raise RetriableError("no answer", op="look")

    with pytest.raises(RetriableError):
        commits.commit(wanted, look, outcome.__setitem__, Deadline(REACT_S))
    assert outcome.keys() == {bad}
    assert committed(target.admin_servers, good) == {}


def test_two_that_commit_under_one_id_fence_each_other(
    target: EmbeddedCluster, client: ClusterGroups, orders: TP, unique: UniqueName
) -> None:
    """What the first one placed is aborted at once; it can go on under the id afterwards."""
    group, name = unique("billing"), unique("groups")
    with closing(OffsetCas(client, name)) as first, closing(OffsetCas(client, name)) as second:

        def look(groups: Collection[str]) -> Collection[str]:
            second.open(Deadline(REACT_S))
            assert committed(target.admin_servers, group) == {}  # stable: nothing is pending any more
            return groups

        with pytest.raises(FencedError):
            commit_outcomes(first, {group: {orders: OURS}}, look)
        assert committed(target.admin_servers, group) == {}
        assert commit_outcomes(first, {group: {orders: OURS}}, everything) == {group: None}
    eventually(lambda: committed(target.admin_servers, group) == {orders: tuple_of(OURS)}, REACT_S)


# --- the duty ---------------------------------------------------------------------------------------------------------


class Hold:
    """Stops a thread the next time it comes by, once it is set."""

    def __init__(self) -> None:
        self.is_set = threading.Event()
        self.reached = threading.Event()
        self.released = threading.Event()

    def pass_by(self) -> None:
        if self.is_set.is_set() and not self.reached.is_set():
            self.reached.set()
            assert self.released.wait(REACT_S)


def held(place: str, hold: Hold, patch: pytest.MonkeyPatch) -> None:
    """Hold group sync before it places, before it looks again, or before it commits."""
    commit_all, commit_transaction = OffsetCas.commit, WireOffsetsTransaction.commit

    def hold_commit(self: OffsetCas, wanted: Any, look: Look, tell: Tell, deadline: Deadline) -> None:
        def hold_look(groups: Collection[str]) -> Collection[str]:
            if place == "look":
                hold.pass_by()
            return look(groups)

        if place == "place":
            hold.pass_by()
        commit_all(self, wanted, hold_look, tell, deadline)

    def hold_transaction(self: WireOffsetsTransaction, deadline: Deadline) -> None:
        if place == "commit":
            hold.pass_by()
        commit_transaction(self, deadline)

    patch.setattr(OffsetCas, "commit", hold_commit)
    patch.setattr(WireOffsetsTransaction, "commit", hold_transaction)


def await_synced(bench: FlowBench, group: str, place: int) -> None:
    """Wait until group sync put a group there."""
    copy = TP(bench.remote(bench.topic), 0)
    eventually(lambda: committed(bench.target, group) == {copy: (place, tag(bench.name, place))}, REACT_S)


@pytest.mark.parametrize("place", ["place", "look", "commit"])
def test_group_sync_that_is_held_up_does_not_write_over_a_move(
    make_flow: FlowBenches, source: EmbeddedCluster, target: EmbeddedCluster, unique: UniqueName,
    monkeypatch: pytest.MonkeyPatch, place: str,
) -> None:  # fmt: skip
    """What it has decided before the move is gone; another group goes on."""
    hold = Hold()
    held(place, hold, monkeypatch)
    bench = make_flow(source, target).start_filled()
    group, other, copy = unique("billing"), unique("other"), TP(bench.remote(bench.topic), 0)
    for name in (group, other):
        commit(bench.source, name, {TP(bench.topic, 0): 4})
        await_synced(bench, name, 4)
    hold.is_set.set()
    commit(bench.source, group, {TP(bench.topic, 0): 7})
    assert hold.reached.wait(REACT_S)
    commit(bench.target, group, {copy: 9}, move_tag("m1", 9))
    hold.released.set()
    bench.await_event("group_not_synced", group=group, state="moved")
    commit(bench.source, other, {TP(bench.topic, 0): 6})
    await_synced(bench, other, 6)
    assert committed(bench.target, group) == {copy: (9, move_tag("m1", 9))}


def test_group_sync_that_is_held_up_leaves_a_group_that_got_members(
    make_flow: FlowBenches,
    source: EmbeddedCluster,
    target: EmbeddedCluster,
    unique: UniqueName,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hold = Hold()
    held("look", hold, monkeypatch)
    bench = make_flow(source, target).start_filled()
    group, copy = unique("billing"), TP(bench.remote(bench.topic), 0)
    commit(bench.source, group, {TP(bench.topic, 0): 4})
    await_synced(bench, group, 4)
    hold.is_set.set()
    commit(bench.source, group, {TP(bench.topic, 0): 7})
    assert hold.reached.wait(REACT_S)
    with closing(Member(bench.target, group, copy.topic)):
        hold.released.set()
        bench.await_event("group_not_synced", group=group, state="active")
        assert committed(bench.target, group) == {copy: (4, tag(bench.name, 4))}
    await_synced(bench, group, 7)


def test_group_sync_leaves_a_group_with_members_that_no_broker_lists(
    make_flow: FlowBenches,
    source: EmbeddedCluster,
    target: EmbeddedCluster,
    unique: UniqueName,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As while its coordinator moves: the broker that would list it has not loaded it yet."""
    bench = make_flow(source, target).start_filled()
    group, remote = unique("billing"), TP(bench.remote(bench.topic), 0)
    commit(bench.source, group, {TP(bench.topic, 0): 4})
    eventually(lambda: committed(bench.target, group).get(remote) == (4, tag(bench.name, 4)), REACT_S)
    with closing(Member(bench.target, group, remote.topic)):
        monkeypatch.setattr(group_sync, "list_groups", lambda *_: {})
        monkeypatch.setattr(listing, "list_groups", lambda *_: {})
        commit(bench.source, group, {TP(bench.topic, 0): 6})
        bench.await_event("group_not_synced", group=group, state="active")
        assert committed(bench.target, group) == {remote: (4, tag(bench.name, 4))}
