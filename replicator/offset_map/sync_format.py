"""Byte formats of the records in the syncs topic: MM2's OffsetSync fields first, ours after them.

Pure. Big-endian; STRING is an INT16 length and UTF-8. MM2's reader stops after its own fields, so
`org.apache.kafka.connect.mirror.OffsetSync.deserializeRecord` accepts what is written here.

    key    STRING topic, INT32 partition          | INT8 level, INT16 slot
    value  INT64 upstream_base, INT64 downstream_base
           | INT16 version = 0, INT64 seq, INT64 count, INT64 ordinal_base, INT64 upstream_next,
           | 16 bytes topic id, INT8 gaps known, then pairs of unsigned varints (records until the gap, its length);
             null: the partition's runs before this are forgotten

Control records have an empty topic in MM2's part of the key:

    key    STRING "", INT32 partition             | STRING kind, STRING topic
    value  INT64 0, INT64 0                       | INT16 version = 0, UTF-8 JSON object;  null: the state is over

Source: connect/mirror `OffsetSync`; clients `org.apache.kafka.common.protocol.types.Type`.
"""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from replicator.errors import TP, ReplicatorError
from replicator.offset_map.runs import Gaps, Run, retention_key
from replicator.offset_map.topic_id import NO_ID, TopicId

VERSION = 0
MAX_GAPS_BYTES = 4096
PARTITION_STATE = "partition-state"
HALTED = "halted"
"""Of a task, under `task_tp`: it must not run."""
RECOPIED = "recopied"
"""Of a task, as `HALTED`: by which command runs of it were deleted last."""
TARGET_TOPIC = "target-topic"
"""Of a partition: which topic its downstream offsets belong to."""

_CONTROL_PREFIX = bytes(2)
"""An empty STRING."""
_LENGTH = struct.Struct(">h")
_PARTITION = struct.Struct(">i")
_LEVEL_SLOT = struct.Struct(">bh")
_MM2_VALUE = struct.Struct(">qq")
_OUR_VALUE = struct.Struct(">hqqqq16sb")
_CONTROL_HEAD = struct.Struct(">qqh")


class WireError(ReplicatorError):
    """Bytes in one of our topics that we did not write, or a newer version of us did."""


@dataclass(frozen=True, slots=True)
class SyncRecord:
    """A run, and the partition it belongs to."""

    tp: TP
    run: Run


@dataclass(frozen=True, slots=True)
class Forgotten:
    """A run of the partition was deleted: none that was written before counts any more (`recopy`)."""

    tp: TP


@dataclass(frozen=True, slots=True)
class ControlRecord:
    """A fact about a partition or a task that is no run. `body` None: the fact is over."""

    kind: str
    tp: TP
    body: dict[str, Any] | None


@dataclass(frozen=True, slots=True)
class TargetTopic:
    """The topic that a partition is replicated to.

    Args:
        topic_id: `NO_ID` on brokers that have none.
    """

    name: str
    topic_id: TopicId

    def differs(self, found: TargetTopic) -> bool:
        """Whether `found` is certainly another topic, whatever its name."""
        return not self.topic_id.same_as(found.topic_id)

    def now(self, ids: Mapping[str, TopicId]) -> TargetTopic:
        """What has the name now, by the ids that the target gave; one without an id where it gave none."""
        return TargetTopic(self.name, ids.get(self.name, NO_ID))

    def __str__(self) -> str:
        return f"{self.name} ({uuid_text(self.topic_id)})"


def target_record(tp: TP, target: TargetTopic) -> ControlRecord:
    """The record that says where a partition is replicated to."""
    return ControlRecord(TARGET_TOPIC, tp, {"topic": target.name, "topic_id": uuid_text(target.topic_id)})


def target_of(record: ControlRecord) -> TargetTopic | None:
    """What a `target_record` says; None: it is not known any more.

    Raises:
        WireError: it says something else.
    """
    body = record.body
    if body is None:
        return None
    try:
        return TargetTopic(str(body["topic"]), read_uuid(str(body["topic_id"])))
    except (KeyError, ValueError) as error:
        raise WireError(f"the target topic of {record.tp} can't be read: {error!r} in {body}") from error


def uuid_text(uuid: bytes) -> str:
    """As Kafka's tools print a topic id (clients `Uuid#toString`)."""
    return base64.urlsafe_b64encode(uuid).decode().rstrip("=")


def read_uuid(text: str) -> TopicId:
    """The 16 bytes of a topic id that `uuid_text` made.

    Raises:
        ValueError: it is none.
    """
    uuid = base64.urlsafe_b64decode(f"{text}==")
    if len(uuid) != len(NO_ID):
        raise ValueError(f"no topic id: {text!r}")
    return TopicId(uuid)


def task_tp(task: int) -> TP:
    """Whom a `HALTED` or `RECOPIED` record is about: the task, and no topic."""
    return TP("", task)


