"""The `batches` plane's own connections against real brokers: leaders, brokers that die, and every way to log in."""

from __future__ import annotations

import base64
import http.server
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kafka.protocol.metadata import FindCoordinatorRequest

from replicator.config import ClusterSettings
from replicator.deadline import Deadline
from replicator.embedded import Clusters, ClusterSpec, SecuritySpec, open_clusters
from replicator.embedded import EmbeddedCluster as KafkaCluster
from replicator.kafka.client_properties import client_id
from replicator.kafka.cluster import Cluster
from replicator.protocol.brokers import CONTROL, Brokers
from replicator.protocol.event_loop import EventLoop
from tests.support.brokers import UniqueName, on_three_brokers
from tests.support.certificates import Authority
from tests.support.eventually import eventually
from tests.support.records import create_topic

on_secured = pytest.mark.xdist_group("secured brokers")

SECRET = "s3cret-that-nobody-may-see"
WRONG = "wr0ng-that-nobody-may-see"
OAUTH_MODULE = "org.apache.kafka.common.security.oauthbearer.OAuthBearerLoginModule"
PATIENCE_S = 60.0


class Client:
    """Brokers of a cluster, and the event loop that drives them."""

    def __init__(self, servers: str, security: dict[str, Any] | None = None) -> None:
        self.loop = EventLoop()
        settings = ClusterSettings.model_validate({"bootstrap_servers": servers, "security": security or {}})
        self.brokers = Brokers(self.loop, Cluster("east", "source", settings, "group"), client_id())

    def eventually(self, condition: Any) -> Any:
        """`condition` becomes true while the event loop runs."""

        def turn() -> Any:
            self.loop.run_once(0.05)
            return condition()

        return eventually(turn, PATIENCE_S, every_s=0)

    def ask(self, node: int | None) -> Any:
        """A small request that any broker answers."""
        question = FindCoordinatorRequest(key="some-id", key_type=1)
        return self.brokers.call(node, question, 3, Deadline(PATIENCE_S))

    def refused(self) -> str:
        """The code of the error that stops us, after no connection was made."""
        self.brokers.refresh()
        error = self.eventually(self.brokers.recent_error)
        assert not self.brokers.nodes
        described = self.brokers.error("fetch")
        assert described.code == error.code
        assert "clusters.east" in described.hint
        for secret in (SECRET, WRONG):
            assert secret not in f"{described} {error!r}"
        return str(error.code)


@pytest.fixture
def clients() -> Iterator[list[Client]]:
    made: list[Client] = []
    yield made
    for client in made:
        client.loop.close()


def open_client(clients: list[Client], servers: str, security: dict[str, Any] | None = None) -> Client:
    clients.append(Client(servers, security))
    return clients[-1]


@on_three_brokers
def test_topics_and_leaders(three_brokers: KafkaCluster, unique: UniqueName, clients: list[Client]) -> None:
    """A topic that does not exist is said to be unknown, and is not created by asking; one that comes is found."""
    topic, missing = create_topic(three_brokers.admin_servers, unique("orders"), partitions=3), unique("missing")
    client = open_client(clients, three_brokers.bootstrap_servers)
    brokers = client.brokers
    brokers.track_topics([topic, missing])
    leader = client.eventually(lambda: brokers.leader(topic, 2))
    assert leader.node in brokers.nodes
    assert brokers.partitions(topic) == 3
    assert brokers.topic_id(topic) != bytes(16)
    client.eventually(lambda: brokers.topic_error(missing) == 3)
    create_topic(three_brokers.admin_servers, missing, partitions=1)
    client.eventually(lambda: brokers.leader(missing, 0))
    assert client.ask(None).error_code in (0, 15)
    bulk = client.eventually(lambda: brokers.connection(leader.node))
    low, high = brokers.version(leader.node, 1) or (99, 0)
    assert low <= 12 <= high
    assert bulk is not client.eventually(lambda: brokers.connection(leader.node, CONTROL))


