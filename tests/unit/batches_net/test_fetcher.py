"""Fetching from several brokers, of which some refuse us, give partitions away, or can't be reached."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from kafka.protocol.consumer.fetch import FetchRequest

from replicator.errors import TP, RetriableError, StopReason
from replicator.planes.batches import fetcher as module
from replicator.planes.batches.brokers import Brokers
from replicator.planes.batches.fetch_wire import API_KEY, FetchResponse, PartitionData
from replicator.planes.batches.fetcher import Fetcher
from replicator.planes.batches.packs import Arrived
from tests.unit.batches.logs import batch
from tests.unit.batches.test_fetch_wire import encode_response
from tests.unit.batches_net.fake_broker import Asked, Peer, cluster
from tests.unit.batches_net.fake_sasl import Login
from tests.unit.batches_net.world import World

LOGIN = {"protocol": "SASL_PLAINTEXT", "mechanism": "PLAIN", "username": "me", "password": "secret"}
FIRST, SECOND = TP("t", 0), TP("t", 1)
Answer = Callable[[int, int, int], PartitionData]
"""Of a node, about a partition, from an offset on."""


def found(partition: int, records: bytes = b"", *, error: int = 0, replica: int = -1) -> PartitionData:
    return PartitionData("t", partition, error, 10**6, 10**6, 0, [], replica, None, None, memoryview(records))


def endless(node: int, partition: int, offset: int) -> PartitionData:
    """A record at every offset."""
    return found(partition, batch(offset, 1))


class Source:
    """Brokers that keep no fetch sessions: each request names all that is wanted.

    Attributes:
        answer: what they say of a partition.
        rack: that the last request named.
    """

    def __init__(self, world: World) -> None:
        self.answer: Answer = endless
        self.rack = ""
        self.asked: list[tuple[int, int]] = []
        """Node and partition, of each request in turn."""
        world.other = self._fetched

    def _fetched(self, peer: Peer, asked: Asked) -> None:
        assert asked.api_key == API_KEY
        question = FetchRequest.decode(asked.body, version=asked.version)
        wanted = [(it.partition, it.fetch_offset) for topic in question.topics for it in topic.partitions]
        self.rack = question.rack_id
        self.asked += [(peer.node, partition) for partition, _ in wanted]
        said = [self.answer(peer.node, partition, offset) for partition, offset in wanted]
        peer.say(asked, encode_response(FetchResponse(0, 0, 0, said)))


class Reader:
    """A fetcher of both partitions, each led by a broker of its own."""

    def __init__(self, world: World, **security: str) -> None:
        for node in (1, 2):
            world.start(node)
        world.topics["t"] = {0: (1, 0), 1: (2, 0)}
        self.brokers: Brokers = world.brokers(1, 2, **security)
        self.fetcher = Fetcher(world.reactor, self.brokers, cluster("x:1"), 40 << 20, max_batch_bytes=1 << 20)
        self.fetcher.assign({FIRST: 0, SECOND: 0})

    def read(self) -> Iterator[Arrived]:
        """What arrives, for ever."""
        while True:
            self.fetcher.wait(0.1)
            yield from self.fetcher.take()

    def read_until(self, is_last: Callable[[Arrived], bool]) -> None:
        assert any(is_last(it) for it in self.read())


# --- refusals ---------------------------------------------------------------------------------------------------------


def test_a_broker_that_refuses_us_stops_its_own_partitions_alone(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """H: what the others lead goes on."""
    monkeypatch.setattr(module, "REFUSED_AFTER_S", 0.3)
    world.login = Login("PLAIN")
    world.logins[2] = Login("PLAIN", password="another")
    Source(world)
    reader = Reader(world, **LOGIN)
    arrived: list[Arrived] = []
    for it in reader.read():
        arrived.append(it)
        if it.failure is not None:
            break
    failure = arrived[-1].failure
    assert failure is not None
    assert (failure.tp, failure.reason) == (SECOND, StopReason.SOURCE_UNAVAILABLE)
    assert str(world.nodes[2]) in str(failure)
    assert "clusters.east.security" in failure.hint
    assert {it.tp for it in arrived[:-1]} == {FIRST}
    reader.read_until(lambda it: it.next_offset >= arrived[-2].next_offset + 100)


def test_a_cluster_that_refuses_us_is_told(world: World) -> None:
    world.login = Login("PLAIN", password="another")
    reader = Reader(world, **LOGIN)
    with pytest.raises(RetriableError) as caught:
        reader.read_until(lambda _: False)
    assert caught.value.code == "SASL_AUTHENTICATION_FAILED"


# --- partitions that move ---------------------------------------------------------------------------------------------


def test_a_broker_that_leads_nothing_any_more_is_forgotten(world: World) -> None:
    """Its share of the memory goes to the others, and nobody waits for it."""
    source = Source(world)
    reader = Reader(world)
    reader.read_until(lambda it: it.tp == FIRST)

    def moved(node: int, partition: int, offset: int) -> PartitionData:
        world.topics["t"][0] = (2, 2)
        return found(partition, error=6) if (node, partition) == (1, 0) else endless(node, partition, offset)

    source.answer = moved
    reader.read_until(lambda it: it.tp == FIRST and (2, 0) in source.asked)
    assert list(reader.fetcher._sessions) == [2]
