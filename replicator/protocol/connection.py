"""Sends requests over one established connection, and hands out the responses, in order. Nothing blocks.

A response is received straight into memory of its own (`buffer_pool`), which stays unchanged as long as a view of it is
held. The peer is not trusted: an impossible size, correlation id or header closes the connection, and every request in
flight gets `NoResponseError`, in order.

Waking up costs as much as copying 100 KB. So on Linux (SO_RCVLOWAT) a large response wakes the loop only when 512 KiB
of it, or its rest, are there; and responses to Produce are read together while the broker has more than two requests to
work on. Responses that are shorter than expected are found by `on_sweep`, within 0.1 s.

Source: KIP-482 for the flexible headers; clients `NetworkClient`, `NetworkReceive`.
"""

from __future__ import annotations

import selectors
import socket
import ssl
import struct
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import islice

from replicator.deadline import seconds_text
from replicator.protocol.buffer_pool import BufferPool
from replicator.protocol.event_loop import EventLoop
from replicator.protocol.primitives import Buffer
from replicator.protocol.response_reader import InvalidResponseError, ResponseReader, header_end

MAX_RESPONSE_BYTES = 1 << 30
MAX_IOV = 1024
"""Linux: UIO_MAXIOV."""
JOINED_BYTES = 16 << 10
"""TLS: smaller parts are joined; one TLS record holds this much."""
READ_PER_ROUND_BYTES = 8 << 20
"""Read at most so much in one round, then let the other connections read."""
WAKE_AT_BYTES = 512 << 10
"""A large response wakes the loop when this much of it has arrived."""
BUSY_WITH = 2
"""Requests that keep a broker busy: while it has more, several responses are read at a time."""
_RESET = struct.pack("ii", 1, 0)
"""SO_LINGER: closing discards what is not sent yet."""
API_VERSIONS = 18
"""Its responses have header v0 in every version: a client that asks does not know the broker's versions yet."""
_REQUEST = struct.Struct(">ihhih")


class NoResponseError(Exception):
    """A request got no response that can be used. The broker may have carried it out all the same.

    Args:
        code: the reason, by librdkafka's name for it.
    """

    def __init__(self, message: str, code: str = "_TRANSPORT") -> None:
        super().__init__(message)
        self.code = code


@dataclass(slots=True)
class Request:
    """A request without its header.

    Args:
        body: its bytes, which must not change until the response came.
        on_done: called from `EventLoop.run_once` with the response's body, a writable view that no other code holds, or
            with `NoResponseError`.
        timeout_s: seconds after which the connection is closed, with all requests that are in flight on it.
        is_flexible: the version has flexible headers: request header v2, response header v1.
        answer_bytes: the response has at least so many, its size and header included; 0: unknown.
    """

    api_key: int
    version: int
    body: Sequence[Buffer]
    on_done: Callable[[memoryview | NoResponseError], None]
    timeout_s: float = 30.0
    is_flexible: bool = True
    min_response_bytes: int = 0


@dataclass(slots=True)
class _InFlight:
    request: Request
    correlation_id: int
    no_later_than_s: float


