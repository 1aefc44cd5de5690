"""A task that dies after every single effect of a story, and whatever happens to the target then, loses nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from replicator.kafka.cluster import KafkaError
from tests.support.effort import is_long
from tests.unit.copy.world.story import ORDERS, OTHERS, PAYMENTS, Story

EVERY = 1 if is_long() else 12
"""Without the long profile, a task dies after each twelfth effect; each test begins with another one."""
Chapter = Callable[[], object]
"""What a story waits for before it goes on."""


def copying(story: Story) -> Iterator[Chapter]:
    """Plain records, transactions, aborted ones and what compaction left, of several partitions."""
    world = story.world
    world.produce(ORDERS, 5)
    world.transact({ORDERS: 2, OTHERS: 3}, commit=False)
    yield lambda: story.is_settled(ORDERS)
    world.transact({ORDERS: 2, OTHERS: 3})
    world.produce(PAYMENTS, gaps=[0, 3, 0, 2])
    yield story.is_settled
    world.transact({PAYMENTS: 1}, commit=False)
    yield story.is_settled


def losing_a_marker(story: Story) -> Iterator[Chapter]:
    """The syncs' marker of a transaction never comes."""
    story.world.produce(ORDERS, 3)
    yield lambda: story.is_settled(ORDERS)
    story.world.target.coordinator.lose_next.add(story.world.syncs)
    story.world.produce(ORDERS, 3)
    story.world.produce(OTHERS, 3)
    yield lambda: story.world.target.coordinator.lost


def lacking_replicas(story: Story) -> Iterator[Chapter]:
    """One partition takes nothing."""
    story.world.produce(ORDERS, 3)
    story.world.produce(OTHERS, 3)
    yield story.is_settled
    partition = story.world.target.partition(story.world.remote(ORDERS))
    assert partition is not None
    partition.refuses = int(KafkaError.NOT_ENOUGH_REPLICAS)
    story.world.produce(ORDERS, 3)
    story.world.produce(OTHERS, 3)
    yield lambda: story.is_settled(OTHERS) and ORDERS in story.ledger.state().stopped


def cut_open_ends(story: Story) -> None:
    """Every log of records loses what is not committed; the syncs' log does not."""
    for tp in (ORDERS, OTHERS, PAYMENTS):
        if story.world.target.partition(story.world.remote(tp)) is not None:
            story.cut(tp, story.world.target.log(story.world.remote(tp)).stable)


def cut_last_batch(story: Story) -> None:
    """One log loses its last records, whatever became of them."""
    remote = story.world.remote(ORDERS)
    if story.world.target.partition(remote) is not None:
        entries = story.world.target.log(remote).entries
        records = [it.base for it in entries if it.ends is None]
        if records:
            story.cut(ORDERS, records[-1])


def cut_open_syncs(story: Story) -> None:
    """The syncs' log loses what is not committed; the records' logs do not."""
    log = story.world.target.log(story.world.syncs)
    story.ledger.syncs_lost(story.world.target.cut(story.world.syncs, log.stable))


def crash_brokers(story: Story) -> None:
    """Each in turn, and markers for what they lead are forgotten."""
    story.world.target.coordinator.forgets = True
    for node in list(story.world.target.brokers):
        story.world.target.stop_broker(node)
        story.world.simulation.run(for_s=0.5)
        story.world.target.start_broker(node)


def nothing(_: Story) -> None:
    """The task alone dies."""


def play(scenario: Callable[[Story], Iterator[Chapter]], effects: float) -> tuple[Story, bool]:
    """A story up to so many effects, and whether it came to its end."""
    story = Story()
    for is_done in scenario(story):
        while not is_done():
            if story.world.simulation.effects >= effects:
                return story, False
            story.world.simulation.run(effects=1, for_s=60)
    return story, True


Scenario = Callable[[Story], Iterator[Chapter]]
SCENARIOS: list[Scenario] = [copying, losing_a_marker, lacking_replicas]
DISASTERS: list[Callable[[Story], None]] = [nothing, cut_open_ends, cut_last_batch, cut_open_syncs, crash_brokers]


@pytest.mark.parametrize("late_s", [None, 0.05], ids=["lost", "late"])
@pytest.mark.parametrize("disaster", DISASTERS)
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_dies_after_every_effect(
    scenario: Callable[[Story], Iterator[Chapter]], disaster: Callable[[Story], None], late_s: float | None
) -> None:
    """With requests on their way that are lost, or arrive when the next owner is there."""
    effects = 1 + (SCENARIOS.index(scenario) * 5 + DISASTERS.index(disaster) * 2 + bool(late_s)) % EVERY
    is_end = False
    while not is_end:
        story, is_end = play(scenario, effects)
        try:
            story.die(late_s=late_s)
            disaster(story)
            story.restart()
            story.ledger.check()
            story.finish()
        except BaseException as error:
            error.add_note(f"it died after effect {effects}\n{story.why()}")
            raise
        finally:
            story.world.close()
        effects += EVERY
    assert effects > 30
