"""What is known of groups when brokers answer late, in part, or not at all. The client is faked."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any

import pytest
import structlog

from replicator.config import ClusterSettings
from replicator.deadline import Deadline
from replicator.errors import TP, RetriableError
from replicator.kafka import groups
from replicator.kafka.cluster import Cluster, KafkaError, KafkaException
from replicator.kafka.group_offsets import GroupState
from replicator.kafka.groups import GroupList, OffsetsReader, group_states, unlisted_groups

LOG = structlog.wrap_logger(None, wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
CLUSTER = Cluster("east", "source", ClusterSettings(bootstrap_servers="127.0.0.1:1"), "replicator-east-west")
NO_BROKER = KafkaError(KafkaError._TRANSPORT)


def answer(*places: tuple[int, int, KafkaError | None]) -> SimpleNamespace:
    """A group's offsets: partition, offset, error."""
    partitions = [SimpleNamespace(topic="orders", partition=p, offset=o, error=e, metadata="") for p, o, e in places]
    return SimpleNamespace(topic_partitions=partitions)


class FakeAdmin:
    """Hands out the futures that a test gave it."""

    def __init__(self) -> None:
        self.offsets: dict[str, Future[Any]] = {}
        self.listing: Future[Any] = Future()
        self.described: list[str] = []

    def list_consumer_group_offsets(self, request: list[Any], **_: Any) -> Mapping[str, Future[Any]]:
        group = request[0].group_id
        return {group: self.offsets.setdefault(group, Future())}

    def list_consumer_groups(self, **_: Any) -> Future[Any]:
        return self.listing

    def describe_consumer_groups(self, names: list[str], **_: Any) -> Mapping[str, Future[Any]]:
        """Every group that is asked for has one member; one that is called like an error fails with it."""
        self.described += names
        member = SimpleNamespace(client_id="c", host="/10.0.0.1")
        found: dict[str, Future[Any]] = {name: Future() for name in names}
        for name, future in found.items():
            if name.isupper():
                future.set_exception(KafkaException(KafkaError(getattr(KafkaError, name))))
            else:
                future.set_result(SimpleNamespace(state=SimpleNamespace(name="STABLE"), members=[member]))
        return found

    def answers(self, **by_group: SimpleNamespace | int) -> None:
        """What is asked next about these groups is answered at once: with offsets, or with an error's code."""
        for group, it in by_group.items():
            future = self.offsets[group] = Future()
            if isinstance(it, int):
                future.set_exception(KafkaException(KafkaError(it)))
            else:
                future.set_result(it)

    def lists(self, *names: str, errors: tuple[KafkaError, ...] = ()) -> None:
        valid = [SimpleNamespace(group_id=name, state=SimpleNamespace(name="EMPTY")) for name in names]
        self.listing = Future()
        self.listing.set_result(SimpleNamespace(valid=valid, errors=[KafkaException(it) for it in errors]))


def test_an_answer_that_came_late_is_used_and_said_to_be_unsure(monkeypatch: pytest.MonkeyPatch) -> None:
    """It may be older than the call that it comes with: the checkpoints' pulse must not vouch for it."""
    monkeypatch.setattr(groups, "LATE_AFTER_S", 0.05)
    admin: Any = FakeAdmin()
    reader = OffsetsReader(CLUSTER, admin, LOG)
    assert reader.read(["slow"], Deadline(5)) == {}
    assert reader.unsure == {"slow"}
    admin.offsets.pop("slow").set_result(answer((0, 7, None)))
    found = reader.read(["slow"], Deadline(5))
    assert found["slow"][TP("orders", 0)].next_offset == 7
    assert reader.unsure == {"slow"}
    admin.offsets["slow"] = Future()
    admin.offsets["slow"].set_result(answer((0, 8, None)))
    assert reader.read(["slow"], Deadline(5))["slow"][TP("orders", 0)].next_offset == 8
    assert reader.unsure == set()


