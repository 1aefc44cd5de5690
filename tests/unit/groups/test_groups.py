"""What is known of groups when brokers answer late, in part, or not at all. The client is faked."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import Any

import pytest
import structlog

from replicator.config import ClusterSettings
from replicator.deadline import Deadline
from replicator.errors import TP, KafkaOpError, RetriableError
from replicator.groups import reader as reader_module
from replicator.groups.client import Listing, ReadOffsets
from replicator.groups.listing import GroupList, group_states, unlisted_groups
from replicator.groups.offsets import Committed, GroupState
from replicator.groups.reader import OffsetsReader
from replicator.kafka.cluster import Cluster, KafkaError

LOG = structlog.wrap_logger(None, wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
CLUSTER = Cluster("east", "source", ClusterSettings(bootstrap_servers="127.0.0.1:1"), "replicator-east-west")
NO_BROKER = CLUSTER.error(KafkaError(KafkaError._TRANSPORT), op="list groups")


def at(place: int, *, is_complete: bool = True) -> ReadOffsets:
    return ReadOffsets({TP("orders", 0): Committed(place)}, is_complete)


def error(code: int) -> KafkaOpError:
    return CLUSTER.error(KafkaError(code), op="read", group="g")


class FakeQuery:
    """Has the answers that its client had when it was waited for, whether they came in time or later."""

    def __init__(self, client: FakeClient, groups: Iterable[str]) -> None:
        self.results: dict[str, ReadOffsets | KafkaOpError] = {}
        self.left = set(groups)
        self._client = client

    @property
    def is_done(self) -> bool:
        return not self.left

    def wait(self, patience: Deadline, deadline: Deadline) -> None:
        answered = self.left & self._client.offsets.keys()
        self.results |= {group: self._client.offsets[group] for group in answered}
        self.left -= answered

    def take_partial(self, groups: Iterable[str]) -> dict[str, ReadOffsets]:
        found = {group: self._client.partial[group] for group in groups if group in self._client.partial}
        self.left -= found.keys()
        return found


class FakeClient:
    """Answers what a test gave it."""

    cluster = CLUSTER

    def __init__(self) -> None:
        self.offsets: dict[str, ReadOffsets | KafkaOpError] = {}
        self.partial: dict[str, ReadOffsets] = {}
        self.asked: list[list[str]] = []
        self.listing = Listing({})
        self.described: list[str] = []

    def list(self, deadline: Deadline) -> Listing:
        if self.listing.errors and not self.listing.states:
            raise self.listing.errors[0]
        return self.listing

    def describe(self, groups: Iterable[str], deadline: Deadline) -> dict[str, GroupState | KafkaOpError]:
        """Every group has one member, but ``DEAD…``, which is not there; one called like an error fails with it."""
        names = list(groups)
        self.described += names
        member = GroupState("STABLE", ("c at 10.0.0.1",))
        found: dict[str, GroupState | KafkaOpError] = dict.fromkeys(names, member)
        for name in names:
            if name.startswith("DEAD"):
                found[name] = GroupState()
            elif name.isupper():
                found[name] = error(getattr(KafkaError, name))
        return found

    def ask_offsets(self, groups: Iterable[str], deadline: Deadline, *, stable: bool) -> FakeQuery:
        self.asked.append(list(groups))
        return FakeQuery(self, self.asked[-1])

    def lists(
        self, *names: str, states: Mapping[str, str] | None = None, errors: tuple[KafkaOpError, ...] = ()
    ) -> None:
        self.listing = Listing(dict.fromkeys(names, "EMPTY") | dict(states or {}), errors)


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(reader_module, "LATE_AFTER_S", 0.05)
    return FakeClient()


def test_an_answer_that_came_late_is_used_and_said_to_be_unsure(client: Any) -> None:
    """It may be older than the call that it comes with: the group must not be reported as up to date."""
    reader = OffsetsReader(client, LOG)
    assert reader.read(["slow"], Deadline(5)) == {}
    assert reader.unsure == {"slow"}
    client.offsets["slow"] = at(7)
    assert reader.read(["slow"], Deadline(5)) == {"slow": at(7).offsets}
    assert reader.unsure == {"slow"}
    assert client.asked == [["slow"]], "it was not asked for twice"
    client.offsets["slow"] = at(8)
    assert reader.read(["slow"], Deadline(5)) == {"slow": at(8).offsets}
    assert reader.unsure == set()


def test_what_is_forgotten_is_asked_for_again(client: Any) -> None:
    reader = OffsetsReader(client, LOG)
    reader.read(["slow"], Deadline(5))
    reader.forget_late()
    client.offsets["slow"] = at(7)
    assert reader.read(["slow"], Deadline(5)) == {"slow": at(7).offsets}
    assert reader.unsure == set()


def test_a_group_without_an_answer_is_late_alone(client: Any) -> None:
    client.offsets["there"] = at(3)
    reader = OffsetsReader(client, LOG)
    assert reader.read(["there", "silent"], Deadline(5)) == {"there": at(3).offsets}
    assert reader.unsure == {"silent"}
    assert reader.failures == {}


def test_answers_that_keep_coming_are_waited_for(client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Thousands of groups may take longer than one that gives no answer is waited for."""
    names = [f"g{number:02d}" for number in range(20)]
    monkeypatch.setattr(reader_module, "LOOK_AGAIN_S", 0.01)
    wait = FakeQuery.wait

    def one_more(query: FakeQuery, patience: Deadline, deadline: Deadline) -> None:
        while not patience.expired:
            pass
        client.offsets[names[len(query.results)]] = at(1)
        wait(query, patience, deadline)

    monkeypatch.setattr(FakeQuery, "wait", one_more)
    reader = OffsetsReader(client, LOG)
    assert reader.read(names, Deadline(30)).keys() == set(names)
    assert reader.unsure == set()


