"""Figures of saved runs: medians with their range, as a Markdown table. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

Run = Mapping[str, Any]
LABELS = ("contender", "size_bytes", "records", "partitions", "busy", "lag_records")
"""Keys that identify a case; every other number is a figure."""
NO_FIGURES = ("round", "limit_s")


class Spread(NamedTuple):
    """A figure over the rounds."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        is_whole = all(value == int(value) for value in self)
        digits = 0 if is_whole or self.high >= 100 else 1 if self.high >= 10 else 3
        text = f"{self.median:,.{digits}f}"
        return text if self.low == self.high else f"{text} ({self.low:,.{digits}f} to {self.high:,.{digits}f})"


def runs_of(document: Mapping[str, Any]) -> list[Run]:
    """The runs of a saved document; of `failover`, one for each group."""
    result = document["result"]
    runs: list[Run] = result if isinstance(result, list) else [result]
    if document["kind"] == "failover":
        return [{**run, **group} for run in runs for group in run["groups"]]
    if document["kind"] == "offset-map":
        return [{**run, **age} for run in runs for age in run["ages"]]
    return runs


def grouped(runs: Iterable[Run], *keys: str) -> dict[tuple[Any, ...], list[Run]]:
    """Runs by the values of these keys, in the order in which they come first."""
    found: dict[tuple[Any, ...], list[Run]] = {}
    for run in runs:
        found.setdefault(tuple(run[key] for key in keys), []).append(run)
    return found


def spread(runs: Iterable[Run], key: str, unit: float = 1) -> Spread | None:
    """A figure of these runs; None when one of them has none.

    Args:
        unit: what one is, in the unit of the runs.
    """
    values = [run[key] for run in runs]
    if not values or None in values:
        return None
    values = [value / unit for value in values]
    return Spread(statistics.median(values), min(values), max(values))


def table(document: Mapping[str, Any]) -> str:
    """Every figure of a document, one row per combination of labels, as Markdown."""
    runs = runs_of(document)
    first = runs[0]
    labels = [key for key in LABELS if key in first] if document["kind"] != "offset-map" else ["runs"]
    figures = [key for key in first if key not in (*labels, *NO_FIGURES) and _is_figure(runs, key)]
    rows = [
        [*(f"{it:,}" if isinstance(it, int) else str(it) for it in label), *_cells(group, figures), str(len(group))]
        for label, group in grouped(runs, *labels).items()
    ]
    headings = [*labels, *figures, "rounds"]
    return "\n".join(f"| {' | '.join(row)} |" for row in (headings, ["---"] * len(headings), *rows))


def _cells(runs: Sequence[Run], figures: Iterable[str]) -> list[str]:
    return [str(found) if (found := spread(runs, key)) is not None else "none" for key in figures]


def _is_figure(runs: Iterable[Run], key: str) -> bool:
    return all(run[key] is None or isinstance(run[key], int | float) for run in runs)
