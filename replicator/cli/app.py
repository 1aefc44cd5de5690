"""The typer application, and the options that every command shares."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from replicator import __version__, log
from replicator.config import ENVIRONMENT_FILE, Flow, Settings, config_file, load

app = typer.Typer(
    name="replicator",
    help="Exactly-once replication of Kafka topics between clusters.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


class Output(enum.StrEnum):
    """How a result is printed on stdout."""

    TABLE = "table"
    JSON = "json"


FlowOption = Annotated[
    str | None,
    typer.Option("--flow", metavar="SOURCE->TARGET", help="Which flow, in quotes; needed if there are several."),
]
OutputOption = Annotated[Output, typer.Option("--output", "-o", help="A table, or JSON alone on stdout.")]


@dataclass(frozen=True, slots=True)
class Context:
    """The options before the command's name."""

    file: Path

    def settings(self, *, quiet: bool = True) -> Settings:
        """Load the configuration and set up logging; `quiet` for commands that print a result.

        Raises:
            ConfigError: as `config.load`.
        """
        settings = load(self.file)
        log.configure(settings.log, quiet=quiet)
        return settings

    def flow(self, name: str | None) -> tuple[Settings, Flow]:
        """The configuration and the one flow that a command is about."""
        settings = self.settings()
        return settings, settings.flow(name)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"replicator {__version__}")
        raise typer.Exit


@app.callback()
def options(
    context: typer.Context,
    config: Annotated[
        str | None,
        typer.Option(
            "--config",
            "-c",
            metavar="FILE",
            help=f"Configuration file; default ${ENVIRONMENT_FILE}, else config/replicator.yaml.",
        ),
    ] = None,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    context.obj = Context(config_file(config))