class Connection:
    """See the module.

    Args:
        sock: connected and, where needed, through its TLS handshake and authenticated; taken over.
        address: ``host:port``, for error texts.
        on_closed: called once, with the reason, after the requests in flight got their error.
        max_response_bytes: a response whose size is said to be larger closes the connection.
        buffers: memory for large responses.

    Threading: the event loop's thread.
    """

    def __init__(
        self, loop: EventLoop, sock: socket.socket, buffers: BufferPool, *, address: str, node: int, client_id: str,
        on_closed: Callable[[Connection, str], None] | None = None, max_response_bytes: int = MAX_RESPONSE_BYTES,
    ) -> None:  # fmt: skip
        self.address = address
        self.node = node
        self.answers = 0
        """How many responses came so far."""
        self.closed_idle = False
        """It was closed while nothing was in flight, as brokers do after `connections.max.idle.ms`: no error."""
        self._loop = loop
        self._socket = sock
        self._client_id = client_id.encode()
        self._on_closed = on_closed
        self._waiting: deque[_InFlight] = deque()
        self._correlation_id = 0
        self._unsent: deque[Buffer] = deque()
        self._buffers = buffers
        self._reader = ResponseReader(max_response_bytes, buffers)
        self._is_tls = isinstance(sock, ssl.SSLSocket)
        self._read_wants_write = self._write_wants_read = False
        self._wakes_at_bytes = 1
        self._mask = selectors.EVENT_READ
        self._is_closed = False
        sock.setblocking(False)
        loop.watch(self, self._mask)

    @property
    def is_ready(self) -> bool:
        return not self._is_closed

    @property
    def is_closed(self) -> bool:
        return self._is_closed

    @property
    def in_flight(self) -> int:
        """Number of requests without a response, including those not sent yet."""
        return len(self._waiting)

    def __repr__(self) -> str:
        return f"Connection({self.address}, node {self.node}, {self.in_flight} in flight)"

    def fileno(self) -> int:
        return self._socket.fileno()

    def send(self, request: Request) -> None:
        """Queue a request, which is sent at the end of the event loop's round.

        On a closed connection `on_done` gets `NoResponseError`.
        """
        if self._is_closed:
            self._finish(request, NoResponseError(f"the connection to {self.address} is closed"))
            return
        self._correlation_id = (self._correlation_id + 1) & 0x7FFFFFFF
        no_later_than_s = time.monotonic() + request.timeout_s
        self._waiting.append(_InFlight(request, self._correlation_id, no_later_than_s))
        parts = [self._header(request), *request.body]
        self._unsent.extend(_joined(parts) if self._is_tls else filter(len, parts))
        self._loop.call_at_end_of_round(self._settle)

    def close_after_invalid_response(self, why: str) -> None:
        """Close it because of an invalid response. The next connection waits as if this one had brought no response."""
        self.answers = 0
        self.close(why)

    def close(self, why: str, code: str = "_TRANSPORT") -> None:
        """Close it; requests in flight get `NoResponseError`, in order."""
        if self._is_closed:
            return
        self._is_closed = True
        self._loop.unwatch(self)
        if self._waiting:  # a request that is repeated over another connection must not arrive as well (KIP-890)
            with suppress(OSError):
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self._socket.close()
        self._unsent.clear()
        self._reader.drop()
        self.closed_idle = not self._waiting and self.answers > 0
        while self._waiting:
            request = self._waiting.popleft().request
            self._finish(request, NoResponseError(f"the connection to {self.address} ended: {why}", code))
        if self._on_closed is not None:
            self._loop.call_soon(_ClosedCall(self._on_closed, self, why))

    # --- called by the event loop -----------------------------------------------------------------------------------

    def on_ready(self, mask: int) -> None:
        can_read = bool(mask & selectors.EVENT_READ) or self._read_wants_write
        can_write = bool(mask & selectors.EVENT_WRITE) or self._write_wants_read
        if can_read:
            self._guarded(self._read)
        if can_write and not self._is_closed:
            self._guarded(self._write)

    def on_sweep(self, now_s: float) -> None:
        self._buffers.sweep(now_s)
        if self._wakes_at_bytes > 1 and not self._reader.missing_bytes:
            self._guarded(self._read)  # responses that are shorter than expected must not wait for others
        for waiting in self._waiting:
            if waiting.no_later_than_s <= now_s:
                self.close(f"no answer within {seconds_text(waiting.request.timeout_s)}", "_TIMED_OUT")
                return

    def _settle(self) -> None:
        """At the end of a round: send requests, and set how many bytes wake the loop."""
        if not self._is_closed:
            self._guarded(self._send_and_wait)

    def _send_and_wait(self) -> None:
        if self._unsent and not self._mask & selectors.EVENT_WRITE and not self._write_wants_read:
            self._write()
        self._wake_late()

    def _guarded(self, step: Callable[[], None]) -> None:
        """Read or write; an error of the socket or the peer closes the connection."""
        try:
            step()
            if not self._is_closed:
                self._watch_what_is_needed()
        except InvalidResponseError as error:
            self.close_after_invalid_response(f"the peer does not speak Kafka's protocol: {error}")
        except (ssl.SSLEOFError, ssl.SSLZeroReturnError):
            self.close("closed by the peer")
        except ssl.SSLError as error:
            self.close(f"TLS: {error.reason or error}", "_SSL")
        except OSError as error:
            self.close(error.strerror or str(error))
        except MemoryError:
            self.close("out of memory for its response")

    def _watch_what_is_needed(self) -> None:
        wants_write = self._read_wants_write or (bool(self._unsent) and not self._write_wants_read)
        mask = selectors.EVENT_READ | (selectors.EVENT_WRITE if wants_write else 0)
        if mask != self._mask:
            self._mask = mask
            self._loop.change(self, mask)

    def _wake_late(self) -> None:
        """Set SO_RCVLOWAT: wake when a good part of a response, or all of it, is there."""
        if self._is_tls or sys.platform != "linux":
            return
        wanted = min(self._reader.missing_bytes, WAKE_AT_BYTES) or self._worth_reading_bytes()
        if wanted != self._wakes_at_bytes:
            self._wakes_at_bytes = wanted
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, wanted)

    def _worth_reading_bytes(self) -> int:
        """Bytes of the small responses that are due, but for the last few, on which the broker works meanwhile."""
        wanted = -self._reader.gathered_bytes
        for waiting in islice(self._waiting, max(0, len(self._waiting) - BUSY_WITH)):
            if not waiting.request.min_response_bytes:
                break
            wanted += waiting.request.min_response_bytes
        return max(1, wanted)

    # --- writing ------------------------------------------------------------------------------------------------------

    def _header(self, request: Request) -> bytes:
        """Size and request header v1 or v2: both have a client id with a 2-byte length."""
        tail = b"\0" if request.is_flexible else b""
        size = 10 + len(self._client_id) + len(tail) + sum(map(len, request.body))
        fixed = (size, request.api_key, request.version, self._correlation_id, len(self._client_id))
        return _REQUEST.pack(*fixed) + self._client_id + tail

    def _write(self) -> None:
        self._write_wants_read = False
        try:
            while self._unsent:
                offered, taken = self._write_some()
                self._drop_written(offered, taken)
                if taken < offered and not self._is_tls:
                    return  # the kernel's buffer is full; the selector reports when there is room
        except (BlockingIOError, InterruptedError, ssl.SSLWantWriteError):
            return
        except ssl.SSLWantReadError:
            self._write_wants_read = True

    def _write_some(self) -> tuple[int, int]:
        """Write once; return bytes offered and taken. TLS: OpenSSL must get the same bytes again after a refusal."""
        if self._is_tls:
            return len(self._unsent[0]), self._socket.send(self._unsent[0])
        parts = list(islice(self._unsent, MAX_IOV))
        return sum(map(len, parts)), self._socket.sendmsg(parts)

    def _drop_written(self, offered: int, taken: int) -> None:
        outgoing = self._unsent
        if taken == offered and len(outgoing) <= MAX_IOV and not self._is_tls:  # nearly always
            outgoing.clear()
            return
        while taken:
            first = outgoing[0]
            if taken < len(first):
                outgoing[0] = memoryview(first)[taken:]
                return
            taken -= len(first)
            outgoing.popleft()

    # --- reading ------------------------------------------------------------------------------------------------------

    def _read(self) -> None:
        self._read_wants_write = False
        try:
            budget = READ_PER_ROUND_BYTES
            while budget > 0:
                room = self._reader.room()
                count = self._socket.recv_into(room)
                if not count:
                    raise ConnectionResetError(0, "closed by the peer")
                budget -= count
                self._reader.add(count, self._take)
                if count < len(room) and not self._is_tls:  # it is empty
                    self._loop.call_at_end_of_round(self._settle)
                    return
        except BlockingIOError:
            self._loop.call_at_end_of_round(self._settle)
            return
        except (InterruptedError, ssl.SSLWantReadError):
            return
        except ssl.SSLWantWriteError:
            self._read_wants_write = True
            return
        if self._is_tls and self._socket.pending():  # type: ignore[attr-defined]
            self._loop.call_soon(lambda: self.on_ready(selectors.EVENT_READ) if not self._is_closed else None)

    def _take(self, correlation_id: int, body: memoryview | None) -> None:
        """Match a response with the oldest request, before it gets memory; hand over a complete one."""
        if not self._waiting:
            raise InvalidResponseError("a response to no request")
        oldest = self._waiting[0]
        if correlation_id != oldest.correlation_id:
            raise InvalidResponseError(f"a response to request {correlation_id} instead of {oldest.correlation_id}")
        if body is not None:
            result = body if _has_plain_header(oldest.request) else body[header_end(body) :]
            self._waiting.popleft()
            self.answers += 1
            self._finish(oldest.request, result)

    def _finish(self, request: Request, result: memoryview | NoResponseError) -> None:
        self._loop.call_soon(partial(request.on_done, result))


@dataclass(slots=True)
class _ClosedCall:
    call: Callable[[Connection, str], None]
    connection: Connection
    why: str

    def __call__(self) -> None:
        self.call(self.connection, self.why)


def _joined(parts: Sequence[Buffer]) -> list[memoryview]:
    """Join series of small parts, and leave large parts as they are."""
    joined: list[memoryview] = []
    small = bytearray()
    for part in parts:
        if len(part) < JOINED_BYTES:
            small += part
        else:
            if small:
                joined.append(memoryview(small))
                small = bytearray()
            joined.append(memoryview(part))
    if small:
        joined.append(memoryview(small))
    return joined


def _has_plain_header(request: Request) -> bool:
    """Whether the response's header is v0, without tagged fields."""
    return not request.is_flexible or request.api_key == API_VERSIONS
