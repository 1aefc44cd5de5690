"""Topic ids: one comparison, for which an id that is not known is the same as any."""

from __future__ import annotations

import pytest

from replicator.offset_map.topic_id import NO_ID, TopicId

ID, OTHER_ID = TopicId(range(16)), TopicId(range(1, 17))


@pytest.mark.parametrize(
    ("one", "other", "are_same"),
    [(ID, ID, True), (ID, OTHER_ID, False), (ID, NO_ID, True), (NO_ID, NO_ID, True), (TopicId(), ID, True)],
)
def test_only_ids_that_are_known_can_differ(one: TopicId, other: TopicId, are_same: bool) -> None:
    assert one.same_as(other) == other.same_as(one) == are_same


def test_no_id_is_what_brokers_without_ids_send() -> None:
    assert bytes(16) == NO_ID
    assert not NO_ID.is_known
    assert ID.is_known
