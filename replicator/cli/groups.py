"""`groups`, `explain` and `check`: what would happen if groups moved now. They change nothing."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from replicator.checkpoint_reader import KnownGroups
from replicator.checks import Condition, Limits, flow_conditions, group_conditions, right_conditions
from replicator.cli.app import Context, FlowOption, Output, OutputOption, app
from replicator.cli.output import busy, count_text, new_table, print_json, print_result, seconds_text
from replicator.config import Flow, Settings
from replicator.errors import ConfigError, RefusedError, ReplicatorError
from replicator.failover import Facts, plan_move
from replicator.flow_clusters import FlowClusters
from replicator.group_report import Explanation, GroupRow, explain, group_rows
from replicator.interrupts import interruptible
from replicator.move import Command, Order, Plan
from replicator.move_clusters import MoveClusters
from replicator.status import flow_status

DEFAULT_TOP = 30
EXIT_FOUND = 5


@app.command()
def groups(
    context: typer.Context,
    flow: FlowOption = None,
    group: Annotated[
        str | None, typer.Option("--group", metavar="REGEX", help="Only groups in whose name this is found.")
    ] = None,
    top: Annotated[
        int | None, typer.Option("--top", min=1, metavar="N", help="Rows [table: 30, JSON: all]; worst first.")
    ] = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Show where each group would go on, on the target, if it moved now: what hurts most first."""
    options: Context = context.obj
    settings, the_flow = options.flow(flow)
    pattern = _pattern(group)
    with interruptible(), _looking(settings, the_flow) as looking:
        seen = looking.look(pattern)
    rows = seen.rows(is_source_up=not looking.source_problem)
    if output is Output.JSON:
        print_json({"flow": the_flow.name, "partitions": [it.as_json() for it in rows[:top]]})
    else:
        print_result(*_groups_view(the_flow, seen, rows, top or DEFAULT_TOP, looking.source_problem))


