"""`pause`, `resume` and `history` without a cluster: questions and tables."""

from __future__ import annotations

import sys
from dataclasses import replace

import pytest

from replicator.cli import flow
from replicator.cli.ask import confirm
from replicator.errors import RefusedError
from tests.unit.audit.test_audit import RECORD, ROW


class Terminal:
    """A stdin that is one, or not, and what is typed there."""

    def __init__(self, answer: str | None) -> None:
        self._answer = answer

    def isatty(self) -> bool:
        return self._answer is not None

    def readline(self) -> str:
        assert self._answer is not None
        return self._answer


@pytest.mark.parametrize("answer", ["y\n", "Yes\n", "YES"])
def test_only_yes_is_yes(answer: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "stdin", Terminal(answer))
    confirm("Go on?", False)
    assert "Go on? [y/N]" in capsys.readouterr().err


@pytest.mark.parametrize("answer", ["n\n", "\n", "yo\n", ""])
def test_everything_else_is_no(answer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also the end of the input."""
    monkeypatch.setattr(sys, "stdin", Terminal(answer))
    with pytest.raises(RefusedError, match="nothing was changed"):
        confirm("Go on?", False)


def test_without_a_terminal_yes_has_to_be_said_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", Terminal(None))
    with pytest.raises(RefusedError, match="pass --yes"):
        confirm("Go on?", False)
    confirm("Go on?", True)


def test_the_history_names_some_groups_and_counts_the_others() -> None:
    def text(*groups: str, left_out: int = 0) -> str:
        rows = tuple({**ROW, "group": group} for group in groups)
        return flow._groups_text(replace(RECORD, plan=rows, plan_rows_left_out=left_out))

    assert text("a", "a", "b") == "a, b"
    assert text("a", "b", "c", "d", "e") == "a, b, c and 2 more"
    assert text("a", "b", "c", "d", left_out=9) == "a, b, c and ≥ 1 more"
    assert flow._groups_text(replace(RECORD, plan=({"task": 0},))) == ""


def test_times_are_utc_and_a_strange_one_stays_as_it_is() -> None:
    assert flow._time_text("2026-01-31T04:00:00.123+01:00") == "2026-01-31 03:00:00 UTC"
    assert flow._time_text("") == ""
