"""`python -m bench`: exit code 0 when done, 1 when it failed or a bound was not kept, 2 for wrong arguments."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console, RenderableType

from bench import failover, failover_report, memory, offset_map, report, results, throughput
from bench.contenders import SOURCE, TARGET
from replicator.errors import ReplicatorError

FULL = {100: 4_000_000, 1024: 1_000_000}
CONTENDERS = "ours,ours-2,mm2-tuned-eos,mm2-stock-eos"
MOVERS, ALL_MOVERS = "ours,mm2-tuned-eos", "ours,mm2-tuned-eos,mm2-stock-eos"

TABLES: dict[results.Kind, Callable[[dict[str, Any]], RenderableType]] = {
    "throughput": report.throughput_table,
    "memory": report.memory_table,
    "offset-map": report.offset_map_table,
    "failover": failover_report.table,
}

console = Console(highlight=False, soft_wrap=True)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    commands = top.add_subparsers(dest="command", required=True)
    speed = commands.add_parser("throughput", help="contenders in turn over the same backlog")
    speed.add_argument("--records", type=int, help="per size; default: a quarter of the full measurement")
    speed.add_argument(
        "--size", type=int, action="append", help="bytes of a record; may be repeated; default: 100, 1024"
    )
    speed.add_argument("--full", action="store_true", help="4 M records of 100 B and 1 M of 1 KiB, as published")
    speed.add_argument("--rounds", type=int, default=1)
    speed.add_argument("--contenders", default=CONTENDERS, help=f"default: {CONTENDERS}; also ours-N and ours@DIR")
    speed.add_argument("--limit", type=float, default=300, metavar="S", help="how long one run may take")
    speed.add_argument("--no-count", action="store_true", help="don't read every record back in the first round")
    speed.add_argument("--source-bootstrap", help="a cluster that runs already; every topic on it is DELETED")
    speed.add_argument("--target-bootstrap", help="a cluster that runs already; every topic on it is DELETED")
    limit = commands.add_parser("memory", help="a backlog on many partitions, and a target that stalls")
    limit.add_argument("--partitions", type=int, default=200)
    limit.add_argument("--mib", type=int, default=1024, help="size of the backlog")
    limit.add_argument("--buffer-mib", type=int, default=64, help="worker.buffer_bytes; 0: the default")
    limit.add_argument("--stall", type=float, default=30, metavar="S", help="how long the target stands still")
    limit.add_argument("--tree", help="another source tree to run ours from")
    long_life = commands.add_parser("offset-map", help="ten million runs through one offset map")
    long_life.add_argument("--runs", type=int, default=offset_map.RUNS)
    moves = commands.add_parser("failover", help="groups move to the target: records read twice or never, and time")
    moves.add_argument("--full", action="store_true", help="longer, and with MirrorMaker 2 as it comes, as published")
    moves.add_argument("--rounds", type=int, default=1)
    moves.add_argument("--contenders", help=f"default: {MOVERS}; with --full {ALL_MOVERS}")
    moves.add_argument("--window", type=float, metavar="S", help="how long commits are timed; default: 30, --full 75")
    tables = commands.add_parser("report", help="tables from saved results")
    tables.add_argument("--publish", action="store_true", help="make the newest results those of docs/benchmarks.md")
    return top


def run_throughput(options: argparse.Namespace) -> int:
    """Measure, save, print."""
    defaults = FULL if options.full else throughput.SIZES
    sizes = options.size or list(defaults)
    existing = {SOURCE: options.source_bootstrap, TARGET: options.target_bootstrap}
    wanted = throughput.Options(
        sizes={size: options.records or defaults.get(size, 100_000) for size in sizes},
        rounds=options.rounds,
        contenders=tuple(options.contenders.split(",")),
        limit_s=options.limit,
        count_all=not options.no_count,
        existing={name: servers for name, servers in existing.items() if servers},
    )
    about = results.machine()
    runs = throughput.measure(wanted, console.print)
    file = results.save("throughput", about, dataclasses.asdict(wanted), runs)
    console.print(report.throughput_table(results.load(file)))
    console.print(f"saved: {file}")
    return 0


def run_memory(options: argparse.Namespace) -> int:
    """Measure, save, print; fail when memory grew past its bound."""
    wanted = memory.Options(
        partitions=options.partitions,
        backlog_bytes=options.mib << 20,
        buffer_bytes=(options.buffer_mib << 20) or memory.DEFAULT_BUFFER_BYTES,
        stall_s=options.stall,
        tree=options.tree,
    )
    about = results.machine()
    found = memory.measure(wanted, console.print)
    file = results.save("memory", about, dataclasses.asdict(wanted), found)
    console.print(report.memory_table(results.load(file)))
    console.print(f"saved: {file}")
    for complaint in found.complaints():
        console.print(f"memory is not bounded as promised: {complaint}", style="red")
    return 1 if found.complaints() else 0


def run_offset_map(options: argparse.Namespace) -> int:
    """Measure, save, print; fail when it keeps too much, or is too slow."""
    about = results.machine()
    found = offset_map.measure(options.runs, console.print)
    file = results.save("offset-map", about, {"runs": options.runs}, found)
    console.print(report.offset_map_table(results.load(file)))
    console.print(f"saved: {file}")
    for complaint in found.complaints():
        console.print(f"the offset map does not keep its promise: {complaint}", style="red")
    return 1 if found.complaints() else 0


def run_failover(options: argparse.Namespace) -> int:
    """Measure, save, print; fail when a group of ours did not get every record."""
    wanted = failover.Options(
        contenders=tuple((options.contenders or (ALL_MOVERS if options.full else MOVERS)).split(",")),
        rounds=options.rounds,
        warm_up_s=30.0 if options.full else 8.0,
        window_s=options.window or (75.0 if options.full else 30.0),
    )
    about = results.machine()
    runs = failover.measure(wanted, console.print)
    file = results.save("failover", about, dataclasses.asdict(wanted), runs)
    console.print(failover_report.table(results.load(file)))
    console.print(f"saved: {file}")
    found = [complaint for run in runs for complaint in run.complaints()]
    for complaint in found:
        console.print(f"a move does not keep its promise: {complaint}", style="red")
    return 1 if found else 0


def run_report(options: argparse.Namespace) -> int:
    """Print the newest results; with `--publish` keep them and write the document."""
    files = {kind: results.newest(kind) for kind in TABLES}
    if options.publish:
        results.PUBLISHED.mkdir(exist_ok=True)
        for kind, file in files.items():
            if file is not None:
                (results.PUBLISHED / f"{kind}.json").write_text(file.read_text())
    for kind, table in TABLES.items():
        file = files[kind] or results.newest(kind, results.PUBLISHED)
        if file is not None:
            console.print(table(results.load(file)))
    report.DOCUMENT.parent.mkdir(exist_ok=True)
    report.DOCUMENT.write_text(published())
    console.print(f"written: {report.DOCUMENT.relative_to(Path(__file__).parents[1])}")
    return 0


def published() -> str:
    """The document, from the published results."""
    files = {kind: results.PUBLISHED / f"{kind}.json" for kind in TABLES}
    documents = {kind: results.load(file) if file.exists() else None for kind, file in files.items()}
    return report.render(documents)


def main(arguments: Sequence[str]) -> int:
    """Parse, run, exit code."""
    options = parser().parse_args(arguments)
    commands = {
        "throughput": run_throughput,
        "memory": run_memory,
        "offset-map": run_offset_map,
        "failover": run_failover,
        "report": run_report,
    }
    try:
        return commands[options.command](options)
    except ReplicatorError as error:
        console.print(f"error: {error}", style="red", markup=False)
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
