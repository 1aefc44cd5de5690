"""Connects to the brokers of one cluster, knows the partitions' leaders, and sends requests to any broker.

Each broker has two channels, each a TCP connection: *bulk* for requests that are large or wait at the broker, *control*
for small requests that must not wait behind those. A bootstrap server has a node id below 0 until Metadata tells which
broker it is.

Source: KIP-899 (back to the bootstrap servers when no known broker answers); clients `NetworkClient`, `Metadata`.
"""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Callable, Iterable
from typing import Any

from replicator.deadline import Deadline, backoff_s, seconds_text
from replicator.errors import RetriableError
from replicator.kafka.cluster import Cluster, KafkaError
from replicator.kafka.error_codes import BY_WEIGHT, REFUSALS
from replicator.protocol import metadata, schemas
from replicator.protocol.broker_link import BrokerLink, LinkSettings
from replicator.protocol.buffer_pool import BufferPool
from replicator.protocol.connect_errors import ConnectError, unreachable
from replicator.protocol.connection import MAX_RESPONSE_BYTES, Connection, NoResponseError
from replicator.protocol.event_loop import EventLoop
from replicator.protocol.handshake import Endpoint
from replicator.protocol.metadata import ClusterMetadata, Leader
from replicator.protocol.metadata_refresher import MetadataRefresher
from replicator.protocol.request_queue import RequestFactory, RequestQueue
from replicator.protocol.security import Security

BULK = "bulk"
CONTROL = "control"
STAGGER_S = 1.0
"""A broker that takes longer to connect is not waited for: the next one is tried as well."""
ERROR_MEMORY_S = 30.0
SHORTEST_TIMEOUT_S = 2.0
"""The shortest timeout of a request: a shorter one would close the connection under the requests of others."""


