"""Requests about groups, and their answers, encoded by hand.

kafka-python's schemas would do for small clusters. They cost too much for the offsets of thousands of groups, lack
ConsumerGroupDescribe and StreamsGroupDescribe, and refuse answers with long ids that are not ASCII (`schemas`).

Every version that is used is flexible (KIP-482): compact strings and arrays, tagged fields.

Pure. Source: `FindCoordinatorRequest.json` and the others in Kafka's `clients`; KIP-699 (many keys), KIP-709 (many
groups), KIP-848, KIP-1071.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from struct import Struct
from typing import Any

from replicator.errors import TP
from replicator.protocol.primitives import ByteReader, compact_string, uvarint

OFFSET_COMMIT, OFFSET_FETCH, FIND_COORDINATOR, DESCRIBE_GROUPS, LIST_GROUPS = 8, 9, 10, 15, 16
ADD_OFFSETS_TO_TXN, TXN_OFFSET_COMMIT, CONSUMER_GROUP_DESCRIBE, STREAMS_GROUP_DESCRIBE = 25, 28, 69, 89
MANY_KEYS_SINCE = 4
"""FindCoordinator."""
MANY_GROUPS_SINCE = 8
"""OffsetFetch."""
STATES_SINCE, TYPES_SINCE = 4, 5
"""ListGroups."""
GROUP_KEY = 0
UNKNOWN_STATE = "Unknown"
NO_TAGS = b"\0"
NULL = b"\0"
END = "\0"
"""What librdkafka's Python client writes behind metadata, and needs when it reads it: it runs past the end of metadata
without one, and may fail. No part of what callers see; brokers and other clients keep it."""
_NO_EPOCH = -1
_PLACE = Struct(">iqi")
_PLAIN_PLACE = Struct(">iqiBhB")
"""The same with the sizes of empty metadata and of no tags."""
_PLACE_BYTES = 20
"""A partition's part of an answer, at least."""
_CODE = Struct(">ih")

Places = Mapping[TP, tuple[int, str]]
"""Next offset and metadata, by partition."""
Read = Callable[[ByteReader], Any]


@dataclass(frozen=True, slots=True)
class GroupMessage:
    """A request that `schemas` takes for one of kafka-python's.

    Args:
        body: without a header.
        read: the answer's body.
    """

    name: str
    API_KEY: int
    body: bytes
    read: Read

    def flexible_version_q(self, version: int) -> bool:
        """Whether headers are flexible."""
        return True

    def encode(self, version: int) -> bytes:
        """The body."""
        return self.body

    def decode_answer(self, data: memoryview) -> Any:
        """The answer to it.

        Raises:
            ProtocolError: it is none.
        """
        return self.read(ByteReader(data))