@on_three_brokers
def test_leaders_move_when_a_broker_dies(
    three_brokers: KafkaCluster, unique: UniqueName, clients: list[Client]
) -> None:
    """Killed, its partitions are found at other brokers; when it is back, it is connected to again."""
    topic = create_topic(three_brokers.admin_servers, unique("orders"), partitions=6, replication_factor=3)
    client = open_client(clients, three_brokers.bootstrap_servers)
    brokers = client.brokers
    brokers.track_topics([topic])
    client.eventually(lambda: all(brokers.leader(topic, it) for it in range(6)))
    client.eventually(lambda: all(brokers.connection(node) for node in (1, 2, 3)))
    first = brokers.leader(topic, 0)
    assert first is not None
    victim = first.node
    three_brokers.kill_broker(victim)

    def has_moved() -> bool:
        """As a fetcher does: it wants a connection to each leader."""
        leaders = [brokers.leader(topic, number) for number in range(6)]
        return all([it is not None and brokers.connection(it.node) and it.node != victim for it in leaders])  # noqa: C419

    client.eventually(has_moved)
    after = brokers.leader(topic, 0)
    assert after is not None
    assert after.epoch > first.epoch
    assert client.ask(None).node_id != victim
    three_brokers.start_broker(victim)
    client.eventually(lambda: brokers.connection(victim))
    assert client.ask(victim).error_code in (0, 15)


# --- secured brokers --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"), "own-ca")


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("foreign"), "foreign-ca")


@pytest.fixture(scope="module")
def secured(authority: Authority) -> Iterator[Clusters]:
    """One with TLS, SCRAM and PLAIN, whose logins last five seconds, and one that asks for certificates."""
    key_store = authority.server()
    plain = f'org.apache.kafka.common.security.plain.PlainLoginModule required user_replicator="{SECRET}";'
    properties = {
        "sasl.enabled.mechanisms": "SCRAM-SHA-512,PLAIN,OAUTHBEARER",
        "listener.name.client.plain.sasl.jaas.config": plain,
        # without a validator of its own the broker takes tokens without a signature
        "listener.name.client.oauthbearer.sasl.jaas.config": f"{OAUTH_MODULE} required;",
        "connections.max.reauth.ms": "5000",
    }
    users = SecuritySpec("SASL_SSL", {"replicator": SECRET}, key_store=key_store)
    mtls = SecuritySpec("SSL", key_store=key_store, trust_store=authority.file, client_auth="required")
    specs = [ClusterSpec("users", security=users, properties=properties), ClusterSpec("mtls", security=mtls)]
    with open_clusters(specs) as opened:
        yield opened


def login(authority: Authority, mechanism: str = "SCRAM-SHA-512", password: str = SECRET) -> dict[str, Any]:
    user = {"mechanism": mechanism, "username": "replicator", "password": password}
    return {"protocol": "SASL_SSL", "ca_file": str(authority.file), **user}


def certified(authority: Authority, client: Path | None) -> dict[str, Any]:
    files = {} if client is None else {"cert_file": str(client), "key_file": str(client)}
    return {"protocol": "SSL", "ca_file": str(authority.file), **files}


@on_secured
@pytest.mark.parametrize("mechanism", ["SCRAM-SHA-512", "PLAIN"])
def test_login_over_tls(secured: Clusters, authority: Authority, clients: list[Client], mechanism: str) -> None:
    client = open_client(clients, secured["users"].bootstrap_servers, login(authority, mechanism))
    assert client.ask(None).error_code in (0, 15)
    client.eventually(lambda: client.brokers.connection(1))


@on_secured
@pytest.mark.parametrize("mechanism", ["SCRAM-SHA-512", "PLAIN"])
def test_a_wrong_password(secured: Clusters, authority: Authority, clients: list[Client], mechanism: str) -> None:
    client = open_client(clients, secured["users"].bootstrap_servers, login(authority, mechanism, WRONG))
    assert client.refused() == "SASL_AUTHENTICATION_FAILED"


@on_secured
def test_a_mechanism_that_is_not_enabled(secured: Clusters, authority: Authority, clients: list[Client]) -> None:
    client = open_client(clients, secured["users"].bootstrap_servers, login(authority, "SCRAM-SHA-256"))
    assert client.refused() == "UNSUPPORTED_SASL_MECHANISM"


@on_secured
def test_an_authority_that_we_do_not_trust(secured: Clusters, foreign: Authority, clients: list[Client]) -> None:
    client = open_client(clients, secured["users"].bootstrap_servers, login(foreign))
    assert client.refused() == "_SSL"


@on_secured
def test_a_certificate_of_our_own(secured: Clusters, authority: Authority, clients: list[Client]) -> None:
    security = certified(authority, authority.client("replicator"))
    assert open_client(clients, secured["mtls"].bootstrap_servers, security).ask(1).error_code in (0, 15)


