"""Descriptions of groups, as Kafka 4.3 encodes them."""

from __future__ import annotations

import pytest

from replicator.protocol.group_codecs import (
    DescribedGroup,
    GroupMessage,
    commit_in_transaction,
    describe_consumer_groups,
    describe_groups,
    describe_streams_groups,
    fetch_offsets,
    find_coordinators,
    lacking,
    list_groups,
)
from replicator.protocol.primitives import ProtocolError

STREAMS = bytes.fromhex(
    "0000000003000000027307537461626c65000000030000000301000000010202300203696e02027202027400000002000102026b"
    "0276000002027400000002000102026b02760000000003036d310000000300000363310a2f31302e302e302e3100000000027001"
    "0268fde8000202610262000202300000000100000000000000070002023000000001000000000000000700020230030000000000"
    "00000100010202300300000000000000010000020230030000000000000001000102023003000000000000000100000000036d32"
    "00000003026902720363320a2f31302e302e302e32000000000270ff010101020230030000000000000001000102023003000000"
    "00000000010000020230030000000000000001000102023003000000000000000100000100800000000000450a6e6f7420666f75"
    "6e64056e6f6e65010000000000000000ff01800000000000"
)
"""Written by Kafka's StreamsGroupDescribeResponseData: the group "s" with all fields set, and one not found."""
CONSUMER = bytes.fromhex(
    "000000000300000002630c5265636f6e63696c696e67000000000000000008756e69666f726d02036d3100027200000003036331"
    "0a2f31302e302e302e31030274027504782e2a020000000000000001000000000000000202740300000000000000010000020000"
    "000000000001000000000000000202740300000000000000010000008000000000004500056e6f6e650100000000000000000101"
    "800000000000"
)
"""Written by Kafka's ConsumerGroupDescribeResponseData, in the same way."""
QUESTIONS: list[tuple[GroupMessage, bytes]] = [
    (describe_streams_groups(["s"], 0), STREAMS),
    (describe_consumer_groups(["c"], 0), CONSUMER),
]


def test_a_streams_group_is_described() -> None:
    message, answer = QUESTIONS[0]
    found = message.decode_answer(memoryview(answer))
    members = (("c1", "/10.0.0.1"), ("c2", "/10.0.0.2"))
    assert found == {"s": DescribedGroup(0, "Stable", members), "none": DescribedGroup(69)}


def test_a_consumer_group_is_described() -> None:
    message, answer = QUESTIONS[1]
    found = message.decode_answer(memoryview(answer))
    assert found == {"c": DescribedGroup(0, "Reconciling", (("c1", "/10.0.0.1"),)), "none": DescribedGroup(69)}


@pytest.mark.parametrize(("message", "answer"), QUESTIONS, ids=["streams", "consumer"])
def test_what_is_cut_off_is_no_answer(message: GroupMessage, answer: bytes) -> None:
    for size in range(len(answer)):
        with pytest.raises(ProtocolError):
            message.decode_answer(memoryview(answer[:size]))


@pytest.mark.parametrize(
    "message",
    [
        describe_groups(["g"], 5), fetch_offsets(["g"], 7, stable=True), fetch_offsets(["g"], 8, stable=True),
        find_coordinators(["g"], 3), find_coordinators(["g"], 4), list_groups(3), list_groups(5),
        commit_in_transaction("g", {}, "id", 1, 1),
    ],
    ids=lambda it: it.name,
)  # fmt: skip
def test_nonsense_is_no_answer(message: GroupMessage) -> None:
    """It costs no more than its own size."""
    for byte in (b"\xff", b"\x7f", b"\x80"):
        with pytest.raises(ProtocolError):
            message.decode_answer(memoryview(byte * 4096))


def test_brokers_that_are_too_old_are_known() -> None:
    kafka_2_8 = {8: (0, 8), 9: (0, 7), 10: (0, 3), 15: (0, 5), 16: (0, 4), 25: (0, 3), 28: (0, 3)}
    kafka_2_4 = kafka_2_8 | {9: (0, 6), 28: (0, 2)}
    kafka_4 = {8: (2, 10), 9: (1, 10), 10: (0, 6), 15: (0, 6), 16: (0, 5), 25: (0, 4), 28: (0, 5)}
    assert list(lacking(kafka_2_8)) == list(lacking(kafka_4)) == []
    assert list(lacking(kafka_2_4)) == ["API 9: 0 to 6, and 7 is needed", "API 28: 0 to 2, and 3 is needed"]
