"""Encodes Produce requests and decodes responses, in versions 9 and 10; from 10 on they name a new leader (KIP-951).

Later versions are not used: from 12 on a broker adds partitions to the transaction by itself (KIP-890).

Pure. Source: ProduceRequest.json, ProduceResponse.json.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from struct import Struct
from typing import Final

from replicator.protocol.primitives import Buffer, ByteReader, compact_string, uvarint

API_KEY: Final = 0
VERSIONS: Final = (9, 10)

_ALL_REPLICAS = -1
_REQUEST = Struct(">hi")  # acks, timeout
_PARTITION = Struct(">ihqqqB")  # partition, error, base offset, append time, log start, first byte of errors' length
_PARTITION_BYTES = _PARTITION.size + 2
_TOPIC_BYTES = 3
"""Lengths of its name and of its partitions, no tags."""
_ANSWER_BYTES = 4 + 5 + 1 + 5
"""Size, header without tags, how many topics, throttle time and no tags."""
_RECORD_ERROR_BYTES = 6
_NOTHING_MORE = b"\0\0"  # no message, no tags
_ONE = 2
"""The length of a compact array of one element, as it is encoded."""
_LONG = 0x80
"""From here on a length takes more than one byte."""
_SHORTEST_USUAL = 3
_USUAL = Struct(">ihqqqBBBBiB")
"""As `_PARTITION`, no message, no tags; no tags of its topic; throttle time, no tags."""
_LEADER_TAG = 0
_LEADER = Struct(">ii")


@dataclass(slots=True)
class PartitionResult:
    """The broker's result for one batch.

    Args:
        error: Kafka's error code, 0 for none.
        base_offset: the first record's offset on the target, or -1.
        log_append_time: in ms, where the target topic uses LogAppendTime, else -1.
        record_errors: (index in the batch, text) of the records that were refused.
        leader: (broker id, epoch), when the broker that answered is not the leader any more.
    """

    topic: str
    partition: int
    error: int
    base_offset: int
    log_append_time: int
    log_start_offset: int
    record_errors: list[tuple[int, str | None]]
    message: str | None
    leader: tuple[int, int] | None


@dataclass(slots=True)
class ProduceResponse:
    partitions: list[PartitionResult]
    throttle_ms: int


def encode_produce(
    transactional_id: str, timeout_ms: int, topics: Mapping[str, Sequence[tuple[int, Buffer]]]
) -> list[Buffer]:
    """Encode the body of a request, as buffers to send one after the other; batches are not copied.

    Args:
        timeout_ms: how long the broker waits for all replicas.
        topics: for each partition *one* batch; a request must not hold two for the same partition.
    """
    buffers: list[Buffer] = []
    pending = compact_string(transactional_id) + _REQUEST.pack(_ALL_REPLICAS, timeout_ms) + uvarint(len(topics) + 1)
    for topic, partitions in topics.items():
        pending += compact_string(topic) + uvarint(len(partitions) + 1)
        for partition, batch in partitions:
            buffers += (pending + partition.to_bytes(4, "big") + uvarint(len(batch) + 1), batch)
            pending = b"\0"  # no tags
        pending += b"\0"
    buffers.append(pending + b"\0")
    return buffers


def min_response_bytes(topics: Mapping[str, Sequence[tuple[int, Buffer]]]) -> int:
    """The size of the shortest response to that request, size field and header included."""
    return _ANSWER_BYTES + sum(_TOPIC_BYTES + len(it) + len(of) * _PARTITION_BYTES for it, of in topics.items())


def decode_produce(body: memoryview) -> ProduceResponse:
    """Decode the body of a response, after the response header.

    Raises:
        ProtocolError: it can't be decoded.
    """
    usual = _usual(body)
    if usual is not None:
        return usual
    reader = ByteReader(body)
    partitions: list[PartitionResult] = []
    for _ in range(reader.array_length()):
        topic = sys.intern(reader.string())
        for _ in range(reader.array_length(_PARTITION_BYTES)):
            partitions.append(_partition(reader, topic))
        reader.skip_tags()
    throttle_ms = reader.int32()
    reader.skip_tags()
    return ProduceResponse(partitions, throttle_ms)


def _usual(body: memoryview) -> ProduceResponse | None:
    """Decode the usual response quickly: one batch, which was appended. None: it is not the usual one."""
    at = len(body) - _USUAL.size
    if at < _SHORTEST_USUAL or body[0] != _ONE or body[at - 1] != _ONE or body[1] != at - 2 or body[1] >= _LONG:
        return None
    partition, error, base_offset, append_time, log_start, length, *more = _USUAL.unpack_from(body, at)
    message, tags, topic_tags, throttle_ms, last_tags = more
    if error or length > 1 or message or tags or topic_tags or last_tags:
        return None
    try:
        topic = str(body[2 : at - 1], "utf-8")
    except UnicodeDecodeError:
        return None
    result = PartitionResult(topic, partition, 0, base_offset, append_time, log_start, [], None, None)
    return ProduceResponse([result], throttle_ms)


def _partition(reader: ByteReader, topic: str) -> PartitionResult:
    partition, error, base_offset, append_time, log_start, length = reader.unpack(_PARTITION)
    record_errors: list[tuple[int, str | None]] = []
    if length > 1:
        reader.at -= 1
        record_errors = _record_errors(reader)
    message = leader = None
    at = reader.at
    if reader.data[at : at + 2] == _NOTHING_MORE:  # nearly always
        reader.at = at + 2
    else:
        message = reader.nullable_string()
        leader = _leader(reader)
    return PartitionResult(topic, partition, error, base_offset, append_time, log_start, record_errors, message, leader)


def _leader(reader: ByteReader) -> tuple[int, int] | None:
    leader = None
    for tag, content in reader.tags():
        if tag == _LEADER_TAG:
            broker_id, epoch = content.unpack(_LEADER)
            leader = broker_id, epoch
    return leader


def _record_errors(reader: ByteReader) -> list[tuple[int, str | None]]:
    errors = []
    for _ in range(reader.array_length(_RECORD_ERROR_BYTES)):
        index = reader.int32()
        errors.append((index, reader.nullable_string()))
        reader.skip_tags()
    return errors
