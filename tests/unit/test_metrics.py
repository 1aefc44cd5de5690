"""Metrics: names, and how long a series lives."""

from __future__ import annotations

import re

from prometheus_client import generate_latest

from replicator.errors import TP, StopReason
from replicator.metrics import TASK_STATES, Metrics, TaskMetrics

ORDERS, PAYMENTS = TP("orders", 0), TP("payments", 7)
FLOW = "east->west"


def series(metrics: Metrics, name: str = "") -> dict[str, float]:
    """Series whose text begins with `name`, as they are scraped; the times of creation left out."""
    found = {}
    for line in generate_latest(metrics.registry).decode().splitlines():
        if not line.startswith("#") and line.startswith(name) and "_created{" not in line:
            key, value = line.rsplit(" ", 1)
            found[key] = float(value)
    return found


def test_every_name_has_the_prefix_and_a_help_text() -> None:
    metrics = Metrics()
    families = list(metrics.registry.collect())
    assert len(families) >= 14
    for family in families:
        assert re.fullmatch(r"replicator_[a-z_]+", family.name)
        assert not family.documentation[0].islower()
        assert not re.search(r"_(ms|milliseconds|kb|count)$", family.name), "base units"


def test_what_was_committed_is_counted_by_partition() -> None:
    metrics = Metrics()
    task = TaskMetrics(metrics, FLOW, 3)
    task.committed(ORDERS, 5, 500)
    task.committed(ORDERS, 1, 20)
    task.skipped(ORDERS, 40, "truncated")
    task.zero_timestamps(PAYMENTS, 2)
    where = 'flow="east->west",partition="0",topic="orders"'
    assert series(metrics, "replicator_records_total") == {f"replicator_records_total{{{where}}}": 6}
    assert series(metrics, "replicator_bytes_total") == {f"replicator_bytes_total{{{where}}}": 520}
    (skipped,) = series(metrics, "replicator_skipped_records_total").items()
    assert 'reason="truncated"' in skipped[0]
    assert skipped[1] == 40
    (zeros,) = series(metrics, "replicator_zero_timestamps_total").items()
    assert 'topic="payments"' in zeros[0]


def test_a_task_is_in_one_state() -> None:
    metrics = Metrics()
    task = TaskMetrics(metrics, FLOW, 3)
    for state in TASK_STATES:
        task.state(state)
        found = series(metrics, "replicator_task_state")
        assert len(found) == len(TASK_STATES)
        assert [key for key, value in found.items() if value] == [
            f'replicator_task_state{{flow="east->west",state="{state}",task="3"}}'
        ]


def test_transactions_are_counted_by_outcome_and_only_commits_are_timed() -> None:
    metrics = Metrics()
    task = TaskMetrics(metrics, FLOW, 0)
    for outcome in ("committed", "aborted", "unknown"):
        task.transaction(outcome, 0.5)
    assert sorted(series(metrics, "replicator_transactions_total").values()) == [1, 1, 1]
    assert list(series(metrics, "replicator_transaction_seconds_count").values()) == [1]
    assert list(series(metrics, "replicator_transaction_seconds_sum").values()) == [0.5]


def test_the_age_of_the_last_commit_grows_by_itself() -> None:
    """From the moment the task runs, so that an idle flow has an age, too."""
    metrics = Metrics()
    task = TaskMetrics(metrics, FLOW, 0)
    assert series(metrics, "replicator_last_commit_age_seconds") == {}
    task.state("running")
    (first,) = series(metrics, "replicator_last_commit_age_seconds").values()
    (second,) = series(metrics, "replicator_last_commit_age_seconds").values()
    assert 0 <= first < second < 60


def test_a_stopped_partition_has_one_reason() -> None:
    """The series of the last reason goes when another takes its place, and when the partition runs."""
    metrics = Metrics()
    task = TaskMetrics(metrics, FLOW, 0)
    task.partition_stopped(ORDERS, StopReason.TRUNCATED)
    task.partition_stopped(ORDERS, StopReason.SOURCE_GONE)
    task.partition_stopped(PAYMENTS, StopReason.RECREATED)
    found = series(metrics, "replicator_partition_stopped")
    assert set(found.values()) == {1}
    assert sorted(re.findall(r'reason="(\w+)"', " ".join(found))) == ["recreated", "source_gone"]
    task.partition_runs(ORDERS)
    task.partition_runs(ORDERS)
    assert len(series(metrics, "replicator_partition_stopped")) == 1


def test_gauges_go_with_the_task_and_counters_stay() -> None:
    """Or two workers would show a lag for the same partition, and one of them would be frozen."""
    metrics = Metrics()
    task, other = TaskMetrics(metrics, FLOW, 0), TaskMetrics(metrics, FLOW, 1)
    task.state("running")
    task.committed(ORDERS, 5, 500)
    task.lag(ORDERS, 17, 2.5)
    task.partition_stopped(ORDERS, StopReason.TRUNCATED)
    task.partitions(1, 1)
    other.state("running")
    other.lag(PAYMENTS, 3, 0.1)
    assert len(series(metrics, "replicator_lag_records")) == 2
    task.let_go()
    task.state("stopped")
    assert list(series(metrics, "replicator_lag_records").values()) == [3]
    assert list(series(metrics, "replicator_lag_seconds").values()) == [0.1]
    assert series(metrics, "replicator_partition_stopped") == {}
    assert [key for key in series(metrics, "replicator_last_commit_age_seconds") if 'task="0"' in key] == []
    assert len(series(metrics, "replicator_last_commit_age_seconds")) == 1
    assert set(series(metrics, "replicator_partitions").values()) == {0}
    assert list(series(metrics, "replicator_records_total").values()) == [5]


def test_a_task_that_never_ran_lets_go() -> None:
    TaskMetrics(Metrics(), FLOW, 0).let_go()


def test_a_task_that_comes_back_counts_on() -> None:
    """Counters of a process never fall."""
    metrics = Metrics()
    for _ in range(2):
        task = TaskMetrics(metrics, FLOW, 0)
        task.state("running")
        task.committed(ORDERS, 5, 500)
        task.let_go()
    assert list(series(metrics, "replicator_records_total").values()) == [10]


def test_processes_do_not_share_a_registry_by_accident() -> None:
    first, second = Metrics(), Metrics()
    TaskMetrics(first, FLOW, 0).committed(ORDERS, 1, 1)
    assert series(second, "replicator_records_total") == {}
