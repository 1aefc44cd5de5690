"""Where logs go, and in which form."""

from __future__ import annotations

import ast
import io
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

import replicator
from replicator.config import LogSettings
from replicator.log import configure, get_logger

PACKAGE = Path(replicator.__file__).parent
LEVELS = {"debug", "info", "warning", "error", "exception"}


class Terminal(io.StringIO):
    """A stderr that is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _restore() -> Iterator[None]:
    """Other tests log as if this one had not been."""
    yield
    structlog.reset_defaults()


def logged(settings: LogSettings, stream: io.StringIO, monkeypatch: pytest.MonkeyPatch, *, quiet: bool = False) -> str:
    """What three levels of events look like."""
    monkeypatch.setattr(sys, "stderr", stream)
    configure(settings, quiet=quiet)
    log = get_logger(flow="east->west").bind(task=3)
    log.debug("task_looks", reason="curiosity")
    log.info("task_runs", partitions=12)
    log.warning("partition_stopped", topic="orders", partition=0, reason="truncated")
    return stream.getvalue()


def test_elsewhere_than_on_a_terminal_every_line_is_json(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the bound keys, the level and a time in UTC."""
    lines = [json.loads(line) for line in logged(LogSettings(), io.StringIO(), monkeypatch).splitlines()]
    assert [line["event"] for line in lines] == ["task_runs", "partition_stopped"]
    first, second = lines
    assert (first["flow"], first["task"], first["partitions"], first["level"]) == ("east->west", 3, 12, "info")
    assert (second["level"], second["reason"]) == ("warning", "truncated")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z", first["timestamp"])


def test_on_a_terminal_lines_are_for_people(monkeypatch: pytest.MonkeyPatch) -> None:
    text = logged(LogSettings(), Terminal(), monkeypatch)
    assert "task_runs" in text
    with pytest.raises(json.JSONDecodeError):
        json.loads(text.splitlines()[0])


def test_the_format_can_be_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    on_terminal = logged(LogSettings(format="json"), Terminal(), monkeypatch)
    assert json.loads(on_terminal.splitlines()[0])["event"] == "task_runs"
    in_a_pipe = logged(LogSettings(format="console"), io.StringIO(), monkeypatch)
    assert "task_runs" in in_a_pipe
    assert not in_a_pipe.startswith("{")
    assert "\x1b" not in in_a_pipe, "no colours in a file"


@pytest.mark.parametrize(
    ("level", "quiet", "events"),
    [
        ("debug", False, ["task_looks", "task_runs", "partition_stopped"]),
        ("info", False, ["task_runs", "partition_stopped"]),
        ("warning", False, ["partition_stopped"]),
        ("error", False, []),
        ("debug", True, ["partition_stopped"]),
    ],
)
def test_levels(level: str, quiet: bool, events: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands that print a result are quiet below warnings."""
    settings = LogSettings.model_validate({"level": level, "format": "json"})
    text = logged(settings, io.StringIO(), monkeypatch, quiet=quiet)
    assert [json.loads(line)["event"] for line in text.splitlines()] == events


def test_an_exception_is_one_line_of_json(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    configure(LogSettings(format="json"))
    try:
        int("strange")
    except ValueError:
        get_logger().exception("task_failed_unexpectedly")
    (line,) = stream.getvalue().splitlines()
    assert "ValueError: invalid literal" in json.loads(line)["exception"]


def test_stdout_is_left_alone(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Tables and JSON have it to themselves."""
    logged(LogSettings(), io.StringIO(), monkeypatch)
    assert capsys.readouterr().out == ""


def test_events_are_fixed_snake_case_names() -> None:
    """No text is built into an event: programs look for its name."""
    found: set[str] = set()
    for file in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in LEVELS):
                continue
            receiver = ast.unparse(node.func.value)
            if receiver not in {"log", "self._log"}:
                continue
            event = node.args[0]
            assert isinstance(event, ast.Constant), f"{file.name}: {ast.unparse(node)}"
            found.add(str(event.value))
    assert len(found) > 20
    assert [event for event in sorted(found) if not re.fullmatch(r"[a-z]+(_[a-z0-9]+)+", event)] == []
