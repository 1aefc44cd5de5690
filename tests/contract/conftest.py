"""The planes, each as a parameter of every test that asks for `lane`."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from replicator.embedded import EmbeddedCluster
from tests.support.brokers import UniqueName
from tests.support.lane import Lane
from tests.support.planes import PLANES


@pytest.fixture(params=sorted(PLANES))
def lane(
    request: pytest.FixtureRequest, source: EmbeddedCluster, target: EmbeddedCluster, unique: UniqueName
) -> Iterator[Lane]:
    """One lane per plane."""
    topic = unique("orders")
    kind = PLANES[request.param]
    made = Lane(
        kind, source.bootstrap_servers, target.bootstrap_servers, topic, f"east.{topic}", unique("replicator-plane")
    )
    yield made
    for plane in made.planes:
        plane.close()
