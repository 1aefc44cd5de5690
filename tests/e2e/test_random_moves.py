"""Translations against the truth, after everything that happens to a flow happened at random (invariants D, E, F).

The truth is known by the ids of records: where each of them is on the source, and where on the target. So for any pair
of positions there is no doubt what a group that goes from one to the other would read twice, or never.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import pytest
from confluent_kafka import ConsumerGroupTopicPartitions, KafkaError, Message, Producer, TopicPartition

from replicator.embedded import EmbeddedCluster
from replicator.errors import TP
from replicator.groups.offsets import tag
from replicator.offset_map.mm2_format import Checkpoint, decode_checkpoint
from tests.e2e.conftest import PARTITIONS, TAKEOVER, Bench, MakeBench, on_both_planes
from tests.support.commands import move, run
from tests.support.eventually import eventually
from tests.support.groups import committed, offsets
from tests.support.pump import BEGIN_MS, Pump
from tests.support.records import Record, admin_client, create_topic, end_offsets, grow_topic, read_topic
from tests.support.selection import thorough

CHAOS_S = 20.0
"""Of the first turn; the others take twice as long."""
STEP_S = 0.1
GROUPS = 4
"""So many follow `orders`, and so many the compacted topic."""
GROWN = PARTITIONS + 2
COMPACTED_PARTITIONS = 2
COMPACTED = {
    "cleanup.policy": "compact",
    "segment.ms": "1000",
    "min.cleanable.dirty.ratio": "0.01",
    "max.compaction.lag.ms": "1000",
    "delete.retention.ms": "100",
}


# --- truth ------------------------------------------------------------------------------------------------------------


class Verdict(NamedTuple):
    """What a group would read twice and never, that goes from a position on the source to one on the target."""

    reread: int
    skipped: int


class Truth:
    """Where each record of a topic is on both clusters.

    Args:
        upstream: partition and id → offset on the source; of records that compaction has deleted since, too.
        downstream: the same on the target, of those that are there.
    """

    def __init__(self, upstream: Mapping[tuple[int, int], int], downstream: Mapping[tuple[int, int], int]) -> None:
        assert downstream
        unknown = downstream.keys() - upstream.keys()
        assert not unknown, f"records on the target that nobody wrote: {sorted(unknown)[:10]}"
        self._pairs: dict[int, list[tuple[int, int]]] = {}
        for (partition, number), place in downstream.items():
            self._pairs.setdefault(partition, []).append((upstream[partition, number], place))

    def judge(self, partition: int, upstream_next: int, downstream_next: int) -> Verdict:
        pairs = self._pairs.get(partition, [])
        reread = sum(up < upstream_next and down >= downstream_next for up, down in pairs)
        skipped = sum(up >= upstream_next and down < downstream_next for up, down in pairs)
        return Verdict(reread, skipped)


def by_timestamp(records: Iterable[Record]) -> dict[tuple[int, int], int]:
    """Places of a pump's records."""
    return {(it.partition, it.timestamp - BEGIN_MS): it.offset for it in records}


def by_value(records: Iterable[Record]) -> dict[tuple[int, int], int]:
    """Places of a `Keeper`'s records."""
    return {(it.partition, int(it.value or b"")): it.offset for it in records}


class Keeper:
    """Writes few keys again and again to a compacted topic, partly in transactions, and remembers where they went.

    Threading: a thread of its own, from `start` to `stop`.
    """

    def __init__(self, servers: str, topic: str, seed: int) -> None:
        self.places: dict[tuple[int, int], int] = {}
        """Partition and id → offset, of all that was committed."""
        self._topic = topic
        self._random = random.Random(seed)
        self._number = 0
        conf = {"bootstrap.servers": servers, "linger.ms": 2, "enable.idempotence": True}
        self._plain = Producer(conf)
        self._transactional = Producer({**conf, "transactional.id": f"keeper-{topic}"})
        self._transactional.init_transactions(30)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> Keeper:
        self._thread.start()
        return self

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join(60)
        assert not self._thread.is_alive(), "the keeper hangs"

    def _run(self) -> None:
        while not self._stopping.wait(0.05):
            if self._random.random() < 0.5:
                self.places |= self._write(self._plain)
                continue
            self._transactional.begin_transaction()
            written = self._write(self._transactional)
            if self._random.random() < 0.3:
                self._transactional.abort_transaction(30)
            else:
                self._transactional.commit_transaction(30)
                self.places |= written

    def _write(self, producer: Producer) -> dict[tuple[int, int], int]:
        found: dict[tuple[int, int], int] = {}

        def delivered(error: KafkaError | None, message: Message) -> None:
            assert error is None, error
            found[message.partition() or 0, int(message.value() or b"")] = message.offset() or 0

        for _ in range(self._random.randrange(1, 6)):
            self._number += 1
            key, partition = b"key-%d" % self._random.randrange(12), self._random.randrange(COMPACTED_PARTITIONS)
            producer.produce(self._topic, b"%d" % self._number, key, partition, on_delivery=delivered)
        assert producer.flush(30) == 0
        return found


