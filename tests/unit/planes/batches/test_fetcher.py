"""Fetching from several brokers, of which some refuse us, give partitions away, or can't be reached."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from kafka.protocol.consumer.fetch import FetchRequest

from replicator.deadline import Deadline
from replicator.errors import TP, RetriableError, StopReason
from replicator.planes import Fetched
from replicator.planes.batches import fetcher as module
from replicator.planes.batches.fetcher import Fetcher
from replicator.protocol.brokers import Brokers
from replicator.protocol.fetch import API_KEY, FetchResponse, PartitionData
from tests.unit.protocol.fake_broker import Asked, Peer, cluster
from tests.unit.protocol.fake_sasl import Login, SlowLogin
from tests.unit.protocol.record_format.logs import batch
from tests.unit.protocol.test_fetch import encode_response
from tests.unit.protocol.world import WAIT_S, World

LOGIN = {"protocol": "SASL_PLAINTEXT", "mechanism": "PLAIN", "username": "me", "password": "secret"}
FIRST, SECOND = TP("t", 0), TP("t", 1)
Answer = Callable[[int, int, int, str], PartitionData]
"""Of a node, about a partition, from an offset on, to somebody in a rack."""


def found(partition: int, records: bytes = b"", *, error: int = 0, replica: int = -1) -> PartitionData:
    return PartitionData("t", partition, error, 10**6, 10**6, 0, [], replica, None, None, memoryview(records))


def endless(node: int, partition: int, offset: int, rack: str) -> PartitionData:
    """A record at every offset."""
    return found(partition, batch(offset, 1))


UNKNOWN_TOPIC = 3


class Source:
    """Brokers that keep no fetch sessions: each request names all that is wanted.

    Attributes:
        answer: what they say of a partition.
    """

    def __init__(self, world: World) -> None:
        self.answer: Answer = endless
        self.requested: list[tuple[int, int, str]] = []
        """Node, partition and rack, of each request in turn."""
        world.other = self._fetched

    def _fetched(self, peer: Peer, requested: Asked) -> None:
        assert requested.api_key == API_KEY
        question = FetchRequest.decode(requested.body, version=requested.version)
        wanted = [(it.partition, it.fetch_offset) for topic in question.topics for it in topic.partitions]
        self.requested += [(peer.node, partition, question.rack_id) for partition, _ in wanted]
        said = [self.answer(peer.node, partition, offset, question.rack_id) for partition, offset in wanted]
        peer.say(requested, encode_response(FetchResponse(0, 0, 0, said)))


class Reader:
    """A fetcher of both partitions, each led by a broker of its own."""

    def __init__(self, world: World, **security: str) -> None:
        for node in (1, 2):
            world.start(node)
        world.topics["t"] = {0: (1, 0), 1: (2, 0)}
        self.brokers: Brokers = world.brokers(1, 2, **security)
        self.fetcher = Fetcher(world.loop, self.brokers, cluster("x:1"), 40 << 20, max_batch_bytes=1 << 20)
        self.fetcher.assign({FIRST: 0, SECOND: 0})

    def read(self) -> Iterator[Fetched]:
        """What arrives; it is waited for, for a while."""
        deadline = Deadline(WAIT_S)
        while not deadline.expired:
            self.fetcher.wait(0.1)
            yield self.fetcher.take()

    def read_until(self, is_last: Callable[[Fetched], bool]) -> None:
        assert any(is_last(it) for it in self.read())

    def read_first(self, tp: TP) -> None:
        """Until records of a partition came."""
        self.read_until(lambda it: any(batch.tp == tp for batch in it.batches))


# --- refusals ---------------------------------------------------------------------------------------------------------


def test_a_broker_that_refuses_us_stops_its_own_partitions_alone(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """H: what the others lead goes on."""
    monkeypatch.setattr(module, "REFUSED_AFTER_S", 0.3)
    world.login = Login("PLAIN")
    world.logins[2] = Login("PLAIN", password="another")
    Source(world)
    reader = Reader(world, **LOGIN)
    fetched = Fetched()
    for it in reader.read():
        fetched.add(it)
        if it.failed:
            break
    (failure,) = fetched.failed
    assert (failure.tp, failure.reason) == (SECOND, StopReason.SOURCE_UNAVAILABLE)
    assert str(world.nodes[2]) in str(failure)
    assert "clusters.east.security" in failure.hint
    assert {it.tp for it in fetched.batches} == {FIRST}
    wanted = fetched.batches[-1].next_offset + 100
    reader.read_until(lambda it: any(batch.next_offset >= wanted for batch in it.batches))


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
    reader.read_first(FIRST)

    def moved(node: int, partition: int, offset: int, rack: str) -> PartitionData:
        world.topics["t"][0] = (2, 2)
        return found(partition, error=6) if (node, partition) == (1, 0) else endless(node, partition, offset, rack)

    source.answer = moved
    reader.read_until(lambda it: any(batch.tp == FIRST for batch in it.batches) and (2, 0, "") in source.requested)
    assert list(reader.fetcher._sessions) == [2]


def with_a_replica(node: int, partition: int, offset: int, rack: str) -> PartitionData:
    """KIP-392: the leader of both, broker 1, names the other one to whoever tells a rack, and sends nothing."""
    return found(partition, replica=2) if node == 1 and rack else endless(node, partition, offset, rack)


def test_a_replica_nearby_that_we_can_not_reach_is_not_asked_again_at_once(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "FOLLOWER_S", 0.5)
    source = Source(world)
    source.answer = with_a_replica
    reader = Reader(world)
    port = world.fakes[2].port
    world.stop(2)
    world.topics["t"] = {0: (1, 0), 1: (1, 0)}
    reader.brokers.rack = "here"
    reader.read_first(FIRST)
    assert {node for node, _, _ in source.requested} == {1}
    world.start(2, port)
    reader.read_until(lambda _: (2, 0, "here") in source.requested)


def test_a_replica_nearby_is_waited_for_while_it_is_connected_to(world: World) -> None:
    source = Source(world)
    source.answer = with_a_replica
    world.login = Login("PLAIN")
    world.logins[2] = slow = SlowLogin("PLAIN")
    reader = Reader(world, **LOGIN)
    world.topics["t"] = {0: (1, 0), 1: (1, 0)}
    reader.brokers.rack = "here"
    world.loop.call_later(5 * module.LEADER_CHECK_INTERVAL_S, slow.may_answer.set)
    reader.read_first(FIRST)
    assert {rack for _, _, rack in source.requested} == {"here"}


@pytest.mark.parametrize("by_assign", [False, True])
def test_metadata_of_a_topic_that_left_the_flow_is_not_requested_any_more(world: World, by_assign: bool) -> None:
    """It would otherwise be in every Metadata request until the task ends."""
    Source(world)
    reader = Reader(world)
    reader.fetcher.add({TP("left", 0): 0, TP("left", 1): 0})
    world.until(lambda: reader.brokers.topic_error("left") == UNKNOWN_TOPIC)
    reader.fetcher.remove([TP("left", 0)])
    assert reader.brokers.topic_error("left") == UNKNOWN_TOPIC
    if by_assign:
        reader.fetcher.assign({FIRST: 0, SECOND: 0})
    else:
        reader.fetcher.remove([TP("left", 1), SECOND])
    world.until(lambda: not reader.brokers._refresher.is_in_flight)
    before = len(world.asked)
    reader.brokers.refresh()
    world.until(lambda: len(world.asked) > before and not reader.brokers._refresher.is_in_flight)
    assert world.asked[-1] == ["t"]


def test_a_partition_that_is_added_again_keeps_its_leader(world: World) -> None:
    """Its topic is not forgotten in between, which would cost a Metadata request."""
    Source(world)
    reader = Reader(world)
    world.until(lambda: reader.brokers.leader("t", 0))
    reader.fetcher.add({FIRST: 0, SECOND: 0})
    assert reader.brokers.leader("t", 0)
