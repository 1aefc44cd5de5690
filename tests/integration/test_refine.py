"""Thinned history, refined by counting on real clusters: each place is the true one, or there is a reason (D)."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field

import pytest
from confluent_kafka import Producer, TopicPartition

from replicator.config import ClusterSettings
from replicator.deadline import Deadline
from replicator.embedded import EmbeddedCluster
from replicator.errors import TP
from replicator.kafka.cluster import Cluster as Clients
from replicator.moves.count import Refiner
from replicator.moves.model import Unrefined
from replicator.offset_map.map import Between, Exact, OffsetMap
from replicator.offset_map.runs import Placement, Run, RunBuilder, gaps_between
from replicator.offset_map.topic_id import NO_ID
from tests.support.brokers import UniqueName
from tests.support.records import admin_client, create_topic, delete_topic, end_offsets, produce, read_topic

TIMEOUT_S = 30.0
TRANSACTIONS = 12
KEPT = (0, 1, 5, 10, 11)
"""The runs that a thinned history still has; the last one has forgotten its gaps."""


@dataclass
class Copy:
    """A source partition and its copy, made in transactions whose runs are known."""

    origin: TP
    destination: TP
    pairs: list[tuple[int, int]] = field(default_factory=list)
    runs: list[Run] = field(default_factory=list)

    def map(self) -> OffsetMap:
        """What a long history keeps."""
        *kept, newest = [self.runs[i] for i in KEPT]
        fields = {name: getattr(newest, name) for name in Run.__slots__}
        return OffsetMap([*kept, Run(**{**fields, "gaps": None})])

    def is_true(self, origin_next: int, destination_next: int) -> bool:
        """Whether `destination_next` splits the copies as `origin_next` splits the originals."""
        return all((origin >= origin_next) == (destination >= destination_next) for origin, destination in self.pairs)


def transactions(servers: str, topic: str, transactional_id: str, sizes: list[int], *, aborts: bool) -> None:
    """Write so many records in each transaction; with `aborts`, an aborted one of two records before each."""
    producer = Producer({"bootstrap.servers": servers, "transactional.id": transactional_id})
    producer.init_transactions(TIMEOUT_S)
    for size in sizes:
        for count, end in ((2, producer.abort_transaction), (size, producer.commit_transaction))[not aborts :]:
            producer.begin_transaction()
            for record in range(count):
                producer.produce(topic, b"%d" % record, partition=0)
            producer.flush(TIMEOUT_S)
            end(TIMEOUT_S)


def copied(
    source: EmbeddedCluster, target: EmbeddedCluster, unique: UniqueName, *, gapped: bool, foreign: bool = False
) -> Copy:
    """A log of 12 times 5 records, and its copy in 12 transactions; `foreign`: with somebody else's record inside."""
    copy = Copy(TP(unique("orders"), 0), TP(unique("east.orders"), 0))
    sizes = [5] * TRANSACTIONS
    create_topic(source.admin_servers, copy.origin.topic)
    create_topic(target.admin_servers, copy.destination.topic)
    if gapped:
        transactions(source.admin_servers, copy.origin.topic, unique("app"), sizes, aborts=True)
    else:
        produce(source.admin_servers, copy.origin.topic, [b"%d" % i for i in range(sum(sizes))])
    transactions(target.admin_servers, copy.destination.topic, unique("copier"), sizes[:8], aborts=False)
    if foreign:
        produce(target.admin_servers, copy.destination.topic, [b"mine"])
    transactions(target.admin_servers, copy.destination.topic, unique("copier"), sizes[8:], aborts=False)
    originals = [it.offset for it in read_topic(source.admin_servers, copy.origin.topic)]
    copies = [it.offset for it in read_topic(target.admin_servers, copy.destination.topic) if it.value != b"mine"]
    copy.pairs = list(zip(originals, copies, strict=True))
    assert len(copy.pairs) == 60
    for start in range(0, 60, 5):
        builder = RunBuilder(len(copy.runs), start, NO_ID)
        ups, down = originals[start : start + 5], copies[start]
        copy.runs += builder.build([Placement(ups[0], ups[-1] + 1, 5, gaps_between(ups), down)], ups[-1] + 1, down)
    return copy


