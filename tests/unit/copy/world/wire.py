"""Connections to the model's brokers: our requests as bytes, decoded by kafka-python's schemas, and their answers.

A broker works on one request of a connection after another. What it was sent before its client died still arrives.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any

from kafka.protocol.admin.transactions import DescribeProducersRequest, DescribeTransactionsRequest
from kafka.protocol.consumer.fetch import FetchRequest
from kafka.protocol.metadata import FindCoordinatorRequest, MetadataRequest
from kafka.protocol.producer import AddPartitionsToTxnRequest, EndTxnRequest, InitProducerIdRequest, ProduceRequest

from replicator.protocol.broker_link import LinkOwner, LinkSettings
from replicator.protocol.connect_errors import ConnectError
from replicator.protocol.connection import Connection, NoResponseError, Request
from replicator.protocol.handshake import Endpoint
from tests.unit.copy.world.answers import Answers
from tests.unit.copy.world.cluster import ModelCluster
from tests.unit.copy.world.simulation import Process, Simulation

LATENCY_S = 0.001
RETRY_S = 0.1
IDLE_FETCH_S = 0.5
"""A busy broker answers late; it saves the model work, too."""
VERSIONS = {
    0: (3, 10), 1: (4, 13), 3: (0, 12), 10: (0, 4), 18: (0, 3), 22: (0, 4), 24: (0, 3), 26: (0, 3), 61: (0, 0),
    65: (0, 0),
}  # fmt: skip
REQUESTS = {
    kind.API_KEY: kind
    for kind in (
        ProduceRequest, FetchRequest, MetadataRequest, FindCoordinatorRequest, InitProducerIdRequest,
        AddPartitionsToTxnRequest, EndTxnRequest, DescribeProducersRequest, DescribeTransactionsRequest,
    )
}  # fmt: skip
FETCH = FetchRequest.API_KEY


class Network:
    """What connects clients with the model's clusters, by the brokers' names.

    Attributes:
        effects: called before a broker works on a request: (cluster, name of the request).
    """

    def __init__(self, simulation: Simulation) -> None:
        self.simulation = simulation
        self.clusters: dict[str, ModelCluster] = {}
        self.connections: list[WorldConnection] = []
        self.log: list[str] = []
        """Every request, in order: for a reader of a failure."""

    def add(self, cluster: ModelCluster) -> None:
        self.clusters[cluster.alias] = cluster
        cluster.on_broker_down.append(partial(self._broker_down, cluster))

    def find(self, endpoint: Endpoint) -> tuple[ModelCluster, int]:
        """The broker behind ``east-1:9092``."""
        alias, _, node = endpoint.host.rpartition("-")
        return self.clusters[alias], int(node)

    def _broker_down(self, cluster: ModelCluster, node: int) -> None:
        for it in [it for it in self.connections if it.cluster is cluster and it.broker == node]:
            it.lose("closed by the peer")

    def died(self, process: Process, *, late_s: float | None) -> None:
        """A process is gone: what brokers were sent and have not read yet arrives so much later; None: never."""
        for it in [it for it in self.connections if it.process is process]:
            it.abandon(late_s=late_s)


class WorldLink:
    """Stands for `BrokerLink`: the way to one broker on one channel."""

    def __init__(
        self, network: Network, settings: LinkSettings, owner: LinkOwner, node: int, endpoint: Endpoint, _max_bytes: int
    ) -> None:
        self.node = node
        self.endpoint = endpoint
        self.versions: dict[int, tuple[int, int]] = {}
        self.next_try_s = 0.0
        self.connect_began_s = 0.0
        self.is_connecting = False
        self._network = network
        self._settings = settings
        self._owner = owner
        self._connection: WorldConnection | None = None

    @property
    def is_up(self) -> bool:
        return self._connection is not None and self._connection.is_ready

    def ready(self) -> Connection | None:
        if self._connection is None:
            self.connect()
            return None
        return self._connection if self._connection.is_ready else None  # type: ignore[return-value]

    def connect(self) -> None:
        simulation = self._network.simulation
        if self.is_connecting:
            return
        self.is_connecting = True
        process = simulation.current
        wait_s = max(0.0, self.next_try_s - simulation.now_s)
        self.connect_began_s = simulation.now_s + wait_s

        def answer() -> None:
            self._settings.loop.call_soon(partial(self._on_connected, process))
            simulation.wake(process)

        simulation.later(wait_s + LATENCY_S, answer)

    def _on_connected(self, process: Process | None) -> None:
        if not self.is_connecting:
            return
        self.is_connecting = False
        cluster, broker = self._network.find(self.endpoint)
        if broker not in cluster.up:
            self.next_try_s = self._network.simulation.now_s + RETRY_S
            self._owner.link_failed(self, ConnectError(f"{self.endpoint}: refused", "_TRANSPORT"))  # type: ignore[arg-type]
            return
        self.versions = dict(VERSIONS)
        self._connection = WorldConnection(self._network, self, process)
        self._owner.link_is_up(self)  # type: ignore[arg-type]

    def ended(self, connection: WorldConnection, why: str) -> None:
        """The connection is closed; its requests were answered with that."""
        if connection is self._connection:
            self._connection = None
            self._owner.link_is_down(self, why, was_idle=connection.closed_idle)  # type: ignore[arg-type]

    def soon(self, call: Callable[[], None]) -> None:
        self._settings.loop.call_soon(call)

    def set_node(self, node: int) -> None:
        self.node = node
        if self._connection is not None:
            self._connection.node = node

    def change_endpoint(self, endpoint: Endpoint) -> None:
        raise AssertionError("brokers of the model keep their addresses")

    def close(self, why: str) -> None:
        self.is_connecting = False
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close(why)


class _Sent:
    """One request on its way."""

    def __init__(self, request: Request) -> None:
        self.request = request
        self.body = b"".join(bytes(part) for part in request.body)
        self.is_answered = False


class WorldConnection:
    """Stands for `Connection`."""

    def __init__(self, network: Network, link: WorldLink, process: Process | None) -> None:
        self.cluster, self.broker = network.find(link.endpoint)
        self.node = link.node
        self.address = str(link.endpoint)
        self.process = process
        self.is_ready = True
        self.answers = 0
        self.closed_idle = False
        self._network = network
        self._link = link
        self._queue: deque[_Sent] = deque()
        self._waiting: deque[_Sent] = deque()
        self._is_busy = False
        self._answers = Answers(self.cluster, self.broker)
        network.connections.append(self)

    @property
    def is_closed(self) -> bool:
        return not self.is_ready

    @property
    def in_flight(self) -> int:
        return len(self._waiting)

    def send(self, request: Request) -> None:
        sent = _Sent(request)
        if not self.is_ready:
            self._link.soon(partial(request.on_done, NoResponseError(f"the connection to {self.address} is closed")))
            return
        self._queue.append(sent)
        self._waiting.append(sent)
        self._network.simulation.later(request.timeout_s, partial(self._give_up, sent))
        self._work()

    def _give_up(self, sent: _Sent) -> None:
        if self.is_ready and sent in self._waiting:
            self.lose(f"no answer within {sent.request.timeout_s:g} s")

    # --- the broker's side --------------------------------------------------------------------------------------------

    def _work(self) -> None:
        if self._queue and not self._is_busy:
            self._is_busy = True
            sent = self._queue.popleft()
            self._network.simulation.later(LATENCY_S, partial(self._arrive, sent))

    def _arrive(self, sent: _Sent) -> None:
        """The broker has the request; an answer may take until something happens."""
        if self.broker not in self.cluster.up:
            return
        simulation = self._network.simulation
        kind = REQUESTS[sent.request.api_key]
        message = kind.decode(sent.body, version=sent.request.version)
        name = str(message.name).removesuffix("Request")
        simulation.effects += 1
        if name != "Fetch":
            self._network.log.append(f"{simulation.now_s:.3f} {self.address} {name}")
        if sent.request.api_key == FETCH:
            self._wait_for_records(sent, message, simulation.now_s + max(IDLE_FETCH_S, message.max_wait_ms / 1000))
        else:
            self._answer(sent, self._answers.to(message, sent.request.version))

    def _wait_for_records(self, sent: _Sent, message: Any, end_s: float) -> None:
        answer, has_news = self._answers.fetch(message, sent.request.version)
        simulation = self._network.simulation
        if has_news or simulation.now_s >= end_s:
            self._answer(sent, answer)
            return
        is_over = [False]

        def look() -> None:
            if is_over[0]:
                return
            found, is_news = self._answers.fetch(message, sent.request.version)
            if is_news or simulation.now_s >= end_s:
                is_over[0] = True
                self.cluster.on_change.remove(look)
                self._answer(sent, found)

        self.cluster.on_change.append(look)
        simulation.later(end_s - simulation.now_s, look)

    def _answer(self, sent: _Sent, message: Any) -> None:
        body = bytes(message.encode(version=sent.request.version))
        self._network.simulation.later(LATENCY_S, partial(self._deliver, sent, body))

    def _deliver(self, sent: _Sent, body: bytes) -> None:
        self._is_busy = False
        if sent in self._waiting:
            self._waiting.remove(sent)
            self._link.soon(partial(sent.request.on_done, memoryview(bytearray(body))))
            self._network.simulation.wake(self.process)
        self._work()

    # --- its end ------------------------------------------------------------------------------------------------------

    def close_after_invalid_response(self, why: str) -> None:
        raise AssertionError(f"the model's answers are good: {why}")

    def close(self, why: str) -> None:
        self.lose(why)

    def lose(self, why: str) -> None:
        """It ends; what the broker works at goes on, what it has not read yet is gone."""
        if not self.is_ready:
            return
        self.abandon(late_s=None)
        self.closed_idle = not self._waiting
        waiting, self._waiting = list(self._waiting), deque()
        for sent in waiting:
            lost = NoResponseError(f"the connection to {self.address} ended: {why}")
            self._link.soon(partial(sent.request.on_done, lost))
        self._link.soon(partial(self._link.ended, self, why))
        self._network.simulation.wake(self.process)

    def abandon(self, *, late_s: float | None) -> None:
        """Its client is gone."""
        self.is_ready = False
        left, self._queue = list(self._queue), deque()
        if late_s is not None:
            for sent in left:
                self._network.simulation.later(late_s, partial(self._arrive, sent))
        if self in self._network.connections:
            self._network.connections.remove(self)
