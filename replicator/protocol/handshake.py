"""Connects to a broker: name, TCP, TLS, ApiVersions, SASL; with blocking calls, in a thread of its own.

The event loop's thread never waits for it. An attempt that was abandoned closes its connection.

Source: KIP-35, KIP-511 (ApiVersions); clients `SaslClientAuthenticator`.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from kafka.protocol.metadata import ApiVersionsRequest

from replicator import __version__
from replicator.deadline import Deadline
from replicator.protocol import schemas
from replicator.protocol.connect_errors import ConnectError
from replicator.protocol.event_loop import EventLoop
from replicator.protocol.security import Security

CONNECT_TIMEOUT_S = 10.0
MAX_HANDSHAKE_BYTES = 1 << 20
"""The largest response before the connection is established: ApiVersions has a few KiB."""
UNSUPPORTED_VERSION = 35
API_VERSIONS_VERSION = 3
_HUNG_UP = "closed by the broker: is security.protocol what it asks for?"
_TLS_ALERT = 0x15
_TLS_MAJOR = 3


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a broker listens."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @classmethod
    def of(cls, text: str) -> Endpoint:
        """The endpoint of ``host:port`` or ``[address]:port``."""
        host, _, port = text.strip().rpartition(":")
        return cls(host.removeprefix("[").removesuffix("]"), int(port))


@dataclass(slots=True)
class Established:
    """A connection that is ready for requests.

    Args:
        lifetime_s: seconds until the broker wants re-authentication (KIP-368); None: never.
    """

    sock: socket.socket
    versions: dict[int, tuple[int, int]]
    lifetime_s: float | None


def connect(endpoint: Endpoint, security: Security, client_id: str, deadline: Deadline) -> Established:
    """Connect to a broker; block until the connection is established.

    Raises:
        ConnectError: it could not be; the text has the endpoint.
    """
    try:
        handshake = _Handshake(_connect(endpoint, deadline), endpoint, security, client_id, deadline)
        try:
            return handshake.run()
        except BaseException:
            handshake.close()
            raise
    except ConnectError as error:
        raise ConnectError(f"{endpoint}: {error}", error.code) from error.__cause__


def _connect(endpoint: Endpoint, deadline: Deadline) -> socket.socket:
    """A TCP connection to the first address that answers."""
    try:
        found = socket.getaddrinfo(endpoint.host, endpoint.port, type=socket.SOCK_STREAM)
    except (OSError, ValueError, OverflowError) as error:
        raise ConnectError(f"the name can't be resolved: {_words(error)}", "_RESOLVE") from error
    last: ConnectError | None = None
    for index, (family, kind, protocol, _, address) in enumerate(found):
        sock = socket.socket(family, kind, protocol)
        try:
            sock.settimeout(max(0.001, deadline.left_s() / (len(found) - index)))
            sock.connect(address)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        except (OSError, OverflowError) as error:  # a broker may advertise an invalid port
            sock.close()
            code = "_TIMED_OUT" if isinstance(error, TimeoutError) else "_TRANSPORT"
            last = ConnectError(f"connect failed: {_words(error)}", code)
        else:
            return sock
    raise last or ConnectError("the name has no address", "_RESOLVE")


class _Handshake:
    """The exchange before the first request. Every method raises ConnectError."""

    def __init__(
        self, sock: socket.socket, endpoint: Endpoint, security: Security, client_id: str, deadline: Deadline
    ) -> None:
        self._socket = sock
        self._endpoint = endpoint
        self._security = security
        self._client_id = client_id
        self._deadline = deadline
        self._correlation_id = 0

    def run(self) -> Established:
        if self._security.uses_tls:
            self._begin_tls(self._security.tls_context())
        versions = self._api_versions()
        lifetime_s = None
        if self._security.uses_sasl:
            lifetime_s = self._security.authenticate(self._exchange, versions)
        return Established(self._socket, versions, lifetime_s)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.close()

    def _begin_tls(self, context: ssl.SSLContext) -> None:
        try:
            self._socket.settimeout(self._left_s())
            self._socket = context.wrap_socket(self._socket, server_hostname=self._endpoint.host)
        except (OSError, ValueError) as error:
            raise _translated(error, "the TLS handshake failed") from error

    def _api_versions(self) -> dict[int, tuple[int, int]]:
        answer = self._exchange(_api_versions_request(), API_VERSIONS_VERSION)
        if answer.error_code == UNSUPPORTED_VERSION:
            answer = self._exchange(ApiVersionsRequest(), 0)
        if answer.error_code:
            raise ConnectError(f"ApiVersions was refused with error {answer.error_code}", "_TRANSPORT")
        return {it.api_key: (it.min_version, it.max_version) for it in answer.api_keys}

    def _exchange(self, message: Any, version: int) -> Any:
        self._correlation_id += 1
        what = schemas.name(message)
        try:
            self._send(schemas.encode_framed(message, version, self._correlation_id, self._client_id))
            frame = self._receive(self._size(self._receive(4)))
            return schemas.decode_framed(message, version, self._correlation_id, frame)
        except schemas.UndecodableResponseError as error:
            raise ConnectError(f"the peer does not speak Kafka's protocol: {error}", "_TRANSPORT") from error
        except OSError as error:
            raise _translated(error, f"{what} got no answer") from error

    def _send(self, data: bytes) -> None:
        try:
            self._socket.settimeout(self._left_s())
            self._socket.sendall(data)
        except (BrokenPipeError, ConnectionResetError, ssl.SSLEOFError):
            with contextlib.suppress(ConnectionError, TimeoutError, ssl.SSLEOFError):
                self._socket.recv(1)  # an earlier TLS alert says why; it is raised as an SSLError
            raise

    def _receive(self, size: int) -> bytearray:
        data = bytearray(size)
        view, have = memoryview(data), 0
        while have < size:
            self._socket.settimeout(self._left_s())
            count = self._socket.recv_into(view[have:])
            if not count:
                raise ConnectionResetError(0, _HUNG_UP)
            have += count
        return data

    def _size(self, head: bytearray) -> int:
        size = int.from_bytes(head, "big", signed=True)
        if head[0] == _TLS_ALERT and head[1] == _TLS_MAJOR:
            raise ConnectError("the broker requires TLS, and security.protocol does not have it", "_TRANSPORT")
        if not 4 <= size <= MAX_HANDSHAKE_BYTES:
            raise ConnectError(f"the peer does not speak Kafka's protocol: a response of {size} bytes", "_TRANSPORT")
        return size

    def _left_s(self) -> float:
        if self._deadline.expired:
            raise TimeoutError("timed out")
        return self._deadline.left_s()


def _api_versions_request() -> Any:
    return ApiVersionsRequest(client_software_name="replicator", client_software_version=__version__)


def _translated(error: Exception, what: str) -> ConnectError:
    if isinstance(error, ssl.SSLCertVerificationError):
        return ConnectError(f"{what}: the broker's certificate is not trusted: {error.verify_message}", "_SSL")
    if isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError):  # as a load balancer does when the broker is away
        return ConnectError(f"{what}: {_HUNG_UP}", "_TRANSPORT")
    if isinstance(error, ssl.SSLError | ValueError):
        return ConnectError(f"{what}: {getattr(error, 'reason', None) or error}", "_SSL")
    code = "_TIMED_OUT" if isinstance(error, TimeoutError) else "_TRANSPORT"
    return ConnectError(f"{what}: {_words(error)}", code)


def _words(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


class ConnectAttempt:
    """Runs one `connect` in a daemon thread.

    `on_done` is called from `EventLoop.run_once`, unless the attempt was abandoned before.
    """

    def __init__(
        self, loop: EventLoop, endpoint: Endpoint, security: Security, client_id: str,
        on_done: Callable[[Established | ConnectError], None],
    ) -> None:  # fmt: skip
        self._loop = loop
        self._connect_blocking: Callable[[], Established] = lambda: connect(
            endpoint, security, client_id, Deadline(CONNECT_TIMEOUT_S)
        )
        self._on_done = on_done
        self._lock = threading.Lock()
        self._result: Established | ConnectError | None = None
        self._is_abandoned = False
        threading.Thread(target=self._run, name=f"connect to {endpoint}", daemon=True).start()

    def abandon(self) -> None:
        """Stop: `on_done` is not called, and the connection is closed."""
        with self._lock:
            self._is_abandoned = True
            self._drop()

    def _run(self) -> None:
        result: Established | ConnectError
        try:
            result = self._connect_blocking()
        except ConnectError as error:
            result = error
        except Exception as error:  # a bug; the link has to learn that the thread ended
            result = ConnectError(f"{type(error).__name__}: {error}", "_TRANSPORT")
        with self._lock:
            self._result = result
            if self._is_abandoned:
                self._drop()
                return
        self._loop.call_soon_threadsafe(self._deliver)

    def _deliver(self) -> None:
        with self._lock:
            result = self._result
            is_wanted = not self._is_abandoned
            self._result = None
        if is_wanted and result is not None:
            self._on_done(result)

    def _drop(self) -> None:
        if isinstance(self._result, Established):
            self._result.sock.close()
        self._result = None
