"""Carries out a move: asks, waits, commits, reads back, and writes all of it to the audit.

    look and plan → show → ask → wait until the group is at rest and all is replicated → `before_move` → claim the flow
    in the audit → halt (`failover --all`) → look and plan again → commit → read back → hand back (`failback`)
    → `after_move` → audit

Each step may be the last one that happens: the command is run again, finds what is done already, and goes on.

Invariants:
    G: what is refused has changed nothing; what is done was read back.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any, Protocol

from replicator.deadline import Deadline
from replicator.errors import TP, KafkaOpError, RefusedError, ReplicatorError
from replicator.groups.offsets import Committed, GroupOffsets
from replicator.moves.model import MoveCommand, MovePlan, Order, Row, RowState, Unrefined, counted
from replicator.moves.plan import MoveFacts, counted_row, plan_move
from replicator.offset_map.map import Exact
from replicator.syncs.control_records import PartlyDoneError

LOOK_EVERY_S = 0.2
SHOWN_OBSTACLES = 5
REFUSED_HINT = "to move them anyway: --accept-data-loss"


class World(Protocol):
    """The clusters, the audit and the hooks, as a move sees them."""

    def look(self, order: Order) -> MoveFacts:
        """What the clusters say now."""

    def refine(self, row: Row) -> Exact | Unrefined:
        """The exact place of a row whose stretch of the map is thinned out, if counting records finds it."""

    def commit(
        self, order: Order, wanted: Mapping[str, GroupOffsets], *, on_destination: bool
    ) -> dict[str, dict[TP, str]]:
        """Commit; why not, by group and partition, where it was not taken."""

    def offsets(self, order: Order, groups: Iterable[str], *, on_destination: bool) -> Mapping[str, GroupOffsets]:
        """What these groups have committed; one that can't be read is left out."""

    def hook(self, name: str, document: Mapping[str, Any]) -> None:
        """Run a hook of the configuration, if there is one.

        Raises:
            RefusedError: it failed.
        """

    def claim(self) -> None:
        """From now on no other operator's move of this flow is carried out."""

    def record(self, plan: MovePlan, state: str, result: str) -> None:
        """Write to the audit.

        Raises:
            RefusedError: another operator claimed the flow meanwhile.
        """

    def halt(self, order: Order) -> None:
        """No task of the flow writes from now on, and none starts."""

    def uninterrupted(self) -> AbstractContextManager[None]:
        """Ctrl-C is held back until the end of the block."""


class Operator(Protocol):
    """The person, or the program that answers for one."""

    def show(self, plan: MovePlan) -> None:
        """The plan, before anything is done."""

    def approve(self, plan: MovePlan) -> None:
        """Ask.

        Raises:
            RefusedError: no.
        """

    def say(self, text: str) -> None:
        """What goes on."""


@dataclass(frozen=True, slots=True)
class MoveOutcome:
    """What became of a move.

    Args:
        state: planned | done | refused | partly_done | failed.
        texts: why, or what else is to be known; one line each.
    """

    plan: MovePlan
    state: str
    texts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class MoveOptions:
    """How a move is to be done.

    Args:
        timeout_s: how long to wait for the group to be at rest and for replication.
        halts: whether the flow is halted.
    """

    dry_run: bool = False
    accept_data_loss: bool = False
    timeout_s: float = 120.0
    halts: bool = False


