"""Keeps one broker connected on one channel: connects with backoff, and replaces the connection before it expires.

Re-authentication (KIP-368): a broker closes a connection whose authentication is too old. Long before that, a second
connection is made, and takes over at a moment when nothing is in flight on the first, so that requests keep their
order. When no such moment comes, the first one is not handed out any more near its end, until its last response came.
"""

from __future__ import annotations

import random
import time
from dataclasses import dataclass
from typing import Protocol

from replicator.protocol.buffer_pool import BufferPool
from replicator.protocol.connect_errors import ConnectError
from replicator.protocol.connection import Connection
from replicator.protocol.event_loop import EventLoop, Timer
from replicator.protocol.handshake import ConnectAttempt, Endpoint, Established
from replicator.protocol.security import Security

FIRST_BACKOFF_S = 0.05
MAX_BACKOFF_S = 2.0
RENEW_FROM = 0.6
"""Part of the authentication's lifetime after which the second connection is made: 0.6 to 0.7, spread at random."""
DRAIN_FROM = 0.8
UNUSABLE_FROM = 0.95


class LinkOwner(Protocol):
    """Receives the events of a link. Threading: the event loop's thread, within `EventLoop.run_once`."""

    def link_is_up(self, link: BrokerLink) -> None: ...
    def link_is_down(self, link: BrokerLink, why: str, *, was_idle: bool) -> None:
        """Its connection ended, after the requests in flight got their errors."""

    def link_failed(self, link: BrokerLink, error: ConnectError) -> None:
        """Connecting failed. `ready` or `connect` try again, after the backoff."""


@dataclass(frozen=True, slots=True)
class LinkSettings:
    """What all links of a cluster connect with."""

    loop: EventLoop
    security: Security
    client_id: str
    buffers: BufferPool


@dataclass(slots=True)
class _Lifetime:
    """When to re-authenticate, on the monotonic clock."""

    renew_from_s: float
    drain_from_s: float
    unusable_from_s: float

    @classmethod
    def of(cls, began_s: float, lifetime_s: float) -> _Lifetime:
        renew_from = RENEW_FROM + random.random() * 0.1
        return cls(*(began_s + lifetime_s * part for part in (renew_from, DRAIN_FROM, UNUSABLE_FROM)))


class BrokerLink:
    """See the module.

    Args:
        max_response_bytes: the largest response to accept on this channel.

    Attributes:
        versions: API key → lowest and highest version that the broker supports; empty before it was reached.
    """

    def __init__(
        self, settings: LinkSettings, owner: LinkOwner, node: int, endpoint: Endpoint, max_response_bytes: int
    ) -> None:
        self.node = node
        self.endpoint = endpoint
        self.versions: dict[int, tuple[int, int]] = {}
        self._settings = settings
        self._owner = owner
        self._max_response_bytes = max_response_bytes
        self._connection: Connection | None = None
        self._fresh: Connection | None = None
        self._lifetime: _Lifetime | None = None
        self._fresh_lifetime: _Lifetime | None = None
        self._connecting: ConnectAttempt | None = None
        self._retry: Timer | None = None
        self._failures = 0
        self.next_try_s = 0.0
        """The next attempt begins no earlier, on the monotonic clock."""
        self.connect_began_s = 0.0
        """When the last attempt began."""

    @property
    def is_connecting(self) -> bool:
        return self._connecting is not None

    @property
    def is_up(self) -> bool:
        return self._connection is not None and self._connection.is_ready

    def ready(self) -> Connection | None:
        """Return a connection to send on now. Without one, begin to connect in the background."""
        if self._connection is None:
            self.connect()
            return None
        if self._connection.is_closed:  # `_ended` is about to be called
            return None
        return self._connection if self._lifetime is None else self._renewed(self._connection, self._lifetime)

    def _renewed(self, current: Connection, lifetime: _Lifetime) -> Connection | None:
        now_s = time.monotonic()
        if now_s < lifetime.renew_from_s:
            return current
        self.connect()
        is_idle = current.in_flight == 0
        if self._fresh is not None and is_idle:
            self._swap()
            return self._connection
        if now_s >= lifetime.unusable_from_s or (self._fresh is not None and now_s >= lifetime.drain_from_s):
            return None
        return current

    def _swap(self) -> None:
        """Replace the connection by the second one."""
        old = self._connection
        self._connection, self._lifetime = self._fresh, self._fresh_lifetime
        self._fresh = self._fresh_lifetime = None
        if self._connection is not None and old is not None:
            old.close("replaced by a fresh one")

    def connect(self) -> None:
        """Begin to connect, now or when the backoff is over, unless that is under way or done."""
        is_under_way = self._connecting is not None or (self._retry is not None and self._retry.is_pending)
        if is_under_way or self._fresh is not None:
            return
        wait_s = self.next_try_s - time.monotonic()
        if wait_s > 0:
            self._retry = self._settings.loop.call_later(wait_s, self._connect_now)
        else:
            self._connect_now()

    def _connect_now(self) -> None:
        self.connect_began_s = time.monotonic()
        settings = self._settings
        self._connecting = ConnectAttempt(
            settings.loop, self.endpoint, settings.security, settings.client_id, self._on_connected
        )

    def _on_connected(self, result: Established | ConnectError) -> None:
        self._connecting = None
        if isinstance(result, ConnectError):
            self._back_off()
            self._owner.link_failed(self, result)
            return
        self.versions = result.versions
        connection = Connection(
            self._settings.loop, result.sock, self._settings.buffers, address=str(self.endpoint), node=self.node,
            client_id=self._settings.client_id, on_closed=self._ended, max_response_bytes=self._max_response_bytes,
        )  # fmt: skip
        lifetime = _Lifetime.of(time.monotonic(), result.lifetime_s) if result.lifetime_s else None
        if self._connection is None:
            self._connection, self._lifetime = connection, lifetime
        else:
            self._fresh, self._fresh_lifetime = connection, lifetime
        self._owner.link_is_up(self)

    def _ended(self, connection: Connection, why: str) -> None:
        if connection is self._fresh:
            self._fresh = self._fresh_lifetime = None
            self._back_off()
            return
        if connection is not self._connection:
            return
        if connection.answers:
            self._failures = 0
            self.next_try_s = 0.0
        else:  # the broker accepts connections and closes them again: back off
            self._back_off()
        self._swap()
        self._owner.link_is_down(self, why, was_idle=connection.closed_idle)

    def _back_off(self) -> None:
        wait_s = min(MAX_BACKOFF_S, FIRST_BACKOFF_S * 2 ** min(self._failures, 16))
        self._failures += 1
        self.next_try_s = time.monotonic() + wait_s * (0.8 + random.random() * 0.4)

    def set_node(self, node: int) -> None:
        """Set the node id of the broker behind this address."""
        self.node = node
        for connection in (self._connection, self._fresh):
            if connection is not None:
                connection.node = node

    def change_endpoint(self, endpoint: Endpoint) -> None:
        """Go on at the broker's new address; close the connections to the old one."""
        self.close(f"the broker moved to {endpoint}")
        self.endpoint = endpoint
        self._failures = 0
        self.next_try_s = 0.0

    def close(self, why: str) -> None:
        """Close the connections and stop connecting. Requests in flight get `NoResponseError`.

        `link_is_down` is not called.
        """
        if self._connecting is not None:
            self._connecting.abandon()
            self._connecting = None
        if self._retry is not None:
            self._retry.cancel()
        old, self._connection = (self._connection, self._fresh), None
        self._fresh = self._lifetime = self._fresh_lifetime = None
        for connection in old:
            if connection is not None:
                connection.close(why)
