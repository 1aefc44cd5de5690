"""A world with three partitions and one worker, for tests that tell what happens to them."""

from __future__ import annotations

from collections.abc import Callable

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

    def is_settled(self, *tps: TP) -> bool:
        """Whether these partitions (or all) are replicated to their ends, or stopped with a reason that is true."""
        state = self.ledger.state()
        return all(self.ledger.is_settled(tp, state) for tp in tps or tuple(self.world.source.tps()))

    def catch_up(self, *tps: TP, within_s: float = HEALED_WITHIN_S) -> None:
        """Go on until the task runs and `is_settled`."""
        simulation = self.world.simulation
        simulation.run_until(lambda: self.worker.is_running and self.is_settled(*tps), within_s, self.why)

    def is_appended(self, tp: TP) -> bool:
        """Whether something lies open in a partition of the target."""
        log = self.world.target.log(tp)
        return log.stable < log.end

    def die(self, *, late_s: float | None = None) -> None:
        """As `World.kill`, of the worker that owns the task."""
        self.world.kill(self.worker, late_s=late_s)

    def restart(self) -> Worker:
        self.worker = self.world.start()
        return self.worker

    def cut(self, tp: TP, end: int) -> None:
        """The copy of a source partition loses its end."""
        self.ledger.note()
        if self.world.target.cut(self.world.remote(tp), end):
            self.ledger.did("target cut", tp)

    def heal(self) -> None:
        """All brokers are up, all partitions have leaders and enough replicas; no marker is late any more."""
        for cluster in (self.world.source, self.world.target):
            cluster.coordinator.forgets = False
            cluster.coordinator.lose_next.clear()
            cluster.coordinator.delays.clear()
            for node in cluster.brokers:
                if node not in cluster.up:
                    cluster.start_broker(node)
            for tp in list(cluster.tps()):
                cluster.regain_leader(tp)
                partition = cluster.partition(tp)
                assert partition is not None
                partition.refuses = 0

    def finish(self) -> None:
        """Heal, let a fresh worker catch up, and check everything."""
        self.heal()
        self.die()
        self.restart()
        self.catch_up()
        self.ledger.check_healed()
