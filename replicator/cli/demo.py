"""`replicator demo`."""

from __future__ import annotations

import sys
from typing import Annotated

import typer
from rich.console import Console

from replicator.audit.signals import interruptible
from replicator.cli.app import Output, OutputOption, app
from replicator.cli.output import print_json, stderr, stdout
from replicator.demo import DemoSettings, Kept, Summary, run_demo
from replicator.demo.display import open_display

ADDRESS = "HOST:PORT,…"
ZERO_ROWS = {"lost", "duplicated", "out of order", "changed", "unknown", "read twice", "never read"}
"""Anything but 0 is bad there."""


@app.command()
def demo(
    keep: Annotated[bool, typer.Option("--keep", help="Leave the clusters up, and say what to try on them.")] = False,
    records: Annotated[int | None, typer.Option("--records", min=1, metavar="N", help="Only the first N.")] = None,
    source_bootstrap: Annotated[
        str | None,
        typer.Option("--source-bootstrap", metavar=ADDRESS, help="A source cluster that exists (plaintext)."),
    ] = None,
    target_bootstrap: Annotated[
        str | None,
        typer.Option("--target-bootstrap", metavar=ADDRESS, help="A target cluster that exists (plaintext)."),
    ] = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Two clusters, 336,776 real records, a worker killed, a consumer group moved there and back. About a minute.

    Exit code 0 only if every record is on the target once, in order and unchanged, and the group processed each once.
    On clusters that exist it uses topics and groups with names of their own, and removes only these.
    """
    settings = DemoSettings(records, source_bootstrap, target_bootstrap, keep)
    try:
        with interruptible(), open_display(Console(stderr=True, highlight=False)) as display:
            summary = run_demo(settings, display)
    except KeyboardInterrupt:
        stderr.print("interrupted: everything that was started is gone")
        raise typer.Exit(130) from None
    if output is Output.JSON:
        print_json(summary.to_json())
    else:
        _print(summary)
    raise typer.Exit(0 if summary.is_clean else 1)


def _print(summary: Summary) -> None:
    stdout.print()
    for name, amount, remark in summary.rows():
        is_bad = name in ZERO_ROWS and amount != "0"
        stdout.print(f"  {name:<14}{amount:>10}  {remark}".rstrip(), style="bold red" if is_bad else "", markup=False)
    stdout.print()
    if summary.is_clean:
        stdout.print("Clean: every record arrived once, in order, unchanged,", style="bold green", markup=False)
        verdict = f"and the group processed each once, across two moves ({summary.duration_s:.0f} s in all)"
        stdout.print(verdict, style="bold green", markup=False)
    else:
        stdout.print("NOT clean:", style="bold red")
        for example in summary.examples:
            stdout.print(f"  {example}", markup=False)
    if summary.kept is not None:
        _print_kept(summary.kept)


def _print_kept(kept: Kept) -> None:
    program = f"{sys.executable} -m replicator" if sys.argv[0].endswith("__main__.py") else sys.argv[0]
    stdout.print("\nThe clusters are still up:")
    for alias, servers in kept.bootstrap_servers.items():
        stdout.print(f"  {alias:<8} {servers}", markup=False)
    stdout.print(f"\n{kept.source_topic} was replicated to {kept.remote_topic}. Try", markup=False)
    group = kept.group
    moves = (f"explain {group}", f"switchover {group} --dry-run", f"failover {group} --dry-run")
    for command in ("run", "status", "lag", "groups", *moves, "check"):
        stdout.print(f"  {program} -c {kept.config} {command}", markup=False)
    stdout.print("\nEnd them with", markup=False)
    stdout.print(f"  {kept.stop}", markup=False)
