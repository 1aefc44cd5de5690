"""`groups`, `explain` and `check`: what would happen if groups moved now. They change nothing."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

import typer
from rich.text import Text

from replicator.audit.signals import interruptible
from replicator.checkpoints.topic import KnownGroups
from replicator.cli.app import Context, FlowOption, Output, OutputOption, app
from replicator.cli.group_views import GroupsView, check_view, explain_view
from replicator.cli.output import busy, print_json, print_result
from replicator.config import Flow, Settings
from replicator.errors import ConfigError, RefusedError, ReplicatorError
from replicator.moves.clusters import FlowClusters
from replicator.moves.model import MoveCommand, MovePlan, Order
from replicator.moves.plan import MoveFacts, counted_row, plan_move
from replicator.moves.world import MoveClusters
from replicator.operations.checks import Condition, Limits, flow_conditions, group_conditions, right_conditions
from replicator.operations.group_report import Explanation, GroupRow, explain, group_rows
from replicator.status.status import flow_status

DEFAULT_TOP = 30
SHOWN_PROBLEMS = 5
EXIT_FOUND = 5


@app.command()
def groups(
    context: typer.Context,
    flow: FlowOption = None,
    group: Annotated[
        str | None, typer.Option("--group", metavar="REGEX", help="Only groups whose name matches.")
    ] = None,
    top: Annotated[
        int | None, typer.Option("--top", min=1, metavar="N", help="Rows [table: 30, JSON: all]; worst first.")
    ] = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Show at which offsets each group would continue on the target if it moved now, worst first."""
    options: Context = context.obj
    settings, the_flow = options.flow(flow)
    pattern = _pattern(group)
    with interruptible(), _looking(settings, the_flow) as looking:
        seen = looking.look(pattern)
    rows = seen.rows(is_source_up=not looking.source_problem)
    if output is Output.JSON:
        print_json({"flow": the_flow.name, "partitions": [it.as_json() for it in rows[:top]]})
    else:
        view = GroupsView(the_flow.source, the_flow.target, rows, top or DEFAULT_TOP)
        print_result(*seen.remarks(looking.source_problem), *view.parts())


