"""Fixtures for tests over real sockets."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from replicator.planes.batches.reactor import Reactor
from tests.unit.batches_net.world import World


@pytest.fixture
def world() -> Iterator[World]:
    reactor = Reactor()
    made = World(reactor)
    yield made
    reactor.close()
    for node in list(made.fakes):
        made.stop(node)
