"""Printing: results on stdout, everything else on stderr."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.measure import Measurement
from rich.status import Status
from rich.table import Table
from rich.text import Text

from replicator.errors import ReplicatorError

NOTE_FROM = 20
"""Texts longer than this may be moved below a table that is too wide."""
PIPED_WIDTH = 10_000
"""Nothing is cut off where no terminal sets a width."""

stdout = Console(highlight=False, soft_wrap=True)
stderr = Console(stderr=True, highlight=False, soft_wrap=True)
_spinners: list[Status] = []
"""The spinner, while there is one."""


def print_json(content: Any, *, line: bool = False) -> None:
    """Print one JSON document, alone on stdout; with `line` on one line, for programs that read a stream of them."""
    sys.stdout.write(json.dumps(content, indent=None if line else 2, default=str) + "\n")
    sys.stdout.flush()


@contextlib.contextmanager
def busy(text: str) -> Iterator[None]:
    """A spinner on stderr while clusters are read; none if stderr is no terminal, or within another `busy`."""
    if _spinners or not stderr.is_terminal:
        yield
        return
    _spinners.append(stderr.status(text))
    try:
        with _spinners[0]:
            yield
    finally:
        _spinners.clear()


@contextlib.contextmanager
def aside() -> Iterator[None]:
    """Hide the spinner: it would write over what is printed or asked."""
    for spinner in _spinners:
        spinner.stop()
    try:
        yield
    finally:
        for spinner in _spinners:
            spinner.start()


def complain(problem: ReplicatorError | str) -> None:
    """Print an error on stderr; the hint of a Kafka error gets a line of its own."""
    stderr.print("error:", style="bold red", end=" ")
    stderr.print(problem.for_terminal if isinstance(problem, ReplicatorError) else problem, markup=False)


def new_table(**columns: bool) -> Table:
    """A table with these columns, in order; True: numbers, aligned right. Underscores in names become spaces."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False, header_style="bold")
    for name, is_number in columns.items():
        title = name.replace("_", " ").strip()
        table.add_column(title, justify="right" if is_number else "left", no_wrap=is_number, overflow="fold")
    return table


def print_result(*parts: Any) -> None:
    """Tables and lines on stdout: at a terminal's width, or as wide as they are where stdout is a file or a pipe."""
    if not stdout.is_terminal:
        stdout.width = PIPED_WIDTH
    with aside():
        for part in parts:
            for it in _fitted(part, stdout.width) if isinstance(part, Table) else [part]:
                _wide_enough(it).print(it, soft_wrap=False, crop=False)


def _wide_enough(part: Any) -> Console:
    """The console; for a table that would be folded letter by letter one whose lines the terminal itself wraps."""
    width = _width(part)
    if width <= stdout.width:
        return stdout
    is_terminal = stdout.is_terminal
    return Console(file=stdout.file, width=width, force_terminal=is_terminal, highlight=False, no_color=stdout.no_color)


def _width(part: Any) -> int:
    """How wide a table is when nothing is folded; 0 for what can be wrapped."""
    if not isinstance(part, Table):
        return 0
    return Measurement.get(stdout, stdout.options.update(width=PIPED_WIDTH), part).maximum


def _fitted(table: Table, width: int) -> list[Table | Text]:
    """The table; where it is too wide, the long texts of its last column below it, each once."""
    too_wide = _width(table) - width
    if too_wide <= 0 or not table.columns:
        return [table]
    room = max(NOTE_FROM, max(len(_text(it)) for it in table.columns[-1].cells) - too_wide)
    notes: dict[str, Text] = {}
    fitted = Table(box=table.box, pad_edge=False, show_edge=False, header_style=table.header_style)
    for column in table.columns:
        fitted.add_column(column.header, justify=column.justify, no_wrap=column.no_wrap, overflow=column.overflow)
    for cells in zip(*(column.cells for column in table.columns), strict=True):
        fitted.add_row(*cells[:-1], cells[-1] if len(_text(cells[-1])) <= room else _note(cells[-1], notes))
    return [fitted, *notes.values()]


def _text(cell: Any) -> str:
    return cell.plain if isinstance(cell, Text) else str(cell)


def _note(cell: Any, notes: dict[str, Text]) -> Text:
    """The cell, or its first word and the number of the note that holds the whole text."""
    text = _text(cell)
    style = cell.style if isinstance(cell, Text) else ""
    number = notes.setdefault(text, Text(f"({len(notes) + 1}) {text}", style=style)).plain.partition(" ")[0]
    first, colon, _ = text.partition(":")
    is_word = bool(colon) and len(first) < NOTE_FROM
    return Text(f"{first} {number}" if is_word else number, style=style)


def count_text(number: int | None) -> str:
    """``1,234,567``; a question mark for an unknown value."""
    return "?" if number is None else f"{number:,}"


def seconds_text(seconds: float | None) -> str:
    """``0.4 s``, ``12 s``, ``3 m 05 s``, ``2 h 10 m``, ``4 d 03 h``; a question mark for an unknown value."""
    if seconds is None:
        return "?"
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} m {whole % 60:02} s"
    if whole < 86_400:
        return f"{whole // 3600} h {whole % 3600 // 60:02} m"
    return f"{whole // 86_400} d {whole % 86_400 // 3600:02} h"
