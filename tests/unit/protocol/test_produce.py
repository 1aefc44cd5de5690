"""Produce: our bytes are those of kafka-python's schemas, theirs are understood, and damaged ones are refused."""

from __future__ import annotations

import contextlib
import dataclasses
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kafka.protocol.producer import ProduceRequest
from kafka.protocol.producer import ProduceResponse as TheirResponse

from replicator.protocol import produce
from replicator.protocol.primitives import ProtocolError, uvarint
from replicator.protocol.produce import (
    VERSIONS,
    PartitionResult,
    ProduceResponse,
    decode_produce,
    encode_produce,
    min_response_bytes,
)

SIZE_AND_HEADER_BYTES = 9
INT32 = st.integers(-(2**31), 2**31 - 1)
INDEX = st.integers(0, 2**31 - 1)
INT64 = st.integers(-(2**63), 2**63 - 1)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=200)
BATCHES = st.binary(min_size=1, max_size=200)
RESULTS = st.builds(
    PartitionResult,
    topic=st.just(""),
    partition=INDEX,
    error=st.integers(-1, 200),
    base_offset=INT64,
    log_append_time=INT64,
    log_start_offset=INT64,
    record_errors=st.lists(st.tuples(INT32, st.none() | TEXT), max_size=3),
    message=st.none() | TEXT,
    leader=st.none() | st.tuples(INT32.filter(lambda x: x != -1), INT32),
)


@pytest.mark.parametrize("version", VERSIONS)
@settings(max_examples=30)
@given(
    transactional_id=TEXT,
    timeout_ms=INT32,
    topics=st.dictionaries(TEXT, st.lists(st.tuples(INDEX, BATCHES), max_size=3), max_size=3),
)
def test_a_request_is_the_one_of_the_schema(
    version: int, transactional_id: str, timeout_ms: int, topics: dict[str, list[tuple[int, bytes]]]
) -> None:
    ProduceRequest()  # defines the classes inside
    theirs = ProduceRequest.TopicProduceData
    request = ProduceRequest(
        transactional_id=transactional_id,
        acks=-1,
        timeout_ms=timeout_ms,
        topic_data=[
            theirs(
                name=topic,
                partition_data=[theirs.PartitionProduceData(index=index, records=it) for index, it in partitions],
            )
            for topic, partitions in topics.items()
        ],
    )
    assert b"".join(encode_produce(transactional_id, timeout_ms, topics)) == request.encode(version=version)


def test_batches_are_handed_on_without_a_copy() -> None:
    one, other = bytearray(61), memoryview(bytearray(500))
    buffers = encode_produce("t", 1, {"a": [(0, one), (1, other)], "b": [(0, other)]})
    assert [any(it is batch for batch in (one, other)) for it in buffers] == [False, True] * 3 + [False]


@settings(max_examples=200)
@given(
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=70)
    | st.just("t" * 126)
    | st.just("t" * 127),
    RESULTS.map(lambda it: dataclasses.replace(it, record_errors=[], message=None, leader=None)),
    st.sampled_from([0, 0, 0, 7]),
    INT32,
)
def test_the_usual_answer(topic: str, result: PartitionResult, error: int, throttle_ms: int) -> None:
    """About one batch: it has a way of its own, which must say the same, and leave everything else alone."""
    one = dataclasses.replace(result, topic=topic, error=error)
    response = ProduceResponse([one], throttle_ms)
    encoded = encode_response(response)
    assert decode_produce(memoryview(encoded)) == response
    for at in range(len(encoded)):
        for byte in (0, 1, 3, 0x82, 0xFF):
            other = bytearray(encoded)
            other[at] = byte
            assert _decoded(memoryview(other)) == _decoded_in_general(memoryview(other))


def _decoded(body: memoryview) -> ProduceResponse | str:
    try:
        return decode_produce(body)
    except ProtocolError as error:
        return str(error)


def _decoded_in_general(body: memoryview) -> ProduceResponse | str:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(produce, "_usual", lambda _: None)
        return _decoded(body)


