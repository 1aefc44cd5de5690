"""Maps each error code of Kafka and librdkafka, by name, to an error class, a partition's stop reason and a hint.

Pure. `cluster` asks here; a test fails when a new client brings a code that no table knows.

Source: clients `org.apache.kafka.common.protocol.Errors`; librdkafka `rd_kafka_resp_err_t`; measured
on real brokers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from replicator.errors import (
    AbortTransactionError,
    FatalError,
    FencedError,
    KafkaOpError,
    PartitionError,
    RetriableError,
    StopReason,
)

Side = Literal["source", "target"]

_FENCED = frozenset({"_FENCED", "PRODUCER_FENCED", "INVALID_PRODUCER_EPOCH", "TRANSACTION_COORDINATOR_FENCED"})

_PARTITION: Mapping[str, tuple[StopReason | None, StopReason | None]] = {
    # name: (reason on the source, reason on the target); None: concerns more than one partition on that side
    "TOPIC_AUTHORIZATION_FAILED": (StopReason.SOURCE_UNAUTHORIZED, StopReason.TARGET_UNAUTHORIZED),
    "UNKNOWN_TOPIC_OR_PART": (StopReason.SOURCE_GONE, StopReason.TARGET_GONE),
    "UNKNOWN_TOPIC_ID": (StopReason.SOURCE_GONE, StopReason.TARGET_GONE),
    "INCONSISTENT_TOPIC_ID": (StopReason.RECREATED, StopReason.TARGET_GONE),
    "TOPIC_EXCEPTION": (StopReason.SOURCE_GONE, StopReason.TARGET_GONE),
    "_UNKNOWN_TOPIC": (StopReason.SOURCE_GONE, StopReason.TARGET_GONE),
    "_UNKNOWN_PARTITION": (StopReason.SOURCE_GONE, StopReason.TARGET_TOO_FEW_PARTITIONS),
    "_AUTO_OFFSET_RESET": (StopReason.TRUNCATED, None),
    "OFFSET_OUT_OF_RANGE": (StopReason.TRUNCATED, None),
    "_LOG_TRUNCATION": (StopReason.SOURCE_LOG_SHORTER, None),
    "_BAD_MSG": (StopReason.BAD_RECORD, StopReason.RECORD_REFUSED),
    "_BAD_COMPRESSION": (StopReason.BAD_RECORD, StopReason.RECORD_REFUSED),
    "INVALID_MSG": (StopReason.BAD_RECORD, StopReason.RECORD_REFUSED),
    "MSG_SIZE_TOO_LARGE": (StopReason.BAD_RECORD, StopReason.RECORD_TOO_LARGE),
    "RECORD_LIST_TOO_LARGE": (StopReason.BAD_RECORD, StopReason.RECORD_TOO_LARGE),
    "INVALID_MSG_SIZE": (StopReason.BAD_RECORD, StopReason.RECORD_TOO_LARGE),
    "INVALID_RECORD": (StopReason.BAD_RECORD, StopReason.RECORD_REFUSED),
    "_INVALID_DIFFERENT_RECORD": (None, StopReason.RECORD_REFUSED),
    "INVALID_TIMESTAMP": (None, StopReason.RECORD_REFUSED),
    "UNSUPPORTED_FOR_MESSAGE_FORMAT": (StopReason.BAD_RECORD, StopReason.RECORD_REFUSED),
    "UNSUPPORTED_COMPRESSION_TYPE": (StopReason.BAD_RECORD, StopReason.RECORD_REFUSED),
    "POLICY_VIOLATION": (None, StopReason.RECORD_REFUSED),
}

_ABORT = frozenset(
    {
        "TRANSACTION_ABORTABLE",
        "UNKNOWN_PRODUCER_ID",
        "INVALID_PRODUCER_ID_MAPPING",
        "OPERATION_NOT_ATTEMPTED",
        "_GAPLESS_GUARANTEE",
        "_INCONSISTENT",
        "_MSG_TIMED_OUT",
        "_PURGE_INFLIGHT",
        "_PURGE_QUEUE",
    }
)

_RETRIABLE = frozenset(
    {
        "BROKER_NOT_AVAILABLE",
        "CONCURRENT_TRANSACTIONS",
        "COORDINATOR_LOAD_IN_PROGRESS",
        "COORDINATOR_NOT_AVAILABLE",
        "ELIGIBLE_LEADERS_NOT_AVAILABLE",
        "FENCED_LEADER_EPOCH",
        "FETCH_SESSION_ID_NOT_FOUND",
        "INVALID_FETCH_SESSION_EPOCH",
        "KAFKA_STORAGE_ERROR",
        "LEADER_NOT_AVAILABLE",
        "LISTENER_NOT_FOUND",
        "MEMBER_ID_REQUIRED",
        "NETWORK_EXCEPTION",
        "NOT_CONTROLLER",
        "NOT_COORDINATOR",
        "NOT_ENOUGH_REPLICAS",
        "NOT_ENOUGH_REPLICAS_AFTER_APPEND",
        "NOT_LEADER_FOR_PARTITION",
        "OFFSET_NOT_AVAILABLE",
        "PREFERRED_LEADER_NOT_AVAILABLE",
        "REASSIGNMENT_IN_PROGRESS",
        "REBALANCE_IN_PROGRESS",
        "REBOOTSTRAP_REQUIRED",
        "REPLICA_NOT_AVAILABLE",
        "REQUEST_TIMED_OUT",
        "STALE_BROKER_EPOCH",
        "STALE_CTRL_EPOCH",
        "THROTTLING_QUOTA_EXCEEDED",
        "UNKNOWN_LEADER_EPOCH",
        "UNSTABLE_OFFSET_COMMIT",
        # a right or a password that is missing now may be given later: wait for it, visibly
        "CLUSTER_AUTHORIZATION_FAILED",
        "GROUP_AUTHORIZATION_FAILED",
        "SASL_AUTHENTICATION_FAILED",
        "TRANSACTIONAL_ID_AUTHORIZATION_FAILED",
        "_ALL_BROKERS_DOWN",
        "_AUTHENTICATION",
        "_DESTROY_BROKER",
        "_INTR",
        "_IN_PROGRESS",
        "_ISR_INSUFF",
        "_NODE_UPDATE",
        "_OUTDATED",
        "_PARTIAL",
        "_PREV_IN_PROGRESS",
        "_QUEUE_FULL",
        "_RESOLVE",
        "_RETRY",
        "_SSL",
        "_TIMED_OUT",
        "_TIMED_OUT_QUEUE",
        "_TRANSPORT",
        "_UNKNOWN_BROKER",
        "_UNKNOWN_GROUP",
        "_WAIT_CACHE",
        "_WAIT_COORD",
    }
)

_OTHER_FATAL = frozenset(
    {
        "DUPLICATE_SEQUENCE_NUMBER",
        "INVALID_TXN_STATE",
        "OUT_OF_ORDER_SEQUENCE_NUMBER",
        "INVALID_TRANSACTION_TIMEOUT",
        "_FATAL",
        "_STATE",
        "UNKNOWN",
    }
)

_NEVER_MEANT_FOR_US = frozenset(
    {
        "DELEGATION_TOKEN_AUTHORIZATION_FAILED", "DELEGATION_TOKEN_AUTH_DISABLED", "DELEGATION_TOKEN_EXPIRED",
        "DELEGATION_TOKEN_NOT_FOUND", "DELEGATION_TOKEN_OWNER_MISMATCH", "DELEGATION_TOKEN_REQUEST_NOT_ALLOWED",
        "DUPLICATE_RESOURCE", "DUPLICATE_VOTER", "ELECTION_NOT_NEEDED", "FEATURE_UPDATE_FAILED", "FENCED_INSTANCE_ID",
        "FENCED_MEMBER_EPOCH", "FENCED_STATE_EPOCH", "GROUP_ID_NOT_FOUND", "GROUP_MAX_SIZE_REACHED",
        "GROUP_SUBSCRIBED_TO_TOPIC", "ILLEGAL_GENERATION", "ILLEGAL_SASL_STATE", "INCONSISTENT_GROUP_PROTOCOL",
        "INCONSISTENT_VOTER_SET", "INVALID_COMMIT_OFFSET_SIZE", "INVALID_CONFIG", "INVALID_GROUP_ID",
        "INVALID_PARTITIONS", "INVALID_PRINCIPAL_TYPE", "INVALID_RECORD_STATE", "INVALID_REGISTRATION",
        "INVALID_REGULAR_EXPRESSION", "INVALID_REPLICATION_FACTOR", "INVALID_REPLICA_ASSIGNMENT", "INVALID_REQUEST",
        "INVALID_REQUIRED_ACKS", "INVALID_SESSION_TIMEOUT", "INVALID_SHARE_SESSION_EPOCH", "INVALID_UPDATE_VERSION",
        "INVALID_VOTER_KEY", "LOG_DIR_NOT_FOUND", "MISMATCHED_ENDPOINT_TYPE", "NON_EMPTY_GROUP", "NO_ERROR",
        "NO_REASSIGNMENT_IN_PROGRESS", "OFFSET_METADATA_TOO_LARGE", "PRINCIPAL_DESERIALIZATION_FAILURE",
        "RESOURCE_NOT_FOUND", "SECURITY_DISABLED", "SHARE_SESSION_LIMIT_REACHED", "SHARE_SESSION_NOT_FOUND",
        "STALE_MEMBER_EPOCH", "STREAMS_INVALID_TOPOLOGY", "STREAMS_INVALID_TOPOLOGY_EPOCH", "STREAMS_TOPOLOGY_FENCED",
        "TELEMETRY_TOO_LARGE", "TOPIC_ALREADY_EXISTS", "TOPIC_DELETION_DISABLED", "UNACCEPTABLE_CREDENTIAL",
        "UNKNOWN_CONTROLLER_ID", "UNKNOWN_MEMBER_ID", "UNKNOWN_SUBSCRIPTION_ID", "UNRELEASED_INSTANCE_ID",
        "UNSUPPORTED_ASSIGNOR", "UNSUPPORTED_ENDPOINT_TYPE", "UNSUPPORTED_SASL_MECHANISM", "UNSUPPORTED_VERSION",
        "VOTER_NOT_FOUND", "_APPLICATION", "_ASSIGNMENT_LOST", "_ASSIGN_PARTITIONS", "_CONFLICT",
        "_CRIT_SYS_RESOURCE", "_DESTROY", "_EXISTING_SUBSCRIPTION", "_FAIL", "_FS", "_INVALID_ARG",
        "_INVALID_TYPE", "_KEY_DESERIALIZATION", "_KEY_SERIALIZATION",
        "_MAX_POLL_EXCEEDED", "_NOENT", "_NOOP", "_NOT_CONFIGURED", "_NOT_IMPLEMENTED", "_NO_OFFSET", "_PARTITION_EOF",
        "_READ_ONLY", "_REVOKE_PARTITIONS", "_UNDERFLOW", "_UNKNOWN_PROTOCOL", "_UNSUPPORTED_FEATURE",
        "_VALUE_DESERIALIZATION", "_VALUE_SERIALIZATION",
    }
)  # fmt: skip
"""Codes that no call of the replicator can get, or that mean a bug in it: fatal, so the task visibly restarts."""

_UNREACHABLE = (
    "check that the brokers of clusters.{alias}.bootstrap_servers are up and reachable, and that "
    "clusters.{alias}.security matches their listener"
)
_HINTS: Mapping[str, str] = {
    "TOPIC_AUTHORIZATION_FAILED": "grant {right} on {topic} to {principal}",
    "GROUP_AUTHORIZATION_FAILED": "grant {group_right} on the group {group} to {principal}",
    "TRANSACTIONAL_ID_AUTHORIZATION_FAILED": (
        "grant WRITE and DESCRIBE on the transactional ids that begin with {group}- to {principal}"
    ),
    "CLUSTER_AUTHORIZATION_FAILED": (
        "grant {right} on the cluster to {principal} (producers: IDEMPOTENT_WRITE on old brokers)"
    ),
    "_AUTHENTICATION": "check clusters.{alias}.security: username, password and mechanism",
    "SASL_AUTHENTICATION_FAILED": "check clusters.{alias}.security: username, password and mechanism",
    "_SSL": "check clusters.{alias}.security.ca_file and the broker's certificate",
    "_RESOLVE": "check clusters.{alias}.bootstrap_servers and the brokers' advertised.listeners",
    "_TRANSPORT": _UNREACHABLE,
    "_ALL_BROKERS_DOWN": _UNREACHABLE,
    "MSG_SIZE_TOO_LARGE": "raise max.message.bytes of {topic} on {alias}",
    "RECORD_LIST_TOO_LARGE": "raise segment.bytes of {topic} on {alias}",
    "INVALID_RECORD": "the broker rejected a record: a compacted topic such as {topic} accepts no record without a key",
    "_INVALID_DIFFERENT_RECORD": (
        "the broker rejected another record of the batch: "
        "a compacted topic such as {topic} accepts no record without a key"
    ),
    "UNKNOWN_TOPIC_OR_PART": "{topic} does not exist on {alias}, or its DESCRIBE right is missing",
    "_UNKNOWN_TOPIC": "{topic} does not exist on {alias}, or its DESCRIBE right is missing",
    "_UNKNOWN_PARTITION": "{topic} has too few partitions on {alias}",
    "INVALID_TRANSACTION_TIMEOUT": "lower transaction_timeout_s, or raise transaction.max.timeout.ms of the brokers",
}

BY_WEIGHT = (
    "_AUTHENTICATION", "SASL_AUTHENTICATION_FAILED", "UNSUPPORTED_SASL_MECHANISM", "_SSL", "_RESOLVE", "_TRANSPORT",
    "_ALL_BROKERS_DOWN",
)  # fmt: skip
"""Errors of connecting, the one that explains an unreachable cluster best first."""
REFUSALS = ("_AUTHENTICATION", "SASL_AUTHENTICATION_FAILED", "UNSUPPORTED_SASL_MECHANISM", "_SSL")
"""The broker answered and refused the login: waiting longer does not help."""


def is_mapped(name: str) -> bool:
    """Whether a table here has this code."""
    return any(name in names for names in (_FENCED, _PARTITION, _ABORT, _RETRIABLE, _OTHER_FATAL, _NEVER_MEANT_FOR_US))


def partition_reason(name: str, side: Side) -> StopReason | None:
    """Why a partition stops, if the code concerns a single partition on this side."""
    return _PARTITION.get(name, (None, None))[0 if side == "source" else 1]


def classify(name: str, side: Side, *, has_tp: bool, fatal: bool, aborts: bool, retriable: bool) -> type[KafkaOpError]:
    """Choose the error class, which decides what the task does.

    Args:
        has_tp: whether the caller knows which partition it was.
        fatal, aborts, retriable: the flags that the client set on this error.
    """
    reason = partition_reason(name, side)
    if name in _FENCED and (fatal or not aborts):
        return FencedError
    if fatal:
        return FatalError
    if has_tp and reason is not None:
        return PartitionError
    if aborts or name in _ABORT:
        return AbortTransactionError
    return RetriableError if retriable or name in _RETRIABLE or reason is not None else FatalError


def hint(name: str, values: Mapping[str, str]) -> str:
    """Say what the operator can do about an error; empty: nothing known.

    Args:
        values: alias, principal, group, topic, right.
    """
    return _HINTS.get(name, "").format_map(values)
