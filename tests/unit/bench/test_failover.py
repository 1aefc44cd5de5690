"""What the bench says of moves: records read twice, freshness, tables. Nothing is started."""

from __future__ import annotations

import dataclasses
import json
import math
import struct
from typing import Any

import pytest
from rich.console import Console

from bench import failover_report, report
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
        (9, 20, Account(1, 0)),  # the records 7 and 8 are not on the target: nobody reads them again there
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
    assert our_environment("ours-2")["PYTHONPATH"] == str(report.DOCUMENT.parents[1])


# --- tables -----------------------------------------------------------------------------------------------------------


def cost(lag: int, reread: int, fresh_s: float | None, **changes: Any) -> GroupCost:
    usual = GroupCost(lag, 0, 0, 1.0, reread, 0, None, 100, fresh_s, fresh_s, fresh_s, fresh_s)
    return dataclasses.replace(usual, **changes)


def run(name: str, number: int, *groups: GroupCost) -> Run:
    return Run(name, number, 10_000, 2.0, None, 5, 0.25, list(groups))


def document(*runs: Run) -> dict[str, Any]:
    saved = {"at": "now", "machine": {"CPU": "2", "Kafka and MirrorMaker 2": "4.3.1"}, "result": runs}
    return dict(json.loads(json.dumps(saved, default=dataclasses.asdict)))


OURS = [run("ours", number, cost(0, 100 * number, 1.0), cost(1000, 50, 1.0)) for number in (1, 2, 3)]
THEIRS = [run("mm2-tuned-eos", 1, cost(0, 1000, 4.0, planned_reread=7), cost(1000, 500, 4.0))]
STOCK = [run("mm2-stock-eos", 1, cost(0, 9000, None), cost(1000, 9000, None))]


def test_the_tables_hold_medians_and_ranges_by_lag() -> None:
    """And what never came is said, not left out."""
    runs = document(*OURS, *THEIRS, *STOCK)["result"]
    rows = failover_report.cost_rows(runs)
    assert [row[:2] for row in rows] == [
        [name, lag] for lag in ("0", "1,000") for name in ("ours", "mm2-tuned-eos", "mm2-stock-eos")
    ]
    assert rows[0][2:] == ["0 (0 to 0)", "200 (100 to 300)", "0", *["1.00 (1.00 to 1.00)"] * 4]
    assert rows[2][5:] == ["never"] * 4
    mixed = failover_report.cost_rows(document(*THEIRS, run("mm2-tuned-eos", 2, cost(0, 1000, None)))["result"])
    assert mixed[0][5:] == ["never"] * 4
    assert all(len(row) == len(failover_report.COSTS) == len(failover_report.SHORT_COSTS) for row in rows)
    times = failover_report.time_rows(runs)
    assert times[1] == ["mm2-tuned-eos", "2.0", "1.0", "no step", "none", "5", "10,000", "25%", "1"]
    assert all(len(row) == len(failover_report.TIMES) == len(failover_report.SHORT_TIMES) for row in times)


def test_ratios_are_to_the_tuned_mirrormaker() -> None:
    """And there is none to something that is zero, or never came."""
    rows = failover_report.ratio_rows(document(*OURS, *THEIRS, *STOCK)["result"])
    assert rows[0] == ["ours / mm2-tuned-eos", "0", "0.000 ×", "0.200 ×", "", *["0.250 ×"] * 4]
    assert rows[1] == ["mm2-stock-eos / mm2-tuned-eos", "0", "0.000 ×", "9.000 ×", "", *["–"] * 4]
    assert rows[2][2] == "–"
    assert failover_report.ratio_rows(document(*OURS)["result"]) == []


def test_the_terminal_and_the_document_show_the_same_figures() -> None:
    """With the machine, the versions, and that it was not idle."""
    made = document(*OURS, *THEIRS)
    console = Console(width=200)
    with console.capture() as shown:
        console.print(failover_report.table(made))
    text = "\n".join(failover_report.section(made, "the plots"))
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert len(lines) == 6 + 4 + 4  # three tables, each with a heading and a rule
    for some in (lines[:6], lines[6:10], lines[10:]):
        assert len({line.count("|") for line in some}) == 1
    assert "200 (100 to 300)" in text
    assert "Kafka and MirrorMaker 2 4.3.1" in text
    assert "used 25% of the machine" in text
    assert "the plots" in text
    assert "200 (100 to 300)" in shown.get()
    assert "Kafka and MirrorMaker 2 4.3.1" in " ".join(shown.get().split())


def test_records_skipped_and_read_twice_after_a_switchover_fail_the_run() -> None:
    """What others read again is not our promise; what they skip is worth a red line."""
    assert run("ours", 1, cost(0, 5, 1.0)).complaints() == []
    assert THEIRS[0].complaints() == []
    assert len(run("ours", 1, cost(0, 0, 1.0, planned_reread=1)).complaints()) == 1
    assert len(run("ours-2", 1, cost(0, 0, 1.0, failover_skipped=1)).complaints()) == 1
    assert len(run("mm2-tuned-eos", 1, cost(0, 0, 1.0, planned_skipped=1)).complaints()) == 1