@on_secured
@pytest.mark.parametrize("kind", ["foreign", "none"])
def test_a_certificate_that_the_broker_does_not_trust(
    secured: Clusters, authority: Authority, foreign: Authority, clients: list[Client], kind: str
) -> None:
    client = foreign.client("replicator") if kind == "foreign" else None
    security = certified(authority, client)
    assert open_client(clients, secured["mtls"].bootstrap_servers, security).refused() == "_SSL"


@on_secured
def test_no_security_where_it_is_asked_for(secured: Clusters, clients: list[Client]) -> None:
    """The commonest mistake: the security block is missing."""
    assert open_client(clients, secured["users"].bootstrap_servers).refused() == "_TRANSPORT"


class TokenHandler(http.server.BaseHTTPRequestHandler):
    """Gives everybody who knows the secret a token for five seconds."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        login = base64.b64decode(self.headers["Authorization"].removeprefix("Basic ")).decode()
        now_s = time.time()
        claims = {"sub": "replicator", "iat": now_s - 1, "exp": now_s + 5, "scope": []}
        parts = [json.dumps(it).encode() for it in ({"alg": "none"}, claims)]
        token = ".".join(base64.urlsafe_b64encode(it).rstrip(b"=").decode() for it in parts) + "."
        body = json.dumps({"access_token": token, "token_type": "Bearer", "expires_in": 5}).encode()
        self.send_response(200 if login == f"replicator:{SECRET}" else 401)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def token_url() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), TokenHandler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}/token"
        server.shutdown()
        thread.join()


def with_tokens(authority: Authority, url: str, secret: str = SECRET) -> dict[str, Any]:
    oauth = {"token_url": url, "client_id": "replicator", "client_secret": secret}
    return {"protocol": "SASL_SSL", "ca_file": str(authority.file), "mechanism": "OAUTHBEARER", "oauth": oauth}


@on_secured
def test_login_with_tokens(secured: Clusters, authority: Authority, clients: list[Client], token_url: str) -> None:
    """In both planes; and in ours it goes on when the token is too old."""
    servers = secured["users"].bootstrap_servers
    security = with_tokens(authority, token_url)
    settings = ClusterSettings.model_validate({"bootstrap_servers": servers, "security": security})
    assert Cluster("east", "source", settings, "group").connect(PATIENCE_S).list_topics(timeout=PATIENCE_S).brokers
    client = open_client(clients, servers, security)
    deadline = Deadline(7)
    while not deadline.expired:
        assert client.ask(1).error_code in (0, 15)
        client.loop.run_once(0.05)


@on_secured
def test_no_token(secured: Clusters, authority: Authority, clients: list[Client], token_url: str) -> None:
    client = open_client(clients, secured["users"].bootstrap_servers, with_tokens(authority, token_url, WRONG))
    assert client.refused() == "_AUTHENTICATION"


@on_secured
def test_a_connection_outlives_its_login(secured: Clusters, authority: Authority, clients: list[Client]) -> None:
    """The broker ends a connection that is used when its login is older than 5 s: none of ours is, no request fails."""
    client = open_client(clients, secured["users"].bootstrap_servers, login(authority))
    client.ask(1)
    seen = set()
    deadline = Deadline(12)
    while not deadline.expired:
        connection = client.brokers.connection(1, CONTROL)
        if connection is not None:
            seen.add(connection)
        assert client.ask(1).error_code in (0, 15)
        client.loop.run_once(0.05)
    assert len(seen) >= 3


@on_secured
def test_a_single_broker_comes_back(secured: Clusters, authority: Authority, clients: list[Client]) -> None:
    """Nothing else can tell where it is: the address that was known is tried until it answers."""
    kafka = secured["mtls"]
    client = open_client(clients, kafka.bootstrap_servers, certified(authority, authority.client("replicator")))
    client.ask(1)
    bulk = client.eventually(lambda: client.brokers.connection(1))
    kafka.kill_broker(1)
    client.eventually(lambda: bulk.is_closed and client.brokers.connection(1) is None)
    client.eventually(client.brokers.recent_error)
    kafka.start_broker(1)
    client.eventually(lambda: client.brokers.connection(1))
    client.ask(1)
    client.eventually(lambda: client.brokers.recent_error() is None)