@app.command(name="explain")
def explain_command(
    context: typer.Context,
    group: Annotated[str, typer.Argument(metavar="GROUP", help="The group's name.")],
    flow: FlowOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Explain why a group's partitions have no exact offset on the target, and what to do about it."""
    options: Context = context.obj
    settings, the_flow = options.flow(flow)
    with interruptible(), _looking(settings, the_flow) as looking:
        explanation = looking.explain(group)
    if output is Output.JSON:
        print_json(explanation.as_json())
    else:
        print_result(*explain_view(explanation))


@app.command()
def check(
    context: typer.Context,
    flow: FlowOption = None,
    max_lag_s: Annotated[
        float, typer.Option("--max-lag-s", min=0, metavar="S", help="Allowed age of the oldest unreplicated record.")
    ] = 60,
    max_checkpoint_age_s: Annotated[
        float, typer.Option("--max-checkpoint-age-s", min=0, metavar="S", help="Allowed age of the checkpoints.")
    ] = 30,
    output: OutputOption = Output.TABLE,
) -> None:
    """Check whether a failover would work now: one line per condition. Exit code 5: one of them fails."""
    options: Context = context.obj
    settings, the_flow = options.flow(flow)
    limits = Limits(max_lag_s, max_checkpoint_age_s)
    with interruptible(), busy(f"reading {the_flow.name}"):
        conditions = list(flow_conditions(flow_status(the_flow, settings.connect_timeout_s), limits))
        if all(it.ok for it in conditions if it.name == "target answers"):
            conditions += _group_conditions(settings, the_flow, limits)
    is_well = all(it.ok for it in conditions)
    if output is Output.JSON:
        print_json({"flow": the_flow.name, "ok": is_well, "conditions": [it.as_json() for it in conditions]})
    else:
        print_result(*check_view(the_flow.name, conditions))
    if not is_well:
        raise typer.Exit(EXIT_FOUND)


def _group_conditions(settings: Settings, flow: Flow, limits: Limits) -> list[Condition]:
    try:
        with _looking(settings, flow) as looking:
            seen = looking.look(None)
            found = list(group_conditions(seen.plan, seen.facts, seen.known, limits, time.time() * 1000))
            return [*found, *looking.rights(seen.plan.order.groups)]
    except ReplicatorError as error:
        return [Condition("groups can be looked at", False, str(error))]


def _pattern(text: str | None) -> re.Pattern[str] | None:
    try:
        return re.compile(text) if text else None
    except re.error as error:
        raise ConfigError("--group", f"{text!r} is not a regular expression: {error}") from error


# --- looking ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Seen:
    """How groups would move now."""

    plan: MovePlan
    facts: MoveFacts
    known: KnownGroups

    def rows(self, *, is_source_up: bool) -> list[GroupRow]:
        return group_rows(self.plan, self.facts, self.known, time.time() * 1000, is_source_up=is_source_up)

    def remarks(self, source_problem: str) -> Iterator[Text]:
        """What concerns all groups, and the groups whose offsets could not be read."""
        yield Text(self.plan.order.flow, style="bold")
        if source_problem:
            yield Text(f"shown from checkpoints only: {source_problem}", style="yellow")
        if self.facts.halted:
            yield Text(self.facts.halted, style="bold yellow")
        problems = [(group, it.problem) for group, it in self.facts.groups.items() if it.problem]
        for group, problem in problems[:SHOWN_PROBLEMS]:
            yield Text(f"! {group}: {problem}", style="red")
        if len(problems) > SHOWN_PROBLEMS:
            yield Text(f"! and {len(problems) - SHOWN_PROBLEMS:,} more groups whose offsets can't be read", style="red")


class _Looking:
    """Plans moves without carrying them out: a switchover, or a failover if the source is unreachable."""

    def __init__(self, clusters: FlowClusters, world: MoveClusters) -> None:
        self._clusters = clusters
        self._world = world
        self.source_problem = clusters.source_problem
        self._command = MoveCommand.FAILOVER if clusters.source_problem else MoveCommand.SWITCHOVER

    def look(self, pattern: re.Pattern[str] | None) -> _Seen:
        names = [name for name in self._world.select(self._command, ()) if pattern is None or pattern.search(name)]
        order = Order("", self._command, self._clusters.flow.name, tuple(names), is_all=True)
        return self._seen(*self._world.look_with_routes(order))

    def _seen(self, order: Order, facts: MoveFacts) -> _Seen:
        return _Seen(plan_move(order, facts), facts, self._world.known or self._world.checkpoints())

    def explain(self, group: str) -> Explanation:
        order = Order("", self._command, self._clusters.flow.name, self._world.select(self._command, [group]))
        if len(order.groups) != 1:
            raise RefusedError(f"{group!r} matches {len(order.groups)} groups; name one of them")
        seen = self._seen(order, self._world.look(order))
        rows = tuple(
            counted_row(order, seen.facts, row, self._world.refine(row)) if row.between else row
            for row in seen.plan.rows
        )
        plan = MovePlan(order, rows, seen.plan.refusals, seen.plan.waits)
        return explain(plan, seen.facts, self._clusters.view().syncs, self.source_problem)

    def rights(self, names: tuple[str, ...]) -> list[Condition]:
        target = self._clusters.target
        budget = self._clusters.budget()
        return list(right_conditions(self._clusters.flow, target, self._clusters.admin(target), names, budget))


@contextlib.contextmanager
def _looking(settings: Settings, flow: Flow) -> Iterator[_Looking]:
    clusters = FlowClusters(settings, flow)
    with contextlib.closing(clusters), busy(f"reading {flow.name}"):
        clusters.connect(needs_source=False)
        with contextlib.closing(MoveClusters(clusters, settings.hooks, lambda text: None)) as world:
            yield _Looking(clusters, world)
