"""One task in a world of its own: it dies, logs are cut, markers are lost, and nothing is lost or copied twice."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from replicator.kafka.cluster import KafkaError
from tests.unit.copy.world.disasters import (
    lack_replicas,
    lose_a_marker_and_its_records,
    lose_records_of_an_aborted_transaction,
)
from tests.unit.copy.world.story import ORDERS, OTHERS, PAYMENTS, Story


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
    """A place behind the end of a log is no record, and their offset sync is not written again (A, B)."""
    lose_records_of_an_aborted_transaction(story)
    story.catch_up()
    story.ledger.check_healed()
    assert not story.ledger.state().stopped


def test_a_log_that_was_cut_is_not_read_for_ever(story: Story) -> None:
    """To find out whether the hidden offset syncs belong to visible records."""
    lose_a_marker_and_its_records(story)
    story.catch_up()
    story.ledger.check_healed()


def test_a_partition_without_enough_replicas_stops_alone(story: Story) -> None:
    """The others go on, and it is tried again."""
    lack_replicas(story)
    story.catch_up(OTHERS, within_s=30)
    story.world.simulation.run_until(lambda: ORDERS in story.ledger.state().stopped, 30, story.why)
    assert story.ledger.state().stopped[ORDERS]["reason"] == "target_unavailable"
    partition = story.world.target.partition(story.world.remote(ORDERS))
    assert partition is not None
    partition.refuses = 0
    story.catch_up()
    story.ledger.check_healed()


def test_a_task_that_only_aborts_does_not_run(story: Story) -> None:
    """Its syncs can't be written: the state, the metric and the readiness say so, and why, until it commits again."""
    world, task = story.world, story.worker.task
    story.run_until(lambda: story.worker.is_running)
    partition = world.target.partition(world.syncs)
    assert partition is not None
    partition.refuses = int(KafkaError.NOT_ENOUGH_REPLICAS)
    world.produce(ORDERS, 5)
    world.simulation.run_until(lambda: task.state == "backoff", 30, story.why)
    assert "transactions in a row were aborted" in task.problem
    assert "NOT_ENOUGH_REPLICAS" in task.problem
    assert story.worker.state_metric("backoff") == 1
    assert not any("task_restarts" in event or "task_fenced" in event for event in world.events)
    partition.refuses = 0
    story.catch_up()
    assert (task.state, task.problem) == ("running", "")
    assert story.worker.state_metric("running") == 1
    story.ledger.check_healed()


@pytest.fixture
def patient() -> Iterator[Story]:
    """With the usual timeout: a partition may take nothing for 15 s."""
    made = Story(transaction_timeout_s=60)
    yield made
    made.world.close()


def test_many_partitions_without_enough_replicas_stop_together(patient: Story) -> None:
    """One after the other would hold up the rest for as long as there are partitions; and so would each retry."""
    story, world = patient, patient.world
    story.run_until(lambda: story.worker.is_running)
    unavailable = [ORDERS, PAYMENTS]
    for tp in unavailable:
        partition = world.target.partition(world.remote(tp))
        assert partition is not None
        partition.refuses = int(KafkaError.NOT_ENOUGH_REPLICAS)
    for tp in (ORDERS, PAYMENTS, OTHERS):
        world.produce(tp, 5)
    world.simulation.run_until(lambda: set(unavailable) <= story.ledger.state().stopped.keys(), 20, story.why)
    assert sum("transaction_aborted" in event for event in world.events) == 1
    behind_s = []
    for _ in range(20):
        began_s = world.simulation.now_s
        world.produce(OTHERS, 1)
        story.catch_up(OTHERS, within_s=10)
        behind_s.append(world.simulation.now_s - began_s)
        world.simulation.run(for_s=1)
    assert max(behind_s) < 6, "a retry holds up the others for a moment"
