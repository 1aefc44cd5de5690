"""Which plots are made from which results, as SVG beside docs/benchmarks.md. Pure, but for `write`."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path

from bench import failover_report, live_report, throughput_report
from bench.charts import Bar, Panel, draw
from bench.contenders import REPLAYER
from bench.text import Column, Row, grouped

FOLDER = "benchmarks"
"""Beside the document."""


def bar(label: str, contender: str, runs: Iterable[Row], column: Column) -> Bar:
    """Median, and range."""
    values = column.values(runs)
    if not values:
        return Bar(label, contender, None, 0, 0, column.lacking)
    middle = statistics.median(values)
    return Bar(label, contender, middle, min(values), max(values), f"{middle:,.{column.digits}f}")


def _bars(runs: Iterable[Row], column: Column, skip: Sequence[str] = ()) -> list[Bar]:
    groups = grouped(runs, "contender")
    return [bar(name, name, group, column) for (name,), group in groups.items() if name not in skip]


def _draining(document: Row) -> dict[str, str]:
    """Rate, CPU, memory and start, by size; the replayer is a line where it counts."""
    kind = document["kind"]
    by_size = dict(sorted(grouped(document["result"], "size_bytes", "records").items()))

    def panels(column: Column, *, has_limit: bool = False) -> list[Panel]:
        made = []
        for (size, records), runs in by_size.items():
            limit = bar("", "", [run for run in runs if run["contender"] == REPLAYER], column) if has_limit else None
            made.append(
                Panel(
                    throughput_report.amount(size, records),
                    _bars(runs, column, (REPLAYER,)),
                    limit.value if limit else None,
                    f"the broker's own limit: {limit.text}" if limit and limit.value is not None else "",
                )
            )
        return made

    what = "tiny batches: " if kind == "tiny" else ""
    rate = draw(f"{what}records per second, second half", panels(throughput_report.RATE, has_limit=True))
    cpu = draw(f"{what}CPU for each record, second half, µs", panels(throughput_report.CPU))
    if kind == "tiny":
        return {"tiny-throughput.svg": rate, "tiny-cpu.svg": cpu}
    first = Panel("all sizes", _bars(document["result"], throughput_report.FIRST, (REPLAYER,)))
    return {
        "throughput.svg": rate,
        "cpu.svg": cpu,
        "memory.svg": draw("peak resident memory, MiB", panels(throughput_report.RSS)),
        "start-up.svg": draw("from the start of the process to the first record, seconds", [first]),
    }


def _latency(document: Row) -> dict[str, str]:
    panels = [Panel(it.heading, _bars(document["result"], it)) for it in (live_report.P50, live_report.P99)]
    return {"latency.svg": draw("age of records when a reader of the target gets them, 10,000 rec/s", panels)}


def _partitions(document: Row) -> dict[str, str]:
    groups = grouped(document["result"], "contender", "partitions")
    bars = [
        bar(f"{name}, {count:,} partitions", name, group, live_report.CORES) for (name, count), group in groups.items()
    ]
    busy = document["result"][0]["busy"]
    return {"partitions.svg": draw("idle partitions", [Panel(f"CPU in cores; {busy} partitions are busy", bars)])}


def _takeover(document: Row) -> dict[str, str]:
    bars = _bars(document["result"], live_report.TAKEOVER)
    return {"takeover.svg": draw("a worker is killed", [Panel("longest pause of a partition, seconds", bars)])}


def _failover(document: Row) -> dict[str, str]:
    """Records read again, and freshness, by lag."""
    groups = failover_report.by_lag(document["result"])

    def panel(column: Column) -> Panel:
        bars = [bar(f"{name}, lag {lag:,}", name, group, column) for (lag, name), group in groups.items()]
        return Panel(column.heading, bars)

    never = failover_report.NEVER
    moves = (("planned move", "planned_reread"), ("failover", "failover_reread"))
    reread = [Column(f"after a {it}", "", key) for it, key in moves]
    fresh = [Column(f"{it}, seconds", "", f"offset_{it}_s", 2, lacking=never) for it in ("p50", "p99")]
    return {
        "reread.svg": draw("records that a moved group reads again", [panel(it) for it in reread]),
        "freshness.svg": draw("from a commit until the target's group offset covers it", [panel(it) for it in fresh]),
    }


_OF = {
    "throughput": _draining,
    "tiny": _draining,
    "latency": _latency,
    "partitions": _partitions,
    "takeover": _takeover,
    "failover": _failover,
}


def plots(document: Row | None) -> dict[str, str]:
    """By file name, those of one result."""
    kind = document["kind"] if document is not None else ""
    return _OF[kind](document) if document is not None and document["result"] and kind in _OF else {}


def links(document: Row) -> str:
    """Them, in Markdown."""
    return "".join(f"![{Path(name).stem}]({FOLDER}/{name})\n\n" for name in plots(document))


def write(folder: Path, documents: Iterable[Row | None]) -> None:
    """All plots of these results; others that are there go."""
    wanted = {folder / name: text for it in documents for name, text in plots(it).items()}
    folder.mkdir(parents=True, exist_ok=True)
    for file in folder.glob("*.svg"):
        if file not in wanted:
            file.unlink()
    for file, text in wanted.items():
        file.write_text(text)