def encode_response(response: ProduceResponse, version: int = 10) -> bytes:
    TheirResponse()  # defines the classes inside
    theirs = TheirResponse.TopicProduceResponse
    topics = dict.fromkeys(p.topic for p in response.partitions)
    encoded: bytes = TheirResponse(
        responses=[
            theirs(name=name, partition_responses=[_their_result(p) for p in response.partitions if p.topic == name])
            for name in topics
        ],
        throttle_time_ms=response.throttle_ms,
        node_endpoints=[TheirResponse.NodeEndpoint(node_id=1, host="h", port=9092, rack=None)],
    ).encode(version=version)
    return encoded


def _their_result(it: PartitionResult) -> Any:
    theirs = TheirResponse.TopicProduceResponse.PartitionProduceResponse
    tags = {}
    if it.leader is not None:
        tags["current_leader"] = theirs.LeaderIdAndEpoch(leader_id=it.leader[0], leader_epoch=it.leader[1])
    return theirs(
        index=it.partition,
        error_code=it.error,
        base_offset=it.base_offset,
        log_append_time_ms=it.log_append_time,
        log_start_offset=it.log_start_offset,
        record_errors=[
            theirs.BatchIndexAndErrorMessage(batch_index=i, batch_index_error_message=m) for i, m in it.record_errors
        ],
        error_message=it.message,
        **tags,
    )


@pytest.mark.parametrize("version", VERSIONS)
@settings(max_examples=30)
@given(
    throttle_ms=INT32, topics=st.dictionaries(TEXT, st.lists(RESULTS, min_size=1, max_size=3), min_size=1, max_size=3)
)
def test_a_response_is_understood(version: int, throttle_ms: int, topics: dict[str, list[PartitionResult]]) -> None:
    response = ProduceResponse([], throttle_ms)
    for topic, results in topics.items():
        for it in results:
            it.topic = topic
            it.leader = it.leader if version >= 10 else None
            response.partitions.append(it)
    encoded = encode_response(response, version)
    assert decode_produce(memoryview(encoded)) == response
    asked = {topic: [(it.partition, b"") for it in results] for topic, results in topics.items()}
    assert min_response_bytes(asked) <= SIZE_AND_HEADER_BYTES + len(encoded)


def test_an_answer_that_takes_everything_is_the_shortest() -> None:
    results = [PartitionResult(topic, n, 0, 99, -1, 0, [], None, None) for topic in ("a", "orders") for n in range(3)]
    asked: dict[str, list[tuple[int, bytes]]] = {topic: [(n, b"") for n in range(3)] for topic in ("a", "orders")}
    encoded = encode_response(ProduceResponse(results, 0), version=9)
    assert min_response_bytes(asked) == SIZE_AND_HEADER_BYTES + len(encoded)


def some_response() -> bytes:
    fine = PartitionResult("a", 0, 0, 99, -1, 0, [], None, None)
    refused = PartitionResult("a", 1, 87, -1, -1, -1, [(0, "no key"), (4, None)], "bad", None)
    moved = PartitionResult("b", 0, 6, -1, -1, -1, [], None, (2, 9))
    return encode_response(ProduceResponse([fine, refused, moved], 5))


def test_a_response_that_ends_anywhere_is_refused() -> None:
    whole = some_response()
    assert len(decode_produce(memoryview(whole)).partitions) == 3
    for end in range(len(whole)):
        with pytest.raises(ProtocolError):
            decode_produce(memoryview(whole)[:end])


@given(st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=8))
def test_a_damaged_response_is_refused_or_understood(changes: list[tuple[int, int]]) -> None:
    data = bytearray(some_response())
    for at, value in changes:
        data[at % len(data)] = value
    with contextlib.suppress(ProtocolError):
        decode_produce(memoryview(data))


HUGE = uvarint(2**31 - 1)


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(HUGE, id="topics"),
        pytest.param(b"\2\2a" + HUGE, id="partitions"),
        pytest.param(b"\2\2a\2" + bytes(30) + HUGE + bytes(9), id="record errors"),
        pytest.param(b"\2\2a\2" + bytes(31) + HUGE + bytes(9), id="message"),
        pytest.param(b"\2\2a\2" + bytes(32) + HUGE + bytes(9), id="tags"),
    ],
)
def test_hostile_lengths_are_refused(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        decode_produce(memoryview(data))
