"""The fixtures of the integration tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.integration.flows import FlowBenches, flow_benches


@pytest.fixture
def make_flow() -> Iterator[FlowBenches]:
    """Makes flows for one test: `make_flow(source, target, flow={…})`."""
    with flow_benches() as benches:
        yield benches
