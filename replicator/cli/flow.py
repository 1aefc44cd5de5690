"""`pause`, `resume`, `recopy` and `history`: operate a flow. They need only its target."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from replicator.audit.audit import UNREADABLE, AuditRecord, new_move_id, read_audit
from replicator.audit.audited_command import READ_TIMEOUT_S, CommandOutcome, Rows
from replicator.audit.signals import held_back, interruptible
from replicator.cli.app import Context, FlowOption, Output, OutputOption, app
from replicator.cli.ask import confirm
from replicator.cli.output import busy, complain, count_text, new_table, print_json, print_result, stderr
from replicator.deadline import Deadline
from replicator.errors import RefusedError
from replicator.kafka.cluster import Cluster
from replicator.moves.model import counted
from replicator.operations.pause import Halts, Pause, PauseCommand
from replicator.operations.recopy import COMMAND as RECOPY
from replicator.operations.recopy import Recopy, Seen
from replicator.syncs.halts import HaltReason, halt_text, halted_text

EXIT_CODES = {"done": 0, "failed": 1, "partly_done": 4}
SHOWN_MOVES = 30
SHOWN_GROUPS = 3

YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")]
TimeoutOption = Annotated[
    float,
    typer.Option("--timeout", min=1, metavar="S", help="Seconds to keep trying tasks that start or do not answer."),
]


@app.command()
def pause(
    context: typer.Context,
    flow: FlowOption = None,
    yes: YesOption = False,
    timeout_s: TimeoutOption = 30,
    output: OutputOption = Output.TABLE,
) -> None:
    """Halt a flow: its workers stay up and replicate nothing until `resume`. Needs only the target.

    Running it again halts the tasks that are not halted yet, or does nothing.
    """
    _switch(context.obj, PauseCommand.PAUSE, flow, yes, timeout_s, output)


@app.command()
def resume(
    context: typer.Context,
    flow: FlowOption = None,
    yes: YesOption = False,
    timeout_s: TimeoutOption = 30,
    output: OutputOption = Output.TABLE,
) -> None:
    """Lift the halt of `pause` or `failover --all`: the flow continues where it stopped, nothing lost or duplicated."""
    _switch(context.obj, PauseCommand.RESUME, flow, yes, timeout_s, output)


@app.command()
def recopy(
    context: typer.Context,
    topics: Annotated[list[str], typer.Argument(help="Topics, by their names on the source.")],
    flow: FlowOption = None,
    behind: Annotated[
        bool, typer.Option("--behind", help="Also if the remote topic holds records: write all again behind them.")
    ] = False,
    yes: YesOption = False,
    timeout_s: TimeoutOption = 30,
    output: OutputOption = Output.TABLE,
) -> None:
    """Re-replicate topics whose remote topics were deleted, recreated or truncated. Needs only the target.

    Delete the remote topic first. Running the command again does what is left to do, or nothing.
    """
    options: Context = context.obj
    settings, the_flow = options.flow(flow)
    report = _FlowCommandReport(RECOPY, the_flow.name, output, "partitions", _partitions_view)
    with report.refusals(), interruptible():
        with busy(f"reading {the_flow.name}"):
            recopying = Recopy(the_flow, topics, settings.connect_timeout_s, behind=behind)
            seen = recopying.look()
        report.rows = recopying.rows(recopying.plan(seen), seen.partitions, "planned")
        outcome = _carry_out_recopy(recopying, seen, report.move_id, yes=yes, timeout_s=timeout_s)
    report.end(outcome)


@app.command()
def history(
    context: typer.Context,
    flow: FlowOption = None,
    top: Annotated[
        int | None, typer.Option("--top", min=1, metavar="N", help="Only the newest N [table: 30, JSON: all].")
    ] = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Show who moved groups, paused, resumed or re-replicated, when, and with what result; newest last."""
    options: Context = context.obj
    settings, the_flow = options.flow(flow)
    with interruptible(), busy(f"reading the audit on {the_flow.target}"):
        target = Cluster(the_flow.target, "target", the_flow.target_cluster, the_flow.group)
        target.connect(settings.connect_timeout_s)
        found = read_audit(target, Deadline(READ_TIMEOUT_S))
    records = [it for it in found if it.flow == the_flow.name or it.state == UNREADABLE]
    if output is Output.JSON:
        print_json([it.as_json() for it in records[-(top or len(records)) :]])
        return
    shown = records[-(top or SHOWN_MOVES) :]
    if not shown:
        print_result(Text(f"no command has moved groups of {the_flow.name}, paused, resumed or re-replicated it"))
        return
    if len(shown) < len(records):
        print_result(Text(f"… {len(records) - len(shown):,} older commands (--top N)", style="dim"))
    print_result(_history_view(shown))