@pytest.fixture
def origin(source: EmbeddedCluster) -> Clients:
    return Clients("east", "source", ClusterSettings(bootstrap_servers=source.admin_servers), "replicator-east-west")


@pytest.fixture
def destination(target: EmbeddedCluster) -> Clients:
    return Clients("west", "target", ClusterSettings(bootstrap_servers=target.admin_servers), "replicator-east-west")


@pytest.fixture
def refiner(origin: Clients, destination: Clients) -> Iterator[Refiner]:
    with closing(Refiner(origin, destination, 1000)) as it:
        yield it


def thinned(copy: Copy, end: int) -> dict[int, Between]:
    """Every position on the source that the map can't translate exactly."""
    answers = {position: copy.map().translate(position) for position in range(end + 1)}
    found = {position: it for position, it in answers.items() if isinstance(it, Between)}
    assert len(found) > 30
    return found


@pytest.mark.parametrize("gapped", [False, True], ids=["dense", "gapped"])
def test_every_place_is_the_true_one(
    source: EmbeddedCluster, target: EmbeddedCluster, unique: UniqueName, refiner: Refiner, gapped: bool
) -> None:
    """D: inside and between records, markers and aborted records, also where the log ends with the stretch."""
    copy = copied(source, target, unique, gapped=gapped)
    for position, between in thinned(copy, copy.runs[-1].upstream_next).items():
        assert (between.skip is None) == (gapped or position > copy.runs[-1].upstream_base)
        place = refiner.refine(copy.origin, copy.destination, position, between, Deadline(TIMEOUT_S))
        assert isinstance(place, Exact), place
        assert copy.is_true(position, place.next_offset), (position, place)


@pytest.mark.parametrize("gapped", [False, True], ids=["dense", "gapped"])
def test_every_place_on_the_way_back_is_the_true_one(
    source: EmbeddedCluster,
    target: EmbeddedCluster,
    unique: UniqueName,
    origin: Clients,
    destination: Clients,
    gapped: bool,
) -> None:
    """D, for failback: the origin is the target now."""
    copy = copied(source, target, unique, gapped=gapped)
    counted = 0
    with closing(Refiner(destination, origin, 1000)) as back:
        for position in range(end_offsets(target.admin_servers, copy.destination.topic)[0] + 1):
            between = copy.map().translate_back(position)
            if isinstance(between, Between):
                counted += 1
                place = back.refine(copy.destination, copy.origin, position, between, Deadline(TIMEOUT_S))
                assert isinstance(place, Exact), place
                assert copy.is_true(place.next_offset, position), (position, place)
    assert counted > 30


def test_a_dense_history_needs_no_origin_cluster(
    source: EmbeddedCluster, target: EmbeddedCluster, unique: UniqueName, destination: Clients
) -> None:
    """A failover has none; where there are gaps, it is told that nobody can count."""
    copy = copied(source, target, unique, gapped=False)
    with closing(Refiner(None, destination, 1000)) as alone:
        answers = {
            position: alone.refine(copy.origin, copy.destination, position, between, Deadline(TIMEOUT_S))
            for position, between in thinned(copy, 60).items()
        }
    in_last = {position for position in answers if position > copy.runs[-1].upstream_base}
    assert in_last
    assert {position for position, it in answers.items() if isinstance(it, Unrefined)} == in_last
    assert all(copy.is_true(position, it.next_offset) for position, it in answers.items() if isinstance(it, Exact))


def test_somebody_elses_records_prove_nothing(
    source: EmbeddedCluster, target: EmbeddedCluster, unique: UniqueName, refiner: Refiner
) -> None:
    """Only in the stretch that has some; the others are exact."""
    copy = copied(source, target, unique, gapped=False, foreign=True)
    alone, shared = (thinned(copy, 60)[position] for position in (12, 40))
    assert refiner.refine(copy.origin, copy.destination, 12, alone, Deadline(TIMEOUT_S)) == Exact(copy.pairs[12][1])
    refused = refiner.refine(copy.origin, copy.destination, 40, shared, Deadline(TIMEOUT_S))
    assert isinstance(refused, Unrefined)
    assert refused.reason.startswith("west holds other records among the 20 replicated ones at offsets")


