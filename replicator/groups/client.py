"""What can be asked about the groups of a cluster, whichever client asks it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from replicator.deadline import Deadline
from replicator.errors import KafkaOpError
from replicator.groups.offsets import GroupOffsets, GroupState
from replicator.groups.refusals import Refusals
from replicator.kafka.cluster import Cluster


@dataclass(frozen=True, slots=True)
class Listing:
    """The groups that the brokers list.

    Args:
        states: Kafka's word for the state, in capitals, by group.
        errors: why the groups of a broker are missing.
    """

    states: Mapping[str, str]
    errors: tuple[KafkaOpError, ...] = ()


@dataclass(frozen=True, slots=True)
class ReadOffsets:
    """What a group has committed.

    Args:
        is_complete: else it lacks partitions, over which a transaction is open.
    """

    offsets: GroupOffsets = field(default_factory=dict)
    is_complete: bool = True


class OffsetsQuery(Protocol):
    """Offsets of groups that are being asked for.

    Attributes:
        results: of groups that were answered.
    """

    @property
    def is_done(self) -> bool:
        """Whether all are."""

    @property
    def results(self) -> Mapping[str, ReadOffsets | KafkaOpError]: ...

    def wait(self, patience: Deadline, deadline: Deadline) -> None:
        """Until all groups are answered, or one of both is over."""

    def take_partial(self, groups: Iterable[str]) -> Mapping[str, ReadOffsets]:
        """What is known of groups that wait for the end of a transaction; they are not asked for any more."""


class OffsetsTransaction(Protocol):
    """Offsets of groups in transactions under one id; see `replicator.protocol.group_transaction`."""

    def place(self, wanted: Mapping[str, GroupOffsets], deadline: Deadline) -> Mapping[str, KafkaOpError]:
        """Put offsets into the transaction; groups whose offsets are not there: the transaction has to be aborted."""

    def commit(self, deadline: Deadline) -> None:
        """Commit the transaction."""

    def abort(self, deadline: Deadline) -> None:
        """Abort the transaction."""

    def close(self) -> None:
        """Let go at once; what is open is left to the next `open` of the id."""


class GroupClient(Protocol):
    """Asks one cluster. Threading: one thread, which must call `close`."""

    @property
    def cluster(self) -> Cluster: ...

    def list(self, deadline: Deadline) -> Listing:
        """The groups that the principal may DESCRIBE.

        Raises:
            KafkaOpError: no broker answered.
        """

    def describe(self, groups: Iterable[str], deadline: Deadline) -> Mapping[str, GroupState | KafkaOpError]:
        """State and members of each; ``DEAD`` when there is no such group."""

    def ask_offsets(self, groups: Iterable[str], deadline: Deadline, *, stable: bool) -> OffsetsQuery:
        """Begin to ask for what groups committed.

        Args:
            stable: whether the end of open transactions is waited for; else they are looked past.
        """

    def commit(self, wanted: Mapping[str, GroupOffsets], deadline: Deadline) -> Mapping[str, Refusals]:
        """Commit in the name of groups without members; what of it was not taken, by group.

        The broker decides: a group that got a member meanwhile keeps its offsets.
        """

    def transaction(self, transactional_id: str, deadline: Deadline) -> OffsetsTransaction:
        """Transactions of offsets under this id, whose every earlier producer is fenced now.

        Raises:
            KafkaOpError: no answer within `deadline`, or a right is missing.
        """

    def close(self) -> None:
        """Let go of the connections."""
