"""The `batches` plane when a request was given up, and arrives all the same, after the one that was sent in its place.

A kernel goes on sending what a closed socket left, and so does a proxy; a broker reads what it has received. Against
that, Kafka's own producer has an epoch for each transaction since KIP-890; ours takes a new one where it is needed.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from replicator.deadline import Deadline
from replicator.embedded import EmbeddedCluster as KafkaCluster
from replicator.errors import AbortTransactionError, FencedError, RetriableError
from replicator.protocol.connection import Connection, Request
from replicator.protocol.handshake import Endpoint
from replicator.protocol.produce import API_KEY as PRODUCE
from tests.support.brokers import UniqueName, on_unverified
from tests.support.lane import Lane
from tests.support.planes import PLANES, TIMEOUT_S
from tests.support.records import NewRecord, produce

pytestmark = on_unverified

END_TXN = 26
RECORDS = 100


class Late:
    """Holds requests back, and ends their connections; the first one may arrive later.

    Args:
        api_key: of these requests.
        most: so many are held.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, api_key: int, most: int) -> None:
        self._held: list[tuple[Endpoint, bytes]] = []
        original = Connection.send

        def send(connection: Connection, request: Request) -> None:
            if request.api_key == api_key and len(self._held) < most:
                frame = b"".join((connection._header(request), *request.body))
                self._held.append((Endpoint.of(connection.address), frame))
                connection.close("held by the test")
            original(connection, request)

        monkeypatch.setattr(Connection, "send", send)

    def arrive(self) -> None:
        """The first one does, and is answered."""
        endpoint, frame = self._held[0]
        with socket.create_connection((endpoint.host, endpoint.port), timeout=TIMEOUT_S) as sock:
            sock.sendall(frame)
            answer = sock.makefile("rb")
            assert answer.read(int.from_bytes(answer.read(4), "big"))


@pytest.fixture
def lane(unverified: KafkaCluster, source: KafkaCluster, unique: UniqueName) -> Iterator[Lane]:
    """The source's topic has records."""
    topic = unique("orders")
    servers = source.bootstrap_servers, unverified.bootstrap_servers
    made = Lane(PLANES["batches"], *servers, topic, f"east.{topic}", unique("replicator-plane"))
    made.create()
    produce(made.source, topic, [NewRecord(b"%d" % n, b"k", 0, n + 1) for n in range(RECORDS)])
    yield made
    for plane in made.planes:
        plane.close()


def test_a_commit_ends_no_later_transaction(lane: Lane, monkeypatch: pytest.MonkeyPatch) -> None:
    """A, B: records of which no sync is committed would be copied again."""
    driver = lane.driver()
    late = Late(monkeypatch, END_TXN, most=1)
    driver.carry({lane.tp(): RECORDS})
    produce(lane.source, lane.topic, [NewRecord(b"more", b"k", 0, 1)])
    more = driver.fetch_to({lane.tp(): RECORDS + 1})
    driver.append(more)
    late.arrive()
    driver.abort()
    assert len(lane.arrived()) == RECORDS
    driver.assign({lane.tp(): RECORDS})
    driver.carry({lane.tp(): RECORDS + 1})
    assert [r.content for r in lane.arrived()] == [r.content for r in lane.written()]


def test_a_commit_that_was_asked_for_twice_is_done_whoever_comes_then(
    lane: Lane, monkeypatch: pytest.MonkeyPatch
) -> None:
    """B, C: the positions have moved; that we are fenced shows when the next transaction begins."""
    driver = lane.driver()
    Late(monkeypatch, END_TXN, most=1)
    driver.carry({lane.tp(): RECORDS})
    lane.driver()
    with pytest.raises(FencedError):
        driver.plane.begin()
    assert len(lane.arrived()) == RECORDS


def test_a_batch_of_an_aborted_transaction_is_in_no_later_one(lane: Lane, monkeypatch: pytest.MonkeyPatch) -> None:
    """A: it would be committed with it."""
    driver = lane.driver()
    batches = driver.fetch_to({lane.tp(): RECORDS})
    with monkeypatch.context() as patch:
        late = Late(patch, PRODUCE, most=1000)
        driver.plane.begin()
        for batch in batches:
            driver.plane.append(batch, lane.remote, Deadline(TIMEOUT_S))
        with pytest.raises(AbortTransactionError):
            driver.plane.flush(Deadline(1))
    try:
        driver.abort()
    except RetriableError:  # the task begins anew
        driver.plane.close()
        driver = lane.driver()
    late.arrive()
    driver.assign({lane.tp(): 0})
    driver.carry({lane.tp(): RECORDS})
    assert [r.content for r in lane.arrived()] == [r.content for r in lane.written()]
