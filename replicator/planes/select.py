"""Selects the data plane of a flow: `batches` where it can serve both clusters, else `records`, with the reason."""

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
        reason: why it is not `batches`; empty: it is.
    """

    kind: str
    reason: str = ""

    def __str__(self) -> str:
        return f"{self.kind} ({self.reason})" if self.reason else self.kind


def choose(flow: Flow, clusters: Iterable[Cluster], timeout_s: float) -> Choice:
    """Choose the plane of a flow, by its configuration and by what its brokers support.

    Args:
        clusters: both of them; contacted only if that decides anything.

    Raises:
        ConfigError: `data_plane` is ``batches``, and a cluster can't be served by it.
        RetriableError: a cluster did not answer within `timeout_s`.
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
