"""Fetch: our bytes are those of kafka-python's schemas, theirs are understood, and damaged ones are refused."""

from __future__ import annotations

import contextlib
import time
import uuid
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from kafka.protocol.consumer.fetch import FetchRequest
from kafka.protocol.consumer.fetch import FetchResponse as TheirResponse

from replicator.protocol.fetch import (
    BY_ID,
    BY_NAME,
    FetchPosition,
    FetchResponse,
    PartitionData,
    TopicKey,
    decode_fetch,
    encode_fetch,
)
from replicator.protocol.primitives import ProtocolError, uvarint

INT32 = st.integers(-(2**31), 2**31 - 1)
INDEX = st.integers(0, 2**31 - 1)
INT64 = st.integers(-(2**63), 2**63 - 1)
NAMES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=150)
IDS = st.binary(min_size=16, max_size=16)
by_both = pytest.mark.parametrize(("version", "kind"), [(BY_NAME, NAMES), (BY_ID, IDS)], ids=["by name", "by id"])
POSITIONS = st.builds(FetchPosition, partition=INDEX, offset=INT64, leader_epoch=INT32, last_epoch=INT32)
PARTITIONS = st.builds(
    PartitionData,
    topic=st.just(""),
    partition=INDEX,
    error=st.integers(-1, 200),
    high_watermark=INT64,
    last_stable_offset=INT64,
    log_start_offset=INT64,
    aborted=st.lists(st.tuples(INT64, INT64), max_size=5),
    preferred_replica=INT32,
    diverging=st.none() | st.tuples(INT32.filter(lambda x: x != -1), INT64),
    leader=st.none() | st.tuples(INT32.filter(lambda x: x != -1), INT32),
    records=st.binary(max_size=300).map(memoryview),
)


@by_both
@settings(max_examples=30)
@given(
    data=st.data(),
    numbers=st.lists(INT32, min_size=6, max_size=6),
    rack=st.text(st.characters(exclude_categories=["Cs"]), max_size=200),
)
def test_a_request_is_the_one_of_the_schema(
    version: int, kind: st.SearchStrategy[TopicKey], data: st.DataObject, numbers: list[int], rack: str
) -> None:
    topics = data.draw(st.dictionaries(kind, st.lists(POSITIONS, max_size=5), max_size=4))
    forgotten = data.draw(st.dictionaries(kind, st.lists(INDEX, max_size=5), max_size=4))
    wait, least, most, partition_most, session_id, session_epoch = numbers
    ours = encode_fetch(
        max_wait_ms=wait,
        min_bytes=least,
        max_bytes=most,
        partition_max_bytes=partition_most,
        session_id=session_id,
        session_epoch=session_epoch,
        topics=topics,
        forgotten=forgotten,
        rack=rack,
    )
    theirs = FetchRequest(
        replica_id=-1,
        max_wait_ms=wait,
        min_bytes=least,
        max_bytes=most,
        isolation_level=1,
        session_id=session_id,
        session_epoch=session_epoch,
        topics=[
            FetchRequest.FetchTopic(
                partitions=[_their_position(p, partition_most) for p in positions], **_their_topic(topic)
            )
            for topic, positions in topics.items()
        ],
        forgotten_topics_data=[
            FetchRequest.ForgottenTopic(partitions=partitions, **_their_topic(topic))
            for topic, partitions in forgotten.items()
        ],
        rack_id=rack,
    )
    assert b"".join(ours) == theirs.encode(version=version)


def _their_topic(topic: TopicKey) -> dict[str, Any]:
    return {"topic_id": uuid.UUID(bytes=topic)} if isinstance(topic, bytes) else {"topic": topic}


def _their_position(position: FetchPosition, most: int) -> Any:
    return FetchRequest.FetchTopic.FetchPartition(
        partition=position.partition,
        current_leader_epoch=position.leader_epoch,
        fetch_offset=position.offset,
        last_fetched_epoch=position.last_epoch,
        log_start_offset=-1,
        partition_max_bytes=most,
    )


def test_a_request_byte_by_byte() -> None:
    position = FetchPosition(1, 99, 5, 4)
    body = encode_fetch(
        max_wait_ms=500,
        min_bytes=1,
        max_bytes=100,
        partition_max_bytes=1000,
        session_id=7,
        session_epoch=3,
        topics={"a": [position]},
        forgotten={"z": [1, 2]},
        rack="r1",
    )
    assert b"".join(body).hex() == (
        "ffffffff000001f400000001000000640100000007000000030202610200000001000000050000000000000063"
        "00000004ffffffffffffffff000003e8000002027a0300000001000000020003723100"
    )


