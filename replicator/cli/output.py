"""Printing: results on stdout, everything else on stderr."""

from __future__ import annotations

import contextlib
import json
import sys
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

PIPED_WIDTH = 10_000
"""Nothing is cut off where no terminal sets a width."""

stdout = Console(highlight=False, soft_wrap=True)
stderr = Console(stderr=True, highlight=False, soft_wrap=True)


def print_json(content: Any, *, line: bool = False) -> None:
    """One JSON document, alone on stdout; on one line, for programs that read a stream of them, if so wanted."""
    sys.stdout.write(json.dumps(content, indent=None if line else 2, default=str) + "\n")
    sys.stdout.flush()


def busy(text: str) -> contextlib.AbstractContextManager[Any]:
    """A sign of life on stderr while a large history is read; nothing where stderr is no terminal."""
    return stderr.status(text) if stderr.is_terminal else contextlib.nullcontext()


def complain(text: str) -> None:
    """An error for a person, on stderr."""
    stderr.print("error:", style="bold red", end=" ")
    stderr.print(text, markup=False)


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
    for part in parts:
        stdout.print(part, soft_wrap=False)


def count_text(number: int | None) -> str:
    """``1,234,567``; a question mark for what is not known."""
    return "?" if number is None else f"{number:,}"


def seconds_text(seconds: float | None) -> str:
    """``0.4 s``, ``12 s``, ``3 m 05 s``, ``2 h 10 m``, ``4 d 03 h``; a question mark for what is not known."""
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
