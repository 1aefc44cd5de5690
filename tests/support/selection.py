"""Which tests a run has: all but the thorough ones, or with `--thorough` all of them (`make test-all`).

`thorough` is for what `make test` shows by another test already, or what only equipment of the tests needs. It never
marks the only test of a promise of the product.
"""

from __future__ import annotations

import pytest

from replicator.metrics import DATA_PLANES

thorough = pytest.mark.thorough
DEFAULT_PLANE = "batches"

PLANES = [it if it == DEFAULT_PLANE else pytest.param(it, marks=thorough) for it in DATA_PLANES]
"""Parameters of a test that any plane serves: a run has it on one of them, a thorough one on each."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--thorough", action="store_true", help="run the tests that are marked thorough, too")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "thorough: only with --thorough (make test-all)")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--thorough"):
        return
    left_out = [it for it in items if it.get_closest_marker("thorough")]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [it for it in items if not it.get_closest_marker("thorough")]
