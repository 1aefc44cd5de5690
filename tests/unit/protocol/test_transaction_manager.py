"""The coordinator's answers, also those that no broker should give."""

from __future__ import annotations

import math
from contextlib import closing

import pytest
from kafka.protocol.admin.transactions import DescribeTransactionsResponse
from kafka.protocol.metadata import FindCoordinatorResponse

from replicator.deadline import Deadline
from replicator.errors import TP, RetriableError
from replicator.planes import PlaneSettings
from replicator.planes.batches.plane import BatchesPlane
from replicator.protocol.hanging_transactions import HangingTransactions
from replicator.protocol.transaction_manager import TransactionManager
from tests.support.eventually import eventually
from tests.unit.protocol.fake_broker import VERSIONS, Asked, Peer, cluster
from tests.unit.protocol.world import World

DESCRIBE_TRANSACTIONS = 65
SETTINGS = PlaneSettings("id", transaction_timeout_s=60, compression="none", buffer_bytes=1 << 20)


def test_a_description_of_nothing_is_no_answer(world: World) -> None:
    """The error names the broker."""

    def answer(peer: Peer, asked: Asked) -> None:
        if asked.api_key == DESCRIBE_TRANSACTIONS:
            peer.say_message(asked, DescribeTransactionsResponse(throttle_time_ms=0, transaction_states=[]))
        else:
            peer.say_message(asked, FindCoordinatorResponse(error_code=0, error_message="", node_id=1))

    world.versions = VERSIONS | {DESCRIBE_TRANSACTIONS: (0, 0)}
    world.other = answer
    world.start(1)
    transaction_manager = TransactionManager(world.loop, world.brokers(1), cluster("x:1"), SETTINGS)

    def is_named() -> bool:
        with pytest.raises(RetriableError) as caught:
            transaction_manager.describe(Deadline(1))
        assert f"{world.nodes[1]} described no transaction" in str(caught.value)
        return True

    eventually(is_named, within_s=30)


def test_what_was_said_before_the_time_was_over_is_told(world: World) -> None:
    """The last try may find no time left for an answer: that says less."""
    asked = 0

    def answer(peer: Peer, it: Asked) -> None:
        nonlocal asked
        if it.api_key != DESCRIBE_TRANSACTIONS:
            peer.say_message(it, FindCoordinatorResponse(error_code=0, error_message="", node_id=1))
            return
        asked += 1
        if asked == 1:
            peer.say_message(it, DescribeTransactionsResponse(throttle_time_ms=0, transaction_states=[]))

    world.versions = VERSIONS | {DESCRIBE_TRANSACTIONS: (0, 0)}
    world.other = answer
    world.start(1)
    transaction_manager = TransactionManager(world.loop, world.brokers(1), cluster("x:1"), SETTINGS)
    with pytest.raises(RetriableError, match=r"described no transaction|does not speak Kafka's protocol"):
        transaction_manager.describe(Deadline(3))
    assert asked > 1


def test_a_look_for_loose_ends_is_no_trouble() -> None:
    """Trouble has tasks look; while a broker is down, the look of one would cause that of the next, for ever."""
    unreachable = cluster("127.0.0.1:1")
    with closing(HangingTransactions(unreachable, SETTINGS)) as ends, pytest.raises(RetriableError, match="refused"):
        ends.find([TP("t", 0)], Deadline(0.5))
    assert unreachable.troubled_s == -math.inf
    with closing(BatchesPlane(cluster("x:1"), unreachable, SETTINGS)) as plane, pytest.raises(RetriableError):
        plane.open(Deadline(0.5))
    assert unreachable.troubled_s > 0
