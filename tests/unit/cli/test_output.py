"""What a person sees on a terminal: questions that nothing covers, tables that fit or wrap, notes told once."""

from __future__ import annotations

import io
import sys

import pytest
from rich.console import Console
from rich.text import Text

from replicator.cli import ask, output
from replicator.cli.output import aside, busy, new_table, print_result

LONG = "moved_already: switchover 20260131T030000-7f3a did it; its offset on west is 3,256"


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """stdout and stderr, as a terminal of 80 columns sees them."""
    screen = io.StringIO()
    for name in ("stdout", "stderr"):
        console = Console(file=screen, force_terminal=True, width=80, highlight=False, color_system=None)
        monkeypatch.setattr(output, name, console)
    monkeypatch.setattr(ask, "stderr", output.stderr)
    return screen


def is_spinning() -> bool:
    return any(status._live.is_started for status in output._spinners)


# --- the sign of life -------------------------------------------------------------------------------------------------


def test_it_is_out_of_the_way_while_the_operator_is_asked(
    terminal: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else it writes over the question."""
    seen: list[tuple[bool, str]] = []

    class Terminal:
        def isatty(self) -> bool:
            return True

        def readline(self) -> str:
            seen.append((is_spinning(), terminal.getvalue()))
            return "y\n"

    monkeypatch.setattr(sys, "stdin", Terminal())
    with busy("reading"):
        assert is_spinning()
        ask.confirm("Go on?", False)
        assert is_spinning()
    ((was_spinning, screen),) = seen
    assert not was_spinning
    assert screen.endswith("Go on? [y/N] ")
    assert not is_spinning()


def test_it_is_out_of_the_way_of_results(terminal: io.StringIO) -> None:
    with busy("reading"):
        print_result(Text("the plan"))
    assert "\nthe plan\n" in terminal.getvalue().replace("\x1b[2K", "\n")
    assert "reading" not in terminal.getvalue().partition("the plan")[0].splitlines()[-1].rpartition("\x1b[2K")[2]


def test_one_within_another_is_one(terminal: io.StringIO) -> None:
    with busy("reading"), busy("reading more"):
        assert len(output._spinners) == 1
        with aside():
            assert not is_spinning()
        assert is_spinning()
    assert not output._spinners
    assert "reading more" not in terminal.getvalue()


def test_without_a_terminal_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output, "stderr", Console(file=io.StringIO()))
    with busy("reading"):
        assert not output._spinners


# --- tables -----------------------------------------------------------------------------------------------------------


def printed(terminal: io.StringIO, reasons: list[str], group: str = "billing") -> list[str]:
    table = new_table(group=False, topic=False, part=True, state=False)
    for number, reason in enumerate(reasons):
        table.add_row(group, "orders", str(number), Text(f"skipped: {reason}" if reason else "planned"))
    print_result(table)
    return [line.rstrip() for line in terminal.getvalue().splitlines()]


def test_a_table_that_fits_stays_as_it_is(terminal: io.StringIO) -> None:
    lines = printed(terminal, ["short", ""])
    assert len(lines) == 4
    assert lines[2].split() == ["billing", "orders", "0", "skipped:", "short"]


def test_long_texts_of_one_that_does_not_fit_become_notes(terminal: io.StringIO) -> None:
    """Each told once."""
    lines = printed(terminal, [LONG, "it fits beside the others", LONG, LONG.replace("3,256", "9")])
    assert lines[3].endswith("skipped: it fits beside the others")
    lines.pop(3)
    assert [line.split()[3:] for line in lines[2:5]] == [["skipped", "(1)"], ["skipped", "(1)"], ["skipped", "(2)"]]
    assert " ".join(lines[5:]).split("(2)")[0].strip() == f"(1) skipped: {LONG}"
    assert "its offset on west is 9" in " ".join(lines[5:])


def test_names_are_not_folded_letter_by_letter(terminal: io.StringIO) -> None:
    """A line that is still too long is for the terminal to wrap."""
    name = "a-group-with-a-name-that-leaves-no-room-for-anything-else-on-80-columns-whatever"
    lines = printed(terminal, [LONG], name)
    assert name in lines[2]
