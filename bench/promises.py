"""What `ours-batches` is to reach, next to what was found. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from rich.table import Table

from bench import live_report, throughput_report
from bench.contenders import REPLAYER
from bench.results import Kind
from bench.text import Column, Row, markdown, terminal

OURS, OTHERS, RECORDS = "ours-batches", throughput_report.REFERENCE, "ours-records"
CPU_SHARES = {100: 30, 1024: 15, 10_240: 15}
"""By size: how many times less CPU for a record than the tuned MirrorMaker 2."""
RATES = {100: 4.0, 1024: 2.5, 10_240: 3.0}
"""By size: multiple of its records per second; or the broker's own limit."""
AT_THE_LIMIT = 0.9
"""Of the replayer's rate, from where on the target's broker is what counts."""
RSS_MIB = 150
P50_MS, P99_MS = 25, 80
IDLE_FACTOR = 2.0
TEXT = f"""What `{OURS}` is to reach, and what was found below; medians count. Of a size that was drained in two
amounts, the second half is judged for the larger one: the smaller takes about a second.
"""
HEADINGS = ("promise", "bound", "found", "kept")

Documents = Mapping[Kind, Row | None]


@dataclass(frozen=True, slots=True)
class Verdict:
    """One promise."""

    promise: str
    bound: str
    found: str
    is_kept: bool


def judge(documents: Documents) -> list[Verdict]:
    """One verdict for each promise that these results say something of; medians count."""
    found: list[Verdict] = []
    for kind, verdicts in _JUDGES.items():
        document = documents.get(kind)
        if document is not None:
            found += verdicts(document["result"])
    return found


def _drained(runs: list[Row]) -> Iterator[Verdict]:
    groups = throughput_report.by_size(runs)
    longest = {size: records for size, records, _ in groups}
    for (size, records, name), ours in groups.items():
        theirs = groups.get((size, records, OTHERS))
        if name != OURS or theirs is None or size not in RATES:
            continue
        amount = throughput_report.amount(size, records)
        yield from _cpu(f"CPU for a record, whole run of {amount}", size, throughput_report.CPU_WHOLE, theirs, ours)
        if records != longest[size]:
            continue
        yield from _cpu(f"CPU for a record, second half of {amount}", size, throughput_report.CPU, theirs, ours)
        rate = throughput_report.RATE.ratio(ours, theirs) or 0.0
        share = throughput_report.RATE.ratio(ours, groups.get((size, records, REPLAYER), ()))
        text = f"{rate:.1f} ×" + (f", {share:.0%} of the replayer" if share is not None else "")
        bound_text = f"≥ {RATES[size]:g} × {OTHERS}, or {AT_THE_LIMIT:.0%} of the replayer"
        is_kept = rate >= RATES[size] or (share or 0.0) >= AT_THE_LIMIT
        yield Verdict(f"records per second, second half of {amount}", bound_text, text, is_kept)
    if ours := [run for run in runs if run["contender"] == OURS]:
        peak = max(throughput_report.RSS.values(ours) or [0.0])
        yield Verdict("resident memory, highest of all runs", f"≤ {RSS_MIB} MiB", f"{peak:,.0f} MiB", peak <= RSS_MIB)


def _cpu(promise: str, size: int, column: Column, theirs: Sequence[Row], ours: Sequence[Row]) -> Iterator[Verdict]:
    ratio = column.ratio(theirs, ours)
    if ratio is not None:
        bound = CPU_SHARES[size]
        yield Verdict(promise, f"≤ 1/{bound} of {OTHERS}", f"1/{ratio:.1f}", ratio >= bound)


def _latency(runs: list[Row]) -> Iterator[Verdict]:
    ours = [run for run in runs if run["contender"] == OURS]
    for column, bound in ((live_report.P50, P50_MS), (live_report.P99, P99_MS)):
        if ours:
            middle = statistics.median(column.values(ours) or [0.0])
            name = f"latency at 10,000 rec/s, {column.heading.split()[0]}"
            yield Verdict(name, f"< {bound} ms", f"{middle:,.0f} ms", middle < bound)


def _partitions(runs: list[Row]) -> Iterator[Verdict]:
    for name, busy, count, ratio in live_report.partition_ratios(runs):
        if name == OURS and ratio is not None:
            promise = f"CPU with {count:,} partitions, {busy} of them busy"
            yield Verdict(promise, f"≤ {IDLE_FACTOR:g} × that with {busy}", f"{ratio:.2f} ×", ratio <= IDLE_FACTOR)


def _tiny(runs: list[Row]) -> Iterator[Verdict]:
    ours, records = ([run for run in runs if run["contender"] == name] for name in (OURS, RECORDS))
    if not ours or not records:
        return
    rate, cpu = throughput_report.RATE.ratio(ours, records), throughput_report.CPU.ratio(ours, records)
    if rate is not None:
        yield Verdict("batches of one record, per second", f"> {RECORDS}", f"{rate:.2f} ×", rate > 1)
    if cpu is not None:
        yield Verdict("batches of one record, CPU", f"< {RECORDS}", f"{cpu:.2f} ×", cpu < 1)


_JUDGES: dict[Kind, Callable[[list[Row]], Iterator[Verdict]]] = {
    "throughput": _drained,
    "tiny": _tiny,
    "latency": _latency,
    "partitions": _partitions,
}


def _rows(documents: Documents) -> list[list[str]]:
    return [[it.promise, it.bound, it.found, "yes" if it.is_kept else "**no**"] for it in judge(documents)]


def table(documents: Documents) -> Table:
    """For the terminal."""
    rows = [[cell.strip("*") for cell in row] for row in _rows(documents)]
    return terminal(f"What {OURS} is to reach", HEADINGS, rows, labels=4)


def section(documents: Documents) -> list[str]:
    """The part of docs/benchmarks.md; none without a verdict."""
    rows = _rows(documents)
    return ["## Promises\n", TEXT, markdown(HEADINGS, rows)] if rows else []
