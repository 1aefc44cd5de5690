"""`switchover`, `failover`, `failback` and `resync`: move groups between the clusters. The plan is printed first."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from replicator.audit.audit import new_move_id
from replicator.audit.signals import interruptible
from replicator.cli.app import Context, FlowOption, Output, OutputOption, app
from replicator.cli.ask import confirm
from replicator.cli.output import busy, complain, count_text, new_table, print_json, print_result, stderr
from replicator.config import Flow, Settings
from replicator.errors import ConfigError, RefusedError
from replicator.moves.clusters import FlowClusters
from replicator.moves.executor import MoveExecutor, MoveOptions, MoveOutcome
from replicator.moves.model import MoveCommand, MovePlan, Order, Row, RowState, counted
from replicator.moves.world import MoveClusters

EXIT_CODES = {"done": 0, "planned": 0, "failed": 1, "refused": 3, "partly_done": 4}
SHOWN_ROWS = 40
OTHERWISE = "hint: if the source is lost, use `replicator failover`: it needs only the target"

GroupsArgument = Annotated[
    list[str] | None,
    typer.Argument(metavar="GROUP…", help="Group names or regular expressions.", show_default=False),
]
AllOption = Annotated[bool, typer.Option("--all", help="Every group of the flow.")]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Print the plan and change nothing.")]
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")]
LossOption = Annotated[
    bool, typer.Option("--accept-data-loss", help="Proceed although records may be lost; the plan shows how many.")
]
TimeoutOption = Annotated[
    float,
    typer.Option("--timeout", min=1, metavar="S", help="Seconds to wait until consumers stop and all is replicated."),
]


@app.command()
def switchover(
    context: typer.Context,
    groups: GroupsArgument = None,
    all_groups: AllOption = False,
    flow: FlowOption = None,
    dry_run: DryRunOption = False,
    yes: YesOption = False,
    accept_data_loss: LossOption = False,
    timeout_s: TimeoutOption = 120,
    output: OutputOption = Output.TABLE,
) -> None:
    """Move groups to the target while both clusters are up. No record is lost or read twice.

    Waits until the groups' consumers have stopped and everything they read is replicated. Refuses to move a group that
    has a partition without an exact offset on the target.
    """
    _move(
        context.obj,
        _Asked(MoveCommand.SWITCHOVER, groups, all_groups, flow, dry_run, yes, accept_data_loss, timeout_s, output),
    )


@app.command()
def failover(
    context: typer.Context,
    groups: GroupsArgument = None,
    all_groups: AllOption = False,
    flow: FlowOption = None,
    dry_run: DryRunOption = False,
    yes: YesOption = False,
    accept_data_loss: LossOption = False,
    timeout_s: TimeoutOption = 120,
    output: OutputOption = Output.TABLE,
) -> None:
    """Move groups to the target when the source is lost. Needs only the target.

    --all also halts the flow, so that a worker that restarts writes nothing; `resume` lifts the halt.
    """
    _move(
        context.obj,
        _Asked(MoveCommand.FAILOVER, groups, all_groups, flow, dry_run, yes, accept_data_loss, timeout_s, output),
    )


@app.command()
def failback(
    context: typer.Context,
    groups: GroupsArgument = None,
    all_groups: AllOption = False,
    flow: FlowOption = None,
    dry_run: DryRunOption = False,
    yes: YesOption = False,
    accept_data_loss: LossOption = False,
    timeout_s: TimeoutOption = 120,
    output: OutputOption = Output.TABLE,
) -> None:
    """Move groups back to the source, to their exact offsets; group sync owns their offsets on the target again."""
    _move(
        context.obj,
        _Asked(MoveCommand.FAILBACK, groups, all_groups, flow, dry_run, yes, accept_data_loss, timeout_s, output),
    )


@app.command()
def resync(
    context: typer.Context,
    groups: GroupsArgument = None,
    all_groups: AllOption = False,
    flow: FlowOption = None,
    dry_run: DryRunOption = False,
    yes: YesOption = False,
    timeout_s: TimeoutOption = 120,
    output: OutputOption = Output.TABLE,
) -> None:
    """Hand groups' offsets on the target back to group sync, which overwrites them with those of the source."""
    _move(context.obj, _Asked(MoveCommand.RESYNC, groups, all_groups, flow, dry_run, yes, False, timeout_s, output))


# --- one command for all ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Asked:
    """The options of a move."""

    command: MoveCommand
    groups: list[str] | None
    all_groups: bool
    flow: str | None
    dry_run: bool
    yes: bool
    accept_data_loss: bool
    timeout_s: float
    output: Output


def _move(options: Context, asked: _Asked) -> None:
    if bool(asked.groups) == asked.all_groups:
        raise ConfigError("GROUP", "pass either group names or --all")
    settings, flow = options.flow(asked.flow)
    move_id = new_move_id()
    try:
        with interruptible(), _clusters(settings, flow, asked) as clusters:
            outcome = _carry_out(clusters, flow, settings, asked, move_id)
    except RefusedError:
        if asked.output is Output.JSON:
            print_json(
                MovePlan(Order(move_id, asked.command, flow.name, tuple(asked.groups or ())), ()).as_json("refused")
            )
        raise
    _report(outcome, asked)
    raise typer.Exit(EXIT_CODES[outcome.state])


@contextlib.contextmanager
def _clusters(settings: Settings, flow: Flow, asked: _Asked) -> Iterator[FlowClusters]:
    clusters = FlowClusters(settings, flow)
    with contextlib.closing(clusters), busy(f"reading {flow.name}"):
        hint = OTHERWISE if asked.command is MoveCommand.SWITCHOVER else ""
        clusters.connect(needs_source=asked.command is not MoveCommand.FAILOVER, otherwise=hint)
        yield clusters


