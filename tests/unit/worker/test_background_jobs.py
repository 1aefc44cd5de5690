"""The thread of a duty: a failure is told and tried again, an end is an end."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

import pytest
import structlog
from structlog.testing import capture_logs

from replicator.deadline import REFUSED_RETRY_S, StopToken
from replicator.errors import KafkaOpError, RetriableError
from replicator.metrics import JobMetrics, Metrics
from replicator.worker import background_jobs
from replicator.worker.background_jobs import JobThread
from tests.support.eventually import eventually
from tests.unit.test_metrics import FLOW, series


@dataclass
class FakeDuty:
    """Fails as often as it is told to."""

    failures: list[Exception] = field(default_factory=list)
    hangs: bool = False
    name: str = "fake"
    interval_s: float = 0.01
    note: str = ""
    steps: int = 0
    is_closed: bool = False

    def step(self, leash: StopToken, timeout_s: float) -> None:
        self.steps += 1
        if self.hangs:
            leash.finishing.wait(timeout_s)
        if self.failures:
            raise self.failures.pop(0)

    def close(self) -> None:
        self.is_closed = True


def thread_of(duty: FakeDuty, metrics: Metrics) -> JobThread:
    log = structlog.wrap_logger(None, wrapper_class=structlog.make_filtering_bound_logger(logging.DEBUG))
    return JobThread(duty, 30.0, JobMetrics(metrics, FLOW), log)


def end(thread: JobThread) -> None:
    thread.leash.finish(1.0)
    thread.join(5.0)
    assert not thread.is_alive()


def test_a_duty_is_done_again_and_again_until_the_end() -> None:
    """Its age is shown as long as it runs, and its clients are let go of."""
    duty, metrics = FakeDuty(), Metrics()
    thread = thread_of(duty, metrics)
    thread.start()
    eventually(lambda: duty.steps > 3, within_s=5)
    age = 'replicator_duty_age_seconds{duty="fake",flow="east->west"}'
    assert series(metrics, "replicator_duty_age")[age] < 5
    end(thread)
    assert duty.is_closed
    assert series(metrics, "replicator_duty_age") == {}


def test_a_failure_is_told_and_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A log entry, a metric, a line for the probe; gone when it works again."""
    duty, metrics = FakeDuty([RetriableError("no answer", op="list groups"), ValueError("a fault")]), Metrics()
    monkeypatch.setattr(background_jobs, "FIRST_RETRY_S", 0.3)
    monkeypatch.setattr(background_jobs, "RETRY_AT_MOST_S", 0.3)
    with capture_logs() as events:
        thread = thread_of(duty, metrics)
        thread.start()
        eventually(lambda: "list groups: no answer" in thread.problem, within_s=5, every_s=0.01)
        eventually(lambda: duty.steps > 2 and not thread.problem, within_s=5)
        end(thread)
    assert [it["event"] for it in events] == ["duty_failed", "duty_failed_unexpectedly", "duty_works_again"]
    failures = 'replicator_duty_failures_total{duty="fake",flow="east->west"}'
    assert series(metrics, "replicator_duty_failures_total")[failures] == 2


def test_a_missing_right_is_asked_for_rarely() -> None:
    """It is not granted within seconds; the wait ends at once when the duty has to."""
    error = KafkaOpError("no", op="write", hint="grant WRITE", code="TOPIC_AUTHORIZATION_FAILED")
    duty = FakeDuty([error])
    thread = thread_of(duty, Metrics())
    with capture_logs() as events:
        thread.start()
        eventually(lambda: "grant WRITE" in thread.problem, within_s=5)
        end(thread)
    assert events[0]["retry_in_s"] == REFUSED_RETRY_S
    assert duty.steps == 1


def test_a_step_that_waits_ends_with_the_leash() -> None:
    duty = FakeDuty(hangs=True)
    thread = thread_of(duty, Metrics())
    thread.start()
    eventually(lambda: duty.steps, within_s=5)
    end(thread)
    assert duty.is_closed
