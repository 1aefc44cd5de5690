"""MM2's formats, byte for byte."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicator.errors import TP
from replicator.offset_map.mm2_format import (
    Checkpoint,
    Heartbeat,
    checkpoint_headers,
    decode_checkpoint,
    decode_heartbeat,
    encode_checkpoint,
    encode_heartbeat,
)
from replicator.offset_map.sync_format import WireError
from replicator.offset_map.topic_id import NO_ID, TopicId

OFFSETS = st.integers(0, 2**63 - 1)
NAMES = st.text(max_size=100)
IDS = st.binary(min_size=16, max_size=16).map(TopicId)


def test_checkpoint_has_the_bytes_of_mm2() -> None:
    """The objects of MM2's `CheckpointTest`."""
    key, value = encode_checkpoint(Checkpoint("group-1", TP("topic-2", 3), 4, 5, "metadata-6"))
    assert key.hex() == "000767726f75702d310007746f7069632d3200000003"
    assert value.hex() == "000000000000000000040000000000000005000a6d657461646174612d36"


def test_heartbeat_has_the_bytes_of_mm2() -> None:
    """The objects of MM2's `HeartbeatTest`."""
    key, value = encode_heartbeat(Heartbeat("source-1", "target-2", 1234567890))
    assert key.hex() == "0008736f757263652d3100087461726765742d32"
    assert value.hex() == "000000000000499602d2"


@given(NAMES, NAMES, st.integers(0, 2**31 - 1), OFFSETS, OFFSETS, NAMES, IDS)
def test_checkpoints_come_back(
    group: str, topic: str, partition: int, up: int, down: int, metadata: str, topic_id: TopicId
) -> None:
    checkpoint = Checkpoint(group, TP(topic, partition), up, down, metadata, topic_id)
    assert decode_checkpoint(*encode_checkpoint(checkpoint), checkpoint_headers(checkpoint)) == checkpoint
    assert decode_checkpoint(*encode_checkpoint(checkpoint)) == replace(checkpoint, topic_id=NO_ID)


def test_the_topic_that_a_checkpoint_is_of_is_no_part_of_mm2s_format() -> None:
    """It is in a header, as Kafka's tools print it; where there is no id, as in MM2's own, there is no header."""
    checkpoint = Checkpoint("group-1", TP("topic-2", 3), 4, 5, "metadata-6", TopicId(range(16)))
    assert encode_checkpoint(checkpoint) == encode_checkpoint(replace(checkpoint, topic_id=NO_ID))
    assert checkpoint_headers(checkpoint) == [("source-topic-id", b"AAECAwQFBgcICQoLDA0ODw")]
    assert checkpoint_headers(replace(checkpoint, topic_id=NO_ID)) == []


@pytest.mark.parametrize("header", [b"", b"AAEC", b"\xff", b"not a topic id at all"])
def test_a_topic_id_that_is_none_is_refused(header: bytes) -> None:
    """It would decide what the group has read."""
    with pytest.raises(WireError, match="can't be read"):
        decode_checkpoint(*encode_checkpoint(Checkpoint("g", TP("t", 0), 1, 2)), [("source-topic-id", header)])


@given(NAMES, NAMES, OFFSETS)
def test_heartbeats_come_back(source: str, target: str, timestamp_ms: int) -> None:
    heartbeat = Heartbeat(source, target, timestamp_ms)
    assert decode_heartbeat(*encode_heartbeat(heartbeat)) == heartbeat


@pytest.mark.parametrize(
    ("key", "value"), [(b"", b""), (b"\0\5a", b"\0\0"), (b"\0\1a\0\1b\0\0\0\0", b"\0\1" + bytes(18))]
)
def test_other_bytes_are_refused(key: bytes, value: bytes) -> None:
    """Too short, or of another version."""
    with pytest.raises(WireError):
        decode_checkpoint(key, value)
    with pytest.raises(WireError):
        decode_heartbeat(key, value)


def test_metadata_that_does_not_fit_is_left_out() -> None:
    """A broker may allow more than MM2's format: one group must not end the checkpoints of all."""
    longest = Checkpoint("g", TP("t", 0), 1, 2, "ü" * 16_383)
    assert decode_checkpoint(*encode_checkpoint(longest)) == longest
    too_long = Checkpoint("g", TP("t", 0), 1, 2, "ü" * 16_384)
    assert decode_checkpoint(*encode_checkpoint(too_long)).metadata == ""
