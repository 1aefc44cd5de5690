"""Latency, idle partitions and takeovers, as tables: for the terminal, and for docs/benchmarks.md. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.console import RenderableType

from bench.text import Column, Row, about, grouped, idleness, markdown, terminal, times

OTHERS = Column("used by others, %", "others %", "other_cpu", unit=0.01)
RSS = Column("peak RSS MiB", "peak MiB", "peak_rss_bytes", unit=2**20)
P50 = Column("p50 ms", "p50 ms", "p50_ms")
P99 = Column("p99 ms", "p99 ms", "p99_ms")
CORES = Column("CPU, cores", "cores", "cores", 3)
TAKEOVER = Column("takeover s", "takeover s", "takeover_s", 1, lacking="not in time")

LATENCY = (
    P50,
    P99,
    Column("longest ms", "max ms", "max_ms"),
    Column("rec/s", "rec/s", "records_per_s"),
    Column("CPU µs/record", "µs/rec", "cpu_us", 1),
    RSS,
    OTHERS,
)
PARTITIONS = (CORES, Column("rec/s", "rec/s", "records_per_s"), RSS, OTHERS)
TAKEOVERS = (TAKEOVER, Column("share of the killed worker before, %", "share %", "killed_share", unit=0.01), OTHERS)

ON_LATENCY = """## Latency

Made by `python -m bench latency`. A producer writes records of 100 B to 4 partitions of the source at a steady rate, in
lz4 batches with a linger of 5 ms; a read_committed consumer on the target compares each record's timestamp, which the
producer's client sets when it is handed the record, with the clock when it gets it. One machine, so one clock.
`reader-of-source` is the same consumer on the source: below that nobody can be. Afterwards every record has to be on
the target once, in order.
"""
ON_PARTITIONS = """## Idle partitions

Made by `python -m bench partitions`. The same load on the same few partitions, first alone, then among many that hold
nothing.
"""
ON_TAKEOVER = """## Takeover

Made by `python -m bench takeover`. Two workers share 4 partitions under a load of 10,000 rec/s, and the one that worked
more is killed with SIGKILL. The time of a partition ends when a read_committed consumer on the target gets the first
record that was written after the kill; the table shows the longest of the four. Afterwards every record has to be on
the target once, in order. With defaults, a worker of ours counts as gone after 10 s. Kafka Connect hands the work of a
worker that left to others 5 minutes later (`scheduled.rebalance.max.delay.ms`), but at once if that worker led its
group: so rounds may differ much.
"""


def rows(runs: Sequence[Row], columns: Sequence[Column], *labels: str) -> list[list[str]]:
    """One row per combination of labels: these, the columns, and the number of runs."""
    table = []
    for key, group in grouped(runs, *labels).items():
        names = [f"{it:,}" if isinstance(it, int) else str(it) for it in key]
        table.append([*names, *(it.cell(group) for it in columns), str(len(group))])
    return table


def headings(columns: Iterable[Column], *labels: str) -> list[str]:
    """In documents."""
    return [*labels, *(it.heading for it in columns), "runs"]


def _short(columns: Iterable[Column], *labels: str) -> list[str]:
    return [*labels, *(it.short for it in columns), "runs"]


def partition_ratios(runs: Sequence[Row]) -> list[tuple[str, int, int, float | None]]:
    """By contender: the busy partitions, all of them, and what all cost as a multiple of the busy ones alone."""
    found = []
    for (name,), some in grouped(runs, "contender").items():
        groups = grouped(some, "partitions")
        busy = some[0]["busy"]
        alone = groups.get((busy,), [])
        for (partitions,), group in groups.items():
            if partitions != busy:
                found.append((name, busy, partitions, CORES.ratio(group, alone)))
    return found


def latency_table(document: Row) -> RenderableType:
    """For the terminal."""
    title = f"Age of records when a reader gets them, medians (range), {document['at']}"
    return terminal(title, _short(LATENCY, "contender"), rows(document["result"], LATENCY, "contender"))


def partitions_table(document: Row) -> RenderableType:
    """For the terminal."""
    runs = document["result"]
    title = f"Idle partitions, medians (range), {document['at']}"
    labels = ("contender", "partitions")
    compared = [
        [f"{name}, multiple", f"{many:,} / {few:,}", times(ratio), *[""] * len(PARTITIONS)]
        for name, few, many, ratio in partition_ratios(runs)
    ]
    return terminal(title, _short(PARTITIONS, *labels), rows(runs, PARTITIONS, *labels), compared, labels=2)


def takeover_table(document: Row) -> RenderableType:
    """For the terminal."""
    title = f"Takeover after SIGKILL, medians (range), {document['at']}"
    return terminal(title, _short(TAKEOVERS, "contender"), rows(document["result"], TAKEOVERS, "contender"))


def latency_section(document: Row, plots: str) -> list[str]:
    """The part of docs/benchmarks.md."""
    found = rows(document["result"], LATENCY, "contender")
    return [ON_LATENCY, markdown(headings(LATENCY, "contender"), found), plots, about(document) + idleness(document)]


def partitions_section(document: Row, plots: str) -> list[str]:
    """The part of docs/benchmarks.md."""
    runs = document["result"]
    labels = ("contender", "partitions")
    parts = [ON_PARTITIONS, markdown(headings(PARTITIONS, *labels), rows(runs, PARTITIONS, *labels))]
    for name, few, many, ratio in partition_ratios(runs):
        parts.append(f"`{name}`: {many:,} partitions, {few:,} of them busy, cost {times(ratio)} the CPU of {few:,}.\n")
    return [*parts, plots, about(document) + idleness(document)]


def takeover_section(document: Row, plots: str) -> list[str]:
    """The part of docs/benchmarks.md."""
    found = rows(document["result"], TAKEOVERS, "contender")
    return [ON_TAKEOVER, markdown(headings(TAKEOVERS, "contender"), found), plots, about(document) + idleness(document)]