def _carry_out(clusters: FlowClusters, flow: Flow, settings: Settings, asked: _Asked, move_id: str) -> MoveOutcome:
    world = MoveClusters(clusters, settings.hooks, _say, _Counting())
    with contextlib.closing(world):
        groups = world.select(asked.command, asked.groups or [])
        order = Order(move_id, asked.command, flow.name, groups, is_all=asked.all_groups)
        if asked.all_groups:
            order = world.with_routes(order)
        options = MoveOptions(
            dry_run=asked.dry_run,
            accept_data_loss=asked.accept_data_loss,
            timeout_s=asked.timeout_s,
            halts=asked.command is MoveCommand.FAILOVER and asked.all_groups,
        )
        return MoveExecutor(world, _Person(asked, world), options).run(order)


class _Person:
    """See `executor.Operator`."""

    def __init__(self, asked: _Asked, world: MoveClusters) -> None:
        self._asked = asked
        self._world = world

    def show(self, plan: MovePlan) -> None:
        if self._asked.output is Output.TABLE:
            print_result(*_plan_view(plan, self._world.knowledge_text(plan)))

    def approve(self, plan: MovePlan) -> None:
        partitions = len(plan.planned) + sum(row.must_wait for row in plan.rows if not row.is_planned)
        groups = len({row.group for row in plan.rows})
        halts = ", and halt the flow" if plan.order.command is MoveCommand.FAILOVER and plan.order.is_all else ""
        sizes = f"{counted(groups, 'group')}, {counted(partitions, 'partition')}"
        text = f"{plan.order.command} {plan.order.flow}: {sizes}{halts}. Proceed?"
        confirm(text, self._asked.yes)

    def say(self, text: str) -> None:
        _say(text)


def _say(text: str) -> None:
    stderr.print(text, markup=False)


class _Counting:
    """Reports how many records are counted, at most every two seconds."""

    def __init__(self) -> None:
        self._reported_s = time.monotonic()

    def __call__(self, done: int, total: int) -> None:
        if time.monotonic() - self._reported_s > 2:
            self._reported_s = time.monotonic()
            _say(f"counting records to find exact offsets: {done:,} of {total:,}")


# --- views ------------------------------------------------------------------------------------------------------------


def _plan_view(plan: MovePlan, knowledge: str) -> list[Table | Text]:
    title = Text(f"{plan.order.command} {plan.order.flow}", style="bold")
    title.append(f"   {plan.order.move_id}", style="dim")
    parts: list[Table | Text] = [title]
    if knowledge:
        parts.append(Text(knowledge))
    if not plan.rows:
        return [*parts, Text("nothing to move: no group has an offset in a topic of this flow")]
    rows = sorted(plan.rows, key=_severity)
    parts.append(_table(plan, rows[:SHOWN_ROWS]))
    if len(rows) > SHOWN_ROWS:
        parts.append(Text(f"… and {len(rows) - SHOWN_ROWS:,} more (`-o json` prints all)", style="dim"))
    return parts


def _severity(row: Row) -> tuple[bool, bool, int, str, str, int]:
    """Sort key: what stops the move first, then the most records to read again."""
    return (
        not (row.is_obstacle or row.state is RowState.FAILED),
        not row.must_wait,
        -(row.reread_records or 0),
        row.group,
        *row.origin,
    )


def _table(plan: MovePlan, rows: list[Row]) -> Table:
    origin, destination = plan.order.flow.split("->")[:: -1 if plan.order.is_homeward else 1]
    table = new_table(
        group=False, topic=False, part=True, **{f"on_{origin}": True, f"on_{destination}": True}, translation=False,
        **{"re-read_≤": True, "at_risk_≤": True}, state=False,
    )  # fmt: skip
    for row in rows:
        is_bad = row.is_obstacle or row.state is RowState.FAILED
        state = f"{row.state}: {row.reason}" if row.reason else str(row.state)
        table.add_row(
            row.group,
            row.origin.topic,
            str(row.origin.partition),
            count_text(row.known_origin_next),
            count_text(row.destination_next),
            row.translation,
            count_text(row.reread_records),
            count_text(row.at_risk_records),
            Text(state, style="red" if is_bad else "yellow" if row.must_wait else ""),
        )
    return table


def _report(outcome: MoveOutcome, asked: _Asked) -> None:
    """The result: JSON alone on stdout, or a line for a person."""
    if asked.output is Output.JSON:
        print_json(outcome.plan.as_json(outcome.state))
    if outcome.state in ("refused", "failed", "partly_done"):
        failed = [row for row in outcome.plan.rows if row.state is RowState.FAILED]
        if failed and asked.output is Output.TABLE:
            print_result(_table(outcome.plan, failed[:SHOWN_ROWS]))
        unchanged = ": nothing was changed" if outcome.state == "refused" else ""
        complain(f"{asked.command} {outcome.state.replace('_', ' ')}{unchanged}")
        for text in outcome.texts:
            _say(f"  {text}")
        return
    committed = sum(row.state is RowState.COMMITTED for row in outcome.plan.rows)
    skipped = sum(row.state is RowState.SKIPPED for row in outcome.plan.rows)
    for text in outcome.texts:
        _say(text)
    if outcome.state == "done" and (committed or not outcome.texts):
        left_out = f", {skipped:,} skipped" if skipped else ""
        _say(f"{asked.command} done: {counted(committed, 'partition')} committed and read back{left_out}")
