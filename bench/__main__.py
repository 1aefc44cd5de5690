"""`python -m bench`: exit code 0 when done, 1 when it failed or a promise was not kept, 2 for wrong arguments."""

from __future__ import annotations

import argparse
import dataclasses
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

from rich.console import Console

from bench import plots, promises, report, results
from bench.catalog import MEASUREMENTS
from bench.results import Kind
from replicator.errors import ReplicatorError

console = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else 180)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    commands = top.add_subparsers(dest="command", required=True)
    for kind, measurement in MEASUREMENTS.items():
        one = commands.add_parser(kind, help=measurement.help)
        one.add_argument("--full", action="store_true", help="as published")
        measurement.arguments(one)
    every = commands.add_parser("all", help="one after the other, each with its defaults, then the report")
    every.add_argument("--full", action="store_true", help="as published; takes hours")
    every.add_argument("--only", help="some of them, separated by commas")
    tables = commands.add_parser("report", help="tables and plots from saved results")
    tables.add_argument(
        "--publish", action="store_true", help="make the newest full results those of docs/benchmarks.md"
    )
    return top


def run_one(kind: Kind, options: argparse.Namespace) -> int:
    """Measure, save, print; 1 when a promise was not kept."""
    measurement = MEASUREMENTS[kind]
    wanted = measurement.options(options)
    about = results.machine()
    found = measurement.measure(wanted, console.print)
    file = results.save(kind, about, dataclasses.asdict(wanted), found, is_full=options.full)
    console.print(measurement.table(results.load(file)))
    console.print(f"saved: {file}")
    complaints = list(_complaints(found))
    for complaint in complaints:
        console.print(f"{kind}: a promise is not kept: {complaint}", style="red", markup=False)
    return 1 if complaints else 0


def _complaints(found: Any) -> Iterable[str]:
    for it in found if isinstance(found, list) else [found]:
        if hasattr(it, "complaints"):
            yield from it.complaints()


def run_all(options: argparse.Namespace) -> int:
    """One after the other; what fails is said, and does not keep the rest from being measured."""
    usual = [kind for kind, it in MEASUREMENTS.items() if options.full or it.is_short]
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
    console.print(promises.table(_documents(kinds)))
    plots.write(results.OUT / plots.FOLDER, _documents(kinds).values())
    console.print(f"plots: {results.OUT / plots.FOLDER}")
    failed = [kind for kind, status in statuses.items() if status]
    if failed:
        console.print(f"failed: {', '.join(failed)}", style="red")
    return 1 if failed else 0


def run_report(options: argparse.Namespace) -> int:
    """Print the newest results; with `--publish` keep the full ones, and write the document with its plots."""
    for kind, measurement in MEASUREMENTS.items():
        newest = results.newest(kind, full_only=options.publish)
        if options.publish and newest is not None:
            results.PUBLISHED.mkdir(exist_ok=True)
            (results.PUBLISHED / f"{kind}.json").write_text(newest.read_text())
        file = newest or results.newest(kind, results.PUBLISHED)
        if file is not None:
            console.print(measurement.table(results.load(file)))
    if options.publish:
        report.DOCUMENT.write_text(published())
        plots.write(report.DOCUMENT.parent / plots.FOLDER, published_results().values())
        console.print(f"written: {report.DOCUMENT.relative_to(Path(__file__).parents[1])}")
    else:
        plots.write(results.OUT / plots.FOLDER, _documents(MEASUREMENTS).values())
        console.print(f"plots: {results.OUT / plots.FOLDER}")
    return 0


def published() -> str:
    """The document, from the published results."""
    return report.render(published_results())


def published_results() -> dict[Kind, dict[str, Any] | None]:
    """Those in the repository, by kind."""
    files = {kind: results.PUBLISHED / f"{kind}.json" for kind in MEASUREMENTS}
    return {kind: results.load(file) if file.exists() else None for kind, file in files.items()}


def _documents(kinds: Iterable[Kind]) -> dict[Kind, dict[str, Any] | None]:
    """The newest result of each."""
    files = {kind: results.newest(kind) for kind in kinds}
    return {kind: None if file is None else results.load(file) for kind, file in files.items()}


def _guarded(run: Callable[[], int]) -> int:
    """The exit code; an error of ours is said."""
    try:
        return run()
    except ReplicatorError as error:
        console.print(f"error: {error}", style="red", markup=False)
        return 1


def main(arguments: Sequence[str]) -> int:
    """Parse, run, exit code."""
    options = parser().parse_args(arguments)
    commands = {"all": run_all, "report": run_report}
    try:
        if options.command in commands:
            return _guarded(partial(commands[options.command], options))
        return _guarded(partial(run_one, options.command, options))
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
