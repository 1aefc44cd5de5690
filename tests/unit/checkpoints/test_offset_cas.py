"""Which groups a compare-and-set commits, reports and leaves out (invariant F). The client is faked."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import pytest

from replicator.checkpoints.offset_cas import OffsetCas
from replicator.config import ClusterSettings
from replicator.deadline import Deadline
from replicator.errors import TP, FencedError, KafkaOpError, RetriableError
from replicator.groups.offsets import Committed, GroupOffsets
from replicator.kafka.cluster import Cluster, KafkaError

CLUSTER = Cluster("west", "target", ClusterSettings(bootstrap_servers="127.0.0.1:1"), "replicator-east-west")
PLACE: GroupOffsets = {TP("orders", 0): Committed(5)}


def error(code: int) -> KafkaOpError:
    return CLUSTER.error(KafkaError(code), op="commit", group="g")


class FakeTransactions:
    """Keeps what was placed until it is committed, as a broker does.

    Attributes:
        fails: why a group's offsets are not placed, by group.
        steps: what was done.
    """

    def __init__(self) -> None:
        self.fails: dict[str, KafkaOpError] = {}
        self.fences = False
        self.steps: list[str] = []
        self.placed: dict[str, GroupOffsets] = {}
        self.committed: dict[str, GroupOffsets] = {}

    def transaction(self, transactional_id: str, deadline: Deadline) -> FakeTransactions:
        self.steps.append("open")
        return self

    def place(self, wanted: Mapping[str, GroupOffsets], deadline: Deadline) -> dict[str, KafkaOpError]:
        assert not self.placed, "the last one was not ended"
        self.steps.append("place " + "".join(wanted))
        self.placed = dict(wanted)
        return {group: why for group, why in self.fails.items() if group in wanted}

    def commit(self, deadline: Deadline) -> None:
        if self.fences:
            raise FencedError("somebody else", op="commit", code="PRODUCER_FENCED")
        self.steps.append("commit")
        self.committed |= self.placed
        self.placed = {}

    def abort(self, deadline: Deadline) -> None:
        self.steps.append("abort")
        self.placed = {}

    def close(self) -> None:
        self.steps.append("close")


@pytest.fixture
def fake() -> Any:
    return FakeTransactions()


def outcome(fake: Any, groups: str, look: Any = lambda groups: groups) -> dict[str, KafkaOpError | None]:
    outcomes: dict[str, KafkaOpError | None] = {}
    OffsetCas(fake, "id").commit(dict.fromkeys(groups, PLACE), look, outcomes.__setitem__, Deadline(5))
    return outcomes


def test_what_the_look_confirms_is_committed(fake: Any) -> None:
    def look(groups: Collection[str]) -> Collection[str]:
        return [group for group in groups if group != "b"]

    assert outcome(fake, "abc", look) == {"a": None, "c": None}
    assert fake.steps == ["open", "place abc", "abort", "place ac", "commit"]
    assert fake.committed.keys() == {"a", "c"}


def test_a_group_that_is_refused_costs_the_others_nothing(fake: Any) -> None:
    fake.fails = {"a": error(KafkaError.GROUP_AUTHORIZATION_FAILED), "c": error(KafkaError.UNKNOWN_TOPIC_OR_PART)}
    assert outcome(fake, "abc") == {**fake.fails, "b": None}
    assert fake.steps == ["open", "place abc", "abort", "place b", "commit"]


def test_a_group_whose_coordinator_is_silent_comes_again_and_the_others_go_on(fake: Any) -> None:
    fake.fails = {"b": RetriableError("no answer", op="commit", code="_TIMED_OUT")}
    assert outcome(fake, "abc") == {"a": None, "c": None}
    assert fake.committed.keys() == {"a", "c"}


def test_no_group_that_can_be_placed_is_an_error(fake: Any) -> None:
    """Else the duty would take a target without coordinators for one that works."""
    fake.fails = {"a": RetriableError("no answer", op="commit", code="_TIMED_OUT")}
    with pytest.raises(RetriableError):
        outcome(fake, "a")
    assert fake.committed == {}
    assert fake.steps[-1] == "close"


def test_after_an_error_nothing_stays_open(fake: Any) -> None:
    fake.fences = True
    with pytest.raises(FencedError):
        outcome(fake, "a")
    assert fake.steps == ["open", "place a", "abort", "close"]
    assert fake.committed == {}
