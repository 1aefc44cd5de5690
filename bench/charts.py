"""Bars as SVG, drawn by hand: no library, and the same bytes for the same figures, so that a test can compare. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

WIDTH = 760
LEFT, RIGHT = 210, 130
"""For the labels, and for the figures behind the bars."""
BAR, STEP = 16, 24
TITLE, HEAD, AXIS, GAP = 34, 26, 26, 14
INK, PALE, GRID, LIMIT = "#24292f", "#57606a", "#d0d7de", "#1a7f37"
COLOURS = {"ours": "#0969da", "mm2": "#bc4c00"}
OTHER = "#8c959f"
TICKS = 5


@dataclass(frozen=True, slots=True)
class Bar:
    """One figure.

    Args:
        contender: decides the colour.
        value: None: there is none, and `text` says so.
        low, high: the range over runs.
        text: the figure as it is written.
    """

    label: str
    contender: str
    value: float | None
    low: float
    high: float
    text: str


@dataclass(frozen=True, slots=True)
class Panel:
    """Bars with one scale.

    Args:
        limit: drawn as a line through all bars.
        limit_label: what it is.
    """

    title: str
    bars: Sequence[Bar]
    limit: float | None = None
    limit_label: str = ""

    @property
    def height(self) -> int:
        return HEAD + STEP * len(self.bars) + AXIS + GAP


def draw(title: str, panels: Sequence[Panel]) -> str:
    """One picture, panels below each other."""
    height = TITLE + sum(panel.height for panel in panels)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" '
        'font-family="system-ui, sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
        _text(16, 22, title, size=15, weight="600"),
    ]
    top = TITLE
    for panel in panels:
        parts += _panel(panel, top)
        top += panel.height
    return "\n".join([*parts, "</svg>"]) + "\n"


def scale(largest: float) -> list[float]:
    """Round numbers from 0 on, about `TICKS` of them; the last is not below `largest`."""
    if largest <= 0:
        return [0.0, 1.0]
    rough = largest / TICKS
    power = 10 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * 0.999)
    return [step * number for number in range(math.ceil(largest / step - 1e-9) + 1)]


def short(number: float) -> str:
    """For the axis."""
    for unit, suffix in ((1e6, "M"), (1e3, "k")):
        if number >= unit:
            return f"{number / unit:g}{suffix}"
    return f"{number:g}"


def _panel(panel: Panel, top: int) -> list[str]:
    found = [bar.high for bar in panel.bars if bar.value is not None]
    ticks = scale(max([*found, panel.limit or 0.0], default=0.0))
    bottom = top + HEAD + STEP * len(panel.bars)

    def x(value: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * value / ticks[-1]

    parts = [_text(16, top + 16, panel.title, weight="600")]
    for tick in ticks:
        parts.append(_line(x(tick), top + HEAD - 4, x(tick), bottom, GRID))
        parts.append(_text(x(tick), bottom + 14, short(tick), colour=PALE, anchor="middle", size=10))
    for number, bar in enumerate(panel.bars):
        parts += _bar(bar, top + HEAD + STEP * number, x(bar.value or 0), x(bar.low), x(bar.high))
    if panel.limit is not None:
        at = x(panel.limit)
        parts.append(_line(at, top + HEAD - 6, at, bottom, LIMIT, width=2, dashes="5 3"))
        parts.append(_text(at, top + 16, panel.limit_label, colour=LIMIT, anchor="end", size=11))
    return parts


def _bar(bar: Bar, top: int, end: float, low: float, high: float) -> list[str]:
    colour = next((it for prefix, it in COLOURS.items() if bar.contender.startswith(prefix)), OTHER)
    opacity = 1.0 if bar.contender in {"ours", "ours-batches", "mm2-tuned-eos"} else 0.55
    middle = top + BAR // 2
    parts = [_text(LEFT - 8, middle + 4, bar.label, anchor="end")]
    if bar.value is not None:
        box = f'x="{LEFT}" y="{top}" width="{max(1.0, end - LEFT):.1f}" height="{BAR}"'
        parts.append(f'<rect {box} fill="{colour}" fill-opacity="{opacity:g}"/>')
        if high > low:
            parts.append(_line(low, middle, high, middle, INK))
            parts += [_line(it, middle - 4, it, middle + 4, INK) for it in (low, high)]
    parts.append(_text(max(end, high) + 6 if bar.value is not None else LEFT + 6, middle + 4, bar.text, size=11))
    return parts


def _line(x1: float, y1: float, x2: float, y2: float, colour: str, *, width: int = 1, dashes: str = "") -> str:
    style = f' stroke-dasharray="{dashes}"' if dashes else ""
    ends = f'x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"'
    return f'<line {ends} stroke="{colour}" stroke-width="{width}"{style}/>'


def _text(
    x: float, y: float, text: str, *, size: int = 12, colour: str = INK, anchor: str = "start", weight: str = "400"
) -> str:
    style = f'font-size="{size}" font-weight="{weight}" fill="{colour}" text-anchor="{anchor}"'
    return f'<text x="{x:.1f}" y="{y:.1f}" {style}>{escape(text)}</text>'
