"""The fixture of the in-memory world."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.unit.copy.world.story import Story


@pytest.fixture
def story() -> Iterator[Story]:
    """One task in a world of its own."""
    made = Story()
    yield made
    made.world.close()
