"""The bench's account of moved groups: records read again or skipped, and freshness. No process is started."""

from __future__ import annotations

import dataclasses
import math
import struct
from pathlib import Path
from typing import Any

import pytest

from bench.accounts import Account, Commit, Seen, account, account_of_group, delays_s, percentile
from bench.backlog import BenchError
from bench.contenders import our_environment
from bench.failover import GroupCost, Run
from bench.load import Worker
from bench.positions import GROUP_OFFSETS, Position, decode
from replicator.errors import TP
from replicator.offset_map.mm2_format import Checkpoint, encode_checkpoint
from replicator.offset_map.sync_format import encode_string
from tests.support.eventually import eventually

OFFSETS = [0, 1, 2, 10, 11, 12, 20]
"""Of the records 0 to 6 on the target: two markers lie between them."""


@pytest.mark.parametrize(
    ("committed", "next_offset", "expected"),
    [
        (3, 10, Account(0, 0)),
        (3, 3, Account(0, 0)),  # before the marker: the next record is the same one
        (3, 1, Account(2, 0)),
        (3, 12, Account(0, 2)),
        (7, 21, Account(0, 0)),  # past the last marker
        (7, 13, Account(1, 0)),
        (9, 20, Account(1, 0)),  # the records 7 and 8 are not on the target: they are not read again there
        (9, 21, Account(0, 0)),
        (5, None, Account(5, 0)),
        (0, None, Account(0, 0)),
    ],
)
def test_a_position_costs_the_records_between(committed: int, next_offset: int | None, expected: Account) -> None:
    """By record numbers: offsets of the two clusters are never compared."""
    assert account(OFFSETS, committed, next_offset) == expected


def test_a_group_costs_what_its_partitions_cost() -> None:
    """Records read twice in one partition don't make up for records skipped in another."""
    found = account_of_group([OFFSETS, OFFSETS, OFFSETS], Commit(0.0, (3, 3, 2)), {0: 1, 1: 12})
    assert found == Account(reread_records=4, skipped_records=2)


def test_a_commit_has_arrived_when_every_partition_covers_it() -> None:
    """Not when some position after it is there; one that never arrives takes for ever."""
    commits = [Commit(10.0, (1, 0)), Commit(11.0, (3, 1)), Commit(12.0, (5, 2)), Commit(13.0, (7, 2))]
    first = [Seen(10.5, 1), Seen(12.5, 10), Seen(13.5, 2), Seen(14.0, 13)]  # it goes back once
    second = [Seen(10.2, 0), Seen(11.2, 1), Seen(15.0, 2)]
    assert delays_s(commits, [first, second], [OFFSETS, OFFSETS]) == [0.5, 1.5, 3.0, math.inf]


def test_a_group_without_a_position_never_arrives() -> None:
    """As with MirrorMaker 2 as it comes, which writes no group offsets."""
    assert delays_s([Commit(1.0, (1,))], [[]], [OFFSETS]) == [math.inf]


def test_percentiles_are_of_values_that_occurred() -> None:
    """The nearest rank; what never arrived is the slowest of all."""
    values = [float(it) for it in range(1, 101)]
    assert percentile(values, 0.5) == 50
    assert percentile(values, 0.99) == 99
    assert percentile([*values[:99], math.inf], 0.99) == 99
    assert percentile([*values[:98], math.inf, math.inf], 0.99) is None
    assert percentile([1.0, 2.0, 4.0], 0.5) == 2
    assert percentile([], 0.5) is None


def offset_commit(group: str, tp: TP, next_offset: int, version: int) -> tuple[bytes, bytes]:
    """A record of `__consumer_offsets`, as Kafka writes it."""
    key = struct.pack(">h", 1) + encode_string(group) + encode_string(tp.topic) + struct.pack(">i", tp.partition)
    return key, struct.pack(">hq", version, next_offset) + b"\xff\xff\xff\xff" + encode_string("metadata")


@pytest.mark.parametrize("version", [1, 3, 4])
def test_positions_are_read_from_the_brokers_own_topic(version: int) -> None:
    """In each version of the value the offset comes first."""
    key, value = offset_commit("billing", TP("source.orders", 3), 4711, version)
    assert decode(GROUP_OFFSETS, key, value) == Position("group offset", "billing", "source.orders", 3, 4711)
    assert decode(GROUP_OFFSETS, key, None) is None
    assert decode(GROUP_OFFSETS, struct.pack(">h", 2) + encode_string("billing"), b"\x00\x03") is None


def test_positions_are_read_from_checkpoints() -> None:
    """The downstream offset, whoever wrote it."""
    key, value = encode_checkpoint(Checkpoint("billing", TP("source.orders", 3), 17, 4711))
    found = decode("source.checkpoints.internal", key, value)
    assert found == Position("checkpoint", "billing", "source.orders", 3, 4711)


def test_what_ends_a_thread_ends_the_measurement() -> None:
    """A load that has stopped would measure nothing."""
    worker = Worker("the load", 0.001, iter([None, None]).__next__)
    worker.stop()  # before it was started: nothing to wait for
    worker = Worker("the load", 0.001, iter([None, None]).__next__)
    worker.check()
    worker.start()
    eventually(lambda: not worker._thread.is_alive(), within_s=5)
    with pytest.raises(BenchError, match="the load: "):
        worker.check()


def test_commands_run_from_the_tree_of_the_contender() -> None:
    """What is compared is that tree's commands, not this one's."""
    assert our_environment("ours@/some/tree")["PYTHONPATH"] == "/some/tree"
    assert our_environment("ours-2")["PYTHONPATH"] == str(Path(__file__).parents[2])


def cost(lag: int, reread: int, fresh_s: float | None, **changes: Any) -> GroupCost:
    usual = GroupCost(lag, 0, 0, 1.0, reread, 0, None, 100, fresh_s, fresh_s, fresh_s, fresh_s)
    return dataclasses.replace(usual, **changes)


def run(name: str, number: int, *groups: GroupCost) -> Run:
    return Run(name, number, 10_000, 2.0, None, 5, 0.25, list(groups))


def test_records_skipped_and_read_twice_after_a_switchover_fail_the_run() -> None:
    """What others read again is not our promise; what they skip is worth a red line."""
    assert run("ours", 1, cost(0, 5, 1.0)).complaints() == []
    assert run("mm2-tuned-eos", 1, cost(0, 1000, 4.0, planned_reread=7)).complaints() == []
    assert len(run("ours", 1, cost(0, 0, 1.0, planned_reread=1)).complaints()) == 1
    assert len(run("ours-2", 1, cost(0, 0, 1.0, failover_skipped=1)).complaints()) == 1
    assert len(run("mm2-tuned-eos", 1, cost(0, 0, 1.0, planned_skipped=1)).complaints()) == 1
