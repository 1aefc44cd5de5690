"""Which end a partition of a hanging transaction gets: the one of the transaction's other partitions (A, B)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple, cast

import pytest
import structlog

from replicator.config import build
from replicator.copy.transaction_recovery import TransactionRecovery
from replicator.deadline import Deadline
from replicator.errors import TP
from replicator.kafka.cluster import Cluster
from replicator.offset_map.runs import Run
from replicator.offset_map.topic_id import NO_ID
from replicator.planes import PlaneSettings
from replicator.protocol.hanging_transactions import HangingSearchResult

FLOW = build(
    {
        "clusters": {"east": {"bootstrap_servers": "none:1"}, "west": {"bootstrap_servers": "none:2"}},
        "flows": {"east->west": {"topics": ["orders"]}},
    }
).all_flows()[0]
SYNCS = TP(FLOW.syncs_topic, 0)
FIRST, SECOND = TP("east.orders", 0), TP("east.orders", 1)


def run(records: int = 10, first: int = 100) -> Run:
    """A sync of so many records, of which the first is at offset `first` of the target."""
    return Run(1, 0, first, records, 0, records, NO_ID, ())


class Recovery(TransactionRecovery):
    """Without a target: what its logs would say is given.

    Args:
        hidden: the syncs without a marker, by the partition on the target.
        readable: where a reader of committed records finds the last record of its sync.
    """

    def __init__(self, hidden: Iterable[tuple[TP, Run]], readable: Iterable[TP]) -> None:
        settings = PlaneSettings("replicator-east-west-0", 60, "lz4", 1 << 20)
        super().__init__(FLOW, cast(Cluster, None), 0, settings, structlog.get_logger())
        self._hidden = list(hidden)
        self._readable = set(readable)

    def _hidden_runs(self, begin: int, deadline: Deadline) -> list[tuple[TP, Run]]:
        return self._hidden

    def _is_any_visible(self, places: Sequence[tuple[TP, int]], deadline: Deadline) -> bool:
        last = {tp: run.downstream_next - 1 for tp, run in self._hidden if run.count}
        assert all(last[tp] == offset for tp, offset in places)
        return any(tp in self._readable for tp, _ in places)


class Case(NamedTuple):
    """What the target has of the task's last transaction.

    Args:
        hanging: the partitions without a marker → the offset of the first record that has none.
        commits: those that have to be committed; the others are aborted.
        visible: by the partition on the target, the newest sync that a reader sees.
        hidden: the syncs that it does not see.
        readable: partitions of hidden syncs whose records a reader sees.
        refused: partitions that may not be asked.
    """

    hanging: dict[TP, int]
    commits: set[TP]
    visible: dict[TP, Run]
    hidden: list[tuple[TP, Run]]
    readable: set[TP]
    refused: tuple[TP, ...] = ()


CASES = {
    "records whose sync is committed": Case({FIRST: 100}, {FIRST}, {FIRST: run()}, [], set()),
    "the last record alone, whose sync is committed": Case({FIRST: 109}, {FIRST}, {FIRST: run()}, [], set()),
    "records behind what is committed": Case({FIRST: 110}, set(), {FIRST: run()}, [], set()),
    "records of a partition that has no sync yet": Case({FIRST: 100}, set(), {}, [], set()),
    "of two partitions, one behind its sync": Case(
        {FIRST: 100, SECOND: 110}, {FIRST}, {FIRST: run(), SECOND: run()}, [], set()
    ),
    "all of them, and their syncs are committed": Case(
        {FIRST: 100, SECOND: 100}, {FIRST, SECOND}, {FIRST: run(), SECOND: run()}, [], set()
    ),
    "syncs whose records are committed": Case({SYNCS: 5}, {SYNCS}, {}, [(FIRST, run())], {FIRST}),
    "syncs whose records are aborted": Case({SYNCS: 5}, set(), {}, [(FIRST, run())], set()),
    "syncs of two partitions, the records of one committed": Case(
        {SYNCS: 5}, {SYNCS}, {}, [(FIRST, run()), (SECOND, run())], {SECOND}
    ),
    "syncs and records of one, the others committed": Case(
        {SYNCS: 5, FIRST: 100}, {SYNCS, FIRST}, {}, [(FIRST, run()), (SECOND, run())], {SECOND}
    ),
    "syncs and records of one, the others aborted": Case(
        {SYNCS: 5, FIRST: 100}, set(), {}, [(FIRST, run()), (SECOND, run())], set()
    ),
    "syncs and all records": Case(
        {SYNCS: 5, FIRST: 100, SECOND: 100}, set(), {}, [(FIRST, run()), (SECOND, run())], {FIRST, SECOND}
    ),
    "a sync of no records": Case({SYNCS: 5}, {SYNCS}, {}, [(FIRST, run(0))], set()),
    "a sync of no records beside one whose records are aborted": Case(
        {SYNCS: 5}, set(), {}, [(FIRST, run(0)), (SECOND, run())], set()
    ),
    "syncs without a marker that hold no run": Case({SYNCS: 5}, {SYNCS}, {}, [], set()),
    "syncs whose records may not be asked for": Case({SYNCS: 5}, set(), {}, [(FIRST, run())], {FIRST}, (FIRST,)),
    "syncs, and records that are older than them": Case(
        {SYNCS: 5, SECOND: 100}, {SYNCS, SECOND}, {SECOND: run()}, [(FIRST, run())], {FIRST}
    ),
    "aborted syncs, and records of a sync before them": Case(
        {SYNCS: 5, SECOND: 100}, {SECOND}, {SECOND: run()}, [(FIRST, run())], set()
    ),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_what_has_no_end_gets_that_of_its_transaction(case: Case) -> None:
    recovery = Recovery(case.hidden, case.readable)
    found = HangingSearchResult(case.hanging, dict.fromkeys(case.refused, "TOPIC_AUTHORIZATION_FAILED"))
    assert recovery._to_commit(found, case.visible, Deadline(1)) == case.commits
