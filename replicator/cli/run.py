"""`replicator run`."""

from __future__ import annotations

from typing import Annotated

import typer

from replicator.cli.app import Context, FlowOption, app
from replicator.worker.process import run_processes, run_worker


@app.command()
def run(
    context: typer.Context,
    flow: FlowOption = None,
    processes: Annotated[
        int, typer.Option("--processes", min=1, max=64, metavar="N", help="Number of worker processes.")
    ] = 1,
) -> None:
    """Replicate until a signal: every flow of the configuration, or the one given.

    Workers on other machines join the same consumer group and divide the tasks. SIGTERM or SIGINT: commit the open
    transactions, leave the group, exit 0; a second signal ends the process at once.
    """
    options: Context = context.obj
    settings = options.settings(quiet=False)
    flows = [settings.flow(flow)] if flow else settings.all_flows()
    if processes > 1:
        arguments = ["-c", str(options.file), "run"] + (["--flow", flow] if flow else [])
        raise typer.Exit(run_processes(processes, arguments, settings))
    raise typer.Exit(run_worker(settings, flows))
