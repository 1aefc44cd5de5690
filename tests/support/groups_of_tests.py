"""Sends the tests of one group to one process, in the order of the file: `--dist loadgroup`, for any version of pytest.

xdist tells its controller of a test's group in the test's id, which pytest 9.2 no longer lets it change: every test
would be a group of its own, and each process would start the clusters that a group shares. So the workers leave a list
of the groups where the controller finds it.

The tiers are mixed: end-to-end tests need the processor, integration tests mostly wait.
"""

from __future__ import annotations

import json
import os
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

FOLDER = pytest.StashKey[TemporaryDirectory[str]]()
FILE = "groups.json"
LONG_ONES_BEFORE = 0.7
"""Of the run: a long test that begins last is waited for by all."""


class GroupScheduling(LoadScopeScheduling):  # type: ignore[misc]
    """Hands out groups, and tests without one; the largest groups first.

    Args:
        file: test → group, complete when every worker has collected its tests.
    """

    def __init__(self, config: pytest.Config, log: Producer, file: Path) -> None:
        super().__init__(config, log)
        self._file = file

    @cached_property
    def _groups(self) -> dict[str, str]:
        groups: dict[str, str] = json.loads(self._file.read_text())
        return groups

    def _split_scope(self, nodeid: str) -> str:
        return self._groups.get(nodeid, nodeid)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Spread the tests of each folder evenly over the run, in their order; the last ones are short."""
    if config.getvalue("dist") != "loadgroup":
        return
    tiers: dict[Path, list[pytest.Item]] = {}
    for item in items:
        tiers.setdefault(item.path.parent, []).append(item)
    places = {
        item.nodeid: number / len(tier) * (LONG_ONES_BEFORE if tier[0].path.parent.name == "e2e" else 1)
        for tier in tiers.values()
        for number, item in enumerate(tier)
    }
    items.sort(key=lambda item: places[item.nodeid])


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):
        config.stash[FOLDER] = TemporaryDirectory(prefix="groups-")


def pytest_unconfigure(config: pytest.Config) -> None:
    if FOLDER in config.stash:
        config.stash[FOLDER].cleanup()


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Tell a worker where the list goes."""
    node.workerinput["groups"] = node.config.stash[FOLDER].name


@pytest.hookimpl(tryfirst=True)
def pytest_collection_finish(session: pytest.Session) -> None:
    """Write the list, before the controller hears that the collection is done. All workers write the same."""
    if not hasattr(session.config, "workerinput"):
        return
    folder = Path(session.config.workerinput["groups"])
    marks = {it.nodeid: it.get_closest_marker("xdist_group") for it in session.items}
    own = folder / f"{os.getpid()}.json"
    own.write_text(json.dumps({nodeid: mark.args[0] for nodeid, mark in marks.items() if mark is not None}))
    own.replace(folder / FILE)


@pytest.hookimpl(optionalhook=True, tryfirst=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> GroupScheduling | None:
    if config.getvalue("dist") != "loadgroup":
        return None
    return GroupScheduling(config, log, Path(config.stash[FOLDER].name) / FILE)
