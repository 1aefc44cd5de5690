"""A cluster of fake brokers, whose metadata and answers a test sets."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from kafka.protocol.metadata import MetadataRequest

from replicator.deadline import Deadline
from replicator.protocol.brokers import Brokers
from replicator.protocol.connection import Connection
from replicator.protocol.event_loop import EventLoop
from replicator.protocol.handshake import Endpoint
from tests.unit.protocol.fake_broker import METADATA, Asked, FakeBroker, Peer, cluster, metadata
from tests.unit.protocol.fake_sasl import Login

WAIT_S = 20.0


class World:
    """Fake brokers that tell of each other and of topics, as the test sets it.

    Attributes:
        topics: name → partition → (leader, epoch).
        errors: name → code.
        login, logins: how they let clients in, those with a number of their own in another way than all others.
        other: answers requests that are not Metadata.
    """

    def __init__(self, loop: EventLoop) -> None:
        self.loop = loop
        self.topics: dict[str, dict[int, tuple[int, int]]] = {}
        self.errors: dict[str, int] = {}
        self.fakes: dict[int, FakeBroker] = {}
        self.nodes: dict[int, Endpoint] = {}
        self.asked: list[list[str]] = []
        self.troubles: list[str] = []
        self.cluster_id = "c"
        self.login: Login | None = None
        self.logins: dict[int, Login] = {}
        self.versions: dict[int, tuple[int, int]] | None = None
        self.other: Callable[[Peer, Asked], None] = lambda peer, asked: peer.say(asked, b"ok")

    def start(self, node: int, port: int = 0) -> FakeBroker:
        fake = self.fakes[node] = FakeBroker(partial(self._serve, node), port=port)
        self.nodes[node] = fake.endpoint
        return fake

    def stop(self, node: int) -> None:
        self.fakes.pop(node).stop()

    def _serve(self, node: int, peer: Peer) -> None:
        peer.node = node
        peer.introduce(self.versions)
        login = self.logins.get(node, self.login)
        if login is not None and not login.accept(peer):
            return
        while True:
            asked = peer.ask()
            if asked.api_key == METADATA:
                self._tell(peer, asked)
            else:
                self.other(peer, asked)

    def _tell(self, peer: Peer, asked: Asked) -> None:
        question = MetadataRequest.decode(asked.body, version=asked.version)
        assert not question.allow_auto_topic_creation
        names = [it.name for it in question.topics]
        self.asked.append(names)
        topics = {name: self.topics[name] for name in names if name in self.topics}
        errors = {name: self.errors.get(name, 3) for name in names if name not in self.topics}
        peer.say_message(asked, metadata(self.nodes, topics, cluster_id=self.cluster_id, errors=errors))

    def brokers(self, *nodes: int, **security: Any) -> Brokers:
        servers = ",".join(str(self.nodes[node]) for node in nodes)
        return Brokers(self.loop, cluster(servers, **security), "me", lambda: self.troubles.append(servers))

    def until(self, is_done: Callable[[], object]) -> None:
        assert self.loop.run_until(lambda: bool(is_done()), Deadline(WAIT_S))

    def connected(self, brokers: Brokers, node: int, channel: str = "bulk") -> Connection:
        found: list[Connection] = []

        def is_there() -> bool:
            connection = brokers.connection(node, channel)
            if connection is not None:
                found.append(connection)
            return bool(found)

        self.until(is_there)
        return found[0]
