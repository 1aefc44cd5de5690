"""Byte formats of MM2's checkpoints and heartbeats, byte for byte: its clients read what is written here.

Pure. Big-endian; STRING is an INT16 length and UTF-8.

    checkpoint   key    STRING group, STRING topic, INT32 partition            topic: the target's name
                 value  INT16 version = 0, INT64 upstream_next, INT64 downstream_next, STRING metadata
                 header ours, which MM2 neither writes nor reads: `source-topic-id`, the topic that upstream_next is of
    heartbeat    key    STRING source alias, STRING target alias
                 value  INT16 version = 0, INT64 time in ms

No tombstones: MM2's readers (`MirrorClient#remoteConsumerOffsets`) fail on a record without a value.

Source: connect/mirror-client `Checkpoint`, `Heartbeat`.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

from replicator.errors import TP
from replicator.offset_map.sync_format import WireError, encode_string, read_string, read_uuid, uuid_text
from replicator.offset_map.topic_id import NO_ID, TopicId

VERSION = 0
LONGEST_STRING = 32_767
TOPIC_ID_HEADER = "source-topic-id"
Header = tuple[str, str | bytes | None]
"""As the client gives and takes it."""
_INT16 = struct.Struct(">h")
_INT32 = struct.Struct(">i")
_OFFSETS = struct.Struct(">hqq")
_TIME = struct.Struct(">hq")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A group's committed offset, translated.

    Args:
        tp: as it is called on the target.
        upstream_next: what the group committed on the source.
        downstream_next: where it goes on, on the target.
        metadata: of the commit on the source.
        topic_id: of the topic that `upstream_next` is of; `NO_ID` where that was not written, as by MM2.
    """

    group: str
    tp: TP
    upstream_next: int
    downstream_next: int
    metadata: str = ""
    topic_id: TopicId = NO_ID


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """A sign of life of the flow from `source` to `target`."""

    source: str
    target: str
    timestamp_ms: int


def encode_checkpoint(checkpoint: Checkpoint) -> tuple[bytes, bytes]:
    """Key and value; metadata that is too long for MM2's format is left out."""
    tp = checkpoint.tp
    is_too_long = len(checkpoint.metadata.encode()) > LONGEST_STRING
    key = encode_string(checkpoint.group) + encode_string(tp.topic) + _INT32.pack(tp.partition)
    value = _OFFSETS.pack(VERSION, checkpoint.upstream_next, checkpoint.downstream_next)
    return key, value + encode_string("" if is_too_long else checkpoint.metadata)


def checkpoint_headers(checkpoint: Checkpoint) -> list[Header]:
    """What goes with key and value, beside MM2's format."""
    return [(TOPIC_ID_HEADER, uuid_text(checkpoint.topic_id).encode())] if checkpoint.topic_id.is_known else []


def decode_checkpoint(key: bytes, value: bytes, headers: Sequence[Header] = ()) -> Checkpoint:
    """Read one record of a checkpoints topic.

    Raises:
        WireError: it is none, or of a version that this release does not know.
    """
    group, tp = decode_checkpoint_key(key)
    try:
        _check_version(value)
        _, upstream_next, downstream_next = _OFFSETS.unpack_from(value, 0)
        metadata, _ = read_string(value, _OFFSETS.size)
        header = dict(headers).get(TOPIC_ID_HEADER)
        topic_id = NO_ID if header is None else read_uuid(header.decode() if isinstance(header, bytes) else header)
    except (struct.error, ValueError) as error:
        raise WireError(f"a record of a checkpoints topic can't be read: {error} (key {key.hex()})") from error
    return Checkpoint(group, tp, upstream_next, downstream_next, metadata, topic_id)


def decode_checkpoint_key(key: bytes) -> tuple[str, TP]:
    """The group and the partition of the target that a record of a checkpoints topic is about.

    Raises:
        WireError: it is none.
    """
    try:
        group, at = read_string(key, 0)
        topic, at = read_string(key, at)
        (partition,) = _INT32.unpack_from(key, at)
    except (struct.error, UnicodeDecodeError) as error:
        raise WireError(f"the key of a record of a checkpoints topic can't be read: {error} ({key.hex()})") from error
    return group, TP(topic, partition)


def encode_heartbeat(heartbeat: Heartbeat) -> tuple[bytes, bytes]:
    """Key and value."""
    key = encode_string(heartbeat.source) + encode_string(heartbeat.target)
    return key, _TIME.pack(VERSION, heartbeat.timestamp_ms)


def decode_heartbeat(key: bytes, value: bytes) -> Heartbeat:
    """Read one record of a heartbeats topic.

    Raises:
        WireError: it is none, or of a version that this release does not know.
    """
    try:
        source, at = read_string(key, 0)
        target, _ = read_string(key, at)
        _check_version(value)
        _, timestamp_ms = _TIME.unpack_from(value, 0)
    except (struct.error, UnicodeDecodeError) as error:
        raise WireError(f"a record of a heartbeats topic can't be read: {error} (key {key.hex()})") from error
    return Heartbeat(source, target, timestamp_ms)


def _check_version(value: bytes) -> None:
    (version,) = _INT16.unpack_from(value, 0)
    if version != VERSION:
        raise WireError(f"version {version} of MM2's format, where {VERSION} is known")
