"""Errors of connecting to brokers, with a hint for the operator."""

from __future__ import annotations

from replicator.errors import RetriableError
from replicator.kafka.cluster import Cluster
from replicator.kafka.error_codes import hint


class ConnectError(Exception):
    """No connection could be made.

    Args:
        code: as librdkafka names it, so that `error_codes.hint` knows it.
    """

    def __init__(self, message: str, code: str) -> None:
        super().__init__(message)
        self.code = code


def unreachable(cluster: Cluster, op: str, why: str, code: str) -> RetriableError:
    """Make the error of a cluster that can't be reached. It is retriable: even a wrong password may be set right later.

    Args:
        op: the operation.
        why: the text of the operating system or the broker.
        code: as librdkafka names it.
    """
    values = {"alias": cluster.alias, "group": cluster.group, "principal": cluster.principal}
    values |= {"topic": "the topic", "right": "DESCRIBE", "group_right": "READ"}
    text = f"no answer from {cluster.alias} ({cluster.settings.bootstrap_servers}): {why}"
    advice = hint(code, values) or hint("_TRANSPORT", values)
    return RetriableError(text, op=f"{op} on {cluster.alias}", hint=advice, code=code)
