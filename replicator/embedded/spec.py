"""What a cluster for the demo, the tests and the bench should be, and what it can then do."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

from replicator.errors import ReplicatorError

START_TIMEOUT_S = 180.0
"""How long a cluster may take to answer: 1 to 3 s on a quiet machine, a hundred where ten processes want each CPU."""

STOP_TIMEOUT_S = 20.0
"""How long a broker may take for a clean shutdown before it is killed."""


class ClusterError(ReplicatorError):
    """A cluster could not be had: something is missing, a broker died, or it did not answer in time.

    The text is for the person at the terminal: what happened, the tail of the broker's log where there is one, and
    what to do.
    """


@dataclass(frozen=True, slots=True)
class SecuritySpec:
    """A client listener with authentication, and authorization where `acls` says so.

    Clients have this listener only. The brokers and their controllers talk over plaintext listeners of their own on the
    loopback interface, as the super user `ANONYMOUS`: no client of the client listener is that user, so
    ACLs hold for every client.

    Args:
        protocol: Kafka's name of the client listener's protocol.
        users: user → password, all SCRAM-SHA-512. Ignored by `SSL`.
        super_users: principals without the `User:` prefix, not bound by ACLs.
        acls: deny everything that no ACL allows.
        key_store: PEM file with the broker's private key and certificate chain, for `SSL` and `SASL_SSL`.
        trust_store: PEM file with the CA that client certificates are checked against.
        client_auth: `required` asks every client for a certificate (mTLS).
    """

    protocol: Literal["SASL_PLAINTEXT", "SASL_SSL", "SSL"]
    users: Mapping[str, str] = field(default_factory=dict)
    super_users: tuple[str, ...] = ("admin",)
    acls: bool = False
    key_store: Path | None = None
    trust_store: Path | None = None
    client_auth: Literal["none", "requested", "required"] = "none"

    @property
    def uses_sasl(self) -> bool:
        """Whether clients log in with a user and a password."""
        return self.protocol.startswith("SASL_")

    @property
    def uses_tls(self) -> bool:
        """Whether the client listener is encrypted."""
        return self.protocol.endswith("SSL")


@dataclass(frozen=True, slots=True)
class ClusterSpec:
    """A cluster to start.

    Args:
        name: unique within one `open_clusters`, also a directory name.
        brokers: each is broker and controller in one process.
        properties: broker properties, over the defaults of `properties.py`; `{node}` in a value is the broker's id.
        security: None for a plaintext listener.
        heap_mb: Java heap per broker.
        quick_start: compile with the quick compiler only: starts in half the time and tops out at a lower throughput.
            A benchmark turns it off.
        jvm_args: further arguments for Java, before the class name.
    """

    name: str
    brokers: int = 1
    properties: Mapping[str, str] = field(default_factory=dict)
    security: SecuritySpec | None = None
    heap_mb: int = 512
    quick_start: bool = True
    jvm_args: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse what could not be a directory or a cluster."""
        if not re.fullmatch(r"[a-zA-Z0-9][a-zA-Z0-9_-]*", self.name):
            raise ValueError(f"a cluster can't be called {self.name!r}: letters, digits, - and _ only")
        if self.brokers < 1:
            raise ValueError(f"cluster {self.name} needs at least one broker")

    @property
    def node_ids(self) -> range:
        """The brokers' ids, as clients see them: from 1."""
        return range(1, self.brokers + 1)


class EmbeddedCluster(Protocol):
    """A running Kafka cluster, whichever way it runs.

    Brokers are named by their node id, which is what clients report as a partition's leader: 1 to `broker_count`.
    Addresses and data stay the same through any stop, kill and start, until `close`.

    Threading: one thread at a time.
    """

    @property
    def name(self) -> str:
        """The spec's name."""

    @property
    def bootstrap_servers(self) -> str:
        """Addresses of all brokers, for clients: `host:port,host:port`."""

    @property
    def admin_servers(self) -> str:
        """Addresses where a plaintext client is a super user, for setting up a secured cluster. Else as for clients."""

    @property
    def broker_count(self) -> int:
        """Number of brokers, running or not."""

    @property
    def supports_kill(self) -> bool:
        """Whether brokers can be stopped and killed. If not, the methods that do it raise `ClusterError`."""

    def start(self) -> None:
        """Start every broker that is not running, and return when topics can be created and every broker is in."""

    def stop(self) -> None:
        """Shut all brokers down, keeping their data."""

    def restart(self) -> None:
        """Stop, then start."""

    def start_broker(self, node_id: int) -> None:
        """Start one broker, and return when it is back in the cluster and the cluster has a controller."""

    def stop_broker(self, node_id: int) -> None:
        """Shut one broker down; its leaderships move first."""

    def kill_broker(self, node_id: int) -> None:
        """SIGKILL; returns when the process is gone."""

    def signal_broker(self, node_id: int, signum: int) -> None:
        """Send a signal, SIGSTOP and SIGCONT above all: a broker that hangs."""

    def broker_pid(self, node_id: int) -> int:
        """Process id of the broker's JVM, where it is a process of this machine."""

    def broker_log(self, node_id: int) -> str:
        """The last lines that the broker wrote to its log."""

    def close(self) -> None:
        """Kill all brokers and remove their data."""
