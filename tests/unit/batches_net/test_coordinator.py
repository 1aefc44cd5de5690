"""The coordinator's answers, also those that no broker should give."""

from __future__ import annotations

import pytest
from kafka.protocol.admin.transactions import DescribeTransactionsResponse
from kafka.protocol.metadata import FindCoordinatorResponse

from replicator.deadline import Deadline
from replicator.errors import RetriableError
from replicator.planes import PlaneSettings
from replicator.planes.batches.coordinator import Coordinator
from tests.unit.batches_net.fake_broker import VERSIONS, Asked, Peer, cluster
from tests.unit.batches_net.world import World

DESCRIBE_TRANSACTIONS = 65


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
    settings = PlaneSettings("id", transaction_timeout_s=60, compression="none", buffer_bytes=1 << 20)
    coordinator = Coordinator(world.reactor, world.brokers(1), cluster("x:1"), settings)
    with pytest.raises(RetriableError, match=f"{world.nodes[1]} does not speak Kafka's protocol"):
        coordinator.describe(Deadline(1))
