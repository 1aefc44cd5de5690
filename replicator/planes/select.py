"""Which data plane a flow gets: `batches` wherever it can serve both clusters, else `records`, and why."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from replicator.config import Flow
from replicator.errors import ConfigError
from replicator.kafka.cluster import Cluster
from replicator.protocol.capabilities import missing_apis, probe, reason_against


@dataclass(frozen=True, slots=True)
class Choice:
    """A plane.

    Args:
        kind: ``batches`` or ``records``.
        reason: why it is not `batches`; empty when it is.
    """

    kind: str
    reason: str = ""

    def __str__(self) -> str:
        return f"{self.kind} ({self.reason})" if self.reason else self.kind


def choose(flow: Flow, clusters: Iterable[Cluster], timeout_s: float) -> Choice:
    """The plane of a flow, by its configuration and by what its brokers know.

    Args:
        clusters: both of them; asked only if that decides anything.

    Raises:
        ConfigError: `data_plane` is ``batches``, and that can't be.
        RetriableError: a cluster gave no answer within `timeout_s`.
    """
    wanted = flow.settings.data_plane
    if wanted == "records":
        return Choice("records", "as configured")
    reason = _against(clusters, timeout_s)
    if reason and wanted == "batches":
        raise ConfigError(f"flows.{flow.name}.data_plane", f"batches is not possible: {reason}; allowed: auto, records")
    return Choice("records", reason) if reason else Choice("batches")


def _against(clusters: Iterable[Cluster], timeout_s: float) -> str:
    for cluster in clusters:
        reason = reason_against(cluster.settings) or missing_apis(probe(cluster, timeout_s))
        if reason:
            return f"clusters.{cluster.alias}: {reason}"
    return ""