def encode_string(text: str) -> bytes:
    """Kafka's STRING."""
    raw = text.encode()
    return _LENGTH.pack(len(raw)) + raw


def read_string(data: bytes, at: int) -> tuple[str, int]:
    """(the STRING at `at`, where it ends).

    Raises:
        WireError: it reaches beyond `data`.
    """
    (length,) = _LENGTH.unpack_from(data, at)
    end = at + 2 + length
    if length < 0 or end > len(data):
        raise WireError(f"a string of {length} bytes in a field of {len(data) - at - 2}")
    return data[at + 2 : end].decode(), end


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append((value & 0x7F) | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if at >= len(data) or shift > 63:
            raise WireError("a gap list that ends inside a number")
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7


def encode_gaps(gaps: Gaps) -> bytes | None:
    """The gap list as bytes, or None when it is longer than `MAX_GAPS_BYTES` and is left out."""
    raw = b"".join(_varint(records) + _varint(length) for records, length in gaps)
    return raw if len(raw) <= MAX_GAPS_BYTES else None


def _decode_gaps(data: bytes, at: int) -> Gaps:
    gaps = []
    while at < len(data):
        records, at = _read_varint(data, at)
        length, at = _read_varint(data, at)
        gaps.append((records, length))
    return tuple(gaps)


def encode_sync(tp: TP, run: Run) -> tuple[bytes, bytes]:
    """Key and value of one sync."""
    level, slot = retention_key(run.seq)
    key = encode_string(tp.topic) + _PARTITION.pack(tp.partition) + _LEVEL_SLOT.pack(level, slot)
    gaps = None if run.gaps is None else encode_gaps(run.gaps)
    value = _MM2_VALUE.pack(run.upstream_base, run.downstream_base) + _OUR_VALUE.pack(
        VERSION, run.seq, run.count, run.ordinal_base, run.upstream_next, run.topic_id, 0 if gaps is None else 1
    )
    return key, value + (gaps or b"")


def encode_control(record: ControlRecord) -> tuple[bytes, bytes | None]:
    """Key and value of one control record; a value of None is the tombstone that ends it."""
    key = (
        encode_string("")
        + _PARTITION.pack(record.tp.partition)
        + encode_string(record.kind)
        + encode_string(record.tp.topic)
    )
    if record.body is None:
        return key, None
    body = json.dumps(record.body, separators=(",", ":"), sort_keys=True).encode()
    return key, _CONTROL_HEAD.pack(0, 0, VERSION) + body


def decode(key: bytes, value: bytes | None) -> SyncRecord | ControlRecord | Forgotten:
    """Read one record of the syncs topic.

    Raises:
        WireError: the bytes are not ours, or of a version that this release does not know.
    """
    try:
        return _decode(key, value)
    except (struct.error, UnicodeDecodeError, ValueError, RecursionError) as error:
        raise WireError(f"a record of the syncs topic can't be read: {error} (key {key.hex()})") from error


def task_record(key: bytes, value: bytes | None) -> ControlRecord | None:
    """What a record says of a task; None when it is another one: runs are not even decoded.

    Raises:
        WireError: as `decode`.
    """
    if not key.startswith(_CONTROL_PREFIX):
        return None
    record = decode(key, value)
    return record if isinstance(record, ControlRecord) and not record.tp.topic else None


def _decode(key: bytes, value: bytes | None) -> SyncRecord | ControlRecord | Forgotten:
    topic, at = read_string(key, 0)
    (partition,) = _PARTITION.unpack_from(key, at)
    if not topic:
        kind, at = read_string(key, at + 4)
        name, _ = read_string(key, at)
        return ControlRecord(kind, TP(name, partition), _control_body(value))
    if value is None:
        return Forgotten(TP(topic, partition))
    upstream_base, downstream_base = _MM2_VALUE.unpack_from(value, 0)
    version, seq, count, ordinal_base, upstream_next, topic_id, known = _OUR_VALUE.unpack_from(value, _MM2_VALUE.size)
    _check_version(version)
    gaps = _decode_gaps(value, _MM2_VALUE.size + _OUR_VALUE.size) if known else None
    run = Run(
        seq=seq,
        upstream_base=upstream_base,
        downstream_base=downstream_base,
        count=count,
        ordinal_base=ordinal_base,
        upstream_next=upstream_next,
        topic_id=TopicId(topic_id),
        gaps=gaps,
    )
    return SyncRecord(TP(topic, partition), run)


def _control_body(value: bytes | None) -> dict[str, Any] | None:
    if value is None:
        return None
    _, _, version = _CONTROL_HEAD.unpack_from(value, 0)
    _check_version(version)
    body = json.loads(value[_CONTROL_HEAD.size :])
    if not isinstance(body, dict):
        raise WireError("a control record whose body is no object")
    return body


def _check_version(version: int) -> None:
    if version != VERSION:
        raise WireError(f"version {version}: written by a newer release; upgrade this one (it knows {VERSION})")
