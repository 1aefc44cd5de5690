"""The `batches` plane when connections end at the worst moment: after the broker did it, before its answer is read.

Librdkafka's own tests prove this for the `records` plane; here it is our code.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest

from replicator.errors import TP
from replicator.offset_map.runs import Placement
from replicator.protocol.connection import Connection, NoResponseError, Request
from replicator.protocol.fetch import API_KEY as FETCH
from replicator.protocol.produce import API_KEY as PRODUCE
from tests.support.lane import Lane
from tests.support.planes import assert_placed
from tests.support.records import NewRecord, create_topic, produce

pytestmark = pytest.mark.parametrize("lane", ["batches"], indirect=True)

ADD_PARTITIONS, END_TXN = 24, 26
PARTITIONS = 3
ROUNDS = 12
RECORDS = 300
"""In each partition, in each round."""


class Cutter:
    """Ends connections instead of handing an answer on, so that a request was carried out and nobody knows.

    Args:
        apis: for each API, how many answers there are to one that is cut off.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, apis: dict[int, int]) -> None:
        self.cut: dict[int, int] = dict.fromkeys(apis, 0)
        self._apis = apis
        self._answers: Counter[int] = Counter()
        original = Connection.send

        def send(connection: Connection, request: Request) -> None:
            if request.api_key in self._apis:
                request.on_done = self._cutting(connection, request.api_key, request.on_done)
            original(connection, request)

        monkeypatch.setattr(Connection, "send", send)

    def _cutting(
        self, connection: Connection, api: int, on_done: Callable[[memoryview | NoResponseError], None]
    ) -> Callable[[memoryview | NoResponseError], None]:
        def done(answer: memoryview | NoResponseError) -> None:
            self._answers[api] += not isinstance(answer, NoResponseError)
            if not isinstance(answer, NoResponseError) and self._answers[api] % self._apis[api] == 0:
                self.cut[api] += 1
                connection.close("cut by the test")
                answer = NoResponseError("cut by the test")
            on_done(answer)

        return done


def carry_everything(lane: Lane) -> dict[TP, list[Placement]]:
    """Write and carry in rounds, so that there are many transactions; each has a record of ours in another topic."""
    driver = lane.driver(*range(PARTITIONS))
    syncs = create_topic(lane.target, f"{lane.topic}-syncs")
    placed: dict[TP, list[Placement]] = {}
    for number in range(ROUNDS):
        records = [
            NewRecord(b"%d of %d." % (n, number) * 30, b"k", n % PARTITIONS, n + 1) for n in range(RECORDS * PARTITIONS)
        ]
        produce(lane.source, lane.topic, records, client={"batch.num.messages": 20})
        end = RECORDS * (number + 1)
        for tp, places in driver.carry({lane.tp(p): end for p in range(PARTITIONS)}, syncs).items():
            placed.setdefault(tp, []).extend(places)
    return placed


@pytest.mark.parametrize(
    "apis",
    [{PRODUCE: 10}, {FETCH: 3}, {ADD_PARTITIONS: 3, END_TXN: 3}, {PRODUCE: 31, END_TXN: 5, FETCH: 5}],
    ids=["produce", "fetch", "coordinator", "all"],
)
def test_answers_that_never_come(lane: Lane, monkeypatch: pytest.MonkeyPatch, apis: dict[int, int]) -> None:
    """A, D: every record once, in order, and its place known; a batch that is sent again keeps its sequence."""
    lane.create(partitions=PARTITIONS)
    cutter = Cutter(monkeypatch, apis)
    placed = carry_everything(lane)
    assert all(cutter.cut.values()), f"the test cut nothing: {cutter.cut}"
    monkeypatch.undo()
    arrived = lane.arrived()
    assert [r.content for r in arrived] == [r.content for r in lane.written()]
    assert_placed(placed, lane.written(), arrived)
