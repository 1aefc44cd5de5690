"""What a broker is told of our fetching: everything once, then what changed; and which answers count."""

from __future__ import annotations

from typing import Any

from kafka.protocol.consumer.fetch import FetchRequest

from replicator.errors import TP
from replicator.planes.batches.fetch_session import LAST_EPOCH, Assigned, Session
from replicator.protocol.fetch import BY_ID, BY_NAME, FetchResponse

ORDERS, PAYMENTS = TP("orders", 0), TP("payments", 3)
IDS = {"orders": b"o" * 16, "payments": b"p" * 16}


def assigned(tp: TP, position: int) -> Assigned:
    it = Assigned(position)
    it.topic_id = IDS[tp.topic]
    return it


def session(partitions: dict[TP, Assigned]) -> Session:
    it = Session()
    for tp, partition in partitions.items():
        it.join(tp, partition.topic_id)
    return it


def requested(
    it: Session, partitions: dict[TP, Assigned], newest: int = BY_NAME
) -> tuple[int, int, dict[Any, Any], Any]:
    """(session id, epoch, positions by topic, forgotten by topic) of the next request."""
    body = b"".join(it.request(partitions, 1000, "", newest))
    request = FetchRequest.decode(body, version=it.version)
    key = "topic_id" if it.by_id else "topic"
    positions = {getattr(t, key): {p.partition: p.fetch_offset for p in t.partitions} for t in request.topics}
    return (
        request.session_id,
        request.session_epoch,
        positions,
        {getattr(t, key): list(t.partitions) for t in request.forgotten_topics_data},
    )


def test_everything_is_named_once_then_what_changed() -> None:
    partitions = {ORDERS: assigned(ORDERS, 5), PAYMENTS: assigned(PAYMENTS, 6)}
    it = session(partitions)
    assert requested(it, partitions) == (0, 0, {"orders": {0: 5}, "payments": {3: 6}}, {})
    it.on_response(FetchResponse(0, 0, 77, []))
    assert requested(it, partitions) == (77, 1, {}, {})
    it.on_response(FetchResponse(0, 0, 77, []))
    partitions[ORDERS].position = 9
    it.changed.add(ORDERS)
    assert requested(it, partitions) == (77, 2, {"orders": {0: 9}}, {})


def test_a_broker_that_keeps_no_session_is_told_everything_each_time() -> None:
    partitions = {ORDERS: assigned(ORDERS, 5)}
    it = session(partitions)
    for _ in range(3):
        assert requested(it, partitions) == (0, 0, {"orders": {0: 5}}, {})
        it.on_response(FetchResponse(0, 0, 0, []))


def test_what_left_is_forgotten_once_and_may_come_back() -> None:
    partitions = {ORDERS: assigned(ORDERS, 5), PAYMENTS: assigned(PAYMENTS, 6)}
    it = session(partitions)
    requested(it, partitions)
    it.on_response(FetchResponse(0, 0, 77, []))
    it.leave(PAYMENTS)
    assert requested(it, partitions) == (77, 1, {}, {"payments": [3]})
    it.on_response(FetchResponse(0, 0, 77, []))
    assert requested(it, partitions) == (77, 2, {}, {})
    it.on_response(FetchResponse(0, 0, 77, []))
    it.leave(ORDERS)
    it.join(ORDERS, IDS["orders"])
    assert requested(it, partitions) == (77, 3, {"orders": {0: 5}}, {})


def test_what_was_never_named_needs_no_forgetting() -> None:
    partitions = {ORDERS: assigned(ORDERS, 5)}
    it = session(partitions)
    it.leave(ORDERS)
    assert requested(it, partitions) == (0, 0, {}, {})


def test_a_lost_session_begins_again() -> None:
    partitions = {ORDERS: assigned(ORDERS, 5)}
    it = session(partitions)
    requested(it, partitions)
    it.on_response(FetchResponse(0, 0, 77, []))
    it.reset()
    assert requested(it, partitions) == (0, 0, {"orders": {0: 5}}, {})


def test_the_epoch_begins_again_at_one() -> None:
    partitions = {ORDERS: assigned(ORDERS, 5)}
    it = session(partitions)
    it.epoch, it.id = LAST_EPOCH, 77
    it.on_response(FetchResponse(0, 0, 77, []))
    assert it.epoch == 1


def test_topics_go_by_id_when_the_broker_can_and_all_have_one() -> None:
    partitions = {ORDERS: assigned(ORDERS, 5), PAYMENTS: assigned(PAYMENTS, 6)}
    it = session(partitions)
    _, _, positions, _ = requested(it, partitions, BY_ID)
    assert {topic.bytes for topic in positions} == set(IDS.values())
    partitions[PAYMENTS].topic_id = bytes(16)
    it = session(partitions)
    assert set(requested(it, partitions, BY_ID)[2]) == {"orders", "payments"}


def test_a_topic_that_was_created_again_begins_a_new_session() -> None:
    """The broker would otherwise go on telling of the old one, under the same name for us."""
    partitions = {ORDERS: assigned(ORDERS, 5)}
    it = session(partitions)
    requested(it, partitions, BY_ID)
    it.on_response(FetchResponse(0, 0, 77, []))
    it.leave(ORDERS)
    partitions[ORDERS].topic_id = b"n" * 16
    it.join(ORDERS, b"n" * 16)
    session_id, epoch, positions, _ = requested(it, partitions, BY_ID)
    assert (session_id, epoch, {t.bytes for t in positions}) == (0, 0, {b"n" * 16})
    assert not it.is_current_answer(ORDERS, partitions[ORDERS], IDS["orders"])
    assert it.is_current_answer(ORDERS, partitions[ORDERS], b"n" * 16)


def test_answers_to_another_position_do_not_count() -> None:
    """A: after an abort the position goes back; what was asked for before is dropped, and asked for anew."""
    partitions = {ORDERS: assigned(ORDERS, 5)}
    it = session(partitions)
    assert not it.is_current_answer(ORDERS, partitions[ORDERS], "orders")
    requested(it, partitions)
    it.on_response(FetchResponse(0, 0, 77, []))
    assert it.is_current_answer(ORDERS, partitions[ORDERS], "orders")
    partitions[ORDERS].position = 2
    assert not it.is_current_answer(ORDERS, partitions[ORDERS], "orders")
    assert requested(it, partitions) == (77, 1, {"orders": {0: 2}}, {})
