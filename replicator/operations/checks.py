"""Would a failover work now? One line for each condition (`replicator check`)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from replicator.checkpoints.topic import KnownGroups
from replicator.config import Flow
from replicator.deadline import Deadline
from replicator.kafka.cluster import AclOperation, AdminClient, Cluster, TopicCollection, await_results
from replicator.moves.model import MovePlan, counted
from replicator.moves.plan import MoveFacts
from replicator.names import AUDIT_TOPIC
from replicator.operations.group_report import is_well
from replicator.status.lag import State
from replicator.status.status import FlowStatus

SHOWN = 3
GROUPS_AT_MOST = 200
"""Rights are checked for at most so many groups."""


@dataclass(frozen=True, slots=True)
class Condition:
    """One condition of a failover.

    Args:
        detail: what was found.
    """

    name: str
    ok: bool
    detail: str

    def as_json(self) -> dict[str, Any]:
        return {"condition": self.name, "ok": self.ok, "detail": self.detail}


@dataclass(frozen=True, slots=True)
class Limits:
    """What `check` still accepts.

    Args:
        lag_s: age of the oldest record that is not replicated.
        checkpoint_age_s: age of the oldest checkpoints.
    """

    lag_s: float
    checkpoint_age_s: float


def flow_conditions(status: FlowStatus, limits: Limits) -> Iterable[Condition]:
    """The conditions about the clusters, the workers and replication. Pure."""
    for name, side in (("source answers", status.source), ("target answers", status.target)):
        yield Condition(name, not side.error, side.error or f"{side.alias}: {counted(side.brokers, 'broker')}")
    if status.target.error:
        return
    idle = [task.task for task in status.tasks if not task.worker]
    workers = counted(len(status.workers.tasks), "worker")
    text = f"{workers}; no worker has the tasks {', '.join(map(str, idle))}" if idle else workers
    yield Condition("flow runs", bool(status.workers.tasks) and not idle, text)
    stopped = [it for it in status.lag.partitions if it.state is State.STOPPED]
    shown = "; ".join(f"{it.tp}: {it.reason}" for it in stopped[:SHOWN])
    yield Condition("no partition stopped", not stopped, shown or counted(len(status.lag.partitions), "partition"))
    if not status.is_reachable:
        yield Condition("replication lag", False, "unknown: the source is unreachable")
        return
    age_s = status.lag.oldest_seconds
    is_fresh = age_s is not None and age_s <= limits.lag_s
    age = "?" if age_s is None else f"{age_s:,.1f} s"
    yield Condition(
        "replication lag", is_fresh, f"{status.lag.total_records:,} records, oldest {age} (at most {limits.lag_s:g} s)"
    )


def group_conditions(
    plan: MovePlan, facts: MoveFacts, known: KnownGroups, limits: Limits, now_ms: float
) -> Iterable[Condition]:
    """The conditions about the groups. Pure."""
    yield Condition("not halted", not facts.halted, facts.halted or "no task is halted")
    yield _freshness(known, plan.order.groups, limits.checkpoint_age_s, now_ms)
    bad = [f"{group}: {it.problem}" for group, it in facts.groups.items() if it.problem]
    bad += [f"{row.group} {row.origin}: {row.reason or row.translation}" for row in plan.rows if not is_well(row)]
    shown = "; ".join(bad[:SHOWN])
    more = f"; and {len(bad) - SHOWN} more" if len(bad) > SHOWN else ""
    total = f"{counted(len(plan.order.groups), 'group')}, {counted(len(plan.rows), 'partition')}"
    yield Condition("groups translated", not bad, f"{shown}{more}" if bad else total)


def _freshness(known: KnownGroups, groups: Iterable[str], at_most_s: float, now_ms: float) -> Condition:
    """Whether the checkpoints are fresh, those of every group among them. Pure."""
    name = "checkpoints fresh"
    ages_s = {group: known.age_s(group, now_ms) for group in groups}
    unknown = sorted(group for group, age_s in ages_s.items() if age_s is None)
    if known.pulse_ms is None or unknown:
        text = f"age unknown for {', '.join(unknown[:SHOWN])}"
        return Condition(name, False, "never written" if known.pulse_ms is None else text)
    pulse_age_s = max(0.0, (now_ms - known.pulse_ms) / 1000)
    old_s = max((it for it in ages_s.values() if it is not None), default=pulse_age_s)
    behind = sorted(group for group, age_s in ages_s.items() if age_s is not None and age_s > at_most_s)
    whose = f" for {', '.join(behind[:SHOWN])}" if len(behind) < len(ages_s) and behind else ""
    return Condition(name, old_s <= at_most_s, f"{old_s:,.1f} s old{whose} (at most {at_most_s:g} s)")


def right_conditions(
    flow: Flow, target: Cluster, admin: AdminClient, groups: Iterable[str], deadline: Deadline
) -> Iterable[Condition]:
    """Whether the principal has the rights on the target that a failover needs. Groups that do not exist are left out.

    Raises:
        KafkaOpError: the target did not answer.
    """
    lacking: list[str] = []
    wanted = {AUDIT_TOPIC: {AclOperation.WRITE}, flow.syncs_topic: {AclOperation.WRITE, AclOperation.READ}}
    futures = admin.describe_topics(
        TopicCollection(list(wanted)), include_authorized_operations=True, request_timeout=max(0.1, deadline.left_s())
    )
    lacking += _lacking(target, await_results(futures, deadline), wanted, "topic")
    some = list(groups)[:GROUPS_AT_MOST]
    if some:
        described = admin.describe_consumer_groups(
            some, include_authorized_operations=True, request_timeout=max(0.1, deadline.left_s())
        )
        wanted = {group: {AclOperation.READ} for group in some}
        lacking += _lacking(target, await_results(described, deadline), wanted, "group")
    text = "; ".join(lacking[:SHOWN]) if lacking else f"granted to {target.principal}"
    yield Condition("rights on the target", not lacking, text)


def _lacking(
    target: Cluster, results: Mapping[str, Any], wanted: Mapping[str, set[AclOperation]], kind: str
) -> Iterable[str]:
    absent = {"UNKNOWN_TOPIC_OR_PART", "GROUP_ID_NOT_FOUND"}  # it will be created
    for name, result in results.items():
        if isinstance(result, Exception):
            error = target.error(result, op=f"describe the {kind} {name}", right="DESCRIBE")
            if error.code in absent:
                continue
            if "AUTHORIZATION" not in error.code:
                raise error
            yield f"DESCRIBE on the {kind} {name}"
        elif result.authorized_operations is not None:
            missing = wanted[name] - set(result.authorized_operations)
            if missing:
                yield f"{', '.join(sorted(it.name for it in missing))} on the {kind} {name}"