@dataclass
class _FlowCommandReport:
    """How a command ends: what it prints, and its exit code.

    Args:
        rows_name: what the JSON calls the rows.
        view: the rows as a table.
        rows: as they are before anything is done.
    """

    command: str
    flow: str
    output: Output
    rows_name: str
    view: Callable[[Rows], Table]
    rows: Rows = ()
    move_id: str = field(default_factory=new_move_id)

    @contextmanager
    def refusals(self) -> Iterator[None]:
        """Prints the JSON of a refusal, too."""
        try:
            yield
        except RefusedError:
            if self.output is Output.JSON:
                print_json(self._as_json(CommandOutcome("refused", self.rows)))
            raise

    def end(self, outcome: CommandOutcome) -> None:
        """Print what became of it, and exit."""
        if self.output is Output.JSON:
            print_json(self._as_json(outcome))
        else:
            print_result(self.view(outcome.rows))
        for text in outcome.texts:
            _say(text)
        if outcome.state != "done":
            state = outcome.state.replace("_", " ")
            complain(f"{self.command} {state}; run it again to do the rest")
        raise typer.Exit(EXIT_CODES[outcome.state])

    def _as_json(self, outcome: CommandOutcome) -> dict[str, Any]:
        """The contract of ``-o json``."""
        return {
            "id": self.move_id,
            "command": str(self.command),
            "flow": self.flow,
            "state": outcome.state,
            self.rows_name: list(outcome.rows),
        }


# --- pause and resume -------------------------------------------------------------------------------------------------


def _switch(
    options: Context, command: PauseCommand, flow: str | None, yes: bool, timeout_s: float, output: Output
) -> None:
    settings, the_flow = options.flow(flow)
    report = _FlowCommandReport(command, the_flow.name, output, "tasks", _tasks_view)
    with report.refusals(), interruptible():
        with busy(f"reading {the_flow.name}"):
            pausing = Pause(the_flow, settings.connect_timeout_s)
            halts = pausing.look()
        report.rows = pausing.rows(halts)
        outcome = _carry_out(pausing, command, report.move_id, halts, yes=yes, timeout_s=timeout_s)
    report.end(outcome)


def _carry_out(
    pausing: Pause, command: PauseCommand, move_id: str, halts: Halts, *, yes: bool, timeout_s: float
) -> CommandOutcome:
    left = pausing.left(command, halts)
    name = pausing.flow.name
    if not left:
        text = halted_text(name, halts) if halts else f"the flow {name} is not halted"
        return CommandOutcome("done", pausing.rows(halts), (f"nothing to do: {text}",))
    _say(f"{command} {name}: {'halt' if command is PauseCommand.PAUSE else 'lift the halt of'} {_tasks_text(left)}")
    for text in _meaning(pausing, command, halts):
        _say(f"  {text}")
    confirm("Proceed?", yes)
    with held_back(_say):
        return pausing.carry_out(command, move_id, halts, timeout_s)


def _tasks_text(tasks: Sequence[int]) -> str:
    return f"{'task' if len(tasks) == 1 else 'tasks'} {', '.join(map(str, tasks))}"


