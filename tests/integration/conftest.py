"""The fixtures of the integration tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.integration.flows import FlowBenches, flow_benches


@pytest.fixture
def make_flow(request: pytest.FixtureRequest) -> Iterator[FlowBenches]:
    """Makes flows for one test: `make_flow(source, target, flow={…})`; by `on_both_planes`, of each data plane."""
    with flow_benches(getattr(request, "param", "auto")) as benches:
        yield benches
