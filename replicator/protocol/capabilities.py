"""Decides which clusters this client can serve; flows of the others use the `records` plane.

Source: librdkafka CONFIGURATION.md; clients `ApiKeys`, the schemas' `validVersions` by release.
"""

from __future__ import annotations

from collections.abc import Mapping

from replicator.config import ClusterSettings
from replicator.deadline import Deadline
from replicator.errors import RetriableError
from replicator.kafka.client_properties import client_id
from replicator.kafka.cluster import Cluster
from replicator.protocol.connect_errors import ConnectError, unreachable
from replicator.protocol.handshake import CONNECT_TIMEOUT_S, Endpoint, connect
from replicator.protocol.security import Security

NEEDED: Mapping[int, tuple[str, int]] = {
    0: ("Produce", 9),
    1: ("Fetch", 12),
    3: ("Metadata", 9),
    10: ("FindCoordinator", 3),
    22: ("InitProducerId", 3),
    24: ("AddPartitionsToTxn", 3),
    26: ("EndTxn", 3),
}
"""API key → name, and the version that the brokers have to support."""
OLDEST_KAFKA = "2.8"

_PREFIXES = ("ssl.", "sasl.", "security.", "oauthbearer", "https.", "enable.sasl.", "enable.ssl.", "metadata.recovery.")
_NAMES = frozenset(
    {
        "broker.address.family",
        "client.dns.lookup",
        "metadata.broker.list",
        "plugin.library.paths",
        "topic.blacklist",
    }
)
"""Properties that decide how to connect and authenticate. All others tune librdkafka's queues and pauses."""


def reason_against(settings: ClusterSettings) -> str | None:
    """Return why this client can't serve a cluster with these settings; None: it can.

    What a `client` block sets about security and connectivity is for librdkafka; this client ignores it.
    """
    unheeded = sorted(key for key in settings.client if key in _NAMES or key.startswith(_PREFIXES))
    if unheeded:
        return f"client: {', '.join(unheeded)} is for librdkafka, which this plane does without"
    return None


def missing_apis(versions: Mapping[int, tuple[int, int]]) -> str | None:
    """Return what the brokers don't support; None: they support all that is needed.

    Args:
        versions: API key → lowest and highest version.
    """
    missing: list[str] = []
    for key, (name, wanted) in NEEDED.items():
        found = versions.get(key)
        if found is None:
            missing.append(f"no {name}, and version {wanted} of it is needed")
        elif not found[0] <= wanted <= found[1]:
            missing.append(f"{name} {found[0]} to {found[1]}, and {wanted} is needed")
    return f"the brokers speak {'; '.join(missing)} (Kafka {OLDEST_KAFKA} or newer does)" if missing else None


def probe(cluster: Cluster, timeout_s: float = CONNECT_TIMEOUT_S) -> dict[int, tuple[int, int]]:
    """Return what the brokers support: API key → lowest and highest version. Blocks; asks the first that answers.

    Raises:
        RetriableError: none did within `timeout_s`.
    """
    security = Security(cluster.settings.security)
    servers = [Endpoint.of(server) for server in cluster.settings.bootstrap_servers.split(",")]
    deadline = Deadline(timeout_s)
    last: RetriableError | None = None
    for index, endpoint in enumerate(servers):
        share = Deadline(deadline.left_s() / (len(servers) - index))
        try:
            established = connect(endpoint, security, client_id(), share)
        except ConnectError as error:
            last = unreachable(cluster, "ask for the brokers' versions", str(error), error.code)
        else:
            established.sock.close()
            return established.versions
    assert last is not None
    raise last