def encode_response(response: FetchResponse, version: int = BY_NAME) -> bytes:
    topics = list(dict.fromkeys(p.topic for p in response.partitions))
    their_topics = [[_their_partition(p) for p in response.partitions if p.topic == topic] for topic in topics]
    encoded: bytes = TheirResponse(
        throttle_time_ms=response.throttle_ms,
        error_code=response.error,
        session_id=response.session_id,
        responses=[
            TheirResponse.FetchableTopicResponse(partitions=partitions, **_their_topic(topic))
            for topic, partitions in zip(topics, their_topics, strict=True)
        ],
    ).encode(version=version)
    return encoded


def _their_partition(it: PartitionData) -> Any:
    TheirResponse()  # defines the classes inside
    theirs = TheirResponse.FetchableTopicResponse.PartitionData
    tags: dict[str, Any] = {}
    if it.diverging is not None:
        tags["diverging_epoch"] = theirs.EpochEndOffset(epoch=it.diverging[0], end_offset=it.diverging[1])
    if it.leader is not None:
        tags["current_leader"] = theirs.LeaderIdAndEpoch(leader_id=it.leader[0], leader_epoch=it.leader[1])
    return theirs(
        partition_index=it.partition,
        error_code=it.error,
        high_watermark=it.high_watermark,
        last_stable_offset=it.last_stable_offset,
        log_start_offset=it.log_start_offset,
        aborted_transactions=[theirs.AbortedTransaction(producer_id=p, first_offset=o) for p, o in it.aborted] or None,
        preferred_read_replica=it.preferred_replica,
        records=bytes(it.records) or None,
        **tags,
    )


@by_both
@settings(max_examples=30)
@given(data=st.data(), head=st.tuples(INT32, st.integers(0, 100), INT32))
def test_a_response_is_understood(
    version: int, kind: st.SearchStrategy[TopicKey], data: st.DataObject, head: tuple[int, int, int]
) -> None:
    topics = data.draw(st.dictionaries(kind, st.lists(PARTITIONS, min_size=1, max_size=3), max_size=3))
    response = FetchResponse(*head, partitions=[])
    for topic, partitions in topics.items():
        for it in partitions:
            it.topic = topic
            response.partitions.append(it)
    assert decode_fetch(memoryview(encode_response(response, version)), version) == response


def some_response() -> bytes:
    nothing = PartitionData("quiet", 0, 0, 9, 9, 0, [], -1, None, None, memoryview(b""))
    data = PartitionData("busy", 1, 0, 9, 8, 7, [(5, 6), (7, 8)], 2, None, None, memoryview(b"x" * 200))
    moved = PartitionData("busy", 2, 6, -1, -1, -1, [], -1, (3, 400), (5, 6), memoryview(b""))
    return encode_response(FetchResponse(0, 0, 77, [nothing, data, moved]))


def test_records_are_a_writable_view_of_the_response() -> None:
    body = memoryview(bytearray(some_response()))
    data = decode_fetch(body).partitions[1]
    assert data.records.obj is body.obj
    data.records[0] = 0
    assert bytes(decode_fetch(body).partitions[1].records[:2]) == b"\0x"


def test_a_response_that_ends_anywhere_is_refused() -> None:
    whole = some_response()
    assert len(decode_fetch(memoryview(whole)).partitions) == 3
    for end in range(len(whole)):
        with pytest.raises(ProtocolError):
            decode_fetch(memoryview(whole)[:end])


@given(st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=8))
def test_a_damaged_response_is_refused_or_understood(changes: list[tuple[int, int]]) -> None:
    data = bytearray(some_response())
    for at, value in changes:
        data[at % len(data)] = value
    with contextlib.suppress(ProtocolError):
        decode_fetch(memoryview(data))


@given(st.binary(max_size=200))
@example(bytes(10))
def test_any_bytes_are_refused_or_understood(data: bytes) -> None:
    with contextlib.suppress(ProtocolError):
        decode_fetch(memoryview(data))


HUGE = uvarint(2**31 - 1)


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(bytes(10) + HUGE, id="topics"),
        pytest.param(bytes(10) + b"\2" + HUGE, id="topic"),
        pytest.param(bytes(10) + b"\2\2a" + HUGE, id="partitions"),
        pytest.param(bytes(10) + b"\2\2a\2" + bytes(30) + HUGE + bytes(9), id="aborted"),
        pytest.param(bytes(10) + b"\2\2a\2" + bytes(31) + bytes(4) + HUGE + bytes(9), id="records"),
        pytest.param(bytes(10) + b"\2\2a\2" + bytes(36) + HUGE + bytes(9), id="tags"),
        pytest.param(bytes(10) + b"\2\2a\2" + bytes(36) + b"\1\0" + HUGE + bytes(9), id="tag"),
        pytest.param(bytes(10) + b"\2\2a\2" + bytes(36) + b"\1\0\1\0\0\0", id="short tag"),
    ],
)
def test_hostile_lengths_cost_nothing(data: bytes) -> None:
    body = memoryview(data + bytes(100_000))[: len(data)]
    began = time.perf_counter()
    with pytest.raises(ProtocolError):
        decode_fetch(body)
    assert time.perf_counter() - began < 0.1
