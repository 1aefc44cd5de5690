"""Stories in which the target loses what a task has just written, and one in which it takes nothing."""

from __future__ import annotations

from replicator.kafka.cluster import KafkaError
from tests.unit.copy.world.story import ORDERS, OTHERS, Story


def lose_records_of_an_aborted_transaction(story: Story) -> None:
    """The task dies before its commit; the log of the records loses them, the one of their offset sync does not."""
    world = story.world
    world.produce(ORDERS, 5)
    story.catch_up()
    end = world.target.log(world.remote(ORDERS)).end
    world.produce(ORDERS, 100)
    story.run_until(lambda: story.is_appended(world.remote(ORDERS)) and story.is_appended(world.syncs))
    story.die()
    story.cut(ORDERS, end)
    assert "target cut" in story.ledger.happened[ORDERS]
    story.restart()


def lose_a_marker_and_its_records(story: Story) -> None:
    """The syncs never get a marker, and the log of the records loses them with theirs."""
    world = story.world
    world.produce(ORDERS, 5)
    story.catch_up()
    end = world.target.log(world.remote(ORDERS)).end
    world.target.coordinator.lose_next.add(world.syncs)
    world.produce(ORDERS, 100)
    story.run_until(lambda: world.target.coordinator.lost)
    story.die()
    story.cut(ORDERS, end)
    story.restart()


def lack_replicas(story: Story) -> None:
    """One partition is below min.insync.replicas; two have records to copy."""
    story.run_until(lambda: story.worker.is_running)
    partition = story.world.target.partition(story.world.remote(ORDERS))
    assert partition is not None
    partition.refuses = int(KafkaError.NOT_ENOUGH_REPLICAS)
    story.world.produce(ORDERS, 5)
    story.world.produce(OTHERS, 5)
