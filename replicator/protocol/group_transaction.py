"""Offsets of groups in transactions, many groups in flight, without a member's part in any of them.

    AddOffsetsToTxn      one after the other: the coordinator of the transaction takes one at a time
    TxnOffsetCommit      as soon as the group is added, beside the others

A TxnOffsetCommit that got no answer may still arrive, behind what was committed since: it is not asked for again, and
the transaction that it belongs to must be aborted. The new epoch that follows fences it.

Source: KIP-98, KIP-447; core `TransactionCoordinator.handleAddPartitionsToTransaction`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from replicator.deadline import Deadline
from replicator.errors import TP, FencedError, KafkaOpError
from replicator.kafka.cluster import KafkaError
from replicator.protocol import group_codecs
from replicator.protocol.group_codecs import GroupMessage, Places
from replicator.protocol.group_query import GroupQuery, GroupQuestion
from replicator.protocol.group_requests import GroupRequests, read_codes
from replicator.protocol.transaction_manager import TransactionManager

TIMEOUT_S = 15.0
"""How long one that died in the middle may hold the readers back, if its id is not opened before."""
PLACE_S = 5.0
"""How long a group's coordinator is looked for: the consumers of all others wait meanwhile."""
_OF_ALL = frozenset(
    {"INVALID_PRODUCER_ID_MAPPING", "INVALID_TXN_STATE", "TRANSACTION_ABORTABLE", "UNKNOWN_PRODUCER_ID"}
)
"""Codes that concern the whole transaction."""


@dataclass(frozen=True, slots=True)
class _Settings:
    transactional_id: str
    transaction_timeout_s: float = TIMEOUT_S


class GroupTransaction:
    """Transactions under one id. Threading: the thread of `requests`.

    Args:
        requests: of the cluster; the transaction uses its connections.
        transactional_id: whose every earlier producer `open` fences.
    """

    def __init__(self, requests: GroupRequests, transactional_id: str) -> None:
        self._network = requests.network
        self._id = transactional_id
        network = requests.network
        settings = _Settings(transactional_id)
        self._manager = TransactionManager(network.loop, network.brokers, network.cluster, settings)
        self._is_empty = True

    def open(self, deadline: Deadline) -> None:
        """Fence every earlier producer of the id, and end its open transaction.

        Raises:
            RetriableError: no answer within `deadline`.
            KafkaOpError: refused.
        """
        self._manager.init_transactions(deadline)
        self._is_empty = True

    def place(self, wanted: Mapping[str, Places], deadline: Deadline) -> dict[str, KafkaOpError]:
        """Put offsets into the transaction: they have their place in the broker's log when this returns.

        The broker does not ask whether a group has members: TxnOffsetCommit without one is always taken.

        Returns:
            Groups whose offsets are not there, or not all: the transaction has to be aborted.

        Raises:
            FencedError: somebody else opened the id.
            KafkaOpError: nothing can be placed; the transaction has to be aborted.
        """
        if self._is_empty and self._manager.has_unanswered_request:
            self._manager.bump_epoch(deadline)
        failed: dict[str, KafkaOpError] = {}
        query = GroupQuery(self._network, self._question(wanted), (), Deadline(deadline.slice_s(PLACE_S)))
        for group in wanted:
            try:
                self._manager.add_offsets(group, deadline)
            except KafkaOpError as error:
                if not error.code.startswith("GROUP_"):
                    raise
                failed[group] = error
            else:
                self._is_empty = False
                query.add(group)
        query.wait(deadline, deadline)
        query.give_up()
        for group, result in query.results.items():
            refusal = result if isinstance(result, KafkaOpError) else self._refusal(group, result)
            if refusal is not None:
                failed[group] = refusal
        return failed

    def _question(self, wanted: Mapping[str, Places]) -> GroupQuestion:
        def make(groups: list[str], version: int) -> GroupMessage:
            (group,) = groups
            manager = self._manager
            return group_codecs.commit_in_transaction(
                group, wanted[group], self._id, manager.producer_id, manager.epoch
            )

        api_key = group_codecs.TXN_OFFSET_COMMIT
        return GroupQuestion(
            "commit for the group", "READ", api_key, (3, 3), None, make, read_codes, may_repeat=False
        )  # fmt: skip

    def _refusal(self, group: str, codes: Mapping[TP, int]) -> KafkaOpError | None:
        """One of a group's errors."""
        for tp, code in codes.items():
            if code:
                op = f"commit for the group {group}"
                error = self._network.cluster.error(KafkaError(code), op=op, right="READ", topic=tp.topic, group=group)
                if isinstance(error, FencedError) or error.code in _OF_ALL:
                    raise error
                return error
        return None

    def commit(self, deadline: Deadline) -> None:
        """Commit the transaction.

        Raises:
            FencedError: somebody else opened the id: it is not committed.
            FatalError: not committed, or not known to be.
        """
        if not self._is_empty:
            self._manager.end(deadline, commit=True)
            self._is_empty = True

    def abort(self, deadline: Deadline) -> None:
        """Abort the transaction; whatever of it is still under way comes too late.

        Raises:
            KafkaOpError: it is not known to be aborted; the next `open` aborts it.
        """
        if not self._is_empty:
            self._manager.end(deadline, commit=False)
            self._is_empty = True
        self._manager.bump_epoch(deadline)
