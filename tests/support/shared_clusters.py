"""One pair of clusters for all processes of a run.

The process that hands out the tests (xdist's controller, or the only one) owns the clusters. A worker that needs them
asks it through a socket; the first one to ask has them started. So they live as long as the run, whichever worker ends
first, and a run without tests on brokers starts none.
"""

from __future__ import annotations

import contextlib
import tempfile
import threading
from collections.abc import Mapping
from multiprocessing.connection import Client, Connection, Listener
from pathlib import Path

from replicator.embedded import ClusterError, Clusters, ClusterSpec, EmbeddedCluster, open_clusters
from replicator.embedded.existing import ExistingCluster

SPECS = (ClusterSpec("source"), ClusterSpec("target"))
Addresses = dict[str, str]


class SharedClusters:
    """The pair, started when it is first asked for. Threading: any.

    Args:
        existing: name → bootstrap servers of clusters that need not be started.
    """

    def __init__(self, existing: Mapping[str, str]) -> None:
        self._existing = existing
        self._lock = threading.Lock()
        self._stack = contextlib.ExitStack()
        self._opened: Clusters | None = None
        self._error = ""

    def open(self) -> Mapping[str, EmbeddedCluster]:
        """The clusters, ready.

        Raises:
            ClusterError: they did not start, now or at an earlier call.
        """
        with self._lock:
            if self._error:
                raise ClusterError(self._error)
            if self._opened is None:
                try:
                    self._opened = self._stack.enter_context(open_clusters(SPECS, existing=self._existing))
                except ClusterError as error:
                    self._error = str(error)
                    raise
            return self._opened

    def close(self) -> None:
        self._stack.close()


class ClusterServer:
    """Tells other processes of this machine where the clusters are. Threading: each of them has a thread here."""

    def __init__(self, clusters: SharedClusters) -> None:
        self._clusters = clusters
        self._folder = tempfile.TemporaryDirectory(prefix="clusters-")
        self.address = str(Path(self._folder.name) / "socket")
        self._listener = Listener(self.address, "AF_UNIX")
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):  # closed
            while True:
                threading.Thread(target=self._answer, args=(self._listener.accept(),), daemon=True).start()

    def _answer(self, connection: Connection[Addresses | str, None]) -> None:
        with connection:
            try:
                connection.send({name: it.bootstrap_servers for name, it in self._clusters.open().items()})
            except ClusterError as error:
                connection.send(str(error))

    def close(self) -> None:
        self._listener.close()
        self._folder.cleanup()


def ask(address: str) -> Mapping[str, EmbeddedCluster]:
    """The clusters of another process; nothing here can stop or kill their brokers.

    Raises:
        ClusterError: they did not start there.
    """
    with Client(address, "AF_UNIX") as connection:
        answer: Addresses | str = connection.recv()
    if isinstance(answer, str):
        raise ClusterError(answer)
    found = {name: ExistingCluster(name, servers) for name, servers in answer.items()}
    for cluster in found.values():
        cluster.start()
    return found