@dataclass(slots=True)
class FetchedOffsets:
    """What a group has committed.

    Args:
        code: of an error that concerns all of it.
        places: where there is an offset.
        codes: errors of partitions.
    """

    code: int = 0
    places: dict[TP, tuple[int, str]] = field(default_factory=dict)
    codes: dict[TP, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class DescribedGroup:
    """A group as its coordinator describes it.

    Args:
        state: Kafka's word: ``Stable``.
        members: client id and host of each.
    """

    code: int
    state: str = ""
    members: tuple[tuple[str, str], ...] = ()


# --- pieces of answers ------------------------------------------------------------------------------------------------

_STRING, _NULLABLE_STRING = ByteReader.string, ByteReader.nullable_string
_INT8, _INT16, _INT32, _INT64 = ByteReader.int8, ByteReader.int16, ByteReader.int32, ByteReader.int64


def _structure(*fields: Read) -> Read:
    """A tuple of the fields."""

    def read(reader: ByteReader) -> Any:
        values = tuple([it(reader) for it in fields])
        reader.skip_tags()
        return values

    return read


def _array(element: Read) -> Read:
    def read(reader: ByteReader) -> Any:
        return [element(reader) for _ in range(reader.array_length())]

    return read


def _nullable(structure: Read) -> Read:
    def read(reader: ByteReader) -> Any:
        return None if reader.int8() < 0 else structure(reader)

    return read


def _uuid(reader: ByteReader) -> Any:
    return reader.take(16)


_STRINGS, _NUMBERS = _array(_STRING), _array(_INT32)

# --- encoding ---------------------------------------------------------------------------------------------------------


def _text(value: str) -> bytes:
    encoded = value.encode()
    return uvarint(len(encoded) + 1) + encoded


def _texts(values: Collection[str]) -> bytes:
    return uvarint(len(values) + 1) + b"".join(map(_text, values))


def _topics(places: Places) -> bytes:
    """Offsets to commit, by topic."""
    topics: dict[str, list[bytes]] = {}
    for tp, (next_offset, metadata) in places.items():
        place = _PLACE.pack(tp.partition, next_offset, _NO_EPOCH) + _text(metadata and metadata + END) + NO_TAGS
        topics.setdefault(tp.topic, []).append(place)
    parts = [uvarint(len(topics) + 1)]
    for name, found in topics.items():
        parts += [compact_string(name), uvarint(len(found) + 1), *found, NO_TAGS]
    return b"".join(parts)


_NO_MEMBER = _NO_EPOCH.to_bytes(4, "big", signed=True) + _text("") + NULL
"""Generation, member id, group instance id: the commit of one that is no member."""

# --- coordinators and lists -------------------------------------------------------------------------------------------

_COORDINATORS = _structure(
    _INT32, _array(_structure(_STRING, _INT32, _STRING, _INT32, _INT16, _NULLABLE_STRING))
)  # fmt: skip
_COORDINATOR = _structure(_INT32, _INT16, _NULLABLE_STRING, _INT32, _STRING, _INT32)
_LISTED = {
    3: _structure(_INT32, _INT16, _array(_structure(_STRING, _STRING))),
    4: _structure(_INT32, _INT16, _array(_structure(_STRING, _STRING, _STRING))),
    5: _structure(_INT32, _INT16, _array(_structure(_STRING, _STRING, _STRING, _STRING))),
}


def find_coordinators(groups: Collection[str], version: int) -> GroupMessage:
    """Answered with (node, error code) by group. Before `MANY_KEYS_SINCE` for one group."""
    kind = bytes((GROUP_KEY,))
    if version < MANY_KEYS_SINCE:
        (group,) = groups

        def read_one(reader: ByteReader) -> dict[str, tuple[int, int]]:
            _, code, _, node, _, _ = _COORDINATOR(reader)
            return {group: (node, code)}

        return GroupMessage("FindCoordinator", FIND_COORDINATOR, _text(group) + kind + NO_TAGS, read_one)

    def read(reader: ByteReader) -> dict[str, tuple[int, int]]:
        return {group: (node, code) for group, node, _, _, code, _ in _COORDINATORS(reader)[1]}

    return GroupMessage("FindCoordinator", FIND_COORDINATOR, kind + _texts(groups) + NO_TAGS, read)


def list_groups(version: int, states: Collection[str] = (), types: Collection[str] = ()) -> GroupMessage:
    """Answered with an error code, and (group, Kafka's word for its state) of each that the broker coordinates.

    Args:
        states, types: only such groups, where the version can tell; all when empty.
    """
    body = _texts(states) if version >= STATES_SINCE else b""
    body += _texts(types) if version >= TYPES_SINCE else b""

    def read(reader: ByteReader) -> tuple[int, list[tuple[str, str]]]:
        _, code, found = _LISTED[version](reader)
        return code, [(it[0], it[2] if version >= STATES_SINCE else UNKNOWN_STATE) for it in found]

    return GroupMessage("ListGroups", LIST_GROUPS, body + NO_TAGS, read)


# --- descriptions -----------------------------------------------------------------------------------------------------

_CLASSIC_MEMBER = _structure(
    _STRING, _NULLABLE_STRING, _STRING, _STRING, ByteReader.nullable_bytes, ByteReader.nullable_bytes
)
_CLASSIC = _structure(_INT16, _STRING, _STRING, _STRING, _STRING, _array(_CLASSIC_MEMBER), _INT32)

_ASSIGNMENT = _structure(_array(_structure(_uuid, _STRING, _NUMBERS)))
_CONSUMER_MEMBER = _structure(
    _STRING, _NULLABLE_STRING, _NULLABLE_STRING, _INT32, _STRING, _STRING, _STRINGS, _NULLABLE_STRING, _ASSIGNMENT,
    _ASSIGNMENT,
)  # fmt: skip
_CONSUMER = _structure(
    _INT16, _NULLABLE_STRING, _STRING, _STRING, _INT32, _INT32, _STRING, _array(_CONSUMER_MEMBER), _INT32
)

_KEY_VALUES = _array(_structure(_STRING, _STRING))
_TOPIC_INFOS = _array(_structure(_STRING, _INT32, _INT16, _KEY_VALUES))
_SUBTOPOLOGIES = _array(_structure(_STRING, _STRINGS, _STRINGS, _TOPIC_INFOS, _TOPIC_INFOS))
_TASK_OFFSETS = _array(_structure(_STRING, _INT32, _INT64))
_TASK_IDS = _array(_structure(_STRING, _NUMBERS))
_TASKS = _structure(_TASK_IDS, _TASK_IDS, _TASK_IDS)
_STREAMS_MEMBER = _structure(
    _STRING, _INT32, _NULLABLE_STRING, _NULLABLE_STRING, _STRING, _STRING, _INT32, _STRING,
    _nullable(_structure(_STRING, _INT16)), _KEY_VALUES, _TASK_OFFSETS, _TASK_OFFSETS, _TASKS, _TASKS, _INT8,
)  # fmt: skip
_STREAMS = _structure(
    _INT16, _NULLABLE_STRING, _STRING, _STRING, _INT32, _INT32, _nullable(_structure(_INT32, _SUBTOPOLOGIES)),
    _array(_STREAMS_MEMBER), _INT32,
)  # fmt: skip


def describe_groups(groups: Collection[str], version: int) -> GroupMessage:
    """Answered with a `DescribedGroup` by group; one that is not classic is ``Dead``."""

    def read(reader: ByteReader) -> dict[str, DescribedGroup]:
        _, found = _structure(_INT32, _array(_CLASSIC))(reader)
        return {
            group: DescribedGroup(code, state, tuple((it[2], it[3]) for it in members))
            for code, group, state, _, _, members, _ in found
        }

    return GroupMessage("DescribeGroups", DESCRIBE_GROUPS, _texts(groups) + b"\0" + NO_TAGS, read)


def describe_consumer_groups(groups: Collection[str], version: int) -> GroupMessage:
    """As `describe_groups`, for groups of KIP-848."""
    return _describe_by_epoch("ConsumerGroupDescribe", CONSUMER_GROUP_DESCRIBE, _CONSUMER, groups)


def describe_streams_groups(groups: Collection[str], version: int) -> GroupMessage:
    """As `describe_groups`, for groups of KIP-1071."""
    return _describe_by_epoch("StreamsGroupDescribe", STREAMS_GROUP_DESCRIBE, _STREAMS, groups)


def _describe_by_epoch(name: str, api_key: int, layout: Read, groups: Collection[str]) -> GroupMessage:
    """Of the kinds of groups that have epochs: their answers differ in what follows the name of a member."""

    def read(reader: ByteReader) -> dict[str, DescribedGroup]:
        _, found = _structure(_INT32, _array(layout))(reader)
        return {it[2]: DescribedGroup(it[0], it[3], tuple((it[4], it[5]) for it in it[7])) for it in found}

    return GroupMessage(name, api_key, _texts(groups) + b"\0" + NO_TAGS, read)


# --- offsets ----------------------------------------------------------------------------------------------------------


def fetch_offsets(groups: Collection[str], version: int, *, stable: bool) -> GroupMessage:
    """Answered with `FetchedOffsets` by group, of all its partitions. Before `MANY_GROUPS_SINCE` for one group.

    Args:
        stable: a partition over which a transaction is open gets an error instead of the offset before it.
    """
    tail = bytes((stable,)) + NO_TAGS
    if version < MANY_GROUPS_SINCE:
        (group,) = groups

        def read_one(reader: ByteReader) -> dict[str, FetchedOffsets]:
            reader.int32()
            found = FetchedOffsets()
            _read_places(reader, found)
            found.code = reader.int16()
            return {group: found}

        return GroupMessage("OffsetFetch", OFFSET_FETCH, _text(group) + NULL + tail, read_one)

    def read(reader: ByteReader) -> dict[str, FetchedOffsets]:
        reader.int32()
        answer: dict[str, FetchedOffsets] = {}
        for _ in range(reader.array_length()):
            found = answer[reader.string()] = FetchedOffsets()
            _read_places(reader, found)
            found.code = reader.int16()
            reader.skip_tags()
        return answer

    parts = [uvarint(len(groups) + 1)]
    for group in groups:
        parts += (_text(group), NULL, NO_TAGS)
    return GroupMessage("OffsetFetch", OFFSET_FETCH, b"".join([*parts, tail]), read)


def _read_places(reader: ByteReader, found: FetchedOffsets) -> None:
    """The topics of one group; for thousands of groups this is most of the work."""
    places, codes = found.places, found.codes
    unpack, data = _PLAIN_PLACE.unpack_from, reader.data
    for _ in range(reader.array_length()):
        topic = reader.string()
        for _ in range(reader.array_length(_PLACE_BYTES)):
            at = reader.at
            if at + _PLACE_BYTES <= reader.end:
                partition, next_offset, _, metadata_size, code, tags = unpack(data, at)
                if metadata_size == 1 and not code and not tags:  # nearly always: an offset without metadata
                    reader.at = at + _PLACE_BYTES
                    if next_offset >= 0:
                        places[TP(topic, partition)] = next_offset, ""
                    continue
            partition, next_offset, _ = reader.unpack(_PLACE)
            metadata = reader.nullable_string()
            code = reader.int16()
            reader.skip_tags()
            if code:
                codes[TP(topic, partition)] = code
            elif next_offset >= 0:
                places[TP(topic, partition)] = next_offset, (metadata or "").removesuffix(END)
        reader.skip_tags()


def commit_offsets(group: str, places: Places) -> GroupMessage:
    """Answered with the error code of each partition, by group."""
    body = _text(group) + _NO_MEMBER + _topics(places) + NO_TAGS
    return GroupMessage("OffsetCommit", OFFSET_COMMIT, body, lambda reader: {group: _read_codes(reader)})


def commit_in_transaction(
    group: str, places: Places, transactional_id: str, producer_id: int, epoch: int
) -> GroupMessage:
    """As `commit_offsets`; takes effect when the transaction is committed."""
    producer = producer_id.to_bytes(8, "big", signed=True) + epoch.to_bytes(2, "big", signed=True)
    body = _text(transactional_id) + _text(group) + producer + _NO_MEMBER + _topics(places) + NO_TAGS
    return GroupMessage("TxnOffsetCommit", TXN_OFFSET_COMMIT, body, lambda reader: {group: _read_codes(reader)})


def _read_codes(reader: ByteReader) -> dict[TP, int]:
    reader.int32()
    codes: dict[TP, int] = {}
    for _ in range(reader.array_length()):
        topic = reader.string()
        for _ in range(reader.array_length(_CODE.size + 1)):
            partition, code = reader.unpack(_CODE)
            reader.skip_tags()
            codes[TP(topic, partition)] = code
        reader.skip_tags()
    return codes


def lacking(versions: Mapping[int, tuple[int, int]]) -> Iterable[str]:
    """What of these requests brokers do not speak that is needed.

    Args:
        versions: API key → lowest and highest version.
    """
    needed = {
        OFFSET_COMMIT: 8, OFFSET_FETCH: 7, FIND_COORDINATOR: 3, DESCRIBE_GROUPS: 5, LIST_GROUPS: 3,
        ADD_OFFSETS_TO_TXN: 2, TXN_OFFSET_COMMIT: 3,
    }  # fmt: skip
    for key, version in needed.items():
        lowest, highest = versions.get(key, (0, -1))
        if not lowest <= version <= highest:
            yield f"API {key}: {lowest} to {highest}, and {version} is needed"