# --- chaos ------------------------------------------------------------------------------------------------------------


@dataclass
class Chaos:
    """What is done at random, step by step, from one seed.

    Attributes:
        last: what each group committed last, by partition of the source.
    """

    bench: Bench
    compacted: str
    random: random.Random
    last: dict[str, dict[TP, int]] = field(default_factory=dict)
    kills: int = 0

    def __post_init__(self) -> None:
        self._admin = admin_client(self.bench.source.bootstrap_servers)
        run_id = self.bench.run
        self.followers = [f"payer-{number}-{run_id}" for number in range(GROUPS)]
        self.keepers = [f"keeper-{number}-{run_id}" for number in range(GROUPS)]

    def go_on(self, seconds: float) -> None:
        """Commits all the time; now and then a worker is killed and another one started."""
        until_s = time.monotonic() + seconds
        while time.monotonic() < until_s:
            self.commit_somewhere()
            if self.random.random() < STEP_S / 6:
                self.kill_a_worker()
            time.sleep(STEP_S)

    def commit_somewhere(self) -> None:
        """Any group, for any of its partitions, anywhere: also back, between records, in aborted ones, at the end."""
        if self.random.random() < 0.6:
            self.commit(self.random.choice(self.followers), self.bench.topic)
        else:
            self.commit(self.random.choice(self.keepers), self.compacted)

    def commit(self, group: str, topic: str) -> None:
        ends = end_offsets(self.bench.source.bootstrap_servers, topic)
        some = self.random.sample(sorted(ends), self.random.randrange(1, len(ends) + 1))
        places = {TP(topic, partition): self._place(ends[partition]) for partition in some}
        wanted = [TopicPartition(tp.topic, tp.partition, place) for tp, place in places.items()]
        (future,) = self._admin.alter_consumer_group_offsets([ConsumerGroupTopicPartitions(group, wanted)]).values()
        assert not [it.error for it in future.result(30).topic_partitions if it.error]
        self.last.setdefault(group, {}).update(places)

    def _place(self, end: int) -> int:
        """Near the end mostly, where groups are."""
        kind = self.random.random()
        if kind < 0.3:
            return end
        return max(0, end - self.random.randrange(200)) if kind < 0.7 else self.random.randrange(end + 1)

    def kill_a_worker(self) -> None:
        alive = [worker for worker in self.bench.workers if worker.is_alive()]
        self.random.choice(alive).kill()
        self.bench.start_worker()
        self.kills += 1

    def grow(self) -> None:
        """More partitions for `orders`."""
        grow_topic(self.bench.source.bootstrap_servers, self.bench.topic, GROWN)


# --- what came of it --------------------------------------------------------------------------------------------------


def all_checkpoints(bench: Bench, groups: Iterable[str]) -> list[Checkpoint]:
    """Every one that was ever written for these groups, in order: the topic is too young to be compacted."""
    wanted = set(groups)
    records = read_topic(bench.target.bootstrap_servers, bench.checkpoints_topic)
    found = [decode_checkpoint(it.key or b"", it.value or b"") for it in records]
    return [it for it in found if it.group in wanted]


def await_settled(bench: Bench, last: Mapping[str, Mapping[TP, int]]) -> dict[tuple[str, TP], Checkpoint]:
    """Wait until the checkpoints know the last commit of every group, and group sync has committed all of them."""

    def is_settled() -> dict[tuple[str, TP], Checkpoint]:
        newest = {(it.group, it.tp): it for it in all_checkpoints(bench, last)}
        for group, places in last.items():
            there = committed(bench.target.bootstrap_servers, group)
            for tp, place in places.items():
                remote = TP(bench.remote(tp.topic), tp.partition)
                known = newest.get((group, remote))
                assert known is not None, f"{group}: {tp}: no checkpoint"
                assert known.upstream_next == place, f"{group}: {tp}: {known} is not of the last commit, {place}"
                wanted = known.downstream_next, tag(bench.name, known.downstream_next)
                assert there.get(remote) == wanted, f"{group}: {remote}: {there.get(remote)}, not {wanted}"
        return newest

    return eventually(is_settled, within_s=60, every_s=0.5)


