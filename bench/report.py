"""docs/benchmarks.md from saved results, and the tables of the measurements without contenders."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rich.table import Table

from bench import failover_report, live_report, plots, promises, throughput_report
from bench.results import Kind
from bench.text import Row, about, markdown

DOCUMENT = Path(__file__).parents[1] / "docs" / "benchmarks.md"
AGES = ("age of the position, in transactions", "translate µs", "translate back µs", "records left to count, at most")


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
`make bench` takes some minutes and shows whether all works, `make bench-full` measures what is published here. Each
part can be run alone, also on clusters of your own: `python -m bench --help`. For a verdict use an idle machine, and
the full measurement: in shorter runs a JVM is still warming up, also in the second half, and that favours us.

Everything is measured from outside the contenders, in the same way for all, on two clusters of one broker each; they,
the contender and the bench share the CPUs of one machine, so a contender that needs less CPU also leaves more to the
brokers. What other processes used is reported. Contenders take turns, round after round; figures are medians, with the
range over the rounds behind them.

* `ours-batches`: `replicator run` with its defaults, on the plane that passes record batches through unopened;
  `ours-records`: on the plane that takes every record in its hand; `ours`: on the one that it chooses by itself.
  `…-tuned`: with as many `tasks` as the tuned MirrorMaker 2 has, that of the CPUs, at most one for each partition;
  `…-2`: with `--processes 2`.
* `mm2-stock-eos`: MirrorMaker 2, dedicated, exactly once, all else as it comes: one task, transactions per
  poll.
* `mm2-tuned-eos`: the same, tuned for throughput; `bench/contenders.py` lists every property. Transactions stay those
  of a poll, which are larger with it: `transaction.boundary=interval` was slower. Both run with the JVM flags of
  Kafka's `connect-mirror-maker.sh`.
* `replayer`: no replicator, but the limit of the target's broker. It has all record batches in its memory and does
  nothing but send them, in transactions, through the producer of `ours-batches`.

## How draining is measured

A source topic of 4 partitions is filled once, in lz4 batches; then the contenders drain it in turn, each to an empty
target. Progress is the target's last stable offset, and the end is the moment when a read_committed reader can read the
last record of every partition; CPU and memory are the kernel's figures for all processes of the contender. In the first
round of each contender all records are read back and counted.

"Whole run" counts from the start of the process, so it holds the start of the JVM, or of Python. "Second half" is the
time from half of the records to all of them, or the last second where that is longer: it compares warm programs.
"""


def memory_section(document: Row, _: str) -> list[str]:
    """The part of docs/benchmarks.md."""
    text = (
        "Topics of 1 KiB and 100 KB records on many partitions, drained by one worker; halfway the target's broker "
        "is stopped with SIGSTOP, so that it neither answers nor closes a connection, and continued later.\n"
    )
    return ["## Memory\n", text, markdown(("", "found"), memory_rows(document)), about(document)]


def offset_map_section(document: Row, _: str) -> list[str]:
    """The part of docs/benchmarks.md."""
    text = (
        "Made by `python -m bench offset-map`, without Kafka. Each transaction holds ten records, with a gap among "
        "them on the source. What the thinned history leaves to be counted grows with the age.\n\n"
        f"{offset_map_summary(document['result'])}\n"
    )
    return ["## The offset map\n", text, markdown(AGES, offset_map_rows(document["result"])), about(document)]


SECTIONS: dict[Kind, Callable[[Row, str], list[str]]] = {
    "throughput": throughput_report.section,
    "tiny": throughput_report.section,
    "latency": live_report.latency_section,
    "partitions": live_report.partitions_section,
    "takeover": live_report.takeover_section,
    "failover": failover_report.section,
    "memory": memory_section,
    "offset-map": offset_map_section,
}
"""In the order of the document."""


def render(documents: Mapping[Kind, Row | None]) -> str:
    """The text of docs/benchmarks.md, from the published document of each kind, where there is one."""
    parts = [INTRODUCTION, *promises.section(documents)]
    for kind, section in SECTIONS.items():
        document = documents.get(kind)
        if document is not None:
            parts += [part for part in section(document, plots.links(document)) if part]
    return "\n".join(parts).rstrip("\n") + "\n"
