"""Fixtures for tests over real sockets."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from replicator.protocol.event_loop import EventLoop
from tests.unit.protocol.world import World


@pytest.fixture
def world() -> Iterator[World]:
    loop = EventLoop()
    made = World(loop)
    yield made
    loop.close()
    for node in list(made.fakes):
        made.stop(node)
