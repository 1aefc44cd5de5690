"""Finds hanging transactions, which lack a marker in a partition, and ends them.

A transaction ends with a marker in every partition that it wrote to. The coordinator may never write one: brokers whose
metadata cache is the one rewritten in Java (such as 4.3.1) treat a partition without a leader as deleted, and skip it.
That happens when brokers crash and come back during a commit or an abort. The records there are then committed or
aborted with the next transaction of the same producer, whatever became of their own.

Source: core `TransactionMarkerChannelManager.addTxnMarkersToBrokerQueue`, `KRaftMetadataCache.
getPartitionLeaderEndpoint` (KAFKA-20734); KIP-664 for the two requests.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from kafka.protocol.admin.transactions import DescribeProducersRequest

from replicator.deadline import Deadline, backoff_s
from replicator.errors import TP, FatalError, RetriableError
from replicator.kafka.client_properties import client_id
from replicator.kafka.cluster import Cluster, KafkaError
from replicator.protocol.brokers import Brokers
from replicator.protocol.capabilities import reason_against
from replicator.protocol.event_loop import EventLoop
from replicator.protocol.schemas import by_topic
from replicator.protocol.transaction_manager import REQUEST_TIMEOUT_S, Refusals, TransactionManager, TransactionSettings

DESCRIBE_VERSION = 0
_OVER = frozenset({"Empty", "CompleteCommit", "CompleteAbort"})
_ENDING = frozenset({"PrepareCommit", "PrepareAbort", "PrepareEpochFence"})
"""States of a transactional id."""
LEADER_PATIENCE_S = 5.0
_LATER = frozenset(
    {
        KafkaError.NOT_LEADER_FOR_PARTITION,
        KafkaError.LEADER_NOT_AVAILABLE,
        KafkaError.FENCED_LEADER_EPOCH,
        KafkaError.REPLICA_NOT_AVAILABLE,
        KafkaError.KAFKA_STORAGE_ERROR,
        KafkaError.UNKNOWN_TOPIC_OR_PART,
    }
)


@dataclass(frozen=True, slots=True)
class HangingSearchResult:
    """The result of a search for hanging transactions.

    Args:
        begins: target partitions with a hanging transaction → the first one's offset.
        refused: partitions that the principal may not describe → the error's name.
        silent: partitions without a response → why.
    """

    first_offsets: dict[TP, int] = field(default_factory=dict)
    refused: dict[TP, str] = field(default_factory=dict)
    unanswered: dict[TP, str] = field(default_factory=dict)


class HangingTransactions:
    """Finds and ends hanging transactions of one transactional id. Threading: one thread. To be closed.

    Args:
        target: the cluster of the transactions.
        settings: the task's.
    """

    def __init__(self, target: Cluster, settings: TransactionSettings) -> None:
        self._target = target
        self._loop = EventLoop()
        self._brokers = Brokers(self._loop, target, client_id())
        self._transaction_manager = TransactionManager(self._loop, self._brokers, target, settings)

    def find(self, tps: Iterable[TP], deadline: Deadline) -> HangingSearchResult:
        """Find which of these partitions have a hanging transaction of the transactional id.

        Waits while a transaction is being ended. Finds nothing while one is open, which belongs to a newer owner of the
        id, and where the brokers can't tell: before Kafka 3.0, or with settings that only librdkafka supports.

        Raises:
            RetriableError: no answer before `deadline`.
            KafkaOpError: refused.
        """
        found = HangingSearchResult()
        if reason_against(self._target.settings) is not None:
            return found
        producer_id = self._producer_id(deadline)
        if producer_id is None:
            return found
        left = set(tps)
        self._brokers.track_topics({tp.topic for tp in left})
        waits = backoff_s(0.02, 0.5)
        patience = Deadline(deadline.slice_s(LEADER_PATIENCE_S))
        while left:
            left -= self._missing_or_hidden(left, found)
            for node, led in self._by_leader(left).items():
                left -= self._ask(node, led, producer_id, found, deadline)
            if left and patience.expired:
                found.unanswered.update(dict.fromkeys(left, "no leader"))
                break
            if left:
                for topic in {tp.topic for tp in left}:
                    self._brokers.refresh(topic)
                self._loop.run_for(next(waits), deadline)
        return found

    def _producer_id(self, deadline: Deadline) -> int | None:
        """Return the producer id, once no transaction is being ended; None: one is open, or the brokers can't tell."""
        waits = backoff_s(0.02, 0.5)
        while True:
            described = self._transaction_manager.describe(deadline)
            if described is None:
                return None
            state, producer_id = described
            if state not in _ENDING:
                return producer_id if state in _OVER else None
            if deadline.expired:
                raise RetriableError(f"{state} for {deadline.seconds:g} s", op="wait for the end of a transaction")
            self._loop.run_for(next(waits), deadline)

    def _missing_or_hidden(self, tps: Iterable[TP], found: HangingSearchResult) -> set[TP]:
        """Return partitions that don't exist, or that the principal may not describe."""
        gone = {tp for tp in tps if self._brokers.lacks(tp.topic, tp.partition)}
        hidden = {tp for tp in tps if self._brokers.topic_error(tp.topic) == KafkaError.TOPIC_AUTHORIZATION_FAILED}
        found.refused.update(dict.fromkeys(hidden, "TOPIC_AUTHORIZATION_FAILED"))
        return gone | hidden

    def _by_leader(self, tps: Iterable[TP]) -> dict[int, list[TP]]:
        led: dict[int, list[TP]] = {}
        for tp in tps:
            leader = self._brokers.leader(tp.topic, tp.partition)
            if leader is not None:
                led.setdefault(leader.node, []).append(tp)
        return led

    def _ask(
        self, node: int, tps: list[TP], producer_id: int, found: HangingSearchResult, deadline: Deadline
    ) -> set[TP]:
        """Ask one leader; return the partitions for which it gave an answer."""
        kind = DescribeProducersRequest.TopicRequest
        question = DescribeProducersRequest(
            topics=[kind(name=name, partition_indexes=numbers) for name, numbers in by_topic(tps).items()]
        )
        budget = Deadline(deadline.slice_s(REQUEST_TIMEOUT_S))
        answer = self._brokers.call(node, question, DESCRIBE_VERSION, budget, "look for hanging transactions")
        settled: set[TP] = set()
        for topic in answer.topics:
            for partition in topic.partitions:
                tp = TP(topic.name, partition.partition_index)
                if partition.error_code in _LATER:
                    continue
                settled.add(tp)
                if partition.error_code:
                    is_refused = partition.error_code == KafkaError.TOPIC_AUTHORIZATION_FAILED
                    failed = found.refused if is_refused else found.unanswered
                    failed[tp] = KafkaError(partition.error_code).name()
                first_offsets = [
                    it.current_txn_start_offset for it in partition.active_producers if it.producer_id == producer_id
                ]
                if first_offsets and first_offsets[0] >= 0:
                    found.first_offsets[tp] = first_offsets[0]
        return settled

    def end(self, tps: Iterable[TP], deadline: Deadline, *, commit: bool) -> None:
        """End the hanging transactions in these partitions; fences the owner of the transactional id.

        Raises:
            RetriableError: not done before `deadline`; it may be tried again.
            KafkaOpError: refused.
        """
        self._transaction_manager.init_transactions(deadline)
        answers: list[Refusals] = []
        self._transaction_manager.add_partitions(tps, answers.append)
        op = "end a transaction"
        if not self._loop.run_until(lambda: bool(answers), deadline):
            raise RetriableError(f"no answer within {deadline.seconds:g} s", op=op)
        for tp, code in answers[0].items():
            raise self._target.error(KafkaError(code), op=op, tp=tp, topic=tp.topic)
        try:
            self._transaction_manager.end(deadline, commit=commit)
        except FatalError as error:  # unknown whether it was done: the caller searches again
            raise RetriableError(error.message, op=error.op, hint=error.hint, code=error.code) from error

    def close(self) -> None:
        """Close the connections."""
        self._loop.close()
