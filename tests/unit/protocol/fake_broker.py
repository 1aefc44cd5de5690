"""A broker that does what a test tells it to: a listening socket on 127.0.0.1, and a thread for each connection."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from kafka.protocol.metadata import ApiVersionsResponse, MetadataResponse

from replicator.config import ClusterSettings
from replicator.kafka.cluster import Cluster
from replicator.protocol.handshake import Endpoint
from replicator.protocol.schemas import Message

API_VERSIONS = 18
METADATA = 3
VERSIONS = {0: (3, 9), 1: (4, 12), 3: (0, 12), 10: (0, 4), 17: (0, 1), 18: (0, 3), 22: (0, 4), 36: (0, 2)}


@dataclass(frozen=True, slots=True)
class Asked:
    """A request as it arrived."""

    api_key: int
    version: int
    correlation_id: int
    client_id: str
    body: bytes


class Peer:
    """The broker's end of one connection. Raises EOFError when ours is closed."""

    def __init__(self, sock: socket.socket, number: int) -> None:
        self.sock = sock
        self.node = 0
        """Of the broker, in a `World`."""
        self.number = number
        """Of this connection among the broker's, from 0."""

    def read(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            piece = self.sock.recv(count - len(data))
            if not piece:
                raise EOFError
            data += piece
        return data

    def ask(self, *, header_version: int = 2) -> Asked:
        """The next request."""
        frame = self.read(int.from_bytes(self.read(4), "big"))
        number = [int.from_bytes(frame[at : at + size], "big") for at, size in ((0, 2), (2, 2), (4, 4), (8, 2))]
        end = 10 + number[3]
        client_id = frame[10:end].decode()
        if header_version == 2:
            assert frame[end] == 0
            end += 1
        return Asked(number[0], number[1], number[2], client_id, frame[end:])

    def say(self, asked: Asked, body: bytes, *, header: bytes = b"\0") -> None:
        """Answer; `header` is what stands between the correlation id and the body."""
        frame = asked.correlation_id.to_bytes(4, "big") + header + body
        self.sock.sendall(len(frame).to_bytes(4, "big") + frame)

    def say_message(self, asked: Asked, message: Message, *, header: bytes = b"\0") -> None:
        self.say(asked, bytes(message.encode(version=asked.version)), header=header)

    def introduce(self, versions: dict[int, tuple[int, int]] | None = None) -> None:
        """Answer the ApiVersions request that comes first."""
        asked = self.ask()
        assert asked.api_key == API_VERSIONS
        self.say_message(asked, api_versions(versions or VERSIONS), header=b"")


class FakeBroker:
    """Listens until `stop`.

    Args:
        serve: speaks with one connection; when it returns or raises, the connection is closed.
    """

    def __init__(self, serve: Callable[[Peer], None], *, tls: ssl.SSLContext | None = None, port: int = 0) -> None:
        self._serve = serve
        self._tls = tls
        self._listener = socket.create_server(("127.0.0.1", port))
        self.port: int = self._listener.getsockname()[1]
        self.accepted = 0
        self.failures: list[BaseException] = []
        """Assertions that failed on the broker's side."""
        self._open: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    @property
    def endpoint(self) -> Endpoint:
        return Endpoint("127.0.0.1", self.port)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                sock, _ = self._listener.accept()
                self._open.append(sock)
                thread = threading.Thread(target=self._talk, args=(sock, self.accepted), daemon=True)
                self.accepted += 1
                self._threads.append(thread)
                thread.start()

    def _talk(self, sock: socket.socket, number: int) -> None:
        try:
            if self._tls is not None:
                sock = self._tls.wrap_socket(sock, server_side=True)
                self._open.append(sock)
            self._serve(Peer(sock, number))
        except (OSError, EOFError):
            pass
        except BaseException as error:
            self.failures.append(error)
        finally:
            _end(sock)

    def drop(self) -> None:
        """End every connection."""
        for sock in list(self._open):
            _end(sock)

    def stop(self) -> None:
        """Listen no more."""
        _end(self._listener)
        self.drop()
        for thread in self._threads:
            thread.join(5)
        assert not self.failures, self.failures


def _end(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)
    sock.close()


@contextlib.contextmanager
def broker(serve: Callable[[Peer], None], **more: Any) -> Iterator[FakeBroker]:
    fake = FakeBroker(serve, **more)
    try:
        yield fake
    finally:
        fake.stop()


def api_versions(versions: dict[int, tuple[int, int]], error: int = 0) -> Message:
    kind = ApiVersionsResponse.ApiVersion
    keys = [kind(api_key=key, min_version=low, max_version=high) for key, (low, high) in versions.items()]
    return ApiVersionsResponse(error_code=error, api_keys=keys, throttle_time_ms=0)


def metadata(
    brokers: dict[int, Endpoint],
    topics: dict[str, dict[int, tuple[int, int]]],
    *,
    cluster_id: str = "c",
    errors: Any = (),
) -> Message:
    """An answer with `topics`: name → partition → (leader, epoch); `errors`: name → code."""
    kind = MetadataResponse.MetadataResponseTopic
    part = kind.MetadataResponsePartition
    said = [
        kind(
            error_code=0, name=name, topic_id=None, is_internal=False,
            partitions=[
                part(error_code=0, partition_index=it, leader_id=leader, leader_epoch=epoch, replica_nodes=[],
                     isr_nodes=[], offline_replicas=[])
                for it, (leader, epoch) in leaders.items()
            ],
        )
        for name, leaders in topics.items()
    ]  # fmt: skip
    said += [kind(error_code=code, name=name, topic_id=None, partitions=[]) for name, code in dict(errors).items()]
    nodes = [
        MetadataResponse.MetadataResponseBroker(node_id=node, host=it.host, port=it.port, rack=None)
        for node, it in brokers.items()
    ]
    return MetadataResponse(brokers=nodes, cluster_id=cluster_id, controller_id=1, topics=said, throttle_time_ms=0)


def cluster(servers: str, **security: Any) -> Cluster:
    settings = ClusterSettings.model_validate({"bootstrap_servers": servers, "security": security})
    return Cluster("east", "source", settings, "group")
