"""The exceptions. Three classes decide what the transaction loop does; call sites never decide by error code.

    ReplicatorError
    ├── ConfigError                 a setting is wrong; the text names the key's path           (exit 2)
    ├── LostError                   another worker owns the task now: abort, commit nothing
    ├── RefusedError                a command would have done harm; nothing was changed         (exit 3)
    └── KafkaOpError                carries op, tp, hint
        ├── RetriableError          the same call may succeed later: retried with backoff, until a deadline
        ├── AbortTransactionError   abort, seek back to the last committed syncs, go on
        ├── FatalError              this producer is unusable: start again from fencing
        │   └── FencedError         another owner has this task; start again only after the group confirmed ownership
        └── PartitionError          one partition cannot go on; it stops alone, the others continue

Pure: imports nothing of this package.
"""

from __future__ import annotations

import enum
from typing import NamedTuple


class TP(NamedTuple):
    """A topic and a partition of it."""

    topic: str
    partition: int

    def __str__(self) -> str:
        return f"{self.topic}[{self.partition}]"


class StopReason(enum.StrEnum):
    """Why a partition stopped alone. The values are written to the syncs topic, metrics and JSON: never rename one."""

    TRUNCATED = "truncated"
    """Retention deleted source records before they were replicated."""
    SOURCE_LOG_SHORTER = "source_log_shorter"
    """The source log ends before the replicated position: an unclean election or a restored disk lost records."""
    RECREATED = "recreated"
    """The source topic has another topic id than the records replicated so far."""
    SOURCE_GONE = "source_gone"
    SOURCE_UNAUTHORIZED = "source_unauthorized"
    SOURCE_UNAVAILABLE = "source_unavailable"
    """The source partition has no leader, or its leader does not answer."""
    TARGET_GONE = "target_gone"
    TARGET_NOT_CREATED = "target_not_created"
    TARGET_UNAVAILABLE = "target_unavailable"
    """The target partition has no leader or too few in-sync replicas, or its leader gives no answer."""
    TARGET_TOO_FEW_PARTITIONS = "target_too_few_partitions"
    TARGET_LOG_SHORTER = "target_log_shorter"
    """The target log ends before what was replicated to it: recreated or truncated."""
    TARGET_RECREATED = "target_recreated"
    """The target topic has another topic id than the one that the records were replicated to."""
    TARGET_UNAUTHORIZED = "target_unauthorized"
    RECORD_TOO_LARGE = "record_too_large"
    RECORD_REFUSED = "record_refused"
    """The target broker rejected the record (for example one without a key for a compacted topic)."""
    BAD_RECORD = "bad_record"
    """The source record can't be read: a wrong checksum, an unknown codec or an unknown magic."""


class ReplicatorError(Exception):
    """Base of every error that this package raises on purpose."""

    @property
    def for_terminal(self) -> str:
        """What happened, in one line; what the operator can do about it on a line of its own."""
        return str(self)


class ConfigError(ReplicatorError):
    """A setting is wrong.

    Args:
        path: the key's path, as in ``flows.east->west.tasks``.
        problem: what was found and what is allowed.
    """

    def __init__(self, path: str, problem: str) -> None:
        super().__init__(f"{path}: {problem}" if path else problem)
        self.path = path
        self.problem = problem


class RefusedError(ReplicatorError):
    """A command was refused and changed nothing (exit code 3)."""


class LostError(ReplicatorError):
    """Another worker owns the task now: the open transaction is aborted, nothing more is committed."""


class KafkaOpError(ReplicatorError):
    """A Kafka operation failed.

    Args:
        message: what the client or the broker said.
        op: what was being done, in words: ``commit transaction``; empty if `message` names the cluster and says it all.
        tp: the partition it concerns, if it concerns one.
        hint: what the operator can do about it.
        code: the error's name in Kafka, such as ``TOPIC_AUTHORIZATION_FAILED``.
    """

    def __init__(self, message: str, *, op: str, tp: TP | None = None, hint: str = "", code: str = "") -> None:
        where = f" of {tp}" if tp else ""
        prefix = f"{op}{where}: " if op else ""
        tail = f" ({hint})" if hint else ""
        super().__init__(f"{prefix}{message}{tail}")
        self._headline = f"{prefix}{message}"
        self.message = message
        self.op = op
        self.tp = tp
        self.hint = hint
        self.code = code

    @property
    def for_terminal(self) -> str:
        return f"{self._headline}\nhint: {self.hint}" if self.hint else self._headline


class RetriableError(KafkaOpError):
    """The same call may succeed later."""


class AbortTransactionError(KafkaOpError):
    """The open transaction has to be aborted; the producer stays usable."""


class FatalError(KafkaOpError):
    """The client instance can't be used any more; start again from fencing."""


class FencedError(FatalError):
    """A newer owner initialised this transactional id."""


class PartitionError(KafkaOpError):
    """One partition can't be replicated; the others go on.

    Args:
        reason: the state that operators see.
        is_lasting: a log lost records, and will look complete as it grows: trying again would skip them.
        others: other partitions that can't go on, found at the same moment.
    """

    def __init__(
        self,
        message: str,
        *,
        op: str,
        tp: TP,
        reason: StopReason,
        hint: str = "",
        code: str = "",
        is_lasting: bool = False,
        others: tuple[PartitionError, ...] = (),
    ) -> None:
        super().__init__(message, op=op, tp=tp, hint=hint, code=code)
        self.tp: TP = tp
        self.reason = reason
        self.is_lasting = is_lasting or reason is StopReason.SOURCE_LOG_SHORTER
        self.others = others