@pytest.mark.parametrize("is_final", [True, False])
def test_an_answer_that_lacks_a_partition_is_unsure(client: Any, is_final: bool) -> None:
    """Whether the client goes on to ask for the end of the transaction, or not."""
    (client.offsets if is_final else client.partial)["g"] = at(7, is_complete=False)
    reader = OffsetsReader(client, LOG)
    for number in (1, 2):
        assert reader.read(["g"], Deadline(5)) == {"g": at(7).offsets}
        assert reader.unsure == {"g"}
        assert len(client.asked) == number, "the next pass asks again"


def test_a_group_that_may_not_be_read_is_unsure(client: Any) -> None:
    client.offsets["g"] = error(KafkaError.GROUP_AUTHORIZATION_FAILED)
    reader = OffsetsReader(client, LOG)
    assert reader.read(["g"], Deadline(5)) == {}
    assert reader.unsure == reader.failures.keys() == {"g"}


def test_nothing_that_can_be_read_is_an_error(client: Any) -> None:
    client.offsets["g"] = error(KafkaError.NOT_COORDINATOR)
    with pytest.raises(RetriableError):
        OffsetsReader(client, LOG).read(["g"], Deadline(5))


def test_groups_that_a_list_lacks_are_kept_until_they_have_no_offsets(client: Any) -> None:
    """A broker may be silent, and one whose coordinators are moving says nothing of their groups."""
    reader = OffsetsReader(client, LOG)
    listing = GroupList(client, lambda name: name != "other", 0.0, LOG)
    client.lists("a", "b", "other")
    assert (listing.get(Deadline(5)), listing.is_complete) == ({"a", "b"}, True)
    client.lists("a", "c", errors=(NO_BROKER,))
    assert (listing.get(Deadline(5)), listing.is_complete) == ({"a", "b", "c"}, False)
    client.lists()
    assert (listing.get(Deadline(5)), listing.is_complete) == ({"a", "b", "c"}, True)

    client.offsets = {"a": at(7), "b": ReadOffsets(), "c": error(KafkaError.NOT_COORDINATOR)}
    listing.take(reader.read("abc", Deadline(5)), reader)
    assert listing.get(Deadline(5)) == {"a", "c"}
    client.offsets = {"a": error(KafkaError.GROUP_AUTHORIZATION_FAILED), "c": ReadOffsets({}, is_complete=False)}
    listing.take(reader.read("ac", Deadline(5)), reader)
    assert listing.get(Deadline(5)) == {"c"}

    client.lists("c")
    listing.get(Deadline(5))
    client.offsets = {"c": ReadOffsets()}
    listing.take(reader.read("c", Deadline(5)), reader)
    assert listing.get(Deadline(5)) == {"c"}, "it has not committed yet"
    client.lists(errors=(NO_BROKER,))
    with pytest.raises(RetriableError):
        listing.get(Deadline(5))


def test_groups_of_which_the_checkpoints_know_are_looked_for(client: Any) -> None:
    listing = GroupList(client, lambda name: True, 0.0, LOG)
    listing.add({"before"})
    client.lists("now")
    assert listing.get(Deadline(5)) == {"before", "now"}


def test_groups_that_a_list_lacks_are_asked_for_one_by_one(client: Any) -> None:
    assert unlisted_groups(client, ["there", "DEAD", "GROUP_AUTHORIZATION_FAILED"], Deadline(5)) == {"there"}
    with pytest.raises(RetriableError):
        unlisted_groups(client, ["there", "COORDINATOR_NOT_AVAILABLE"], Deadline(5))


def test_groups_at_rest_are_known_from_one_answer(client: Any) -> None:
    """Others are described, also those that are not in it: a broker may be silent, or a right missing."""
    client.lists("rests", states={"works": "STABLE", "DEAD-share": "STABLE"})
    found = group_states(client, ["rests", "works", "hidden", "DEAD-share", "DEAD-one"], Deadline(5))
    assert client.described == ["works", "hidden", "DEAD-share", "DEAD-one"]
    assert found["rests"] == GroupState("EMPTY")
    assert found["works"] == found["hidden"] == GroupState("STABLE", ("c at 10.0.0.1",))
    assert found["DEAD-share"] == GroupState("STABLE"), "listed, and of a type that no request describes"
    assert found["DEAD-one"] == GroupState()