def _meaning(pausing: Pause, command: PauseCommand, halts: Halts) -> list[str]:
    """The consequences, for the operator who confirms."""
    flow = pausing.flow
    if command is PauseCommand.PAUSE:
        return [f"no record and no group offset is written to {flow.target} until `replicator resume`"]
    texts = [halt_text(halts[min(halts)])]
    if any(it.get("reason") == HaltReason.FAILOVER for it in halts.values()):
        texts.append(f"groups that moved to {flow.target} stay there; `replicator failback` moves them back")
        texts.append(
            f"records of {flow.source} that were not replicated before the failover follow after what they have read"
        )
    return texts


# --- recopy -----------------------------------------------------------------------------------------------------------


def _carry_out_recopy(recopying: Recopy, seen: Seen, move_id: str, *, yes: bool, timeout_s: float) -> CommandOutcome:
    plan = recopying.plan(seen)
    if plan.refusals:
        raise RefusedError("\n".join(plan.refusals))
    flow = recopying.flow
    topics = sorted({it.tp.topic for it in plan.forgotten})
    partitions = counted(len(plan.forgotten), "partition")
    start = flow.settings.start_from
    start_text = f"the {start} offset" if start in ("earliest", "latest") else f"{start}"
    _say(f"{RECOPY} {flow.name}: will re-replicate {', '.join(topics)} ({partitions}) from {start_text}")
    held = sum(it.offsets for it in plan.forgotten)
    if held:
        _say(f"  every record is written again behind the {held:,} offsets that the remote topics hold")
    _say("  groups can't move to exact offsets in these topics until the records they have read are replicated again")
    if seen.halts:
        _say(f"  the flow is halted: nothing is replicated until `replicator resume --flow '{flow.name}'`")
    confirm("Proceed?", yes)
    with held_back(_say):
        return recopying.carry_out(seen, move_id, timeout_s)


def _say(text: str) -> None:
    stderr.print(text, markup=False)


# --- views ------------------------------------------------------------------------------------------------------------


def _tasks_view(rows: Rows) -> Table:
    table = new_table(task=True, state=False, reason=False)
    for row in rows:
        state = Text(row["state"], style="yellow" if row["state"] == "halted" else "")
        table.add_row(str(row["task"]), state, row["reason"])
    return table


def _partitions_view(rows: Rows) -> Table:
    table = new_table(topic=False, part=True, target_topic=False, task=True, replicated=True, state=False, reason=False)
    for row in rows:
        state = Text(row["state"], style={"failed": "red", "kept": "dim"}.get(row["state"], ""))
        numbers = str(row["partition"]), row["target_topic"], str(row["task"]), count_text(row["replicated_next"])
        table.add_row(row["topic"], *numbers, state, row["reason"])
    return table


def _history_view(records: Sequence[AuditRecord]) -> Table:
    table = new_table(time=False, id=False, command=False, groups=False, operator=False, state=False, result=False)
    for it in records:
        style = {"done": "", "started": "yellow", "refused": "yellow"}.get(it.state, "red")
        operator = f"{it.operator}@{it.host}" if it.operator else ""
        table.add_row(
            _time_text(it.time), it.id, it.command, _groups_text(it), operator, Text(it.state, style=style), it.result
        )
    return table


def _time_text(iso: str) -> str:
    try:
        return f"{dt.datetime.fromisoformat(iso).astimezone(dt.UTC):%Y-%m-%d %H:%M:%S} UTC"
    except ValueError:
        return iso


def _groups_text(record: AuditRecord) -> str:
    """The first groups of the plan, and how many more there are; ``≥`` when not all rows were kept."""
    groups = list(dict.fromkeys(str(row["group"]) for row in record.plan if "group" in row))
    more = len(groups) - SHOWN_GROUPS
    at_least = "≥ " if record.plan_rows_left_out else ""
    return ", ".join(groups[:SHOWN_GROUPS]) + (f" and {at_least}{count_text(more)} more" if more > 0 else "")
