"""What an error says of a group: whether it may pass, and whether the group has members. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from replicator.errors import TP, AbortTransactionError, KafkaOpError, RetriableError
from replicator.kafka.error_codes import classify

Refusals = Mapping[TP, KafkaOpError]
"""Why commits were not taken, by partition."""


def first_error(refusals: Refusals | None) -> KafkaOpError | None:
    """One of them, if there is one."""
    return next(iter(refusals.values()), None) if refusals else None


def is_refusal_of_members(error: KafkaOpError) -> bool:
    """Whether a commit was not taken because the group has members, or had some a moment ago."""
    return error.code in {"UNKNOWN_MEMBER_ID", "REBALANCE_IN_PROGRESS", "ILLEGAL_GENERATION", "STALE_MEMBER_EPOCH"}


def is_passing(error: KafkaOpError) -> bool:
    """Whether it may be over in a moment; else it is about the group, and an operator has to do something.

    That of a transaction counts by its code: whatever it is, it ends the transaction.
    """
    is_about_the_group = "AUTHORIZATION" in error.code or error.code == "UNKNOWN_TOPIC_OR_PART"
    is_aborted = isinstance(error, AbortTransactionError)
    kind = classify(error.code, "target", has_tp=False, fatal=False, aborts=False, retriable=False)
    may_pass = kind is RetriableError if is_aborted else isinstance(error, RetriableError)
    return may_pass and not is_about_the_group