class MoveExecutor:
    """Carries out one order. Threading: the main thread."""

    def __init__(self, world: World, operator: Operator, options: MoveOptions) -> None:
        self._world = world
        self._operator = operator
        self._options = options

    def run(self, order: Order) -> MoveOutcome:
        """Do it, or say why not.

        Raises:
            RefusedError: the operator, a hook or another operator's move stopped it; nothing was changed.
            KafkaOpError: a cluster gave no answer before anything was changed.
        """
        plan = self._plan(order)
        self._operator.show(plan)
        if plan.is_refused:
            return _refused(plan)
        if self._options.dry_run:
            return MoveOutcome(plan, "planned", self._foreseen(plan))
        if not self._has_work(plan):
            return MoveOutcome(plan, "done", ("nothing to do",))
        if self._is_too_risky(plan):
            return _refused(plan)
        self._operator.approve(plan)
        plan = self._await(order, plan)
        if not self._may_act(plan):
            return _refused(plan)
        self._world.hook("before_move", plan.as_json("planned"))
        with self._world.uninterrupted():
            return self._act(order)

    def _foreseen(self, plan: MovePlan) -> tuple[str, ...]:
        """What would keep the plan from being carried out at once."""
        waits = tuple(f"it would wait: {it}" for it in waiting_for(plan))
        return (*waits, f"it would be refused: {_risk_text(plan)}", REFUSED_HINT) if self._is_too_risky(plan) else waits

    def _has_work(self, plan: MovePlan) -> bool:
        """Whether anything is to be done; an interrupted move may have left the handing back and the audit."""
        is_to_end = any(row.state is RowState.COMMITTED for row in plan.rows)
        return bool(plan.planned) or is_to_end or plan.must_wait or self._options.halts

    def _is_too_risky(self, plan: MovePlan) -> bool:
        return plan.may_lose and not self._options.accept_data_loss

    def _may_act(self, plan: MovePlan) -> bool:
        return not (plan.is_refused or plan.must_wait or self._is_too_risky(plan))

    # --- planning -----------------------------------------------------------------------------------------------------

    def _plan(self, order: Order) -> MovePlan:
        facts = self._world.look(order)
        plan = plan_move(order, facts)

        def refined(row: Row) -> Row:
            is_to_count = row.between is not None and row.state is RowState.PLANNED
            return counted_row(order, facts, row, self._world.refine(row)) if is_to_count else row

        return replace(plan, rows=tuple(map(refined, plan.rows)))

    def _await(self, order: Order, plan: MovePlan) -> MovePlan:
        """Look again until nothing has to be waited for, or the time is over."""
        deadline = Deadline(self._options.timeout_s)
        shown: tuple[str, ...] = ()
        while plan.must_wait and not plan.is_refused and not deadline.expired:
            texts = waiting_for(plan)
            if texts != shown:
                for text in texts:
                    self._operator.say(f"waiting: {text}")
            shown = texts
            time.sleep(deadline.slice_s(LOOK_EVERY_S))
            plan = self._plan(order)
        return plan

    # --- acting -------------------------------------------------------------------------------------------------------

    def _act(self, order: Order) -> MoveOutcome:
        self._world.claim()
        plan = self._plan(order)
        if not self._may_act(plan):
            return _refused(plan)
        self._world.record(plan, "started", "")
        has_halted = False
        try:
            if self._options.halts:
                self._operator.say("halting the flow")
                self._world.halt(order)
                has_halted = True
                plan = self._plan(order)
            outcome = self._commit(plan)
        except KafkaOpError as error:
            has_halted |= isinstance(error, PartlyDoneError) and bool(error.done)
            texts = (f"{error}", "run the command again: it continues where this one stopped")
            outcome = MoveOutcome(plan, "partly_done" if has_halted else "failed", texts)
        return self._report(outcome)

    def _commit(self, plan: MovePlan) -> MoveOutcome:
        planned, wanted = plan.planned, plan.commits()
        refusals = self._world.commit(plan.order, wanted, on_destination=True)
        found = self._world.offsets(plan.order, wanted, on_destination=True)
        rows = tuple(_read_back(row, wanted, refusals, found) if row in planned else row for row in plan.rows)
        plan = replace(plan, rows=rows)
        texts = list(self._hand_back(plan) if plan.order.is_homeward else self._gone_on(plan, wanted))
        failed = sum(row.state is RowState.FAILED for row in rows)
        committed = sum(row.state is RowState.COMMITTED for row in rows)
        has_failed = failed or plan.is_refused or (plan.order.is_homeward and texts)
        texts += _refused(plan).texts if plan.is_refused else ()  # seen only after the flow was halted
        state = "done" if not has_failed else "partly_done" if committed or self._options.halts else "failed"
        return MoveOutcome(plan, state, tuple(texts))

    def _gone_on(self, plan: MovePlan, groups: Iterable[str]) -> Iterable[str]:
        """Whether the group went on where it came from, while it was being moved."""
        if plan.order.command is not MoveCommand.SWITCHOVER:
            return
        found = self._world.offsets(plan.order, groups, on_destination=False)
        for group in groups:
            rows = [row for row in plan.rows if row.group == group and row.state is RowState.COMMITTED]
            after = found.get(group, {})
            if any(after.get(row.origin, Committed(row.origin_next)).next_offset != row.origin_next for row in rows):
                yield f"the group {group} committed on the cluster it left during the move: stop its consumers there"

    def _hand_back(self, plan: MovePlan) -> Iterable[str]:
        """Give the offsets on the target of groups that came home to group sync, where they are what the plan saw."""
        failed = {row.group for row in plan.rows if row.state is RowState.FAILED}
        committed = [row for row in plan.rows if row.state is RowState.COMMITTED and row.group not in failed]
        wanted = plan.hand_backs(committed)
        found = self._world.offsets(plan.order, wanted, on_destination=False)
        seen = {(row.group, row.origin): row.origin_next for row in committed}
        gone_on = {
            group
            for group, offsets in wanted.items()
            if any(found.get(group, {}).get(tp, Committed(-1)).next_offset != seen[group, tp] for tp in offsets)
        }
        for group in sorted(gone_on):
            yield f"the group {group} committed on the target during the failback; next: `replicator resync {group}`"
        refusals = self._world.commit(
            plan.order, {group: it for group, it in wanted.items() if group not in gone_on}, on_destination=False
        )
        for group, partitions in refusals.items():
            if partitions:
                why = next(iter(partitions.values()))
                text = f"the offsets of {group} were not handed back to group sync: {why}"
                yield f"{text}; next: `replicator resync {group}`"

    def _report(self, outcome: MoveOutcome) -> MoveOutcome:
        """Tell the hook and the audit."""
        texts = list(outcome.texts)
        try:
            self._world.hook("after_move", outcome.plan.as_json(outcome.state))
        except RefusedError as error:
            texts.append(str(error))
        try:
            self._world.record(outcome.plan, outcome.state, "; ".join(texts))
        except ReplicatorError as error:
            texts.append(f"the result is not in the audit: {error}")
        return replace(outcome, texts=tuple(texts))


