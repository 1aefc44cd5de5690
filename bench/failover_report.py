"""What moves cost groups, as tables: for the terminal, and for docs/benchmarks.md. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence

from rich.console import Group, RenderableType
from rich.table import Table

from bench.text import Row, about, grouped, idleness, markdown, spread

REFERENCE = "mm2-tuned-eos"
COSTS = (
    "contender",
    "lag of the group",
    "read again, planned move",
    "read again, failover",
    "skipped",
    "group offset, p50 s",
    "p99 s",
    "checkpoint, p50 s",
    "p99 s",
)
TIMES = (
    "contender",
    "planned move, s",
    "until the first record, s",
    "failover, s",
    "until the first record, s",
    "not replicated when the source died",
    "load, rec/s",
    "used by others",
    "rounds",
)
SHORT_COSTS = ("contender", "lag", "again: plan", "failover", "skipped", "offset p50", "p99", "checkp. p50", "p99")
SHORT_TIMES = ("contender", "plan s", "first s", "failover s", "first s", "not repl.", "rec/s", "others", "rounds")
FRESHNESS = ("offset_p50_s", "offset_p99_s", "checkpoint_p50_s", "checkpoint_p99_s")
REREAD = ("planned_reread", "failover_reread")
NEVER = "never"


def _spread(values: Iterable[float | None], digits: int, lacking: str) -> str:
    """Median and range; `lacking` when a value is missing."""
    found = list(values)
    known = [value for value in found if value is not None]
    return spread(known, digits) if len(known) == len(found) else lacking


def by_lag(runs: Iterable[Row]) -> dict[tuple[int, str], list[Row]]:
    """The groups' rows, by their lag and the contender."""
    found: dict[tuple[int, str], list[Row]] = {}
    for run in runs:
        for group in run["groups"]:
            found.setdefault((group["lag_records"], run["contender"]), []).append(group)
    return dict(sorted(found.items(), key=lambda item: item[0][0]))


def cost_rows(runs: Sequence[Row]) -> list[list[str]]:
    """One row per lag and contender, as in `COSTS`."""
    return [
        [
            name,
            f"{lag:,}",
            *(spread([group[key] for group in groups]) for key in REREAD),
            f"{sum(group['planned_skipped'] + group['failover_skipped'] for group in groups):,}",
            *(_spread((group[key] for group in groups), 2, NEVER) for key in FRESHNESS),
        ]
        for (lag, name), groups in by_lag(runs).items()
    ]


def time_rows(runs: Sequence[Row]) -> list[list[str]]:
    """One row per contender, as in `TIMES`; of first records that of the group that waited longest."""
    table = []
    for (name,), some in grouped(runs, "contender").items():
        table.append(
            [
                name,
                _spread((run["planned_s"] for run in some), 1, "no step"),
                _spread((_slowest(run, "planned_first_s") for run in some), 1, "none"),
                _spread((run["failover_s"] for run in some), 1, "no step"),
                _spread((_slowest(run, "failover_first_s") for run in some), 1, "none"),
                spread([run["unreplicated_records"] for run in some]),
                spread([run["records_per_s"] for run in some]),
                f"{max(run['other_cpu'] for run in some):.0%}",
                str(len(some)),
            ]
        )
    return table


def _slowest(run: Row, key: str) -> float | None:
    """A group that had read everything meets no record: it counts for nothing here."""
    return max((group[key] for group in run["groups"] if group[key] is not None), default=None)


def ratio_rows(runs: Sequence[Row], reference: str = REFERENCE) -> list[list[str]]:
    """The medians of every other contender as multiples of the reference's, by lag; empty without the reference."""
    groups = by_lag(runs)
    table = []
    for (lag, name), group in groups.items():
        base = groups.get((lag, reference))
        if base is not None and name != reference:
            cells = [_ratio(group, base, key) for key in (*REREAD, *FRESHNESS)]
            table.append([f"{name} / {reference}", f"{lag:,}", *cells[:2], "", *cells[2:]])
    return table


def _ratio(group: Sequence[Row], base: Sequence[Row], key: str) -> str:
    own, other = ([row[key] for row in rows] for rows in (group, base))
    if None in own or None in other or not statistics.median(other):
        return "–"
    return f"{statistics.median(own) / statistics.median(other):.3f} ×"


def table(document: Row) -> RenderableType:
    """For the terminal."""
    runs = document["result"]
    costs = _table(SHORT_COSTS, title=f"Moves of groups under load, medians (range), {document['at']}")
    for row in cost_rows(runs):
        costs.add_row(*row)
    costs.add_section()
    for row in ratio_rows(runs):
        costs.add_row(*row, style="bold")
    times = _table(SHORT_TIMES, caption=about(document))
    for row in time_rows(runs):
        times.add_row(*row)
    return Group(costs, times)


def _table(headings: Sequence[str], *, title: str | None = None, caption: str | None = None) -> Table:
    made = Table(title=title, caption=caption, caption_justify="left")
    for heading in headings:
        is_name = heading == "contender"
        made.add_column(heading, justify="left" if is_name else "right", min_width=13 if is_name else None)
    return made


EXPLANATION = """## Moving groups

Made by `python -m bench failover --full`. The source holds 110,000 records of 100 B on 4 partitions, and a producer
writes 10,000 more every second, from before the start of the contender until the source dies. Two groups at each
lag commit on the source four times a second. Then the consumers of one group of each lag stop, and it is moved while
the load goes on; after that the source's broker is killed with SIGKILL, and the other groups are moved. On the target
one consumer of each group starts where the group's offset is.

Every record has a number, so *read again* and *skipped* compare what the group had committed on the source with
where it goes on, over all partitions. *Group offset* and *checkpoint* are how fresh they are: the time from a commit
on the source until a group that starts at the target's offset would read nothing again that the commit covers.

* `ours…`: `replicator switchover` and `replicator failover --accept-data-loss`, as processes of their own; their start
  is in the times.
* `mm2-tuned-eos`: no command moves groups. After a planned stop of the consumers the operator waits until the offsets
  that it writes to the target change no more; the time ends at the last change, as if one could know that it was the
  last. After a failover consumers start at once, with what is there.
* `mm2-stock-eos`: as it comes it writes checkpoints every 60 s, and no group offsets; what the checkpoints say is
  committed for the groups by the operator's program.
* The first record's time holds the operator's step, and is that of the group that waited longest. How long it takes to
  find out that the source is gone is in none of the times.
"""


def section(document: Row, plots: str) -> list[str]:
    """The part of docs/benchmarks.md."""
    runs = document["result"]
    parts = [EXPLANATION, markdown(COSTS, cost_rows(runs)), markdown(TIMES, time_rows(runs))]
    if compared := ratio_rows(runs):
        parts.append("Medians, as multiples of the tuned MirrorMaker 2:\n")
        headings = [*COSTS[:4], *COSTS[5:]]
        parts.append(markdown(headings, [[*row[:4], *row[5:]] for row in compared]))
    parts.append(plots)
    parts.append(about(document) + idleness(document))
    return parts
