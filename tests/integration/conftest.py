"""The fixtures of the integration tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from replicator.checkpoints import checkpoints
from replicator.worker import worker
from tests.support.flows import FlowBenches, flow_benches
from tests.support.in_process import commands as commands  # noqa: PLC0414


@pytest.fixture(scope="module", autouse=True)
def hurry() -> Iterator[None]:
    """How often a worker looks for new groups, and how long a problem is told: no test is about how long that takes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoints, "GROUPS_EVERY_S", 0.5)
        patch.setattr(worker, "PROBLEM_FADES_S", 5.0)
        yield


@pytest.fixture
def make_flow(request: pytest.FixtureRequest) -> Iterator[FlowBenches]:
    """Makes flows for one test: `make_flow(source, target, flow={…})`; by `on_both_planes`, of each data plane."""
    with flow_benches(getattr(request, "param", "auto")) as benches:
        yield benches
