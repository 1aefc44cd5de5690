"""How figures are written down: medians with their range, tables, and on what they were measured. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.table import Table

LACKING = "–"
Row = dict[str, Any]
Groups = Mapping[tuple[Any, ...], Sequence[Row]]


def spread(values: Sequence[float], digits: int = 0) -> str:
    """The median, and the range when there are several."""
    middle = f"{statistics.median(values):,.{digits}f}"
    if len(values) == 1:
        return middle
    return f"{middle} ({min(values):,.{digits}f} to {max(values):,.{digits}f})"


@dataclass(frozen=True, slots=True)
class Column:
    """A figure of runs.

    Args:
        heading: in documents; `short` on the terminal.
        key: of the runs' dictionaries.
        unit: what one is, in the unit of the dictionaries.
        lacking: what is written when a run has no such figure.
    """

    heading: str
    short: str
    key: str
    digits: int = 0
    unit: float = 1
    lacking: str = LACKING

    def values(self, runs: Iterable[Row]) -> list[float] | None:
        """Of these runs; None when one has none."""
        found = [run[self.key] for run in runs]
        return None if None in found else [value / self.unit for value in found]

    def cell(self, runs: Iterable[Row]) -> str:
        """Median and range."""
        values = self.values(runs)
        return spread(values, self.digits) if values else self.lacking

    def ratio(self, runs: Iterable[Row], base: Iterable[Row]) -> float | None:
        """The median as a multiple of that of `base`; None where there is none."""
        own, other = self.values(runs), self.values(base)
        if not own or not other or not statistics.median(other):
            return None
        return statistics.median(own) / statistics.median(other)


def grouped(runs: Iterable[Row], *keys: str) -> dict[tuple[Any, ...], list[Row]]:
    """By the values of these keys, in the order in which they come first."""
    found: dict[tuple[Any, ...], list[Row]] = {}
    for run in runs:
        found.setdefault(tuple(run[key] for key in keys), []).append(run)
    return found


def times(ratio: float | None, digits: int = 2) -> str:
    """A ratio."""
    return LACKING if ratio is None else f"{ratio:,.{digits}f} ×"


def markdown(headings: Sequence[str], table: Iterable[Sequence[str]]) -> str:
    """A table."""
    lines = [f"| {' | '.join(row)} |" for row in (headings, ["---"] * len(headings), *table)]
    return "\n".join(lines) + "\n"


def terminal(
    title: str, headings: Sequence[str], rows: Iterable[Sequence[str]], compared: Iterable[Sequence[str]] = (), *,
    labels: int = 1,
) -> Table:  # fmt: skip
    """A table for the terminal.

    Args:
        compared: rows in a part of their own.
        labels: how many columns are texts.
    """
    made = Table(title=title)
    for number, heading in enumerate(headings):
        made.add_column(heading, justify="left" if number < labels else "right")
    for row in rows:
        made.add_row(*row)
    made.add_section()
    for row in compared:
        made.add_row(*row, style="bold")
    return made


def about(document: Row) -> str:
    """When and on what a result was measured."""
    facts = ", ".join(f"{key} {value}" for key, value in document["machine"].items())
    return f"Measured {document['at']} on: {facts}.\n"


def idleness(document: Row) -> str:
    """Whether the machine did something else meanwhile."""
    others = [run["other_cpu"] for run in document["result"]]
    return (
        f"Processes that have nothing to do with it used {statistics.median(others):.0%} of the machine (median; at"
        f" most {max(others):.0%}).\n"
    )
