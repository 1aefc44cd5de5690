"""Encodes Fetch requests and decodes the responses: version 13 names topics by id (brokers from 3.1), 12 by name (2.7).

A topic that was deleted and created again has another id, and the same name.

A fetch session (KIP-227) lets a request name only the partitions that changed, and a response only those with news:
epoch 0 asks for a new session and names all partitions, epoch -1 asks for none, 1, 2, 3… continue `session_id`.

Pure. Source: FetchRequest.json, FetchResponse.json.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from struct import Struct
from typing import Final, TypeVar

from replicator.protocol.primitives import ByteReader, compact_string, uvarint

API_KEY: Final = 1
BY_NAME: Final = 12
BY_ID: Final = 13
READ_COMMITTED: Final = 1

_CONSUMER = -1
_NO_TAGS = b"\0"
_REQUEST = Struct(">iiiibii")  # replica, max wait, min bytes, max bytes, isolation, session id, session epoch
_ID_BYTES = 16
_POSITION = Struct(">iiqiqib")  # partition, leader epoch, offset, last epoch, log start, max bytes, no tags
_RESPONSE = Struct(">ihi")  # throttle, error, session id
_PARTITION = Struct(">ihqqqB")  # partition, error, high watermark, stable, log start, first byte of aborted's length
_ABORTED = Struct(">qqB")  # producer id, first offset, first byte of the tags
_REPLICA = Struct(">iB")  # preferred replica, first byte of the records' length
_PARTITION_BYTES = _PARTITION.size + _REPLICA.size + 1
_DIVERGING_TAG, _LEADER_TAG = 0, 1
_DIVERGING, _LEADER = Struct(">iq"), Struct(">ii")


TopicKey = str | bytes
"""A topic's name in version 12, its id of 16 bytes in version 13."""
T = TypeVar("T", bound=TopicKey)


@dataclass(frozen=True, slots=True)
class FetchPosition:
    """Where to fetch a partition from.

    Args:
        leader_epoch: from the metadata; a broker with another one refuses. -1: unknown, not compared. last_epoch:
        leader epoch of the last batch fetched; the broker answers with `PartitionData.diverging` when its log holds
            something else before `offset`. -1: unknown, not compared.
    """

    partition: int
    offset: int
    leader_epoch: int = -1
    last_epoch: int = -1


@dataclass(slots=True)
class PartitionData:
    """One partition's part of a response.

    Args:
        error: Kafka's error code, 0 for none.
        aborted: (producer id, first offset) of transactions that were aborted in what `records` covers.
        preferred_replica: the broker to fetch from instead, or -1.
        diverging: (epoch, end offset): the largest epoch in common, when the logs differ.
        leader: (broker id, epoch), when the broker that answered is not the leader any more.
        records: a view of the response; may end in the middle of a batch.
    """

    topic: TopicKey
    partition: int
    error: int
    high_watermark: int
    last_stable_offset: int
    log_start_offset: int
    aborted: list[tuple[int, int]]
    preferred_replica: int
    diverging: tuple[int, int] | None
    leader: tuple[int, int] | None
    records: memoryview


@dataclass(slots=True)
class FetchResponse:
    throttle_ms: int
    error: int
    session_id: int
    partitions: list[PartitionData]


def encode_fetch(
    *,
    max_wait_ms: int,
    min_bytes: int,
    max_bytes: int,
    partition_max_bytes: int,
    session_id: int,
    session_epoch: int,
    topics: Mapping[T, Sequence[FetchPosition]],
    forgotten: Mapping[T, Sequence[int]],
    rack: str,
) -> list[bytes]:
    """The body of a request that reads committed records; the parts that follow the request header.

    Args:
        topics: what to fetch, by name or by id, which decides the version; in a session, only what is new or has
            another position than in the last request.
        forgotten: what the session is to drop.
        rack: of this client, as brokers name theirs in `broker.rack`; empty for none.
    """
    pack = _POSITION.pack
    parts = [
        _REQUEST.pack(_CONSUMER, max_wait_ms, min_bytes, max_bytes, READ_COMMITTED, session_id, session_epoch),
        uvarint(len(topics) + 1),
    ]
    for topic, positions in topics.items():
        parts += (_topic(topic), uvarint(len(positions) + 1))
        parts += [
            pack(p.partition, p.leader_epoch, p.offset, p.last_epoch, -1, partition_max_bytes, 0) for p in positions
        ]
        parts.append(_NO_TAGS)
    parts.append(uvarint(len(forgotten) + 1))
    for topic, partitions in forgotten.items():
        parts += (_topic(topic), uvarint(len(partitions) + 1))
        parts += [partition.to_bytes(4, "big") for partition in partitions]
        parts.append(_NO_TAGS)
    parts += (compact_string(rack), _NO_TAGS)
    return [b"".join(parts)]


def _topic(topic: TopicKey) -> bytes:
    return topic if isinstance(topic, bytes) else compact_string(topic)


def decode_fetch(body: memoryview, version: int = BY_NAME) -> FetchResponse:
    """Decode the body of a response, after the response header.

    Raises:
        ProtocolError: it can't be decoded.
    """
    reader = ByteReader(body)
    throttle_ms, error, session_id = reader.unpack(_RESPONSE)
    partitions: list[PartitionData] = []
    for _ in range(reader.array_length()):
        topic = bytes(reader.take(_ID_BYTES)) if version >= BY_ID else sys.intern(reader.string())
        for _ in range(reader.array_length(_PARTITION_BYTES)):
            partitions.append(_partition(reader, topic))
        reader.skip_tags()
    reader.skip_tags()
    return FetchResponse(throttle_ms, error, session_id, partitions)


def _partition(reader: ByteReader, topic: TopicKey) -> PartitionData:
    """Decode one partition. On the hot path: lengths of one byte and absent tags are handled without a call."""
    partition, error, high_watermark, stable, log_start, length = reader.unpack(_PARTITION)
    aborted = []
    if length > 1:
        reader.at -= 1
        aborted = _aborted(reader)
    replica, length = reader.unpack(_REPLICA)
    if length >= 0x80:
        reader.at -= 1
        length = reader.uvarint()
    records = reader.take(length - 1 if length else 0)
    at = reader.at
    diverging = leader = None
    if at < reader.end and reader.data[at] == 0:
        reader.at = at + 1
    else:
        diverging, leader = _partition_tags(reader)
    return PartitionData(
        topic, partition, error, high_watermark, stable, log_start, aborted, replica, diverging, leader, records
    )


def _aborted(reader: ByteReader) -> list[tuple[int, int]]:
    aborted = []
    for _ in range(reader.array_length(_ABORTED.size)):
        producer_id, first_offset, tags = reader.unpack(_ABORTED)
        if tags:
            reader.at -= 1
            reader.skip_tags()
        aborted.append((producer_id, first_offset))
    return aborted


def _partition_tags(reader: ByteReader) -> tuple[tuple[int, int] | None, tuple[int, int] | None]:
    """(diverging, leader)"""
    diverging = leader = None
    for tag, content in reader.tags():
        if tag == _DIVERGING_TAG:
            epoch, end_offset = content.unpack(_DIVERGING)
            diverging = epoch, end_offset
        elif tag == _LEADER_TAG:
            broker_id, epoch = content.unpack(_LEADER)
            leader = broker_id, epoch
    return diverging, leader
