"""Is the cluster ready? A few hand-encoded requests over a plain socket, so that asking needs no Kafka client.

Metadata v1 tells which brokers take part; CreateTopics v4 with `validate_only` is answered by the active controller and
leaves no trace, so its success means that topics can be created. InitProducerId v1 and FindCoordinator v1 make the
cluster create its internal topics and load its coordinators, before the first client finds them missing and backs off.

Source: Kafka's request and response schemas of these names; versions that Kafka 4 still serves and that precede the
compact ("flexible") encoding.
"""

from __future__ import annotations

import socket
import struct
from dataclasses import dataclass

METADATA, METADATA_VERSION = 3, 1
CREATE_TOPICS, CREATE_TOPICS_VERSION = 19, 4
INIT_PRODUCER_ID, INIT_PRODUCER_ID_VERSION = 22, 1
FIND_COORDINATOR, FIND_COORDINATOR_VERSION = 10, 1
GROUP, TRANSACTION = 0, 1
PROBE_TOPIC = "replicator.probe"
PROBE_TIMEOUT_S = 5.0
MAX_ANSWER_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Ready:
    """The cluster answered and takes new topics; `node_ids` are the brokers that take part."""

    node_ids: frozenset[int]


@dataclass(frozen=True, slots=True)
class NotReady:
    """Not yet, and why."""

    reason: str


def probe(address: str, *, replication_factor: int, timeout_s: float = PROBE_TIMEOUT_S) -> Ready | NotReady:
    """Ask one broker, through a plaintext listener, whether the cluster is ready.

    Args:
        address: `host:port`.
        replication_factor: as many brokers must be ready to hold a new topic.
        timeout_s: for each socket operation.
    """
    try:
        with _connect(address, timeout_s) as connection:
            node_ids = parse_metadata(_ask(connection, METADATA, METADATA_VERSION, metadata_request()))
            body = create_topics_request(replication_factor, int(timeout_s * 1000))
            error_code, message = parse_create_topics(_ask(connection, CREATE_TOPICS, CREATE_TOPICS_VERSION, body))
    except (OSError, EOFError, struct.error, ValueError) as error:
        return NotReady(f"{address}: {type(error).__name__}: {error}")
    if error_code != 0:
        return NotReady(f"{address}: a topic could not be created: error {error_code} {message}")
    return Ready(node_ids)


def warm_up(address: str, *, timeout_s: float = PROBE_TIMEOUT_S) -> str | None:
    """Ask for a producer id and for both kinds of coordinators.

    Returns:
        None when the broker could name all of them, else what it lacks.
    """
    try:
        with _connect(address, timeout_s) as connection:
            answer = _ask(connection, INIT_PRODUCER_ID, INIT_PRODUCER_ID_VERSION, init_producer_id_request())
            _, error_code = struct.unpack_from(">ih", answer)  # after the throttle time
            if error_code != 0:
                return f"{address}: no producer id yet: error {error_code}"
            for kind in (TRANSACTION, GROUP):
                body = find_coordinator_request(kind)
                answer = _ask(connection, FIND_COORDINATOR, FIND_COORDINATOR_VERSION, body)
                _, error_code = struct.unpack_from(">ih", answer)
                if error_code != 0:
                    return f"{address}: no coordinator yet: error {error_code}"
    except (OSError, EOFError, struct.error, ValueError) as error:
        return f"{address}: {type(error).__name__}: {error}"
    return None


def metadata_request() -> bytes:
    """Body of Metadata v1 for no topics."""
    return struct.pack(">i", 0)


def parse_metadata(body: bytes) -> frozenset[int]:
    """The node ids in a Metadata v1 response."""
    (count,) = struct.unpack_from(">i", body)
    node_ids, at = set(), 4
    for _ in range(count):
        (node_id,) = struct.unpack_from(">i", body, at)
        node_ids.add(node_id)
        _, at = _read_string(body, at + 4)  # host
        _, at = _read_string(body, at + 4)  # port before it: rack
    return frozenset(node_ids)


def init_producer_id_request() -> bytes:
    """Body of InitProducerId v1 without a transactional id."""
    return struct.pack(">hi", -1, 60_000)


def find_coordinator_request(kind: int) -> bytes:
    """Body of FindCoordinator v1."""
    return _string(PROBE_TOPIC) + struct.pack(">b", kind)


def create_topics_request(replication_factor: int, timeout_ms: int) -> bytes:
    """Body of CreateTopics v4 that only validates one topic of one partition."""
    topic = _string(PROBE_TOPIC) + struct.pack(">ihii", 1, replication_factor, 0, 0)
    return struct.pack(">i", 1) + topic + struct.pack(">i?", timeout_ms, True)


def parse_create_topics(body: bytes) -> tuple[int, str]:
    """The error code and its text in a CreateTopics v4 response about one topic."""
    _, count = struct.unpack_from(">ii", body)  # throttle time, topics
    if count != 1:
        raise ValueError(f"an answer about {count} topics")
    _, at = _read_string(body, 8)
    (error_code,) = struct.unpack_from(">h", body, at)
    message, _ = _read_string(body, at + 2)
    return error_code, message


def _connect(address: str, timeout_s: float) -> socket.socket:
    host, _, port = address.rpartition(":")
    return socket.create_connection((host, int(port)), timeout_s)


def _ask(connection: socket.socket, api_key: int, version: int, body: bytes) -> bytes:
    header = struct.pack(">hhi", api_key, version, 1) + _string("replicator-probe")
    connection.sendall(struct.pack(">i", len(header) + len(body)) + header + body)
    (size,) = struct.unpack(">i", _read_exactly(connection, 4))
    if not 4 <= size <= MAX_ANSWER_BYTES:
        raise ValueError(f"an answer of {size} bytes: not a plaintext Kafka listener?")
    return _read_exactly(connection, size)[4:]  # after the correlation id


def _read_exactly(connection: socket.socket, size: int) -> bytes:
    chunks = bytearray()
    while len(chunks) < size:
        chunk = connection.recv(size - len(chunks))
        if not chunk:
            raise EOFError("the broker closed the connection")
        chunks += chunk
    return bytes(chunks)


def _string(text: str) -> bytes:
    return struct.pack(">h", len(text)) + text.encode()


def _read_string(body: bytes, at: int) -> tuple[str, int]:
    (size,) = struct.unpack_from(">h", body, at)
    end = at + 2 + max(size, 0)  # -1 is null
    if end > len(body):
        raise ValueError("a cut answer")
    return body[at + 2 : end].decode(), end
