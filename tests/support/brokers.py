"""Pytest options and fixtures around `replicator.embedded`. No broker is a failure, never a skip."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

import pytest

from replicator.embedded import Clusters, ClusterSpec, EmbeddedCluster, open_clusters
from tests.support.run_ids import delete_topics_of, new_run_id, take_run_ids
from tests.support.shared_clusters import ClusterServer, SharedClusters, ask

UniqueName = Callable[[str], str]
SHARED = pytest.StashKey[SharedClusters]()
SERVER = pytest.StashKey[ClusterServer]()


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


def pytest_configure(config: pytest.Config) -> None:
    """The process that owns the shared clusters: the only one, or the one that hands out the tests."""
    if not hasattr(config, "workerinput"):
        given = {name: config.getoption(f"--{name}-bootstrap") for name in ("source", "target")}
        config.stash[SHARED] = SharedClusters({name: servers for name, servers in given.items() if servers})


def pytest_unconfigure(config: pytest.Config) -> None:
    for closable in (config.stash.get(SERVER, None), config.stash.get(SHARED, None)):
        if closable is not None:
            closable.close()


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Tell a worker of xdist whom to ask for the shared clusters."""
    if SERVER not in node.config.stash:
        node.config.stash[SERVER] = ClusterServer(node.config.stash[SHARED])
    node.workerinput["clusters"] = node.config.stash[SERVER].address


@pytest.fixture(scope="session")
def clusters(request: pytest.FixtureRequest) -> Mapping[str, EmbeddedCluster]:
    """Two one-broker clusters, `source` and `target`, shared by all tests of a run; nothing may stop their brokers."""
    if SHARED in request.config.stash:
        return request.config.stash[SHARED].open()
    return ask(request.config.workerinput["clusters"])  # type: ignore[attr-defined]


@pytest.fixture(scope="session")
def source(clusters: Mapping[str, EmbeddedCluster]) -> EmbeddedCluster:
    """The shared source cluster."""
    return clusters["source"]


@pytest.fixture(scope="session")
def target(clusters: Mapping[str, EmbeddedCluster]) -> EmbeddedCluster:
    """The shared target cluster."""
    return clusters["target"]


# Clusters that a run has once. A test that asks for one has the mark, too: those with a mark run in one process, one
# after the other, so that they may stop the brokers.
on_killable_pair = pytest.mark.xdist_group("killable pair")
on_three_brokers = pytest.mark.xdist_group("three brokers")
on_unverified = pytest.mark.xdist_group("unverified")


@pytest.fixture(scope="session")
def _killable_pair() -> Iterator[Clusters]:
    with open_clusters([ClusterSpec("source"), ClusterSpec("target")]) as opened:
        yield opened


@pytest.fixture
def killable_pair(_killable_pair: Clusters) -> Clusters:
    """Two one-broker clusters, `source` and `target`; both run when a test begins. For `on_killable_pair`."""
    for cluster in _killable_pair.values():
        cluster.start()
    return _killable_pair


@pytest.fixture(scope="session")
def _three_brokers() -> Iterator[Clusters]:
    with open_clusters([ClusterSpec("three", brokers=3)]) as opened:
        yield opened


@pytest.fixture
def three_brokers(_three_brokers: Clusters) -> EmbeddedCluster:
    """A cluster of three; all run when a test begins. For `on_three_brokers`."""
    _three_brokers["three"].start()
    return _three_brokers["three"]


@pytest.fixture(scope="session")
def unverified() -> Iterator[EmbeddedCluster]:
    """A cluster as before Kafka 3.6: a leader takes a transactional batch without asking whether there is such a
    transaction, so that a partition can be left out of it. For `on_unverified`.
    """
    properties = {"transaction.partition.verification.enable": "false"}
    with open_clusters([ClusterSpec("unverified", properties=properties)]) as opened:
        yield opened["unverified"]


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


@pytest.fixture(autouse=True)
def _own_topics(request: pytest.FixtureRequest) -> Iterator[None]:
    """What a test made in the shared clusters goes when it ends."""
    uses_shared = "clusters" in request.fixturenames
    shared: Mapping[str, EmbeddedCluster] = request.getfixturevalue("clusters") if uses_shared else {}
    take_run_ids()  # of fixtures that other tests use, too
    yield
    run_ids = take_run_ids()
    if run_ids:
        delete_topics_of(run_ids, *(it.admin_servers for it in shared.values()))


@pytest.fixture
def unique(request: pytest.FixtureRequest) -> UniqueName:
    """Makes names for topics, groups and transactional ids that no other test uses, in this run or another one.

    The name begins with the word given, so `unique("orders")` still matches `orders.*`.
    """
    run = new_run_id()
    test = re.sub(r"[^a-z0-9]+", "-", request.node.name.lower().removeprefix("test_")).strip("-")[:40]

    def make(word: str) -> str:
        return f"{word}-{test}-{run}"

    return make
