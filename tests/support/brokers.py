"""Pytest options and fixtures around `replicator.embedded`. No broker is a failure, never a skip."""

from __future__ import annotations

import contextlib
import re
import uuid
from collections.abc import Callable, Iterator
from typing import Protocol

import pytest

from replicator.embedded import Clusters, ClusterSpec, EmbeddedCluster, open_clusters

UniqueName = Callable[[str], str]


class OwnClusters(Protocol):
    """Starts clusters in parallel; they are removed at the end of the fixture's scope."""

    def __call__(self, *specs: ClusterSpec) -> Clusters:
        """The clusters, by name, ready."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Clusters that exist, instead of ones that the tests start."""
    group = parser.getgroup("kafka")
    for name in ("source", "target"):
        group.addoption(
            f"--{name}-bootstrap",
            metavar="HOST:PORT,…",
            help=f"use this cluster as the {name} of the shared clusters (plaintext); tests that kill brokers start "
            "their own all the same",
        )


@pytest.fixture(scope="session")
def clusters(request: pytest.FixtureRequest) -> Iterator[Clusters]:
    """Two one-broker clusters, `source` and `target`, shared by all tests of a session."""
    given = {name: request.config.getoption(f"--{name}-bootstrap") for name in ("source", "target")}
    existing = {name: servers for name, servers in given.items() if servers}
    with open_clusters([ClusterSpec("source"), ClusterSpec("target")], existing=existing) as opened:
        yield opened


@pytest.fixture(scope="session")
def source(clusters: Clusters) -> EmbeddedCluster:
    """The shared source cluster."""
    return clusters["source"]


@pytest.fixture(scope="session")
def target(clusters: Clusters) -> EmbeddedCluster:
    """The shared target cluster."""
    return clusters["target"]


@pytest.fixture
def own_clusters() -> Iterator[OwnClusters]:
    """Starts clusters for one test: `own_clusters(ClusterSpec("east", brokers=3), ClusterSpec("west"))`."""
    with _cluster_factory() as factory:
        yield factory


@pytest.fixture(scope="module")
def module_clusters() -> Iterator[OwnClusters]:
    """Starts clusters for the tests of one file."""
    with _cluster_factory() as factory:
        yield factory


@contextlib.contextmanager
def _cluster_factory() -> Iterator[OwnClusters]:
    with contextlib.ExitStack() as stack:

        def start(*specs: ClusterSpec) -> Clusters:
            return stack.enter_context(open_clusters(specs))

        yield start


@pytest.fixture
def unique(request: pytest.FixtureRequest) -> UniqueName:
    """Makes names for topics, groups and transactional ids that no other test uses, in this run or another one.

    The name begins with the word given, so `unique("orders")` still matches `orders.*`.
    """
    run = uuid.uuid4().hex[:8]
    test = re.sub(r"[^a-z0-9]+", "-", request.node.name.lower().removeprefix("test_")).strip("-")[:40]

    def make(word: str) -> str:
        return f"{word}-{test}-{run}"

    return make