@app.command(name="explain")
def explain_command(
    context: typer.Context,
    group: Annotated[str, typer.Argument(metavar="GROUP", help="Its name.")],
    flow: FlowOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Say why a group's partitions have no exact place on the target, and what to do about it."""
    options: Context = context.obj
    settings, the_flow = options.flow(flow)
    with interruptible(), _looking(settings, the_flow) as looking:
        explanation = looking.explain(group)
    if output is Output.JSON:
        print_json(explanation.as_json())
    else:
        print_result(*_explain_view(explanation))


@app.command()
def check(
    context: typer.Context,
    flow: FlowOption = None,
    max_lag_s: Annotated[
        float, typer.Option("--max-lag-s", min=0, metavar="S", help="Age of the oldest record not replicated.")
    ] = 60,
    max_checkpoint_age_s: Annotated[
        float, typer.Option("--max-checkpoint-age-s", min=0, metavar="S", help="Age of what is known of the groups.")
    ] = 30,
    output: OutputOption = Output.TABLE,
) -> None:
    """Would a failover work now? One line for each condition; exit code 5 where one is not met."""
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
        print_result(*_check_view(the_flow, conditions))
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

    plan: Plan
    facts: Facts
    known: KnownGroups

    def rows(self, *, is_source_up: bool) -> list[GroupRow]:
        return group_rows(self.plan, self.facts, self.known, time.time() * 1000, is_source_up=is_source_up)


class _Looking:
    """Plans moves that nobody carries out: a switchover, or a failover where the source gives no answer."""

    def __init__(self, clusters: FlowClusters, world: MoveClusters) -> None:
        self._clusters = clusters
        self._world = world
        self.source_problem = clusters.source_problem
        self._command = Command.FAILOVER if clusters.source_problem else Command.SWITCHOVER

    def look(self, pattern: re.Pattern[str] | None) -> _Seen:
        names = [name for name in self._world.select(self._command, ()) if pattern is None or pattern.search(name)]
        order = Order("", self._command, self._clusters.flow.name, tuple(names), is_all=True)
        return self._seen(*self._world.look_with_routes(order))

    def _seen(self, order: Order, facts: Facts) -> _Seen:
        return _Seen(plan_move(order, facts), facts, self._world.known or self._world.checkpoints())

    def explain(self, group: str) -> Explanation:
        order = Order("", self._command, self._clusters.flow.name, self._world.select(self._command, [group]))
        if len(order.groups) != 1:
            raise RefusedError(f"{group!r} fits {len(order.groups)} groups: name one")
        seen = self._seen(order, self._world.look(order))
        rows = tuple(self._world.refine(row) if row.between else row for row in seen.plan.rows)
        plan = Plan(order, rows, seen.plan.refusals, seen.plan.waits)
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


# --- views ------------------------------------------------------------------------------------------------------------


def _groups_view(flow: Flow, seen: _Seen, rows: list[GroupRow], shown: int, source_problem: str) -> list[Any]:
    exact = sum(it.row.translation == "exact" for it in rows)
    title = Text(flow.name, style="bold")
    title.append(
        f"   {len(seen.plan.order.groups):,} groups, {len(rows):,} partitions, {exact:,} exact", style="default"
    )
    parts: list[Any] = [title]
    if source_problem:
        parts.append(Text(f"by the checkpoints alone: {source_problem}", style="yellow"))
    if seen.facts.halted:
        parts.append(Text(seen.facts.halted, style="bold red"))
    if not rows:
        return [*parts, Text("no group has a position in a topic of the flow")]
    table = new_table(
        group=False, topic=False, part=True, **{f"on_{flow.source}": True, f"on_{flow.target}": True},
        translation=False, known=True, active=False, synced=False, remark=False,
    )  # fmt: skip
    for it in rows[:shown]:
        row = it.row
        active = [flow.source] if it.active_on_source else []
        active += [flow.target] if it.active_on_target else []
        is_bad = row.translation in ("expired", "unknown") and row.is_obstacle
        table.add_row(
            row.group,
            row.near.topic,
            str(row.near.partition),
            count_text(row.near_next),
            count_text(row.far_next),
            Text(row.translation, style="red" if is_bad else "yellow" if row.translation != "exact" else ""),
            "-" if it.checkpoint_age_s is None else seconds_text(it.checkpoint_age_s) + " ago",
            ", ".join(active) or "-",
            "yes" if it.synced else "no",
            row.reason,
        )
    parts.append(table)
    if len(rows) > shown:
        parts.append(Text(f"… and {len(rows) - shown:,} more (--top N, --group REGEX)", style="dim"))
    return parts


def _explain_view(it: Explanation) -> list[Any]:
    title = Text(f"{it.group} on {it.flow}", style="bold")
    title.append(f"   {it.exact} of {len(it.rows)} partitions are exact", style="default")
    parts: list[Any] = [title]
    for reason, text, advice in it.whole:
        parts.append(Text(f"! {reason}: {text}", style="yellow"))
        parts.append(Text(f"  {advice}"))
    by_reason: dict[str, list[Any]] = {}
    for row, advice in it.rows:
        if row.reason:
            by_reason.setdefault(row.reason.partition(":")[0], []).append((row, advice))
    for reason, rows in by_reason.items():
        first, advice = rows[0]
        more = f" (and {len(rows) - 1} more partitions)" if len(rows) > 1 else ""
        parts.append(Text(f"{first.near}{more}: {first.reason}", style="yellow"))
        parts.append(Text(f"  {advice}" if advice else f"  {reason}"))
    if len(parts) == 1:
        parts.append(Text("every partition would move exactly", style="green"))
    return parts


def _check_view(flow: Flow, conditions: list[Condition]) -> list[Table | Text]:
    table = new_table(condition=False, **{"": False}, found=False)
    for it in conditions:
        table.add_row(it.name, Text("ok" if it.ok else "FAILS", style="green" if it.ok else "bold red"), it.detail)
    failing = sum(not it.ok for it in conditions)
    verdict = f"{failing} conditions fail" if failing else "a failover would work now"
    return [Text(flow.name, style="bold"), table, Text(verdict, style="bold red" if failing else "green")]