class Brokers:
    """See the module. Threading: the event loop's thread.

    Args:
        client_id: the name for the brokers' logs and quotas.
        on_trouble: called when a connection ended, or could not be made.
    """

    def __init__(
        self, loop: EventLoop, cluster: Cluster, client_id: str, on_disconnect: Callable[[], None] = lambda: None
    ) -> None:
        self._loop = loop
        self._cluster = cluster
        self._link_settings = LinkSettings(loop, Security(cluster.settings.security), client_id, BufferPool())
        servers = cluster.settings.bootstrap_servers.split(",")
        self._bootstrap = {-1 - index: Endpoint.of(server) for index, server in enumerate(servers)}
        self._links: dict[tuple[int, str], BrokerLink] = {}
        self._metadata = ClusterMetadata()
        self._refresher = MetadataRefresher(loop, self._metadata, self._ask_metadata, self._on_metadata)
        self._request_queue = RequestQueue(loop, self._connection_for_queue, self.recent_error)
        self._leadership_checked_s = 0.0
        self._on_disconnect = on_disconnect
        self._errors: dict[Endpoint | None, tuple[float, ConnectError]] = {}
        rack = cluster.settings.client.get("client.rack")
        self.rack: str = "" if rack is None else str(rack)
        """`client.rack`: brokers there are preferred as replicas to fetch from (KIP-392)."""
        loop.on_close(self.close)

    # --- connections --------------------------------------------------------------------------------------------------

    def connection(self, node: int, channel: str = BULK) -> Connection | None:
        """Return a connection that is ready. Without one, connect in the background, as soon as the backoff allows.

        Call it before each request: an old connection is replaced between two of them.
        """
        link = self._link(node, channel)
        if link is None:
            self.refresh()
            return None
        connection = link.ready()
        if connection is None:
            self._check_leadership(link)
        return connection

    def _check_leadership(self, link: BrokerLink) -> None:
        """Request metadata once a second while a broker can't be connected to: it may lead nothing any more."""
        now_s = time.monotonic()
        if link.is_connecting and now_s - max(link.connect_began_s, self._leadership_checked_s) >= STAGGER_S:
            self._leadership_checked_s = now_s
            self._refresher.refresh(self._metadata.led_by(link.node))

    def address(self, node: int) -> str:
        """The broker's address, for error texts."""
        return str(self._metadata.nodes.get(node) or f"broker {node}")

    def is_unreachable(self, node: int) -> bool:
        """Whether the last attempt to connect failed, or takes longer than `STAGGER_S`."""
        link = self._link(node, BULK)
        if link is not None and link.is_connecting:
            return time.monotonic() - link.connect_began_s >= STAGGER_S
        return link is None or link.endpoint in self._errors

    def version(self, node: int, api_key: int) -> tuple[int, int] | None:
        """The lowest and the highest version that the broker supports; None: none, or it was not reached yet."""
        for channel in (CONTROL, BULK):
            link = self._links.get((node, channel))
            if link is not None and link.versions:
                return link.versions.get(api_key)
        return None

    def close(self) -> None:
        """Close every connection; requests in flight get `NoResponseError`."""
        for link in self._links.values():
            link.close("the replicator closes it")
        self._links.clear()
        self._request_queue.give_up("the replicator closes it")

    def _link(self, node: int, channel: str) -> BrokerLink | None:
        link = self._links.get((node, channel))
        if link is None:
            endpoint = self._metadata.nodes.get(node) or self._bootstrap.get(node)
            if endpoint is None:
                return None
            limit = MAX_RESPONSE_BYTES if channel == BULK else schemas.MAX_BYTES
            link = self._links[node, channel] = BrokerLink(self._link_settings, self, node, endpoint, limit)
        return link

    def _connection_for_queue(self, node: int | None) -> Connection | None:
        return self._any() if node is None else self.connection(node, CONTROL)

    def _any(self) -> Connection | None:
        """Return a control connection to any broker. Without one, try another broker every `STAGGER_S`."""
        links = [link for (_, channel), link in self._links.items() if channel == CONTROL]
        ready = [it for it in (link.ready() for link in links if link.is_up) if it is not None]
        if ready:
            least = min(it.in_flight for it in ready)
            known = [it for it in ready if it.node >= 0 and it.in_flight == least]
            return random.choice(known or ready)
        now_s = time.monotonic()
        if not any(link.is_connecting and now_s - link.connect_began_s < STAGGER_S for link in links):
            self._try_another(now_s)
        return None

    def _try_another(self, now_s: float) -> None:
        """Connect to the broker that was not tried for longest: known ones first, then the bootstrap servers."""
        nodes = [*self._metadata.nodes, *self._bootstrap]
        random.shuffle(nodes)
        candidates = [link for link in (self._link(node, CONTROL) for node in nodes) if link is not None]
        due = [it for it in candidates if not it.is_up and not it.is_connecting and it.next_try_s <= now_s]
        if due:
            min(due, key=lambda it: (it.connect_began_s, it.node < 0)).connect()

    # --- LinkOwner ----------------------------------------------------------------------------------------------------

    def link_is_up(self, link: BrokerLink) -> None:
        self._errors.pop(link.endpoint, None)
        self._request_queue.serve()

    def link_is_down(self, link: BrokerLink, why: str, *, was_idle: bool) -> None:
        self._on_disconnect()
        if not was_idle:
            self._note(link.endpoint, ConnectError(f"{link.endpoint}: {why}", "_TRANSPORT"))
        self.refresh()

    def link_failed(self, link: BrokerLink, error: ConnectError) -> None:
        self._on_disconnect()
        self._note(link.endpoint, error)
        led = self._metadata.led_by(link.node)
        if led:
            self._refresher.refresh(led)
        self._request_queue.serve()

    def _note(self, endpoint: Endpoint, error: ConnectError) -> None:
        self._errors[endpoint] = (time.monotonic(), error)

    # --- requests -----------------------------------------------------------------------------------------------------

    def send_async(
        self, node: int | None, message: Any, version: int, on_done: Callable[[Any], None], timeout_s: float = 30.0
    ) -> None:
        """Send a small request over the control channel, as soon as there is a connection, and return at once.

        Args:
            node: None: any broker.
            message: a request of kafka-python.
            on_done: called once from `EventLoop.run_once`, with the decoded response or `NoResponseError`.
            timeout_s: seconds for connecting and answering together.
        """
        self.ask(node, lambda _: (message, version), on_done, timeout_s)

    def ask(self, node: int | None, make: RequestFactory, on_done: Callable[[Any], None], timeout_s: float) -> None:
        """As `send_async`, with a request that depends on the broker it goes to.

        Args:
            make: the number of the broker → the request and its version; called when it is sent.
        """
        self._request_queue.add(node, make, on_done, timeout_s)

    def call(self, node: int | None, message: Any, version: int, deadline: Deadline, op: str = "") -> Any:
        """Send a small request, and run the event loop until its response came.

        Args:
            op: the operation, for the error; by default the request's name.

        Raises:
            RetriableError: no response before the deadline.
        """
        answers: list[Any] = []
        self.send_async(node, message, version, answers.append, max(SHORTEST_TIMEOUT_S, deadline.left_s()))
        self._loop.run_until(lambda: bool(answers), deadline)
        op = op or schemas.name(message)
        if not answers:
            raise self.error(op, NoResponseError(f"no answer within {seconds_text(deadline.seconds)}", "_TIMED_OUT"))
        if isinstance(answers[0], NoResponseError):
            raise self.error(op, answers[0]) from answers[0]
        return answers[0]

    # --- metadata -----------------------------------------------------------------------------------------------------

    def track_topics(self, topics: Iterable[str]) -> None:
        """Keep the metadata of these topics up to date, too."""
        self._refresher.track(topics)

    def untrack_topics(self, topics: Iterable[str]) -> None:
        """Stop requesting metadata of these topics."""
        self._refresher.untrack(topics)

    def refresh(self, topic: str | None = None) -> None:
        """Request metadata soon, of one topic or of all: at once, then 0.1 to 1 s apart."""
        self._refresher.refresh(None if topic is None else [topic])

    def leader(self, topic: str, partition: int) -> Leader | None:
        """The partition's leader; None: unknown now, and being requested."""
        leader = self._metadata.leader(topic, partition)
        if leader is None or leader.node not in self._metadata.nodes:
            self._refresher.miss(topic)
            return None
        return leader

    def update_leader(self, topic: str, partition: int, node: int, epoch: int) -> None:
        """Take the leader that another answer named (KIP-951), if it is newer and its broker is known."""
        leader = Leader(node, epoch)
        if (
            not self._metadata.update_leader(topic, partition, leader)
            and self._metadata.leader(topic, partition) != leader
        ):
            self._refresher.refresh([topic])

    def topic_error(self, topic: str) -> int:
        """The topic's error code in the last metadata; 0: none; -1: there was no response yet."""
        known = self._metadata.topics.get(topic)
        return metadata.NEVER_ASKED if known is None else known.error

    def topic_id(self, topic: str) -> bytes:
        """The topic's id, 16 bytes; zeros: unknown, or the brokers have none."""
        known = self._metadata.topics.get(topic)
        return metadata.NO_ID if known is None else known.topic_id

    def lacks(self, topic: str, partition: int) -> bool:
        """Whether the last metadata has no such topic, or fewer partitions of it."""
        known = self.partitions(topic)
        is_too_small = known is not None and partition >= known
        return is_too_small or self.topic_error(topic) == KafkaError.UNKNOWN_TOPIC_OR_PART

    def partitions(self, topic: str) -> int | None:
        """The topic's number of partitions; None: unknown."""
        known = self._metadata.topics.get(topic)
        return None if known is None else known.partitions

    @property
    def nodes(self) -> list[int]:
        """Node ids of the brokers in the last metadata."""
        return list(self._metadata.nodes)

    def nodes_now(self, deadline: Deadline, op: str) -> list[int]:
        """The brokers that the cluster has at this moment.

        Raises:
            RetriableError: no answer before the deadline.
        """
        waits = backoff_s(0.02, 0.5)
        while True:
            answers: list[Any] = []
            timeout_s = max(SHORTEST_TIMEOUT_S, deadline.left_s())
            self._ask_metadata(lambda version: metadata.request([], version), answers.append, timeout_s)
            self._loop.run_until(lambda answers=answers: bool(answers), deadline)  # type: ignore[misc]
            answer = (
                answers[0]
                if answers
                else NoResponseError(f"no answer within {seconds_text(deadline.seconds)}", "_TIMED_OUT")
            )
            if not isinstance(answer, NoResponseError):
                self._on_metadata(answer)
                if self._metadata.nodes and not self._metadata.is_of_another_cluster(answer):
                    return self.nodes
            if deadline.expired:
                raise self.error(op, answer if isinstance(answer, NoResponseError) else "")
            self._loop.run_for(next(waits), deadline)

    def _ask_metadata(self, make: Callable[[int], Any], on_done: Callable[[Any], None], timeout_s: float) -> None:
        def for_node(node: int) -> tuple[Any, int]:
            known = self.version(node, metadata.METADATA) or (metadata.LOWEST_VERSION, metadata.LOWEST_VERSION)
            version = max(metadata.LOWEST_VERSION, min(known[1], metadata.HIGHEST_VERSION))
            return make(version), version

        self._request_queue.add(None, for_node, on_done, timeout_s)

    def _on_metadata(self, answer: Any) -> None:
        if self._metadata.is_of_another_cluster(answer):
            text = f"the address now belongs to cluster {answer.cluster_id}, before to {self._metadata.cluster_id}"
            self._errors[None] = (time.monotonic(), ConnectError(text, "_TRANSPORT"))
            self.refresh()
            return
        self._errors.pop(None, None)
        changes = self._metadata.update(answer)
        for (node, _), link in list(self._links.items()):
            if node in changes.moved:
                self._errors.pop(link.endpoint, None)
                link.change_endpoint(self._metadata.nodes[node])
            elif node in changes.removed:
                self._drop(node)
        self._match_bootstrap_links()
        self._request_queue.serve()

    def _drop(self, node: int) -> None:
        for channel in (BULK, CONTROL):
            link = self._links.pop((node, channel), None)
            if link is not None:
                link.close("the broker left the cluster")
                self._errors.pop(link.endpoint, None)

    def _match_bootstrap_links(self) -> None:
        """Use connections to bootstrap servers for the brokers that metadata says are there."""
        numbers = {endpoint: node for node, endpoint in self._metadata.nodes.items()}
        for known, channel in [it for it in self._links if it[0] < 0]:
            link = self._links[known, channel]
            node = numbers.get(link.endpoint)
            if node is not None and (node, channel) not in self._links:
                self._links[node, channel] = self._links.pop((known, channel))
                link.set_node(node)

    # --- errors -------------------------------------------------------------------------------------------------------

    def recent_error(self) -> ConnectError | None:
        """The error that explains best why brokers can't be reached; None: there was none in the last 30 s."""
        now_s = time.monotonic()
        recent = [error for at_s, error in self._errors.values() if now_s - at_s < ERROR_MEMORY_S]
        weights = dict(zip(BY_WEIGHT, itertools.count(), strict=False))
        return min(recent, key=lambda it: weights.get(it.code, len(weights)), default=None)

    def login_refusal(self, node: int | None = None) -> ConnectError | None:
        """Why a broker refuses the login, such as a wrong password or an untrusted certificate; None: it does not.

        Args:
            node: None: the cluster, which refuses when every broker was tried, none is connected, and one refused.
        """
        if node is not None:
            _, error = self._errors.get(self._metadata.nodes.get(node), (0.0, None))
        else:
            endpoints = {*self._metadata.nodes.values(), *self._bootstrap.values()}
            is_hopeless = endpoints <= self._errors.keys() and not any(link.is_up for link in self._links.values())
            error = self.recent_error() if is_hopeless else None
        return error if error is not None and error.code in REFUSALS else None

    def error(self, op: str, cause: NoResponseError | str = "") -> RetriableError:
        """RequestFactory the error of a request that got no response, with a hint for the operator."""
        recent = self.recent_error()
        code = recent.code if recent else getattr(cause, "code", "_TRANSPORT")
        why = str(cause or recent or "timed out")
        if recent is not None and str(recent) not in why:
            why += f"; {recent}"
        return unreachable(self._cluster, op, why, code)
