"""What a broker of the model answers to each of our requests, in kafka-python's schemas."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from typing import Any

from kafka.protocol.admin.transactions import DescribeProducersResponse, DescribeTransactionsResponse
from kafka.protocol.consumer.fetch import FetchResponse
from kafka.protocol.metadata import FindCoordinatorResponse, MetadataResponse
from kafka.protocol.producer import (
    AddPartitionsToTxnResponse,
    EndTxnResponse,
    InitProducerIdResponse,
    ProduceResponse,
)

from replicator.errors import TP
from replicator.kafka.cluster import KafkaError
from tests.unit.copy.world.cluster import NO_TOPIC, NOT_LEADER, ModelCluster

PORT = 9092
BY_ID = 13
NO_LEADER = int(KafkaError.LEADER_NOT_AVAILABLE)
NO_SUCH_TRANSACTIONAL_ID = 105
UNKNOWN_TOPIC_ID = 100
COORDINATOR_GONE = int(KafkaError.COORDINATOR_NOT_AVAILABLE)


class Answers:
    """See the module. Threading: the simulation's."""

    def __init__(self, cluster: ModelCluster, broker: int) -> None:
        self._cluster = cluster
        self._broker = broker
        self._by_name: Mapping[str, Callable[[Any, int], Any]] = {
            "ProduceRequest": self._produce,
            "MetadataRequest": self._metadata,
            "FindCoordinatorRequest": self._find_coordinator,
            "InitProducerIdRequest": self._init_producer_id,
            "AddPartitionsToTxnRequest": self._add_partitions,
            "EndTxnRequest": self._end,
            "DescribeProducersRequest": self._describe_producers,
            "DescribeTransactionsRequest": self._describe_transactions,
        }

    def to(self, message: Any, version: int) -> Any:
        """The answer to a request that is answered at once."""
        return self._by_name[message.name](message, version)

    # --- records ------------------------------------------------------------------------------------------------------

    def _produce(self, message: Any, _version: int) -> Any:
        ProduceResponse()
        kind = ProduceResponse.TopicProduceResponse
        responses = []
        for topic in message.topic_data:
            parts = []
            for it in topic.partition_data:
                data = bytes(it.records)
                code, base = self._cluster.produce(self._broker, TP(topic.name, it.index), data)
                parts.append(
                    kind.PartitionProduceResponse(
                        index=it.index, error_code=code, base_offset=base, log_append_time_ms=-1, log_start_offset=0,
                        record_errors=[], error_message=None,
                    )
                )  # fmt: skip
            responses.append(kind(name=topic.name, partition_responses=parts))
        return ProduceResponse(responses=responses, throttle_time_ms=0)

    def fetch(self, message: Any, version: int) -> tuple[Any, bool]:
        """The answer as it is now, and whether a broker would give it at once: records, or an error."""
        FetchResponse()
        kind = FetchResponse.FetchableTopicResponse
        names = {topic.id: name for name, topic in self._cluster.topics.items()}
        has_news = False
        responses = []
        for topic in message.topics:
            name = names.get(topic.topic_id.bytes) if version >= BY_ID else topic.topic
            parts = []
            for it in topic.partitions:
                part, is_news = self._fetch_one(kind.PartitionData, name, it)
                parts.append(part)
                has_news |= is_news
            named = {"topic_id": topic.topic_id} if version >= BY_ID else {"topic": topic.topic}
            responses.append(kind(partitions=parts, **named))
        return FetchResponse(throttle_time_ms=0, error_code=0, session_id=0, responses=responses), has_news

    def _fetch_one(self, kind: Any, name: str | None, it: Any) -> tuple[Any, bool]:
        tp = TP(name or "", it.partition)
        code = UNKNOWN_TOPIC_ID
        if name is not None:
            code = self._cluster.fetch_error(self._broker, tp, it.fetch_offset, it.current_leader_epoch)
        if code:
            return self._part(kind, it.partition, error_code=code), True
        log = self._cluster.log(tp)
        diverging = log.diverging(it.last_fetched_epoch, it.fetch_offset)
        ends = {"high_watermark": log.end, "last_stable_offset": log.stable, "log_start_offset": log.start}
        if diverging is not None:
            tag = kind.EpochEndOffset(epoch=diverging[0], end_offset=diverging[1])
            return self._part(kind, it.partition, **ends, diverging_epoch=tag), True
        aborted = [
            kind.AbortedTransaction(producer_id=producer, first_offset=first)
            for producer, first in log.aborted_from(it.fetch_offset)
        ]
        data = b"".join(entry.data for entry in log.from_offset(it.fetch_offset, committed=True))
        part = self._part(kind, it.partition, **ends, aborted_transactions=aborted or None, records=data or None)
        return part, bool(data)

    def _part(self, kind: Any, partition: int, **fields: Any) -> Any:
        usual: dict[str, Any] = {
            "error_code": 0, "high_watermark": -1, "last_stable_offset": -1, "log_start_offset": -1,
            "aborted_transactions": None, "preferred_read_replica": -1, "records": None,
        }  # fmt: skip
        return kind(partition_index=partition, **{**usual, **fields})

    # --- metadata -----------------------------------------------------------------------------------------------------

    def _metadata(self, message: Any, version: int) -> Any:
        MetadataResponse()
        topics = [self._topic(it.name) for it in message.topics]
        nodes = [
            MetadataResponse.MetadataResponseBroker(
                node_id=node, host=f"{self._cluster.alias}-{node}", port=PORT, rack=None
            )
            for node in sorted(self._cluster.up)
        ]
        alias = self._cluster.alias
        return MetadataResponse(brokers=nodes, cluster_id=alias, controller_id=1, topics=topics, throttle_time_ms=0)

    def _topic(self, name: str) -> Any:
        kind = MetadataResponse.MetadataResponseTopic
        topic = self._cluster.topics.get(name)
        if topic is None:
            return kind(error_code=NO_TOPIC, name=name, topic_id=None, is_internal=False, partitions=[])
        parts = []
        for number, partition in enumerate(topic.partitions):
            leader = self._cluster.leader(TP(name, number))
            parts.append(
                kind.MetadataResponsePartition(
                    error_code=0 if leader is not None else NO_LEADER, partition_index=number,
                    leader_id=-1 if leader is None else leader, leader_epoch=partition.log.epoch,
                    replica_nodes=[partition.home], isr_nodes=[partition.home], offline_replicas=[],
                )
            )  # fmt: skip
        topic_id = uuid.UUID(bytes=topic.id)
        return kind(error_code=0, name=name, topic_id=topic_id, is_internal=False, partitions=parts)

    # --- transactions -------------------------------------------------------------------------------------------------

    def _find_coordinator(self, _message: Any, _version: int) -> Any:
        node = min(self._cluster.up)
        host = f"{self._cluster.alias}-{node}"
        return FindCoordinatorResponse(
            throttle_time_ms=0, error_code=0, error_message=None, node_id=node, host=host, port=PORT
        )

    def _init_producer_id(self, it: Any, _version: int) -> Any:
        code, producer_id, epoch = self._cluster.coordinator.initialise(
            it.transactional_id, it.transaction_timeout_ms / 1000, it.producer_id, it.producer_epoch
        )
        return InitProducerIdResponse(
            throttle_time_ms=0, error_code=code, producer_id=producer_id, producer_epoch=epoch
        )

    def _add_partitions(self, it: Any, _version: int) -> Any:
        AddPartitionsToTxnResponse()
        kind = AddPartitionsToTxnResponse.AddPartitionsToTxnTopicResult
        tps = [TP(topic.name, number) for topic in it.v3_and_below_topics for number in topic.partitions]
        codes = self._cluster.coordinator.add(
            it.v3_and_below_transactional_id, it.v3_and_below_producer_id, it.v3_and_below_producer_epoch, tps
        )
        results = [
            kind(
                name=topic.name,
                results_by_partition=[
                    kind.AddPartitionsToTxnPartitionResult(
                        partition_index=number, partition_error_code=codes[TP(topic.name, number)]
                    )
                    for number in topic.partitions
                ],
            )
            for topic in it.v3_and_below_topics
        ]
        return AddPartitionsToTxnResponse(throttle_time_ms=0, results_by_topic_v3_and_below=results)

    def _end(self, it: Any, _version: int) -> Any:
        code = self._cluster.coordinator.end(
            it.transactional_id, it.producer_id, it.producer_epoch, commit=bool(it.committed)
        )
        return EndTxnResponse(throttle_time_ms=0, error_code=code)

    def _describe_transactions(self, message: Any, _version: int) -> Any:
        DescribeTransactionsResponse()
        kind = DescribeTransactionsResponse.TransactionState
        states = []
        for name in message.transactional_ids:
            it = self._cluster.coordinator.ids.get(name)
            states.append(
                kind(
                    error_code=0 if it else NO_SUCH_TRANSACTIONAL_ID, transactional_id=name,
                    transaction_state=it.state if it else "", transaction_timeout_ms=0, transaction_start_time_ms=0,
                    producer_id=it.producer_id if it else -1, producer_epoch=it.epoch if it else -1, topics=[],
                )
            )  # fmt: skip
        return DescribeTransactionsResponse(throttle_time_ms=0, transaction_states=states)

    def _describe_producers(self, message: Any, _version: int) -> Any:
        DescribeProducersResponse()
        kind = DescribeProducersResponse.TopicResponse
        topics = []
        for topic in message.topics:
            parts = [self._producers(kind.PartitionResponse, TP(topic.name, it)) for it in topic.partition_indexes]
            topics.append(kind(name=topic.name, partitions=parts))
        return DescribeProducersResponse(throttle_time_ms=0, topics=topics)

    def _producers(self, kind: Any, tp: TP) -> Any:
        code = 0
        if self._cluster.partition(tp) is None:
            code = NO_TOPIC
        elif self._cluster.leader(tp) != self._broker:
            code = NOT_LEADER
        active = []
        for producer_id, it in ({} if code else self._cluster.log(tp).producers).items():
            begin = -1 if it.open_from is None else it.open_from
            last = it.batches[-1][1] if it.batches else -1
            active.append(
                kind.ProducerState(
                    producer_id=producer_id, producer_epoch=it.epoch, last_sequence=last, last_timestamp=-1,
                    coordinator_epoch=0, current_txn_start_offset=begin,
                )
            )  # fmt: skip
        return kind(partition_index=tp.partition, error_code=code, error_message=None, active_producers=active)
