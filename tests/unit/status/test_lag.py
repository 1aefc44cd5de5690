"""What follows from positions, ends and owners: lag, state, reason, order; and that a missing answer is no offset."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any

import pytest

from replicator.config import ClusterSettings, Flow, FlowSettings
from replicator.deadline import Deadline
from replicator.errors import TP, KafkaOpError, RetriableError
from replicator.kafka.cluster import LATEST, Cluster, KafkaError, KafkaException, TopicPartition
from replicator.kafka.topic_queries import list_offsets
from replicator.kafka.topics import Snapshot, SourceTopic
from replicator.names import task_of
from replicator.offset_map.runs import Run
from replicator.offset_map.topic_id import NO_ID
from replicator.status.lag import Lag, LagFacts, PartitionLag, State, Workers, partition_lags, unreplicated
from replicator.syncs.state import SyncsState

TASKS = 4
ORDERS = TP("orders", 0)
ALL_TASKS = Workers("STABLE", {"host/1": (0, 1), "host/2": (2, 3)})
CLUSTER = ClusterSettings(bootstrap_servers="none:1")
STOPPED = {"state": "stopped", "reason": "truncated", "detail": "42 offsets gone", "since": "2026-01-31T03:00:00+00:00"}


def _flow(**settings: Any) -> Flow:
    return Flow(
        "east", "west", FlowSettings(topics=["orders", "pay.*"], **settings), {"east": CLUSTER, "west": CLUSTER}
    )


def _topics(**partitions: int) -> Snapshot:
    topics = {name: SourceTopic(name, NO_ID, n, 1, f"east.{name}", n) for name, n in partitions.items()}
    return Snapshot(1, topics, (), 1)


def _run(upstream_next: int, seq: int = 1) -> Run:
    return Run(seq, 0, 0, upstream_next, 0, upstream_next, NO_ID, ())


def _syncs(positions: dict[TP, int], stopped: dict[TP, dict[str, Any]] | None = None) -> SyncsState:
    runs = {tp: _run(position) for tp, position in positions.items()}
    return SyncsState(runs, stopped or {}, records=len(positions))


def _facts(
    position: int | None = 60, end: int | KafkaOpError | None = 100, workers: Workers = ALL_TASKS, **other: Any
) -> LagFacts:
    syncs = _syncs({} if position is None else {ORDERS: position}, other.pop("stopped", None))
    ends = {} if end is None else {ORDERS: end}
    return LagFacts(_flow(), TASKS, other.pop("topics", _topics(orders=1)), syncs, workers, ends, **other)


def _only(facts: LagFacts) -> PartitionLag:
    (found,) = partition_lags(facts)
    return found


def test_lag_is_the_distance_from_the_position_to_the_source_end() -> None:
    found = _only(_facts(60, 100))
    assert found.as_json() == {
        "topic": "orders",
        "partition": 0,
        "target_topic": "east.orders",
        "task": task_of("orders", 0, TASKS),
        "source_end": 100,
        "replicated_next": 60,
        "lag_records": 40,
        "lag_seconds": None,
        "state": "running",
        "reason": "",
    }


@pytest.mark.parametrize("end", [100, 99, 0])
def test_a_position_at_or_past_the_end_has_no_lag_and_no_age(end: int) -> None:
    """The end is read before the position: it may be older."""
    found = _only(_facts(100, end))
    assert (found.lag_records, found.lag_seconds) == (0, 0.0)


def test_a_stopped_partition_says_why_even_without_a_worker() -> None:
    found = _only(_facts(stopped={ORDERS: STOPPED}, workers=Workers()))
    assert (found.state, found.reason) == (State.STOPPED, "truncated: 42 offsets gone")
    assert found.since == "2026-01-31T03:00:00+00:00"
    assert found.lag_records == 40


def test_a_halted_task_is_told_before_all_else_but_a_stop() -> None:
    """Whoever owns it: an idle worker that is fenced and has not noticed does not run."""
    halt = {"reason": "paused", "id": "20260131T030000-7f3a", "by": "alice", "at": "2026-01-31T03:00:00+00:00"}
    facts = _facts()
    facts.syncs.halted[task_of("orders", 0, TASKS)] = halt
    found = _only(facts)
    assert (found.state, found.lag_records) == (State.HALTED, 40)
    assert found.reason == "paused: 20260131T030000-7f3a by alice at 2026-01-31T03:00:00+00:00"
    facts.syncs.stopped[ORDERS] = STOPPED
    assert _only(facts).state is State.STOPPED


def test_a_task_that_nobody_has_leaves_its_partitions_unassigned() -> None:
    others = tuple(t for t in range(TASKS) if t != task_of("orders", 0, TASKS))
    found = _only(_facts(workers=Workers("STABLE", {"host/1": others})))
    assert (found.state, found.reason, found.worker) == (State.UNASSIGNED, "no worker", "")


def test_a_group_that_hands_out_tasks_is_not_called_dead() -> None:
    found = _only(_facts(workers=Workers("PREPARING_REBALANCING", {"host/1": ()})))
    assert found.state is State.UNASSIGNED
    assert "rebalancing" in found.reason


def test_a_partition_without_a_position_is_new_and_lags_from_where_it_would_begin() -> None:
    found = _only(_facts(None, 100, begins={ORDERS: 30}))
    assert (found.state, found.reason, found.replicated_next) == (State.NEW, "no position yet", None)
    assert found.lag_records == 70
    assert unreplicated([found], 10) == {ORDERS: 30}


def test_the_lag_of_a_partition_that_begins_nobody_knows_where_is_unknown() -> None:
    assert _only(_facts(None, 100)).lag_records is None


def test_a_partition_that_the_source_lost_is_shown_as_stopped() -> None:
    found = _only(_facts(60, None, topics=_topics()))
    assert found.state is State.STOPPED
    assert found.reason.startswith("source_gone: ")
    assert (found.source_end, found.lag_records, found.lag_seconds) == (None, None, None)


def test_a_source_that_was_not_asked_is_not_said_to_have_lost_anything() -> None:
    assert _only(_facts(60, None, topics=None)).state is State.RUNNING


def test_a_topic_that_is_no_longer_replicated_is_not_shown() -> None:
    facts = LagFacts(_flow(exclude_topics=["orders"]), TASKS, _topics(), _syncs({ORDERS: 1}), ALL_TASKS)
    assert partition_lags(facts) == []


def test_an_end_that_could_not_be_read_is_told_and_not_counted() -> None:
    found = _only(_facts(60, RetriableError("no leader", op="list offsets")))
    assert (found.source_end, found.lag_records) == (None, None)
    assert "no leader" in found.reason


def test_what_hurts_most_comes_first() -> None:
    """Stopped first, then the largest lag; nothing that changes by itself, such as an age, moves a row."""
    tps = [TP("payments", p) for p in range(4)]
    lags = dict(zip(tps, (5, 900, 0, 900), strict=True))
    facts = LagFacts(
        _flow(), TASKS, _topics(payments=4), _syncs(dict.fromkeys(tps, 100), {tps[2]: STOPPED}), ALL_TASKS,
        {tp: 100 + lag for tp, lag in lags.items()},
    )  # fmt: skip
    assert [it.tp.partition for it in partition_lags(facts)] == [2, 1, 3, 0]


def test_a_shortened_list_keeps_the_total() -> None:
    tps = [TP("payments", p) for p in range(3)]
    facts = LagFacts(
        _flow(), TASKS, _topics(payments=3), _syncs(dict.fromkeys(tps, 10)), ALL_TASKS, dict.fromkeys(tps, 15)
    )
    shown = Lag("east->west", tuple(partition_lags(facts)), ALL_TASKS).as_json(top=1)
    assert set(shown) == {"flow", "partitions", "total_lag_records"}
    assert (len(shown["partitions"]), shown["total_lag_records"]) == (1, 15)
    json.dumps(shown)


def test_a_topic_pattern_is_searched_in_the_source_name() -> None:
    facts = LagFacts(_flow(), TASKS, _topics(orders=1, payments=2), SyncsState(), ALL_TASKS)
    assert {it.tp.topic for it in partition_lags(facts, re.compile("ment"))} == {"payments"}


def test_ages_are_looked_up_for_the_worst_only() -> None:
    tps = [TP("payments", p) for p in range(3)]
    ends = dict(zip(tps, (11, 30, 20), strict=True))
    facts = LagFacts(_flow(), TASKS, _topics(payments=3), _syncs(dict.fromkeys(tps, 10)), ALL_TASKS, ends)
    assert unreplicated(partition_lags(facts), 2) == {tps[1]: 10, tps[2]: 10}


def test_partitions_without_a_leader_are_asked_again() -> None:
    """librdkafka calls it an entry that it does not find."""
    results: Iterator[int | KafkaError] = iter([KafkaError(KafkaError._NOENT), 7])

    class Admin:
        def list_offsets(self, request: dict[TopicPartition, Any], **_: Any) -> dict[TopicPartition, Future[Any]]:
            (tp,) = request
            future, result = Future[Any](), next(results)
            if isinstance(result, int):
                future.set_result(SimpleNamespace(offset=result))
            else:
                future.set_exception(KafkaException(result))
            return {tp: future}

        def list_topics(self, **_: Any) -> None:
            raise KafkaException(KafkaError(KafkaError._TIMED_OUT))

    cluster = Cluster("east", "source", CLUSTER, "group")
    assert list_offsets(cluster, Admin(), {ORDERS: LATEST}, Deadline(5)) == {ORDERS: 7}  # type: ignore[arg-type]


def test_a_broker_that_does_not_answer_gives_an_error_and_not_a_negative_offset() -> None:
    """librdkafka resolves the future of a timed-out ListOffsets with offset -1001 and no error: measured."""

    class Admin:
        def list_offsets(self, request: dict[TopicPartition, Any], **_: Any) -> dict[TopicPartition, Future[Any]]:
            futures: dict[TopicPartition, Future[Any]] = {tp: Future() for tp in request}
            for future in futures.values():
                future.set_result(SimpleNamespace(offset=-1001))
            return futures

        def list_topics(self, **_: Any) -> None:
            raise KafkaException(KafkaError(KafkaError._TIMED_OUT))

    cluster = Cluster("east", "source", CLUSTER, "group")
    answers = list_offsets(cluster, Admin(), {ORDERS: LATEST}, Deadline(0.2))  # type: ignore[arg-type]
    assert isinstance(answers[ORDERS], RetriableError)
