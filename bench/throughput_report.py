"""Draining a backlog, as tables: for the terminal, and for docs/benchmarks.md. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import RenderableType

from bench.contenders import REPLAYER
from bench.text import LACKING, Column, Groups, Row, about, grouped, idleness, markdown, terminal, times

REFERENCE = "mm2-tuned-eos"
RATE = Column("rec/s, second half", "rec/s, 2nd half", "half_records_per_s")
CPU = Column("CPU µs/record, second half", "µs/rec, 2nd half", "half_cpu_us", 2)
CPU_WHOLE = Column("CPU µs/record, whole run", "µs/rec", "cpu_us", 2)
RSS = Column("peak RSS MiB", "peak MiB", "peak_rss_bytes", unit=2**20)
FIRST = Column("first record s", "first s", "first_record_s", 1)
COLUMNS = (
    Column("rec/s, whole run", "rec/s", "records_per_s"),
    RATE,
    CPU,
    CPU_WHOLE,
    RSS,
    FIRST,
)
NOT_OF_THE_REPLAYER = (RSS, FIRST)
"""It holds the whole topic, and counts from when it does."""
HEADINGS = ("contender", "record", *(it.heading for it in COLUMNS), "runs")
SHORT = ("contender", "record", *(it.short for it in COLUMNS), "runs")
LIMIT = "of the replayer's rec/s"

TINY = """## A source of tiny batches

Made by `python -m bench tiny`: the same, but the source's producer sent every record in a batch of its own. What is
measured is in the rest as above.
"""


def by_size(runs: Sequence[Row]) -> Groups:
    """By size, number of records, and contender, in order of the first two."""
    groups = grouped(runs, "size_bytes", "records", "contender")
    return dict(sorted(groups.items(), key=lambda item: item[0][:2]))


def amount(size: int, records: int) -> str:
    """What was drained."""
    return f"{records:,} × {size:,} B"


def rows(runs: Sequence[Row]) -> list[list[str]]:
    """One row per size and contender, as in `HEADINGS`."""
    return [
        [
            name,
            amount(size, records),
            *(LACKING if name == REPLAYER and it in NOT_OF_THE_REPLAYER else it.cell(group) for it in COLUMNS),
            str(len(group)),
        ]
        for (size, records, name), group in by_size(runs).items()
    ]


def ratios(runs: Sequence[Row], reference: str = REFERENCE) -> list[list[str]]:
    """Every contender's medians as multiples of the reference's, per size; empty without the reference.

    The last cell is its share of what the replayer reached.
    """
    groups = by_size(runs)
    table = []
    for (size, records, name), group in groups.items():
        base = groups.get((size, records, reference))
        if base is None or name in {reference, REPLAYER}:
            continue
        cells = [times(it.ratio(group, base), 3 if it in (CPU,) else 2) for it in COLUMNS]
        share = RATE.ratio(group, groups.get((size, records, REPLAYER), ()))
        table.append(
            [f"{name} / {reference}", amount(size, records), *cells, LACKING if share is None else f"{share:.0%}"]
        )
    return table


def table(document: Row) -> RenderableType:
    """For the terminal."""
    kind = {"throughput": "Draining a backlog", "tiny": "Draining tiny batches"}[document["kind"]]
    runs = document["result"]
    title = f"{kind}, medians (range), {document['at']}; below: multiples, and share of the replayer's rec/s"
    return terminal(title, SHORT, rows(runs), ratios(runs), labels=2)


def section(document: Row, plots: str) -> list[str]:
    """The part of docs/benchmarks.md."""
    heading = TINY if document["kind"] == "tiny" else "## Draining a backlog\n"
    parts = [heading, markdown(HEADINGS, rows(document["result"]))]
    if compared := ratios(document["result"]):
        parts.append("Medians, as multiples of the tuned MirrorMaker 2; and the share of what the replayer reached:\n")
        parts.append(markdown([*HEADINGS[:-1], LIMIT], compared))
    return [*parts, plots, about(document) + idleness(document)]
