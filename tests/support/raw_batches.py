"""Writes and reads record batches byte by byte: what librdkafka will not write, and what it does not show.

Source: Kafka's protocol guide, "Record Batch" and Produce v3; clients `DefaultRecordBatch`.
"""

from __future__ import annotations

import socket
import struct

TIMEOUT_S = 20.0
PRODUCE, FETCH = 0, 1
_CASTAGNOLI = 0x82F63B78


def produce_raw(bootstrap_servers: str, topic: str, partition: int, records: list[tuple[int, bytes]]) -> None:
    """Write (timestamp in ms, value) pairs as one batch to a partition that the first broker leads.

    Raises:
        AssertionError: the broker refused it.
    """
    batch = _batch(records)
    body = struct.pack(">hhi", -1, -1, int(TIMEOUT_S * 1000)) + struct.pack(">i", 1) + _string(topic)
    body += struct.pack(">iii", 1, partition, len(batch)) + batch
    answer = _ask(bootstrap_servers, struct.pack(">hhi", PRODUCE, 3, 1) + _string("tests-raw") + body)
    at = 4 + 4 + 2 + len(topic.encode()) + 4 + 4  # correlation id, topics, name, partitions, partition
    (code,) = struct.unpack_from(">h", answer, at)
    assert code == 0, f"Produce for {topic}[{partition}] was answered with error {code}"


def fetch_raw(bootstrap_servers: str, topic: str, partition: int = 0) -> list[bytes]:
    """Every record batch of a partition that the first broker leads, markers of transactions left out.

    Raises:
        AssertionError: the broker refused it.
    """
    batches: list[bytes] = []
    offset = 0
    while True:
        body = struct.pack(">iiiib", -1, 100, 0, 1 << 26, 0) + struct.pack(">i", 1) + _string(topic)
        body += struct.pack(">iiqi", 1, partition, offset, 1 << 26)
        answer = _ask(bootstrap_servers, struct.pack(">hhi", FETCH, 4, 1) + _string("tests-raw") + body)
        at = 4 + 4 + 4 + 2 + len(topic.encode()) + 4  # correlation id, throttle, topics, name, partitions
        _, code, _, _, aborted = struct.unpack_from(">ihqqi", answer, at)
        assert code == 0, f"Fetch of {topic}[{partition}] was answered with error {code}"
        at += 26 + 16 * max(0, aborted)
        (size,) = struct.unpack_from(">i", answer, at)
        records = answer[at + 4 : at + 4 + size]
        if not records:
            return batches
        while records:
            base, length = struct.unpack_from(">qi", records)
            batch, records = records[: 12 + length], records[12 + length :]
            (attributes,) = struct.unpack_from(">h", batch, 21)
            (last_delta,) = struct.unpack_from(">i", batch, 23)
            offset = base + last_delta + 1
            if not attributes & 0x20:
                batches.append(batch)


def _ask(bootstrap_servers: str, request: bytes) -> bytes:
    host, port = bootstrap_servers.split(",", 1)[0].rsplit(":", 1)
    with socket.create_connection((host, int(port)), TIMEOUT_S) as connection:
        connection.sendall(struct.pack(">i", len(request)) + request)
        return _read(connection, struct.unpack(">i", _read(connection, 4))[0])


def _batch(records: list[tuple[int, bytes]]) -> bytes:
    first_ms = records[0][0]
    encoded = b"".join(_record(i, ms - first_ms, value) for i, (ms, value) in enumerate(records))
    last_ms = max(ms for ms, _ in records)
    head = struct.pack(">hiqqqhii", 0, len(records) - 1, first_ms, last_ms, -1, -1, -1, len(records))
    checked = head + encoded
    tail = struct.pack(">ibI", -1, 2, _crc32c(checked)) + checked
    return struct.pack(">qi", 0, len(tail)) + tail


def _record(delta: int, timestamp_delta: int, value: bytes) -> bytes:
    body = b"\0" + _varint(timestamp_delta) + _varint(delta) + _varint(-1) + _varint(len(value)) + value + _varint(0)
    return _varint(len(body)) + body


def _varint(number: int) -> bytes:
    """Zigzag, as Kafka's records have it."""
    value = (number << 1) ^ (number >> 63)
    out = bytearray()
    while value > 0x7F:
        out.append((value & 0x7F) | 0x80)
        value >>= 7
    return bytes([*out, value])


def _string(text: str) -> bytes:
    return struct.pack(">h", len(text.encode())) + text.encode()


def _crc32c(data: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (_CASTAGNOLI if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def _read(connection: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        chunk = connection.recv(size - len(data))
        assert chunk, "the broker closed the connection"
        data += chunk
    return data
