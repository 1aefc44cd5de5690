"""Whatever happens to a task and its clusters, in any order: the invariants hold, and in the end all is copied.

Replay a failure with the seed that hypothesis prints; `HYPOTHESIS_PROFILE=long` looks much longer.
"""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from replicator.errors import TP
from replicator.kafka.cluster import KafkaError
from tests.support.effort import is_long
from tests.unit.copy.world.flow import Worker
from tests.unit.copy.world.story import ORDERS, OTHERS, PAYMENTS, Story

SOURCES = st.sampled_from([ORDERS, OTHERS, PAYMENTS])
SIDES = st.sampled_from(["source", "target"])
NODES = st.sampled_from([1, 2])
COUNTS = st.integers(1, 4)
EFFECTS = st.integers(0, 30)
"""How far the task gets before the next thing happens."""
REFUSALS = st.sampled_from([KafkaError.NOT_ENOUGH_REPLICAS, KafkaError.NOT_ENOUGH_REPLICAS_AFTER_APPEND])
LATE_S = st.sampled_from([None, 0.0, 0.05, 1.0])


class AnythingHappens(RuleBasedStateMachine):
    """A story that hypothesis tells."""

    def __init__(self) -> None:
        super().__init__()
        self.story = Story()
        self.world = self.story.world
        self.old: list[Worker] = []
        self.open: list[Any] = []

    @initialize(forgets=st.booleans(), verifies=st.booleans(), is_new=st.booleans())
    def begin(self, forgets: bool, verifies: bool, is_new: bool) -> None:
        self.world.target.coordinator.forgets = forgets
        self.world.target.verifies = verifies
        self.world.transact({ORDERS: 2, OTHERS: 3, PAYMENTS: 1})
        if not is_new:
            self.story.catch_up()

    def _go(self, effects: int) -> None:
        self.world.simulation.run(effects=effects, for_s=20)

    def teardown(self) -> None:
        try:
            for end in self.open:
                end(True)
            for worker in self.old:
                self.world.kill(worker)
            self.story.finish()
        except BaseException as error:
            error.add_note(self.story.why())
            raise
        finally:
            self.world.close()

    @invariant()
    def holds(self) -> None:
        self.story.ledger.check()

    # --- the source ---------------------------------------------------------------------------------------------------

    @rule(tp=SOURCES, gaps=st.lists(st.sampled_from([0, 0, 0, 1, 5]), min_size=1, max_size=5), effects=EFFECTS)
    def produce(self, tp: TP, gaps: list[int], effects: int) -> None:
        self.world.produce(tp, gaps=gaps)
        self._go(effects)

    @rule(records=st.dictionaries(SOURCES, COUNTS, min_size=1), commit=st.booleans(), effects=EFFECTS)
    def transact(self, records: dict[TP, int], commit: bool, effects: int) -> None:
        self.world.transact(records, commit=commit)
        self._go(effects)

    @rule(records=st.dictionaries(SOURCES, COUNTS, min_size=1), effects=EFFECTS)
    def leave_open(self, records: dict[TP, int], effects: int) -> None:
        self.open.append(self.world.transact(records, commit=None))
        self._go(effects)

    @precondition(lambda self: self.open)
    @rule(commit=st.booleans())
    def end_open(self, commit: bool) -> None:
        self.open.pop(0)(commit)

    @rule(tp=SOURCES, part=st.floats(0, 1))
    def delete_old_records(self, tp: TP, part: float) -> None:
        self.story.ledger.note()
        log = self.world.source.log(tp)
        self.world.source.trim(tp, int(log.end * part))
        if log.start:
            self.story.ledger.did("source trimmed", tp)

    # --- time, and the task -------------------------------------------------------------------------------------------

    @rule(seconds=st.sampled_from([0.3, 3.0, 15.0]))
    def wait(self, seconds: float) -> None:
        self.world.simulation.run(for_s=seconds)

    @rule(late_s=LATE_S, effects=EFFECTS)
    def die(self, late_s: float | None, effects: int) -> None:
        self.story.die(late_s=late_s)
        self.story.restart()
        self._go(effects)

    @precondition(lambda self: not self.old)
    @rule(effects=EFFECTS)
    def take_over(self, effects: int) -> None:
        """A new owner; the old one goes on, and does not know."""
        self.old.append(self.story.worker)
        self.story.restart()
        self._go(effects)

    @precondition(lambda self: self.old)
    @rule(late_s=LATE_S)
    def end_old_owner(self, late_s: float | None) -> None:
        self.world.kill(self.old.pop(), late_s=late_s)

    # --- brokers and markers ------------------------------------------------------------------------------------------

    @rule(side=SIDES, node=NODES, effects=EFFECTS)
    def crash(self, side: str, node: int, effects: int) -> None:
        cluster = getattr(self.world, side)
        if len(cluster.up) > 1:
            cluster.stop_broker(node)
        self._go(effects)

    @rule(side=SIDES, node=NODES, effects=EFFECTS)
    def start_broker(self, side: str, node: int, effects: int) -> None:
        cluster = getattr(self.world, side)
        if node not in cluster.up:
            cluster.start_broker(node)
        self._go(effects)

    @rule(
        side=SIDES, tp=SOURCES, what=st.sampled_from(["lose_leader", "regain_leader", "move_leader"]), effects=EFFECTS
    )
    def elect(self, side: str, tp: TP, what: str, effects: int) -> None:
        getattr(getattr(self.world, side), what)(tp if side == "source" else self.world.remote(tp))
        self._go(effects)

    @rule(tp=SOURCES, is_syncs=st.booleans(), seconds=st.sampled_from([0.05, 2.0, 20.0]), effects=EFFECTS)
    def delay_marker(self, tp: TP, is_syncs: bool, seconds: float, effects: int) -> None:
        self.world.target.coordinator.delays[self.world.syncs if is_syncs else self.world.remote(tp)] = seconds
        self._go(effects)

    @rule(tp=SOURCES, is_syncs=st.booleans(), code=REFUSALS | st.just(0), effects=EFFECTS)
    def shrink_replicas(self, tp: TP, is_syncs: bool, code: int, effects: int) -> None:
        partition = self.world.target.partition(self.world.syncs if is_syncs else self.world.remote(tp))
        if partition is not None:
            partition.refuses = int(code)
        self._go(effects)

    # --- the target's logs --------------------------------------------------------------------------------------------

    def _has_copy(self, tp: TP) -> bool:
        return self.world.target.partition(self.world.remote(tp)) is not None

    @rule(tp=SOURCES, effects=EFFECTS)
    def cut_open_end(self, tp: TP, effects: int) -> None:
        if self._has_copy(tp):
            self.story.cut(tp, self.world.target.log(self.world.remote(tp)).stable)
        self._go(effects)

    @rule(tp=SOURCES, batches=st.integers(1, 4), effects=EFFECTS)
    def cut_end(self, tp: TP, batches: int, effects: int) -> None:
        entries = self.world.target.log(self.world.remote(tp)).entries if self._has_copy(tp) else []
        if len(entries) >= batches:
            self.story.cut(tp, entries[-batches].base)
        self._go(effects)

    @rule()
    def cut_open_syncs(self) -> None:
        stable = self.world.target.log(self.world.syncs).stable
        self.story.ledger.syncs_lost(self.world.target.cut(self.world.syncs, stable))

    @rule(tp=SOURCES, part=st.floats(0, 1))
    def delete_old_copies(self, tp: TP, part: float) -> None:
        if self._has_copy(tp):
            self.world.target.trim(self.world.remote(tp), int(self.world.target.log(self.world.remote(tp)).end * part))


TestAnythingHappens = AnythingHappens.TestCase
TestAnythingHappens.settings = settings(
    max_examples=400 if is_long() else 20,
    stateful_step_count=40 if is_long() else 25,
    deadline=None,
    print_blob=True,
    suppress_health_check=list(HealthCheck),
)
if is_long():
    TestAnythingHappens = pytest.mark.timeout(0)(TestAnythingHappens)
