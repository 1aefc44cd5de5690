"""How figures are written down: medians with their range, Markdown tables, and on what they were measured. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from typing import Any


def spread(values: Sequence[float], digits: int = 0) -> str:
    """The median, and the range when there are several."""
    middle = f"{statistics.median(values):,.{digits}f}"
    if len(values) == 1:
        return middle
    return f"{middle} ({min(values):,.{digits}f} to {max(values):,.{digits}f})"


def markdown(headings: Sequence[str], table: Iterable[Sequence[str]]) -> str:
    """A table."""
    lines = [f"| {' | '.join(row)} |" for row in (headings, ["---"] * len(headings), *table)]
    return "\n".join(lines) + "\n"


def about(document: dict[str, Any]) -> str:
    """When and on what a result was measured."""
    facts = ", ".join(f"{key} {value}" for key, value in document["machine"].items())
    return f"Measured {document['at']} on: {facts}.\n"
