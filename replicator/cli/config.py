"""`replicator config check | show`."""

from __future__ import annotations

import typer
import yaml

from replicator.cli.app import Context, Output, OutputOption, app
from replicator.cli.output import complain, print_json, stdout
from replicator.config import shown
from replicator.errors import ReplicatorError
from replicator.kafka.cluster import Cluster

config_app = typer.Typer(help="Validate and show the configuration.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(config_app, name="config")


@config_app.command()
def check(context: typer.Context) -> None:
    """Validate the configuration and connect to every cluster. Exit code 2: a setting is wrong; 1: no connection."""
    options: Context = context.obj
    settings = options.settings()
    failed = False
    for alias, cluster in settings.clusters.items():
        try:
            admin = Cluster(alias, "target", cluster, "replicator").connect(settings.connect_timeout_s)
        except ReplicatorError as error:
            complain(error)
            failed = True
        else:
            brokers = len(admin.list_topics(timeout=settings.connect_timeout_s).brokers)
            stdout.print(f"clusters.{alias}: reached, {brokers} broker{'s' if brokers != 1 else ''}", markup=False)
    for flow in settings.all_flows():
        stdout.print(f"flows.{flow.name}: valid, {flow.settings.tasks} tasks", markup=False)
    if failed:
        raise typer.Exit(1)


@config_app.command()
def show(context: typer.Context, output: OutputOption = Output.TABLE) -> None:
    """Print the effective values, defaults and environment included; secrets are masked."""
    options: Context = context.obj
    content = shown(options.settings())
    if output is Output.JSON:
        print_json(content)
    else:
        stdout.print(yaml.safe_dump(content, sort_keys=False, allow_unicode=True), markup=False, end="")
