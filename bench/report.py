"""Tables from saved results: for the terminal, and as docs/benchmarks.md."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from bench import failover_report
from bench.results import Kind
from bench.text import about, markdown, spread

DOCUMENT = Path(__file__).parents[1] / "docs" / "benchmarks.md"
REFERENCE = "mm2-tuned-eos"
HEADINGS = (
    "contender",
    "record",
    "rec/s, whole run",
    "rec/s, second half",
    "CPU µs/record, second half",
    "CPU µs/record, whole run",
    "peak RSS MiB",
    "first record s",
    "runs",
)
SHORT = ("contender", "record", "rec/s", "rec/s, 2nd half", "µs/rec, 2nd half", "µs/rec", "peak MiB", "first s", "runs")
AGES = ("age of the position, in transactions", "translate µs", "translate back µs", "records left to count, at most")
KEYS = ("records_per_s", "half_records_per_s", "half_cpu_us", "cpu_us", "peak_rss_bytes", "first_record_s")


def _groups(runs: Iterable[dict[str, Any]]) -> dict[tuple[int, str], list[dict[str, Any]]]:
    groups: dict[tuple[int, str], list[dict[str, Any]]] = {}
    for run in runs:
        groups.setdefault((run["size_bytes"], run["contender"]), []).append(run)
    return dict(sorted(groups.items(), key=lambda item: item[0][0]))


def rows(runs: Sequence[dict[str, Any]]) -> list[list[str]]:
    """One row per size and contender, as in `HEADINGS`."""
    table = []
    for (size, name), group in _groups(runs).items():
        mib = [run["peak_rss_bytes"] / 2**20 for run in group]
        table.append(
            [
                name,
                f"{group[0]['records']:,} × {size:,} B",
                spread([run["records_per_s"] for run in group]),
                spread([run["half_records_per_s"] for run in group]),
                spread([run["half_cpu_us"] for run in group], 2),
                spread([run["cpu_us"] for run in group], 2),
                spread(mib),
                spread([run["first_record_s"] for run in group], 1),
                str(len(group)),
            ]
        )
    return table


def ratios(runs: Sequence[dict[str, Any]], reference: str = REFERENCE) -> list[list[str]]:
    """Every contender's medians as a multiple of the reference's, per size; empty without the reference."""
    groups = _groups(runs)
    table = []
    for (size, name), group in groups.items():
        base = groups.get((size, reference))
        if base is None or name == reference:
            continue
        cells = []
        for key in KEYS:
            own = statistics.median(run[key] for run in group)
            cells.append(f"{own / max(1e-9, statistics.median(run[key] for run in base)):.2f} ×")
        table.append([f"{name} / {reference}", f"{size:,} B", *cells, ""])
    return table


def throughput_table(document: dict[str, Any]) -> Table:
    """For the terminal."""
    table = Table(title=f"Draining a backlog, medians (range), {document['at']}")
    for heading in SHORT:
        table.add_column(heading, justify="left" if heading in SHORT[:2] else "right")
    for row in rows(document["result"]):
        table.add_row(*row)
    table.add_section()
    for row in ratios(document["result"]):
        table.add_row(*row, style="bold")
    return table


def memory_rows(document: dict[str, Any]) -> list[tuple[str, str]]:
    """What the memory run found, name and value."""
    found = document["result"]
    return [
        ("backlog", f"{found['backlog_bytes'] / 2**20:,.0f} MiB, {found['records']:,} records"),
        ("partitions", f"{found['partitions']:,}"),
        ("worker.buffer_bytes", f"{found['buffer_bytes'] / 2**20:,.0f} MiB"),
        ("RSS with every partition assigned, before the first record", f"{found['base_bytes'] / 2**20:,.0f} MiB"),
        ("peak while it drained", f"{found['drain_peak_bytes'] / 2**20:,.0f} MiB"),
        (
            f"peak while the target stood still for {found['stall_s']:.0f} s",
            f"{found['stall_peak_bytes'] / 2**20:,.0f} MiB",
        ),
        ("peak of the whole run", f"{found['peak_bytes'] / 2**20:,.0f} MiB"),
        ("growth over the base, in buffers", f"{found['factor']:.2f} (allowed: {found['allowed_factor']:g})"),
        ("drained at, start and recovery after the stall included", f"{found['mib_per_s']:,.0f} MiB/s"),
    ]


def memory_table(document: dict[str, Any]) -> Table:
    """For the terminal."""
    table = Table(title=f"Memory, {document['at']}", show_header=False)
    for row in memory_rows(document):
        table.add_row(*row)
    return table


def offset_map_rows(found: dict[str, Any]) -> list[list[str]]:
    """One row per age, as in `AGES`."""
    return [
        [
            f"{age['runs']:,}",
            f"{age['translate_us']:.1f}",
            f"{age['back_us']:.1f}",
            f"{age['to_count']:,}" if age["to_count"] else "exact",
        ]
        for age in found["ages"]
    ]


def offset_map_summary(found: dict[str, Any]) -> str:
    """What the map keeps, and what a run costs."""
    return (
        f"{found['runs']:,} transactions of one partition: {found['kept']} runs kept (at most {found['most']}), "
        f"{found['size_bytes'] / 1024:,.0f} KiB, {found['add_us']:.1f} µs for each run added."
    )


def offset_map_table(document: dict[str, Any]) -> Table:
    """For the terminal."""
    table = Table(title=f"The offset map, {document['at']}", caption=offset_map_summary(document["result"]))
    for heading in AGES:
        table.add_column(heading, justify="right")
    for row in offset_map_rows(document["result"]):
        table.add_row(*row)
    return table


INTRODUCTION = """# Benchmarks

