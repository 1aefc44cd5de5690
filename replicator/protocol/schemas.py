"""Encodes small requests and decodes their responses with kafka-python's schemas.

The schemas trust the bytes that they decode. So each of their failures is raised as `UndecodableResponseError`, and
bytes on which they would not terminate are refused first. Fetch and Produce
have codecs of their own (`fetch`, `produce`).
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterable
from typing import Any

from kafka.protocol.api_header import ResponseClassRegistry

from replicator.errors import TP
from replicator.protocol.primitives import ProtocolError

MAX_BYTES = 64 << 20
"""Of an answer that is decoded here."""
_ENDLESS_NUMBER = re.compile(rb"[\x80-\xff]{1024}")
"""A varint has no end in kafka-python, and its cost grows with the square of its length."""

Message = Any
"""A request of kafka-python (`kafka.protocol.api_message.ApiMessage`), or one that decodes its own answer."""


class UndecodableResponseError(Exception):
    """The answer does not follow its schema."""


def name(message: Message) -> str:
    """``EndTxn``."""
    return str(message.name).removesuffix("Request")


def by_topic(tps: Iterable[TP]) -> dict[str, list[int]]:
    """Partitions as requests name them: the numbers of each topic."""
    topics: dict[str, list[int]] = {}
    for tp in tps:
        topics.setdefault(tp.topic, []).append(tp.partition)
    return topics


def is_flexible(message: Message, version: int) -> bool:
    return bool(message.flexible_version_q(version))


def encode(message: Message, version: int) -> bytearray:
    """The request without its header."""
    return bytearray(message.encode(version=version))


def encode_framed(message: Message, version: int, correlation_id: int, client_id: str) -> bytes:
    """The request with size and header."""
    message.API_VERSION = version
    message.with_header(correlation_id=correlation_id, client_id=client_id)
    return bytes(message.encode(framed=True, header=True))


def decode(message: Message, version: int, body: memoryview) -> Any:
    """The answer to `message`, without its header.

    Raises:
        UndecodableResponseError: see the module.
    """
    return _guarded(message, version, body, has_header=False)


def decode_framed(message: Message, version: int, correlation_id: int, frame: bytearray) -> Any:
    """The answer to `message`, with its header and without its size.

    Raises:
        UndecodableResponseError: see the module; also when it answers another request.
    """
    if int.from_bytes(frame[:4], "big") != correlation_id:
        raise UndecodableResponseError("it answers another request")
    return _guarded(message, version, memoryview(frame), has_header=True)


def _guarded(message: Message, version: int, data: memoryview, *, has_header: bool) -> Any:
    by_hand = getattr(message, "decode_answer", None)
    if by_hand is not None:
        try:
            return by_hand(data)
        except ProtocolError as error:
            raise UndecodableResponseError(f"no {name(message)} answer of version {version}: {error}") from error
    if len(data) > MAX_BYTES or _ENDLESS_NUMBER.search(data):
        raise UndecodableResponseError(f"{len(data)} bytes that are no {name(message)} answer")
    try:
        kind = ResponseClassRegistry._response_class_registry[message.API_KEY][version]
        if not has_header:
            return kind.decode(data)
        stream = io.BytesIO(data)
        kind.parse_header(stream)
        return kind.decode(stream)
    except Exception as error:
        raise UndecodableResponseError(f"no {name(message)} answer of version {version}: {error!r}") from error
