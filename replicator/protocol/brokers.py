"""The brokers of one cluster, as one task sees them: connections, leaders, and requests that go to any of them.

Each broker has two channels, TCP connections of their own: *bulk* for what is large or waits at the broker, *control*
for the small requests that must not stand behind it. A broker is known by its address among the bootstrap servers
first, under a number below 0, then by what Metadata says of it.

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
from replicator.protocol.broker_link import BrokerLink, Dialler
from replicator.protocol.buffer_pool import BufferPool
from replicator.protocol.connect_errors import ConnectError, unreachable
from replicator.protocol.connection import MAX_RESPONSE_BYTES, Connection, Lost
from replicator.protocol.event_loop import EventLoop
from replicator.protocol.handshake import Endpoint
from replicator.protocol.metadata import Leader, View
from replicator.protocol.metadata_refresher import Refresher
from replicator.protocol.request_queue import Make, RequestQueue
from replicator.protocol.security import Security

BULK = "bulk"
CONTROL = "control"
STAGGER_S = 1.0
"""A broker that has not answered by then is not waited for: the next one is tried beside it."""
ERROR_MEMORY_S = 30.0
SHORTEST_TIMEOUT_S = 2.0
"""A caller that waits for less leaves the request in flight, instead of ending the connection for all."""


class Brokers:
    """See the module. Threading: the reactor's thread.

    Args:
        client_id: what brokers log and count quotas by.
        on_trouble: called when a connection ended, or could not be made.
    """

    def __init__(
        self, reactor: EventLoop, cluster: Cluster, client_id: str, on_trouble: Callable[[], None] = lambda: None
    ) -> None:
        self._reactor = reactor
        self._cluster = cluster
        self._dialler = Dialler(reactor, Security(cluster.settings.security), client_id, BufferPool())
        servers = cluster.settings.bootstrap_servers.split(",")
        self._bootstrap = {-1 - index: Endpoint.of(server) for index, server in enumerate(servers)}
        self._links: dict[tuple[int, str], BrokerLink] = {}
        self._view = View()
        self._refresher = Refresher(reactor, self._view, self._ask_metadata, self._take_metadata)
        self._casts = RequestQueue(reactor, self._for_cast, self.recent_error)
        self._doubted_s = 0.0
        self._on_trouble = on_trouble
        self._errors: dict[Endpoint | None, tuple[float, ConnectError]] = {}
        rack = cluster.settings.client.get("client.rack")
        self.rack: str = "" if rack is None else str(rack)
        """`client.rack`: brokers there are preferred as replicas to fetch from (KIP-392)."""
        reactor.on_close(self.close)

    # --- connections --------------------------------------------------------------------------------------------------

    def connection(self, node: int, channel: str = BULK) -> Connection | None:
        """A connection that is ready; without one it is made in the background, as soon as the backoff allows.

        Ask before each request: an old connection is replaced between two of them.
        """
        link = self._link(node, channel)
        if link is None:
            self.refresh()
            return None
        connection = link.ready()
        if connection is None:
            self._doubt(link)
        return connection

    def _doubt(self, link: BrokerLink) -> None:
        """Whether a broker that does not answer still leads anything: asked every second while it is dialled."""
        now_s = time.monotonic()
        if link.is_dialling and now_s - max(link.dialled_s, self._doubted_s) >= STAGGER_S:
            self._doubted_s = now_s
            self._refresher.refresh(self._view.led_by(link.node))

    def address(self, node: int) -> str:
        """For error texts."""
        return str(self._view.nodes.get(node) or f"broker {node}")

    def is_out_of_reach(self, node: int) -> bool:
        """Whether the last attempt to connect failed, or takes too long."""
        link = self._link(node, BULK)
        if link is not None and link.is_dialling:
            return time.monotonic() - link.dialled_s >= STAGGER_S
        return link is None or link.endpoint in self._errors

    def version(self, node: int, api_key: int) -> tuple[int, int] | None:
        """The lowest and the highest version that the broker speaks; None: not reached yet, or it speaks none."""
        for channel in (CONTROL, BULK):
            link = self._links.get((node, channel))
            if link is not None and link.versions:
                return link.versions.get(api_key)
        return None

    def close(self) -> None:
        """Close every connection; requests in flight get `Lost`."""
        for link in self._links.values():
            link.close("we are closing")
        self._links.clear()
        self._casts.give_up("we are closing")

    def _link(self, node: int, channel: str) -> BrokerLink | None:
        link = self._links.get((node, channel))
        if link is None:
            endpoint = self._view.nodes.get(node) or self._bootstrap.get(node)
            if endpoint is None:
                return None
            limit = MAX_RESPONSE_BYTES if channel == BULK else schemas.MAX_BYTES
            link = self._links[node, channel] = BrokerLink(self._dialler, self, node, endpoint, limit)
        return link

    def _for_cast(self, node: int | None) -> Connection | None:
        return self._any() if node is None else self.connection(node, CONTROL)

    def _any(self) -> Connection | None:
        """A control connection to any broker; without one, another broker is tried every `STAGGER_S`."""
        links = [link for (_, channel), link in self._links.items() if channel == CONTROL]
        ready = [it for it in (link.ready() for link in links if link.is_up) if it is not None]
        if ready:
            least = min(it.in_flight for it in ready)
            known = [it for it in ready if it.node >= 0 and it.in_flight == least]
            return random.choice(known or ready)
        now_s = time.monotonic()
        if not any(link.is_dialling and now_s - link.dialled_s < STAGGER_S for link in links):
            self._try_another(now_s)
        return None

    def _try_another(self, now_s: float) -> None:
        """Dial the broker that was not tried for longest: known ones first, then the bootstrap servers."""
        nodes = [*self._view.nodes, *self._bootstrap]
        random.shuffle(nodes)
        candidates = [link for link in (self._link(node, CONTROL) for node in nodes) if link is not None]
        due = [it for it in candidates if not it.is_up and not it.is_dialling and it.next_try_s <= now_s]
        if due:
            min(due, key=lambda it: (it.dialled_s, it.node < 0)).dial()

    # --- links.Owner --------------------------------------------------------------------------------------------------

    def link_is_up(self, link: BrokerLink) -> None:
        self._errors.pop(link.endpoint, None)
        self._casts.serve()

    def link_is_down(self, link: BrokerLink, why: str, *, was_idle: bool) -> None:
        self._on_trouble()
        if not was_idle:
            self._note(link.endpoint, ConnectError(f"{link.endpoint}: {why}", "_TRANSPORT"))
        self.refresh()

    def link_failed(self, link: BrokerLink, error: ConnectError) -> None:
        self._on_trouble()
        self._note(link.endpoint, error)
        led = self._view.led_by(link.node)
        if led:
            self._refresher.refresh(led)
        self._casts.serve()

    def _note(self, endpoint: Endpoint, error: ConnectError) -> None:
        self._errors[endpoint] = (time.monotonic(), error)

    # --- requests -----------------------------------------------------------------------------------------------------

    def cast(
        self, node: int | None, message: Any, version: int, on_done: Callable[[Any], None], timeout_s: float = 30.0
    ) -> None:
        """Send a small request over the control channel, as soon as there is a connection.

        Args:
            node: None: any broker.
            message: a request of kafka-python.
            on_done: gets the decoded answer or `Lost`, once, from `EventLoop.pump`.
            timeout_s: seconds for connecting and answering together.
        """
        self.ask(node, lambda _: (message, version), on_done, timeout_s)

    def ask(self, node: int | None, make: Make, on_done: Callable[[Any], None], timeout_s: float) -> None:
        """As `cast`, with a request that depends on the broker it goes to.

        Args:
            make: the number of the broker → the request and its version; called when it is sent.
        """
        self._casts.add(node, make, on_done, timeout_s)

    def call(self, node: int | None, message: Any, version: int, deadline: Deadline, op: str = "") -> Any:
        """As `cast`, and run the reactor until the answer came.

        Args:
            op: what is being done, for the error; else the request's name.

        Raises:
            RetriableError: no answer before the deadline.
        """
        answers: list[Any] = []
        self.cast(node, message, version, answers.append, max(SHORTEST_TIMEOUT_S, deadline.left_s()))
        self._reactor.run_until(lambda: bool(answers), deadline)
        op = op or schemas.name(message)
        if not answers:
            raise self.error(op, Lost(f"no answer within {seconds_text(deadline.seconds)}", "_TIMED_OUT"))
        if isinstance(answers[0], Lost):
            raise self.error(op, answers[0]) from answers[0]
        return answers[0]

    # --- metadata -----------------------------------------------------------------------------------------------------

    def want(self, topics: Iterable[str]) -> None:
        """Know the leaders of these topics too."""
        self._refresher.want(topics)

    def forget(self, topics: Iterable[str]) -> None:
        """Ask no more for these."""
        self._refresher.forget(topics)

    def refresh(self, topic: str | None = None) -> None:
        """Ask for metadata soon, of one topic or of all: at once, then 0.1 to 1 s apart."""
        self._refresher.refresh(None if topic is None else [topic])

    def leader(self, topic: str, partition: int) -> Leader | None:
        """The partition's leader; None: unknown now, and being asked for."""
        leader = self._view.leader(topic, partition)
        if leader is None or leader.node not in self._view.nodes:
            self._refresher.miss(topic)
            return None
        return leader

    def hint_leader(self, topic: str, partition: int, node: int, epoch: int) -> None:
        """Take the leader that another answer named (KIP-951), if it is newer and its broker is known."""
        leader = Leader(node, epoch)
        if not self._view.hint(topic, partition, leader) and self._view.leader(topic, partition) != leader:
            self._refresher.refresh([topic])

    def topic_error(self, topic: str) -> int:
        """The error code of the last answer; 0: none; -1: there was no answer yet."""
        known = self._view.topics.get(topic)
        return metadata.NEVER_ASKED if known is None else known.error

    def topic_id(self, topic: str) -> bytes:
        """16 bytes; zeros: unknown, or the brokers have none."""
        known = self._view.topics.get(topic)
        return metadata.NO_ID if known is None else known.topic_id

    def lacks(self, topic: str, partition: int) -> bool:
        """Whether the last answer says that there is no such topic, or that it has fewer partitions."""
        known = self.partitions(topic)
        is_too_small = known is not None and partition >= known
        return is_too_small or self.topic_error(topic) == KafkaError.UNKNOWN_TOPIC_OR_PART

    def partitions(self, topic: str) -> int | None:
        """How many the topic has; None: unknown."""
        known = self._view.topics.get(topic)
        return None if known is None else known.partitions

    @property
    def nodes(self) -> list[int]:
        """The brokers that Metadata told of."""
        return list(self._view.nodes)

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
            self._reactor.run_until(lambda answers=answers: bool(answers), deadline)  # type: ignore[misc]
            answer = answers[0] if answers else Lost(f"no answer within {seconds_text(deadline.seconds)}", "_TIMED_OUT")
            if not isinstance(answer, Lost):
                self._take_metadata(answer)
                if self._view.nodes and not self._view.is_of_another_cluster(answer):
                    return self.nodes
            if deadline.expired:
                raise self.error(op, answer if isinstance(answer, Lost) else "")
            self._reactor.pause(next(waits), deadline)

    def _ask_metadata(self, make: Callable[[int], Any], on_done: Callable[[Any], None], timeout_s: float) -> None:
        def for_node(node: int) -> tuple[Any, int]:
            known = self.version(node, metadata.METADATA) or (metadata.LOWEST_VERSION, metadata.LOWEST_VERSION)
            version = max(metadata.LOWEST_VERSION, min(known[1], metadata.HIGHEST_VERSION))
            return make(version), version

        self._casts.add(None, for_node, on_done, timeout_s)

    def _take_metadata(self, answer: Any) -> None:
        if self._view.is_of_another_cluster(answer):
            text = f"the brokers belong to cluster {answer.cluster_id} now, and to {self._view.cluster_id} before"
            self._errors[None] = (time.monotonic(), ConnectError(text, "_TRANSPORT"))
            self.refresh()
            return
        self._errors.pop(None, None)
        moved = self._view.take(answer)
        for (node, _), link in list(self._links.items()):
            if node in moved.elsewhere:
                self._errors.pop(link.endpoint, None)
                link.move(self._view.nodes[node])
            elif node in moved.gone:
                self._drop(node)
        self._adopt()
        self._casts.serve()

    def _drop(self, node: int) -> None:
        for channel in (BULK, CONTROL):
            link = self._links.pop((node, channel), None)
            if link is not None:
                link.close("the broker left the cluster")
                self._errors.pop(link.endpoint, None)

    def _adopt(self) -> None:
        """A connection to a bootstrap server serves the broker that turned out to be behind it."""
        numbers = {endpoint: node for node, endpoint in self._view.nodes.items()}
        for known, channel in [it for it in self._links if it[0] < 0]:
            link = self._links[known, channel]
            node = numbers.get(link.endpoint)
            if node is not None and (node, channel) not in self._links:
                self._links[node, channel] = self._links.pop((known, channel))
                link.adopt(node)

    # --- errors -------------------------------------------------------------------------------------------------------

    def recent_error(self) -> ConnectError | None:
        """Why brokers can't be reached, if that was so lately; what explains it best, if there are several."""
        now_s = time.monotonic()
        heard = [error for at_s, error in self._errors.values() if now_s - at_s < ERROR_MEMORY_S]
        weights = dict(zip(BY_WEIGHT, itertools.count(), strict=False))
        return min(heard, key=lambda it: weights.get(it.code, len(weights)), default=None)

    def refusal(self, node: int | None = None) -> ConnectError | None:
        """Why a broker refuses us: our password, its certificate. None: it does not, as far as we know.

        Args:
            node: None: the cluster. It does when no broker is connected, none is left to be tried, and one refused.
        """
        if node is not None:
            _, error = self._errors.get(self._view.nodes.get(node), (0.0, None))
        else:
            endpoints = {*self._view.nodes.values(), *self._bootstrap.values()}
            is_hopeless = endpoints <= self._errors.keys() and not any(link.is_up for link in self._links.values())
            error = self.recent_error() if is_hopeless else None
        return error if error is not None and error.code in REFUSALS else None

    def error(self, op: str, cause: Lost | str = "") -> RetriableError:
        """The error of a request that got no answer, with what the operator can do about it."""
        recent = self.recent_error()
        code = recent.code if recent else getattr(cause, "code", "_TRANSPORT")
        why = str(cause or recent or "it took too long")
        if recent is not None and str(recent) not in why:
            why += f"; {recent}"
        return unreachable(self._cluster, op, why, code)
