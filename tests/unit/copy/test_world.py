"""One task in a world of its own: it dies, logs are cut, markers are lost, and nothing is lost or copied twice."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from replicator.errors import TP
from tests.unit.copy.world.flow import Worker, World
from tests.unit.copy.world.invariants import Ledger

ORDERS, OTHERS, PAYMENTS = TP("orders", 0), TP("orders", 1), TP("payments", 0)
HEALED_WITHIN_S = 120.0


class Story:
    """A world in which a test tells what happens."""

    def __init__(self) -> None:
        self.world = World({"orders": 2, "payments": 1})
        self.ledger = Ledger(self.world)
        self.worker = self.world.start()

    def run_until(self, is_done: Callable[[], object], within_s: float = 60.0) -> None:
        """Effect by effect, so that it stops at the first moment."""
        end_s = self.world.simulation.now_s + within_s
        while not is_done():
            assert self.world.simulation.now_s < end_s, self.why()
            self.world.simulation.run(effects=1, for_s=1.0)

    def why(self) -> str:
        return "\n".join([*self.world.events[-30:], *self.world.network.log[-30:]])

    def catch_up(self, *tps: TP, within_s: float = HEALED_WITHIN_S) -> None:
        wanted = tps or tuple(self.world.source.tps())

        def is_settled() -> bool:
            state = self.ledger.state()
            return all(self.ledger.is_settled(tp, state) for tp in wanted)

        self.world.simulation.run_until(is_settled, within_s, self.why)

    def is_appended(self, tp: TP) -> bool:
        """Whether something lies open in a partition of the target."""
        log = self.world.target.log(tp)
        return log.stable < log.end

    def die(self, *, arrives: bool = False) -> None:
        self.world.kill(self.worker, arrives=arrives)

    def restart(self) -> Worker:
        self.worker = self.world.start()
        return self.worker


@pytest.fixture
def story() -> Iterator[Story]:
    made = Story()
    yield made
    made.world.close()


def test_what_is_committed_is_copied_once(story: Story) -> None:
    world = story.world
    world.produce(ORDERS, 5)
    world.transact({ORDERS: 2, OTHERS: 3}, commit=False)
    world.transact({ORDERS: 2, OTHERS: 3})
    world.produce(PAYMENTS, gaps=[0, 3, 0, 2])
    story.catch_up()
    story.ledger.check_healed()
    remote = world.target.log(world.remote(ORDERS))
    assert len(list(remote.visible())) == 7


def test_a_log_that_lost_the_records_of_an_aborted_transaction_gets_them_again(story: Story) -> None:
    """B1: the syncs' log did not lose their sync; a place behind the end of a log is no record (A, B)."""
    world = story.world
    world.produce(ORDERS, 5)
    story.catch_up()
    end = world.target.log(world.remote(ORDERS)).end
    world.produce(ORDERS, 100)
    story.run_until(lambda: story.is_appended(world.remote(ORDERS)) and story.is_appended(world.syncs))
    story.die()
    story.ledger.did("target cut", ORDERS)
    assert world.target.cut(world.remote(ORDERS), end)
    story.restart()
    story.catch_up()
    story.ledger.check_healed()
    assert not story.ledger.state().stopped


def test_a_log_that_was_cut_is_not_read_for_ever(story: Story) -> None:
    """B2: the syncs lost a marker, and the data what it belongs to: the task begins all the same."""
    world = story.world
    world.produce(ORDERS, 5)
    story.catch_up()
    end = world.target.log(world.remote(ORDERS)).end
    world.target.coordinator.lose_next.add(world.syncs)
    world.produce(ORDERS, 100)
    story.run_until(lambda: world.target.coordinator.lost)
    story.die()
    story.ledger.did("target cut", ORDERS)
    assert world.target.cut(world.remote(ORDERS), end)
    story.restart()
    story.catch_up()
    story.ledger.check_healed()
