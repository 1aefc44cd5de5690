"""Requests about groups against brokers that a test makes move, load, hang and lie."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import pytest
from kafka.protocol.admin.groups import ListGroupsResponse
from kafka.protocol.consumer.group import (
    OffsetCommitRequest,
    OffsetCommitResponse,
    OffsetFetchRequest,
    OffsetFetchResponse,
)
from kafka.protocol.metadata import FindCoordinatorRequest, FindCoordinatorResponse
from kafka.protocol.producer import TxnOffsetCommitRequest

from replicator.deadline import Deadline
from replicator.errors import TP, KafkaOpError, RetriableError
from replicator.kafka.cluster import KafkaError
from replicator.protocol import group_codecs
from replicator.protocol.group_codecs import FIND_COORDINATOR, LIST_GROUPS, OFFSET_COMMIT, OFFSET_FETCH
from replicator.protocol.group_requests import GroupRequests
from tests.unit.protocol.fake_broker import VERSIONS, Asked, Peer, cluster
from tests.unit.protocol.world import WAIT_S, World

ORDERS = TP("orders", 0)
NEW = VERSIONS | {8: (2, 9), 9: (1, 9), 10: (0, 6), 15: (0, 6), 16: (0, 5)}
KAFKA_2_8 = VERSIONS | {8: (0, 8), 9: (0, 7), 10: (0, 3), 15: (0, 5), 16: (0, 4)}
ODD = ("", "größe ü", "中" * 600, "a b", "x" * 5000)


class Coordinators:
    """Brokers that coordinate groups: group → node, and what each answers."""

    def __init__(self, world: World, *nodes: int) -> None:
        self.world = world
        self.nodes: dict[str, int] = {}
        self.offsets: dict[str, int] = {}
        self.codes: dict[tuple[int, str], list[int]] = {}
        """(node, group) → error codes of the next answers."""
        self.silent: set[int] = set()
        """Nodes that do not answer OffsetFetch."""
        self.unstable: Counter[str] = Counter()
        """Group → how many answers lack its offset."""
        self.metadata = "mine"
        self.counts: Counter[int] = Counter()
        self.asked: list[tuple[int, list[str]]] = []
        world.other = self._answer
        world.versions = world.versions or NEW
        for node in nodes:
            world.start(node)

    def _answer(self, peer: Peer, asked: Asked) -> None:
        self.counts[asked.api_key] += 1
        answers: dict[int, Callable[[Peer, Asked], Any]] = {
            FIND_COORDINATOR: self._find, OFFSET_FETCH: self._fetch, OFFSET_COMMIT: self._commit,
            LIST_GROUPS: self._list,
        }  # fmt: skip
        message = answers[asked.api_key](peer, asked)
        if message is not None:
            peer.say_message(asked, message)

    def _find(self, peer: Peer, asked: Asked) -> Any:
        question = FindCoordinatorRequest.decode(asked.body, version=asked.version)
        if asked.version < 4:
            node = self.nodes.get(question.key, -1)
            return FindCoordinatorResponse(error_code=0 if node > 0 else 15, error_message=None, node_id=node)
        kind = FindCoordinatorResponse.Coordinator
        found = [
            kind(key=key, node_id=node, host="", port=1, error_code=0 if node > 0 else 15, error_message=None)
            for key in question.coordinator_keys
            for node in [self.nodes.get(key, -1)]
        ]
        return FindCoordinatorResponse(coordinators=found)

    def _code(self, node: int, group: str) -> int:
        codes = self.codes.get((node, group), [])
        if codes:
            return codes.pop(0)
        return 0 if self.nodes.get(group, node) == node else int(KafkaError.NOT_COORDINATOR)

    def _fetch(self, peer: Peer, asked: Asked) -> Any:
        question = OffsetFetchRequest.decode(asked.body, version=asked.version)
        names = [question.group_id] if asked.version < 8 else [it.group_id for it in question.groups]
        self.asked.append((peer.node, names))
        if peer.node in self.silent:
            return None
        kind = OffsetFetchResponse if asked.version < 8 else OffsetFetchResponse.OffsetFetchResponseGroup
        topic = kind.OffsetFetchResponseTopic if asked.version < 8 else kind.OffsetFetchResponseTopics
        place = topic.OffsetFetchResponsePartition if asked.version < 8 else topic.OffsetFetchResponsePartitions
        answers = []
        for name in names:
            code = self._code(peer.node, name)
            is_unstable = question.require_stable and self.unstable[name] > 0
            self.unstable[name] -= is_unstable
            at = place(
                partition_index=0, committed_offset=-1 if is_unstable else self.offsets.get(name, -1),
                committed_leader_epoch=3, metadata=self.metadata if name == "a b" else "",
                error_code=int(KafkaError.UNSTABLE_OFFSET_COMMIT) if is_unstable else 0,
            )  # fmt: skip
            topics = [topic(name="orders", partitions=[at])] if not code else []
            answers.append((name, topics, code))
        if asked.version < 8:
            ((_, topics, code),) = answers
            return OffsetFetchResponse(topics=topics, error_code=code, throttle_time_ms=0)
        groups = [kind(group_id=name, topics=topics, error_code=code) for name, topics, code in answers]
        return OffsetFetchResponse(groups=groups, throttle_time_ms=0)

    def _commit(self, peer: Peer, asked: Asked) -> Any:
        question = OffsetCommitRequest.decode(asked.body, version=asked.version)
        assert (question.generation_id_or_member_epoch, question.member_id) == (-1, "")
        code = self._code(peer.node, question.group_id)
        if not code:
            self.offsets[question.group_id] = question.topics[0].partitions[0].committed_offset
        topic = OffsetCommitResponse.OffsetCommitResponseTopic
        place = topic.OffsetCommitResponsePartition
        said = []
        for it in question.topics:
            places = [place(partition_index=at.partition_index, error_code=code) for at in it.partitions]
            said.append(topic(name=it.name, partitions=places))
        return OffsetCommitResponse(topics=said, throttle_time_ms=0)

    def _list(self, peer: Peer, asked: Asked) -> Any:
        kind = ListGroupsResponse.ListedGroup
        code = self._code(peer.node, "list") if (peer.node, "list") in self.codes else 0
        found = [
            kind(group_id=name, protocol_type="consumer", group_state="Empty", group_type="classic")
            for name, node in self.nodes.items()
            if node == peer.node and not code
        ]
        return ListGroupsResponse(error_code=code, groups=found, throttle_time_ms=0)


@pytest.fixture
def three(world: World) -> Coordinators:
    return Coordinators(world, 1, 2, 3)


@pytest.fixture
def requests(world: World) -> Iterator[Callable[[], GroupRequests]]:
    made: list[GroupRequests] = []

    def make() -> GroupRequests:
        made.append(GroupRequests(cluster(",".join(str(it) for it in world.nodes.values()))))
        return made[-1]

    yield make
    for it in made:
        it.close()


def fetched(requests: GroupRequests, groups: Any, deadline: Deadline, *, stable: bool = True) -> dict[str, Any]:
    """The offset of each group, or its error."""
    query = requests.fetch(groups, deadline, stable=stable)
    query.wait(deadline, deadline)
    query.give_up()
    return {
        group: it if isinstance(it, KafkaOpError) else it.places.get(ORDERS, (None, ""))[0]
        for group, it in query.results.items()
    }


Make = Callable[[], GroupRequests]


def test_many_groups_are_a_handful_of_requests(three: Coordinators, requests: Make) -> None:
    """Also those with ids that no schema likes."""
    names = [*(f"g{number}" for number in range(400)), *ODD]
    three.nodes = {name: 1 + number % 3 for number, name in enumerate(names)}
    three.offsets = {name: number for number, name in enumerate(names)}
    client = requests()
    assert fetched(client, names, Deadline(WAIT_S)) == three.offsets
    assert three.counts == {FIND_COORDINATOR: 1, OFFSET_FETCH: 3}
    assert fetched(client, names, Deadline(WAIT_S)) == three.offsets
    assert three.counts == {FIND_COORDINATOR: 1, OFFSET_FETCH: 6}, "coordinators are remembered"


def test_old_brokers_are_asked_for_one_group_at_a_time(world: World, requests: Make) -> None:
    world.versions = KAFKA_2_8
    two = Coordinators(world, 1, 2)
    names = [*(f"g{number}" for number in range(20)), *ODD]
    two.nodes = {name: 1 + number % 2 for number, name in enumerate(names)}
    two.offsets = {name: number for number, name in enumerate(names)}
    assert fetched(requests(), names, Deadline(WAIT_S)) == two.offsets
    assert two.counts == {FIND_COORDINATOR: 25, OFFSET_FETCH: 25}


def test_a_group_whose_coordinator_moved_is_found_again(three: Coordinators, requests: Make) -> None:
    three.nodes = {"a": 1, "b": 2}
    three.offsets = {"a": 5, "b": 6}
    client = requests()
    fetched(client, "ab", Deadline(WAIT_S))
    three.nodes["a"] = 3
    three.codes[2, "b"] = [int(KafkaError.COORDINATOR_LOAD_IN_PROGRESS)] * 2
    assert fetched(client, "ab", Deadline(WAIT_S)) == three.offsets


def test_a_coordinator_that_is_silent_holds_up_its_groups_alone(three: Coordinators, requests: Make) -> None:
    three.nodes = {"a": 1, "b": 2, "c": 3}
    three.offsets = {"a": 5, "b": 6, "c": 7}
    three.silent = {2}
    query = requests().fetch("abc", Deadline(WAIT_S), stable=True)
    patience = Deadline(WAIT_S)
    while query.results.keys() != {"a", "c"}:
        query.wait(Deadline(0.05), patience)
        assert not patience.expired
    three.silent = set()
    three.nodes["b"] = 1
    three.world.fakes[2].drop()
    query.wait(patience, patience)
    assert query.results["b"].places == {ORDERS: (6, "")}


def test_a_broker_that_is_down_is_not_waited_for_when_its_groups_move(three: Coordinators, requests: Make) -> None:
    three.nodes = {"a": 1, "b": 2}
    three.offsets = {"a": 5, "b": 6}
    client = requests()
    fetched(client, "ab", Deadline(WAIT_S))
    three.world.stop(2)
    three.nodes["b"] = 3
    assert fetched(client, "ab", Deadline(WAIT_S)) == three.offsets


def test_an_error_of_a_group_is_its_own(three: Coordinators, requests: Make) -> None:
    three.nodes = {"a": 1, "b": 1, "c": 1}
    three.offsets = {"a": 5, "b": 6}
    three.codes[1, "b"] = [int(KafkaError.GROUP_AUTHORIZATION_FAILED)]
    three.codes[1, "c"] = [int(KafkaError.GROUP_ID_NOT_FOUND)]
    found = fetched(requests(), "abc", Deadline(WAIT_S))
    assert (found["a"], found["c"]) == (5, None)
    assert "grant DESCRIBE on the group b" in str(found["b"])


def test_offsets_that_are_not_stable_are_asked_for_again(three: Coordinators, requests: Make) -> None:
    three.nodes = {"a": 1, "b": 1}
    three.offsets = {"a": 5, "b": 6}
    three.unstable["b"] = 3
    assert fetched(requests(), "ab", Deadline(WAIT_S)) == three.offsets
    assert three.asked == [(1, ["a", "b"]), *[(1, ["b"])] * 3]
    three.unstable["b"] = 10**6
    assert fetched(requests(), "b", Deadline(WAIT_S), stable=False) == {"b": 6}
    query = requests().fetch("ab", Deadline(WAIT_S), stable=True)
    patience = Deadline(WAIT_S)
    while not query.partial:
        query.wait(Deadline(0.05), patience)
        assert not patience.expired
    assert int(KafkaError.UNSTABLE_OFFSET_COMMIT) in query.partial["b"].codes.values()
    query.drop("b")
    assert query.is_done


def test_what_was_heard_last_is_said_when_the_time_is_over(three: Coordinators, requests: Make) -> None:
    three.nodes = {"a": 1, "b": -1}
    three.codes[1, "a"] = [int(KafkaError.COORDINATOR_LOAD_IN_PROGRESS)] * 1000
    found = fetched(requests(), "ab", Deadline(1))
    assert all(isinstance(it, RetriableError) for it in found.values())
    assert found["a"].code == "COORDINATOR_LOAD_IN_PROGRESS"
    assert found["a"].op == "read the offsets of the group a on east"
    assert found["b"].code == "COORDINATOR_NOT_AVAILABLE"


def test_commits_say_what_was_not_taken(three: Coordinators, requests: Make) -> None:
    three.nodes = {"a": 1, "b": 2, "": 3}
    three.codes[1, "a"] = [int(KafkaError.NOT_COORDINATOR)]
    three.codes[2, "b"] = [int(KafkaError.UNKNOWN_MEMBER_ID)]
    wanted = {name: {ORDERS: (number, "größe"), TP("orders", 1): (1, "")} for number, name in enumerate(three.nodes)}
    outcome = requests().commit(wanted, Deadline(WAIT_S))
    refused = int(KafkaError.UNKNOWN_MEMBER_ID)
    assert outcome["b"] == {ORDERS: refused, TP("orders", 1): refused}
    assert outcome["a"] == outcome[""] == {ORDERS: 0, TP("orders", 1): 0}
    assert three.offsets == {"a": 0, "": 2}


def test_every_broker_is_asked_for_its_groups(three: Coordinators, requests: Make) -> None:
    """One that loads is waited for; one that fails is said to be missing, and takes nothing from the others."""
    three.nodes = {"a": 1, "b": 2, "c": 3, "中" * 600: 1}
    three.codes[2, "list"] = [int(KafkaError.COORDINATOR_LOAD_IN_PROGRESS)] * 2
    listed = requests().list(Deadline(WAIT_S))
    assert listed.states == dict.fromkeys(three.nodes, "Empty")
    assert listed.errors == []
    three.codes[3, "list"] = [int(KafkaError.UNKNOWN)]
    listed = requests().list(Deadline(WAIT_S))
    assert listed.states.keys() == three.nodes.keys() - {"c"}
    assert len(listed.errors) == 1


def test_a_broker_that_came_lately_is_asked_too(three: Coordinators, requests: Make) -> None:
    client = requests()
    three.nodes = {"a": 1}
    assert client.list(Deadline(WAIT_S)).states.keys() == {"a"}
    three.world.start(4)
    three.nodes["d"] = 4
    assert client.list(Deadline(WAIT_S)).states.keys() == {"a", "d"}


def test_no_broker_is_an_error() -> None:
    with closing(GroupRequests(cluster("127.0.0.1:1"))) as client, pytest.raises(RetriableError):
        client.list(Deadline(0.5))


def test_a_commit_in_a_transaction_is_encoded_as_the_schema_says() -> None:
    places = {ORDERS: (7, "größe"), TP("orders", 3): (8, ""), TP("payments", 1): (9, "x" * 300)}
    body = group_codecs.commit_in_transaction("中" * 50, places, "id", 1 << 40, 12).encode(3)
    said = TxnOffsetCommitRequest.decode(body, version=3)
    assert (said.transactional_id, said.group_id) == ("id", "中" * 50)
    assert (said.producer_id, said.producer_epoch) == (1 << 40, 12)
    assert (said.generation_id, said.member_id, said.group_instance_id) == (-1, "", None)
    assert {
        TP(topic.name, it.partition_index): (it.committed_offset, it.committed_metadata.removesuffix("\0"))
        for topic in said.topics
        for it in topic.partitions
    } == places
    ends = {it.committed_metadata[-1:] for topic in said.topics for it in topic.partitions}
    assert ends == {"", "\0"}, "librdkafka's readers need an end where there is something"


def test_metadata_of_other_clients_is_the_same_with_and_without_an_end(three: Coordinators, requests: Make) -> None:
    three.nodes = {"a b": 1, "a": 1}
    three.offsets = {"a b": 5, "a": 6}
    for metadata in ("mine", "mine\0"):
        three.metadata = metadata
        query = requests().fetch(["a b", "a"], Deadline(WAIT_S), stable=True)
        query.wait(Deadline(WAIT_S), Deadline(WAIT_S))
        assert query.results["a b"].places == {ORDERS: (5, "mine")}
        assert query.results["a"].places == {ORDERS: (6, "")}
