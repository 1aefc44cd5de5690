"""`python -m bench`: exit code 0 when done, 1 when it failed or a bound was exceeded, 2 for wrong arguments."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

from rich.console import Console

from bench import figures, results
from bench.catalog import MEASUREMENTS
from bench.contenders import KNOWN
from bench.results import Kind
from replicator.errors import ReplicatorError

console = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else 180)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(
        prog="python -m bench",
        description=__doc__,
        epilog=f"Contenders: {KNOWN}. Plots: python -m bench.plot",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = top.add_subparsers(dest="command", required=True)
    for kind, measurement in MEASUREMENTS.items():
        one = commands.add_parser(kind, help=measurement.help)
        one.add_argument("--full", action="store_true", help="with the configuration of what is published")
        one.add_argument("--show", action="store_true", help="print the configuration, and measure nothing")
        one.add_argument(
            "--set",
            action="append",
            default=[],
            metavar="KEY=JSON",
            help="change the configuration: --set rounds=2 --set contenders=ours-batches,replayer; clusters that run"
            ' already (every topic on them is DELETED): --set \'existing={"source": "HOST:PORT"}\'',
        )
    every = commands.add_parser("all", help="one after the other")
    every.add_argument("--full", action="store_true", help="with the configuration of what is published; takes hours")
    every.add_argument("--only", help="some of them, separated by commas")
    table = commands.add_parser("table", help="figures of saved runs, as Markdown")
    table.add_argument("file", nargs="+", type=Path)
    return top


def run_one(kind: Kind, options: argparse.Namespace) -> int:
    """Measure, save, print; 1 when a bound was exceeded."""
    measurement = MEASUREMENTS[kind]
    configuration = measurement.configuration(options.set, is_full=options.full)
    if options.show:
        console.print_json(json.dumps(dataclasses.asdict(configuration)))
        return 0
    document = results.begin(kind, dataclasses.asdict(configuration), is_full=options.full)
    result = measurement.measure(configuration, console.print)
    file = results.save(document, result)
    print_table(file)
    console.print(f"saved: {file}")
    complaints = list(_complaints(result))
    for complaint in complaints:
        console.print(f"{kind}: a bound was exceeded: {complaint}", style="red", markup=False)
    return 1 if complaints else 0


def print_table(file: Path) -> None:
    """The figures of a saved run."""
    document = results.load(file)
    about = {**document["machine"], **document["versions"], "commit": document["commit"]}
    console.print(figures.table(document), markup=False)
    console.print(f"{document['kind']}, {document['at']}: {', '.join(f'{k} {v}' for k, v in about.items())}")


def _complaints(result: Any) -> Iterable[str]:
    for it in result if isinstance(result, list) else [result]:
        if hasattr(it, "complaints"):
            yield from it.complaints()


def run_all(options: argparse.Namespace) -> int:
    """One after the other; a measurement that fails is reported, and the others still run."""
    usual = [kind for kind, it in MEASUREMENTS.items() if options.full or it.is_quick]
    kinds = cast(list[Kind], options.only.split(",")) if options.only else usual
    if unknown := [kind for kind in kinds if kind not in MEASUREMENTS]:
        console.print(f"error: no measurement {', '.join(unknown)}: {', '.join(MEASUREMENTS)}", style="red")
        return 2
    statuses = {}
    for kind in kinds:
        began_s = time.monotonic()
        console.print(f"{kind}: {MEASUREMENTS[kind].help}", style="bold")
        arguments = [kind, "--full"] if options.full else [kind]
        statuses[kind] = _guarded(partial(run_one, kind, parser().parse_args(arguments)))
        console.print(f"{kind}: took {time.monotonic() - began_s:.0f} s\n")
    failed = [kind for kind, status in statuses.items() if status]
    if failed:
        console.print(f"failed: {', '.join(failed)}", style="red")
    return 1 if failed else 0


def run_table(options: argparse.Namespace) -> int:
    """Print the figures of saved runs."""
    for file in options.file:
        print_table(file)
    return 0


def _guarded(run: Callable[[], int]) -> int:
    """The exit code; an error of the bench or the replicator is printed."""
    try:
        return run()
    except ReplicatorError as error:
        console.print(f"error: {error}", style="red", markup=False)
        return 1


def main(arguments: Sequence[str]) -> int:
    """Parse, run, exit code."""
    options = parser().parse_args(arguments)
    commands = {"all": run_all, "table": run_table}
    run = commands.get(options.command) or partial(run_one, options.command)
    try:
        return _guarded(partial(run, options))
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