def check_document(document: Mapping[str, Any], truths: Mapping[str, Truth], *, tells: bool) -> dict[str, int]:
    """Hold every row against the truth; how many there are of each translation.

    Args:
        tells: `reread_records` is a bound that has to hold.
    """
    counts: dict[str, int] = {}
    assert document["partitions"]
    for row in document["partitions"]:
        counts[row["translation"]] = counts.get(row["translation"], 0) + 1
        if row["downstream_next"] is None:
            continue
        verdict = truths[row["topic"]].judge(row["partition"], row["upstream_next"], row["downstream_next"])
        assert verdict.skipped == 0, f"D: {verdict}: {row}"
        if row["translation"] == "exact":
            assert verdict.reread == 0, f"D: {verdict}: {row}"
        if tells:
            assert row["reread_records"] >= verdict.reread, f"{verdict}: {row}"
    return counts


@pytest.mark.parametrize("turn", [1, *(pytest.param(it, marks=thorough) for it in range(2, 5))])
@on_both_planes
def test_translations_hold_against_the_truth(
    make_bench: MakeBench, source: EmbeddedCluster, target: EmbeddedCluster, turn: int
) -> None:
    """Each turn has moments and places of its own."""
    seed = time.time_ns()
    print(f"seed {seed}")
    bench = make_bench(source, target, flow={"checkpoint_interval_s": 0.2}, worker=TAKEOVER)
    servers, run_id = source.bootstrap_servers, bench.run
    compacted = create_topic(servers, f"ledger-{run_id}", partitions=COMPACTED_PARTITIONS, config=COMPACTED)
    pump = bench.pump(records_per_s=500)
    keeper = Keeper(servers, compacted, seed).start()
    chaos = Chaos(bench, compacted, random.Random(seed))
    chaos_s = CHAOS_S if turn == 1 else 2 * CHAOS_S
    for _ in range(2):
        bench.start_worker()
    pump.await_more(500)
    for group in chaos.followers:
        chaos.commit(group, bench.topic)
    for group in chaos.keepers:
        chaos.commit(group, compacted)
    chaos.go_on(chaos_s / 2)
    chaos.grow()
    second = Pump(servers, bench.topic, GROWN, records_per_s=300, first=10_000_000).start()
    chaos.go_on(chaos_s / 2)
    if not chaos.kills:
        chaos.kill_a_worker()
    pump.finish()  # while the second one writes, a transaction is open at any moment
    for writer in (second, pump, keeper):
        writer.stop()
    assert bench.verify().records == pump.acknowledged + second.acknowledged
    bench.await_caught_up(compacted)

    remotes = {topic: read_topic(target.bootstrap_servers, bench.remote(topic)) for topic in (bench.topic, compacted)}
    truths = {
        bench.topic: Truth(by_timestamp(read_topic(servers, bench.topic)), by_timestamp(remotes[bench.topic])),
        compacted: Truth(keeper.places, by_value(remotes[compacted])),
    }
    newest = await_settled(bench, chaos.last)
    ever = all_checkpoints(bench, chaos.last)
    ends = {topic: end_offsets(target.bootstrap_servers, bench.remote(topic)) for topic in truths}
    rereads = []
    for it in ever:
        topic = it.tp.topic.removeprefix(f"{bench.alias}.")
        verdict = truths[topic].judge(it.tp.partition, it.upstream_next, it.downstream_next)
        assert verdict.skipped == 0, f"D: {verdict}: {it}"
        assert it.downstream_next <= ends[topic][it.tp.partition], f"E: {it}"
        rereads.append(verdict.reread)
    final = [
        truths[it.tp.topic.removeprefix(f"{bench.alias}.")].judge(it.tp.partition, it.upstream_next, it.downstream_next)
        for it in newest.values()
    ]
    deleted = len(keeper.places) - len(read_topic(servers, compacted))
    print(
        f"{chaos.kills} kills, {deleted} of {len(keeper.places)} records compacted away; {len(ever)} checkpoints, "
        f"exact {share(rereads)}, re-read at most {max(rereads)}, skipped 0; of the last {len(final)} exact "
        f"{share([it.reread for it in final])}"
    )
    assert chaos.kills > 0
    assert deleted > 0

    arguments = ("-o", "json", "--group", f"^(payer|keeper).*{run_id}")
    print("groups:", check_document(run(bench.file, "groups", *arguments).json(), truths, tells=True))
    planned = run(bench.file, "failover", *chaos.followers, *chaos.keepers, "--dry-run", "-o", "json").json()
    print("failover:", check_document(planned, truths, tells=True))
    done = move(bench.file, "switchover", *chaos.followers)
    print("switchover:", check_document(done, truths, tells=True))
    assert {(row["translation"], row["state"]) for row in done["partitions"]} == {("exact", "committed")}
    for row in done["partitions"]:
        there = offsets(target.bootstrap_servers, row["group"])
        assert there[TP(row["target_topic"], row["partition"])] == row["downstream_next"]


def share(rereads: list[int]) -> str:
    assert rereads
    return f"{sum(it == 0 for it in rereads) / len(rereads):.1%}"