def test_an_answer_that_lacks_a_partition_is_unsure() -> None:
    admin: Any = FakeAdmin()
    admin.offsets["g"] = Future()
    admin.offsets["g"].set_result(answer((0, 7, None), (1, -1, KafkaError(KafkaError.UNSTABLE_OFFSET_COMMIT))))
    reader = OffsetsReader(CLUSTER, admin, LOG)
    assert set(reader.read(["g"], Deadline(5))["g"]) == {TP("orders", 0)}
    assert reader.unsure == {"g"}


def test_a_group_that_may_not_be_read_is_unsure() -> None:
    admin: Any = FakeAdmin()
    admin.offsets["g"] = Future()
    admin.offsets["g"].set_exception(KafkaException(KafkaError(KafkaError.GROUP_AUTHORIZATION_FAILED)))
    reader = OffsetsReader(CLUSTER, admin, LOG)
    assert reader.read(["g"], Deadline(5)) == {}
    assert reader.unsure == reader.failures.keys() == {"g"}


def test_groups_that_a_list_lacks_are_kept_until_they_have_no_offsets() -> None:
    """A broker may be silent, and one whose coordinators are moving says nothing of their groups."""
    admin: Any = FakeAdmin()
    reader = OffsetsReader(CLUSTER, admin, LOG)
    listing = GroupList(CLUSTER, admin, lambda name: name != "other", 0.0, LOG)
    admin.lists("a", "b", "other")
    assert (listing.get(Deadline(5)), listing.is_complete) == ({"a", "b"}, True)
    admin.lists("a", "c", errors=(NO_BROKER,))
    assert (listing.get(Deadline(5)), listing.is_complete) == ({"a", "b", "c"}, False)
    admin.lists()
    assert (listing.get(Deadline(5)), listing.is_complete) == ({"a", "b", "c"}, True)

    not_now, not_allowed = KafkaError.NOT_COORDINATOR, KafkaError.GROUP_AUTHORIZATION_FAILED
    admin.answers(a=answer((0, 7, None)), b=answer(), c=not_now)
    listing.take(reader.read("abc", Deadline(5)), reader)
    assert listing.get(Deadline(5)) == {"a", "c"}
    admin.answers(a=not_allowed, c=answer((0, -1, KafkaError(KafkaError.UNSTABLE_OFFSET_COMMIT))))
    listing.take(reader.read("ac", Deadline(5)), reader)
    assert listing.get(Deadline(5)) == {"c"}

    admin.lists("c")
    listing.get(Deadline(5))
    admin.answers(c=answer())
    listing.take(reader.read("c", Deadline(5)), reader)
    assert listing.get(Deadline(5)) == {"c"}, "it has not committed yet"
    admin.lists(errors=(NO_BROKER,))
    with pytest.raises(RetriableError):
        listing.get(Deadline(5))


def test_groups_of_which_the_checkpoints_know_are_looked_for() -> None:
    admin: Any = FakeAdmin()
    listing = GroupList(CLUSTER, admin, lambda name: True, 0.0, LOG)
    listing.add({"before"})
    admin.lists("now")
    assert listing.get(Deadline(5)) == {"before", "now"}


def test_groups_that_a_list_lacks_are_asked_for_one_by_one() -> None:
    admin: Any = FakeAdmin()
    found = unlisted_groups(CLUSTER, admin, ["there", "GROUP_ID_NOT_FOUND", "GROUP_AUTHORIZATION_FAILED"], Deadline(5))
    assert found == {"there"}
    with pytest.raises(RetriableError):
        unlisted_groups(CLUSTER, admin, ["there", "COORDINATOR_NOT_AVAILABLE"], Deadline(5))


def test_groups_at_rest_are_known_from_one_answer() -> None:
    """Others are described, also those that are not in it: a broker may be silent, or a right missing."""
    admin: Any = FakeAdmin()
    admin.lists("rests", "works")
    admin.listing.result().valid[1].state.name = "STABLE"
    found = group_states(CLUSTER, admin, ["rests", "works", "hidden"], Deadline(5))
    assert admin.described == ["works", "hidden"]
    assert found["rests"] == GroupState("EMPTY")
    assert found["works"] == found["hidden"] == GroupState("STABLE", ("c at 10.0.0.1",))