def _refused(plan: MovePlan) -> MoveOutcome:
    """Why it is not done; a plan that could be is too risky."""
    obstacles = [f"{row.group}: {row.origin}: {row.reason}" for row in plan.rows if row.is_obstacle]
    if plan.is_refused:
        return MoveOutcome(plan, "refused", (*plan.refusals, *obstacles[:SHOWN_OBSTACLES]))
    if plan.must_wait:
        return MoveOutcome(plan, "refused", tuple(f"still {it}" for it in waiting_for(plan)))
    return MoveOutcome(plan, "refused", (_risk_text(plan), REFUSED_HINT))


def waiting_for(plan: MovePlan) -> tuple[str, ...]:
    """What keeps the plan from being carried out at once, and may pass."""
    behind = [row for row in plan.rows if row.must_wait]
    if not behind:
        return plan.waits
    first = behind[0]
    more = f", and {counted(len(behind) - 1, 'more partition')}" if len(behind) > 1 else ""
    return (*plan.waits, f"{first.origin} of {first.group}: {first.reason}{more}")


def _risk_text(plan: MovePlan) -> str:
    """What a failover may lose, in words."""
    if not plan.rows:
        return "no group has a checkpoint: each would start where its consumers' auto.offset.reset says"
    unknown = sum(row.at_risk_records is None for row in plan.rows)
    known = sum(row.at_risk_records or 0 for row in plan.rows)
    where = "source" if plan.order.is_homeward else "target"
    parts = [f"up to {counted(known, 'record')} {'is' if known == 1 else 'are'} not on the {where}"] if known else []
    if unknown:
        of = counted(unknown, "partition")
        source = plan.order.flow.partition("->")[0]
        parts.append(f"cannot rule out data loss for {of}: {source} did not report where they end")
    return "; ".join(parts)


def _read_back(
    row: Row,
    commits: Mapping[str, GroupOffsets],
    refusals: Mapping[str, Mapping[TP, str]],
    found: Mapping[str, GroupOffsets],
) -> Row:
    """What became of a planned row."""
    assert row.destination is not None
    refusal = refusals.get(row.group, {}).get(row.destination)
    if refusal is not None:
        return replace(row, state=RowState.FAILED, reason=refusal)
    wanted = commits[row.group][row.destination]
    there = found.get(row.group, {}).get(row.destination)
    if there == wanted:
        return replace(row, state=RowState.COMMITTED)
    if there is not None and there.next_offset >= wanted.next_offset and there.metadata != wanted.metadata:
        return replace(row, state=RowState.COMMITTED, reason="the group has already read past this offset")
    text = "nothing" if there is None else f"{there.next_offset:,}"
    return replace(
        row, state=RowState.FAILED, reason=f"read back {text} instead of {wanted.next_offset:,}; run the command again"
    )