Made by `python -m bench report --publish` from the results in `bench/published`: don't edit. To repeat them:
`make bench-throughput`, `make bench-failover` and `make bench-memory`. For a verdict on throughput, use an idle
machine and `ARGS="--full --rounds 3"`: 4 M records of 100 B and 1 M of 1 KiB. In shorter runs a JVM is still
warming up, also in the second half, and that favours us.

## How draining is measured

Two clusters of one broker each and the contender on one machine; what other processes used is reported. A
source topic of 4 partitions
is filled once, in lz4 batches; then the contenders drain it in turn, round after round, each to an empty
target. Everything is measured from outside, in the same way for all: progress is the target's last stable
offset, and the end is the moment when a read_committed reader can read the last record of every partition; CPU
and memory are the kernel's figures for all processes of the contender. In the first round of each contender all
records are read back and counted.

"Whole run" counts from the start of the process, so it holds the start of the JVM. "Second half" is the time
from half of the records to all of them: it compares warm programs.

* `ours`: `replicator run` with its defaults, `data_plane: records`. `ours-2`: with `--processes 2`.
* `mm2-stock-eos`: MirrorMaker 2, dedicated, exactly once, all else as it comes: one task, transactions per
  poll.
* `mm2-tuned-eos`: the same, tuned for throughput; `bench/contenders.py` lists every property. Both run with the
  JVM flags of Kafka's `connect-mirror-maker.sh`.

Brokers, contender and bench share the CPUs here, so a contender that needs less CPU also leaves more to the
brokers.
"""


def render(documents: Mapping[Kind, dict[str, Any] | None]) -> str:
    """The text of docs/benchmarks.md, from the published document of each kind, where there is one."""
    parts = [INTRODUCTION]
    if (throughput := documents["throughput"]) is not None:
        parts += throughput_section(throughput)
    if (moves := documents["failover"]) is not None:
        parts += failover_report.section(moves)
    if (memory := documents["memory"]) is not None:
        parts.append("## Memory\n")
        parts.append(
            "Topics of 1 KiB and 100 KB records on many partitions, drained by one worker; halfway the target's broker "
            "is stopped with SIGSTOP, so that it neither answers nor closes a connection, and continued later.\n"
        )
        parts.append(markdown(("", "found"), memory_rows(memory)))
        parts.append(about(memory))
    if (offset_map := documents["offset-map"]) is not None:
        parts.append("## The offset map\n")
        parts.append(
            "Made by `python -m bench offset-map`, without Kafka. Each transaction holds ten records, with a gap among "
            "them on the source. What the thinned history leaves to be counted grows with the age.\n\n"
            f"{offset_map_summary(offset_map['result'])}\n"
        )
        parts.append(markdown(AGES, offset_map_rows(offset_map["result"])))
        parts.append(about(offset_map))
    return "\n".join(parts)


def throughput_section(document: dict[str, Any]) -> list[str]:
    """Draining a backlog."""
    parts = ["## Draining a backlog\n", markdown(HEADINGS, rows(document["result"]))]
    if compared := ratios(document["result"]):
        parts.append("Medians, as multiples of the tuned MirrorMaker 2:\n")
        parts.append(markdown(HEADINGS[:-1], [row[:-1] for row in compared]))
    others = [run["other_cpu"] for run in document["result"]]
    parts.append(
        f"{about(document)}Processes that have nothing to do with it used {statistics.median(others):.0%} of the"
        f" machine (median; at most {max(others):.0%}).\n"
    )
    return parts
