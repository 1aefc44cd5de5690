"""What an error does to the transaction loop: the parts that need no broker."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

import pytest

from replicator.copy import transaction_loop
from replicator.copy.positions import Positions, target_log_shorter
from replicator.copy.transaction_loop import TransactionLoop
from replicator.copy.transaction_recovery import TransactionRecovery
from replicator.deadline import StopToken
from replicator.errors import TP, AbortTransactionError, PartitionError, RetriableError
from replicator.offset_map.runs import Run
from replicator.offset_map.sync_format import TargetTopic
from replicator.offset_map.topic_id import TopicId
from replicator.planes import Fetched

ORDERS = TP("orders", 0)
ID = TopicId(range(16))
NEWEST = Run(1, 0, 0, 10, 0, 10, ID, ())


class Life:
    """One life of a task's loop; what it did is in `done`.

    Args:
        errors: what its transactions end with, one after the other; None: a commit.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *errors: Exception | None) -> None:
        self.done: list[str] = []
        self.target = SimpleNamespace(troubled_s=1.0)
        self.is_needed = False
        self.silent: list[TP] = []
        self.trouble_at = ""
        self._errors = list(errors)
        self._clock = 1.0
        self.ledger = Positions({ORDERS: NEWEST}, {})
        self.ledger.start(ORDERS, TargetTopic("east.orders", ID), ID)
        plane = SimpleNamespace(abort=lambda _: self._note("abort"), assign=lambda _: self._note("assign"))
        share = SimpleNamespace(ledger=self.ledger, stops=None, failed=self._stop, stop=self._stop)
        settings = SimpleNamespace(transaction_timeout_s=60)
        context = SimpleNamespace(flow=SimpleNamespace(settings=settings, syncs_topic="syncs"), target=self.target)
        metrics = SimpleNamespace(transaction=lambda *_: None)
        log = SimpleNamespace(warning=lambda *_, **__: None)
        tools: Any = SimpleNamespace(
            context=context, number=0, metrics=metrics, leash=StopToken(), log=log, outdated=threading.Event()
        )
        naming = SimpleNamespace(remote_topic=lambda topic: f"east.{topic}")
        flow: Any = SimpleNamespace(syncs_topic="syncs", naming=naming)
        self.settlement = TransactionRecovery(flow, self.target, 0, None, log)  # type: ignore[arg-type]
        monkeypatch.setattr(TransactionRecovery, "is_needed", self._look)
        monkeypatch.setattr(transaction_loop, "time", SimpleNamespace(monotonic=lambda: self._clock))
        self.settlement._looked_s = 1.0
        self._copier = TransactionLoop(tools, plane, share, self.settlement, 1)  # type: ignore[arg-type]
        monkeypatch.setattr(self._copier, "_fill_and_commit", self._fill_and_commit)

    def transact(self) -> list[str]:
        """One transaction; what it did."""
        self.done.clear()
        self._clock += 100
        self._copier._transaction(Fetched())
        return list(self.done)

    def _fill_and_commit(self, *_: Any) -> None:
        error = self._errors.pop(0)
        self._note("fill")
        if error is not None:
            raise error
        self._note("commit")

    def _look(self, *_: Any) -> bool:
        self._note("look")
        self.settlement._looked_s = self._clock
        self.settlement._unasked.update(self.silent)
        return self.is_needed

    def _stop(self, error: PartitionError) -> None:
        if self.ledger.is_running(error.tp):
            self.ledger.stop(error.tp)
            self._note(f"stop {error.reason.value}")

    def _note(self, what: str) -> None:
        self.done.append(what)
        if what == self.trouble_at:
            self._clock += 1
            self.target.troubled_s = self._clock
            self._clock += 1


def refused() -> AbortTransactionError:
    return AbortTransactionError("not acknowledged", op="flush")


def test_without_trouble_nothing_is_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    life = Life(monkeypatch, refused(), None)
    assert life.transact() == ["fill", "abort", "assign"]
    assert life.transact() == ["fill", "commit"]


def test_after_trouble_the_next_transaction_looks_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """However long ago the last commit was, and how long the trouble lasted."""
    life = Life(monkeypatch, None, None, None)
    life.trouble_at = "commit"
    assert life.transact() == ["fill", "commit"]
    life.trouble_at = ""
    assert life.transact() == ["look", "fill", "commit"]
    assert life.transact() == ["fill", "commit"]
    life.target.troubled_s = life._clock + 50
    life.is_needed = True
    with pytest.raises(RetriableError, match="has no end"):
        life.transact()
    assert life.done == ["look"]


def test_trouble_while_a_transaction_is_open_ends_the_life_with_its_abort(monkeypatch: pytest.MonkeyPatch) -> None:
    """The one before may have lost ends, and what lies there was aborted with this one."""
    life = Life(monkeypatch, refused())
    life.trouble_at = "fill"
    with pytest.raises(RetriableError, match="not acknowledged"):
        life.transact()
    assert life.done == ["fill", "abort"]


def test_trouble_while_an_abort_is_written_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """An abort loses its ends as a commit does."""
    life = Life(monkeypatch, refused(), None)
    life.trouble_at = "assign"
    assert life.transact() == ["fill", "abort", "assign"]
    assert life.transact() == ["look", "fill", "commit"]


def test_a_partition_that_does_not_answer_stops(monkeypatch: pytest.MonkeyPatch) -> None:
    life = Life(monkeypatch, None, None)
    life.trouble_at = "commit"
    life.transact()
    life.silent = [ORDERS]
    life.trouble_at = ""
    assert life.transact() == ["look", "stop target_unavailable", "fill", "commit"]


def test_a_log_that_lost_its_end_is_noted_although_trouble_ends_the_life(monkeypatch: pytest.MonkeyPatch) -> None:
    """What cuts a log breaks connections, too; and the next life finds it longer by what was aborted there (A)."""
    life = Life(monkeypatch, target_log_shorter(ORDERS, "east.orders", NEWEST, 5, is_lasting=True))
    life.trouble_at = "fill"
    with pytest.raises(RetriableError):
        life.transact()
    assert life.done == ["fill", "stop target_log_shorter", "abort"]
