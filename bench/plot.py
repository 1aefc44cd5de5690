"""Draws saved runs as SVG: `python -m bench.plot [FILE…] [--out FOLDER]`; needs `pip install 'replicator[bench]'`.

Without arguments it draws what is published: bench/published → docs/benchmarks.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import results
from bench.figures import Run, Spread, grouped, runs_of, spread

FOLDER = Path(__file__).parents[1] / "docs" / "benchmarks"
REPLAYER = "replayer"
COLOURS = {"ours": "#2166ac", "mm2": "#b2643c", "": "#777777"}
MIB = 2**20
Document = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Panel:
    """Bars under one heading: the median as a bar, the range as a line.

    Args:
        bars: label and figure; None where a run has none.
        limit: the target broker's own limit.
    """

    heading: str
    bars: Sequence[tuple[str, Spread | None]]
    limit: float | None = None


@dataclass(frozen=True, slots=True)
class Plot:
    """One picture.

    Args:
        unit: of every bar.
        lacking: shown instead of a bar without a figure.
        has_one_scale: whether bars of different panels are compared.
    """

    file: str
    title: str
    unit: str
    panels: Sequence[Panel]
    lacking: str = "none"
    has_one_scale: bool = False


# --- which plots there are: pure --------------------------------------------------------------------------------------


def bars(runs: Iterable[Run], key: str, unit: float = 1) -> list[tuple[str, Spread | None]]:
    """One bar for each contender; the replayer is no contender."""
    groups = grouped(runs, "contender")
    return [(name, spread(some, key, unit)) for (name,), some in groups.items() if name != REPLAYER]


def draining(document: Document) -> list[Plot]:
    """Rate, CPU, memory and start."""
    runs = runs_of(document)
    sizes = dict(sorted(grouped(runs, "size_bytes", "records").items()))

    def panels(key: str, unit: float = 1, *, has_limit: bool = False) -> list[Panel]:
        made = []
        for (size, records), some in sizes.items():
            limit = spread([run for run in some if run["contender"] == REPLAYER], key, unit) if has_limit else None
            made.append(Panel(f"{records:,} records of {size:,} B", bars(some, key, unit), limit and limit.median))
        return made

    is_tiny = document["kind"] == "tiny"
    prefix, what = ("tiny-", "one record per batch") if is_tiny else ("", "draining a backlog")
    rate = panels("half_records_per_s", 1000, has_limit=True)
    found = [
        Plot(f"{prefix}throughput", f"Throughput, {what}", "thousand records/s (second half of the backlog)", rate),
        Plot(f"{prefix}cpu", f"CPU, {what}", "µs of CPU for each record (second half)", panels("half_cpu_us")),
    ]
    if not is_tiny:
        start = Panel("from the start of the process", bars(runs, "first_record_s"))
        found.append(
            Plot("memory", f"Memory, {what}", "peak resident MiB", panels("peak_rss_bytes", MIB), has_one_scale=True)
        )
        found.append(Plot("start-up", "Time to the first record on the target", "seconds", [start]))
    return found


def latencies(document: Document) -> list[Plot]:
    """p50 and p99."""
    runs = runs_of(document)
    panels = [Panel(name, bars(runs, f"{name}_ms")) for name in ("p50", "p99")]
    rate = document["configuration"]["records_per_s"]
    title = f"Age of a record when a consumer of the target gets it, at {rate:,} records/s"
    return [Plot("latency", title, "milliseconds", panels, has_one_scale=True)]


def idle_partitions(document: Document) -> list[Plot]:
    """CPU with and without idle partitions."""
    runs = runs_of(document)
    found = [
        (f"{name}, {count:,} partitions", spread(some, "cores"))
        for (name, count), some in grouped(runs, "contender", "partitions").items()
    ]
    heading = f"{runs[0]['busy']} partitions are busy"
    return [Plot("partitions", "CPU of idle partitions", "CPU cores in use", [Panel(heading, found)])]


def takeovers(document: Document) -> list[Plot]:
    """Time without records after a kill."""
    panel = Panel("one of two workers is killed with kill -9", bars(runs_of(document), "takeover_s"))
    return [Plot("takeover", "Longest time without records on a partition", "seconds", [panel], "longer than measured")]


def moves(document: Document) -> list[Plot]:
    """Records read again, and freshness of the group offsets, by the lag of the group."""
    groups = dict(sorted(grouped(runs_of(document), "lag_records", "contender").items(), key=lambda it: it[0][0]))

    def panel(heading: str, key: str) -> Panel:
        return Panel(heading, [(f"{name}, lag {lag:,}", spread(some, key)) for (lag, name), some in groups.items()])

    again = [panel("after a planned move", "planned_reread"), panel("after a failover", "failover_reread")]
    fresh = [panel(name, f"offset_{name}_s") for name in ("p50", "p99")]
    return [
        Plot("reread", "Records that a moved group reads again", "records", again, has_one_scale=True),
        Plot("freshness", "From a commit until the target's group offset covers it", "seconds", fresh, "never", True),
    ]


PLOTS: dict[str, Callable[[Document], list[Plot]]] = {
    "throughput": draining,
    "tiny": draining,
    "latency": latencies,
    "partitions": idle_partitions,
    "takeover": takeovers,
    "failover": moves,
}
"""By kind; the others are tables only."""


def plots_of(document: Document) -> list[Plot]:
    """The plots of one saved run."""
    return PLOTS[document["kind"]](document) if document["kind"] in PLOTS else []


# --- drawing ----------------------------------------------------------------------------------------------------------


def draw(plot: Plot, folder: Path) -> Path:
    """Write one plot; the same data give the same file."""
    mpl: Any = importlib.import_module("matplotlib")  # here, not above: only drawing needs the extra `bench`
    mpl.use("svg")
    pyplot: Any = importlib.import_module("matplotlib.pyplot")
    style = {"svg.hashsalt": plot.file, "svg.fonttype": "none", "font.size": 9, "axes.spines.top": False}
    with mpl.rc_context({**style, "axes.spines.right": False, "font.family": "sans-serif"}):
        heights = [len(panel.bars) + 1.2 for panel in plot.panels]
        figure, axes = pyplot.subplots(
            len(heights), squeeze=False, figsize=(8, 0.9 + 0.28 * sum(heights)), height_ratios=heights,
            layout="constrained",
        )  # fmt: skip
        figure.suptitle(plot.title, fontsize=11, fontweight="bold", x=0.01, ha="left")
        highest = max((it.high for panel in plot.panels for _, it in panel.bars if it), default=0.0)
        for panel, axis in zip(plot.panels, axes[:, 0], strict=True):
            _draw_panel(axis, panel, plot.lacking)
            if plot.has_one_scale:
                axis.set_xlim(0, highest * 1.18)
        axes[-1, 0].set_xlabel(plot.unit)
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / f"{plot.file}.svg"
        figure.savefig(file, facecolor="white", metadata={"Date": None})
        pyplot.close(figure)
    return file


def _draw_panel(axis: Any, panel: Panel, lacking: str) -> None:
    """Horizontal bars from the top down, each with its median as text."""
    highest = max([it.high for _, it in panel.bars if it] + [panel.limit or 0.0]) or 1.0
    axis.set_title(panel.heading, fontsize=9, loc="left")
    axis.set_yticks(range(len(panel.bars)), [label for label, _ in panel.bars])
    axis.invert_yaxis()
    axis.set_xlim(0, highest * 1.18)
    axis.xaxis.grid(visible=True, color="#dddddd")
    axis.set_axisbelow(True)
    axis.xaxis.set_major_formatter(lambda value, _: f"{value:,.10g}")
    for place, (label, found) in enumerate(panel.bars):
        if found is None:
            axis.text(highest * 0.01, place, lacking, va="center", color="#555555")
            continue
        colour = COLOURS[next((prefix for prefix in COLOURS if label.startswith(prefix)), "")]
        axis.barh(place, found.median, color=colour, height=0.7)
        axis.plot([found.low, found.high], [place, place], color="black", linewidth=1)
        text = f"{found.median:,.3g}" if found.median < 100 else f"{found.median:,.0f}"
        axis.text(found.high + highest * 0.01, place, text, va="center")
    if panel.limit is not None:
        axis.axvline(panel.limit, color="#333333", linestyle="--", linewidth=1)
        where = {"ha": "right", "va": "bottom", "fontsize": 8}
        axis.text(panel.limit, len(panel.bars) - 0.45, "limit of the target's broker ", **where)


def main(arguments: Sequence[str]) -> int:
    """Draw the files."""
    parser = argparse.ArgumentParser(prog="python -m bench.plot", description=__doc__.split("\n")[0])
    parser.add_argument("file", nargs="*", type=Path, help="saved runs; default: bench/published/*.json")
    parser.add_argument("--out", type=Path, default=FOLDER, help="default: docs/benchmarks")
    options = parser.parse_args(arguments)
    for file in options.file or sorted(results.PUBLISHED.glob("*.json")):
        for plot in plots_of(results.load(file)):
            print(draw(plot, options.out))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