def test_deleted_records_prove_nothing(
    source: EmbeddedCluster, target: EmbeddedCluster, unique: UniqueName, refiner: Refiner
) -> None:
    """Retention has been there: on either cluster, in a part of the stretch or before all of it."""
    copy = copied(source, target, unique, gapped=True)
    stretches = thinned(copy, copy.runs[-1].upstream_next)
    inside, last = copy.pairs[40][0], copy.runs[-1].upstream_base + 1
    delete_records(source.admin_servers, copy.origin, inside)
    refused = refiner.refine(copy.origin, copy.destination, inside, stretches[inside], Deadline(TIMEOUT_S))
    assert isinstance(refused, Unrefined)
    assert "east holds 10 records at offsets" in refused.reason
    assert "retention or compaction deleted the others" in refused.reason
    assert isinstance(refiner.refine(copy.origin, copy.destination, last, stretches[last], Deadline(TIMEOUT_S)), Exact)
    delete_records(target.admin_servers, copy.destination, end_offsets(target.admin_servers, copy.destination.topic)[0])
    refused = refiner.refine(copy.origin, copy.destination, last, stretches[last], Deadline(TIMEOUT_S))
    assert isinstance(refused, Unrefined)
    assert "west holds 0 records at offsets" in refused.reason


def delete_records(servers: str, tp: TP, before: int) -> None:
    """As retention does."""
    admin = admin_client(servers)
    (future,) = admin.delete_records([TopicPartition(tp.topic, tp.partition, before)]).values()
    future.result(TIMEOUT_S)


def test_what_is_counted_is_bounded_and_told(
    source: EmbeddedCluster, target: EmbeddedCluster, unique: UniqueName, origin: Clients, destination: Clients
) -> None:
    """`refine_max_records` records and no more; 0 turns it off; progress reaches the end."""
    copy = copied(source, target, unique, gapped=True)
    position, between = next(iter(thinned(copy, copy.runs[-1].upstream_next).items()))
    assert (between.records, between.skip) == (15, None)
    for limit in (0, 14):
        with closing(Refiner(origin, destination, limit)) as limited:
            refused = limited.refine(copy.origin, copy.destination, position, between, Deadline(TIMEOUT_S))
        assert refused == Unrefined(f"refine_max_records allows {limit}")
    progress: list[tuple[int, int]] = []
    with closing(Refiner(origin, destination, 15, lambda done, total: progress.append((done, total)))) as enough:
        assert isinstance(enough.refine(copy.origin, copy.destination, position, between, Deadline(TIMEOUT_S)), Exact)
    assert progress == sorted(progress)
    assert progress[-1] == (30, 30)


def test_a_topic_that_is_gone_or_was_cut_is_told(
    source: EmbeddedCluster, target: EmbeddedCluster, unique: UniqueName, refiner: Refiner
) -> None:
    """The records can't be there any more."""
    copy = copied(source, target, unique, gapped=False)
    between = thinned(copy, 60)[40]
    delete_topic(target.admin_servers, copy.destination.topic)
    create_topic(target.admin_servers, copy.destination.topic)
    produce(target.admin_servers, copy.destination.topic, [b"new"])
    refused = refiner.refine(copy.origin, copy.destination, 40, between, Deadline(TIMEOUT_S))
    assert isinstance(refused, Unrefined)
    assert "holds 0 records" in refused.reason
    assert "the readable log ends at" in refused.reason
    delete_topic(target.admin_servers, copy.destination.topic)
    began_s = time.monotonic()
    refused = refiner.refine(copy.origin, copy.destination, 40, between, Deadline(TIMEOUT_S))
    assert isinstance(refused, Unrefined)
    assert refused.reason == f"west no longer has the topic {copy.destination.topic}"
    assert time.monotonic() - began_s < TIMEOUT_S / 3
