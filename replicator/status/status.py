"""The state of one flow: clusters, workers, tasks, and what an operator should look at.

An unreachable cluster is part of the answer and no error: while the source is down, the operator wants to see the
workers and the positions on the target.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from replicator.config import ClusterSettings, Flow
from replicator.errors import ReplicatorError
from replicator.status.lag import Lag, LagFacts, State, Workers
from replicator.status.lag_reader import Observer


@dataclass(frozen=True, slots=True)
class Side:
    """One cluster of the flow; `error` says why it was not reached, and is empty when it was."""

    alias: str
    bootstrap_servers: str
    brokers: int
    error: str = ""

    def as_json(self) -> dict[str, Any]:
        return {
            "alias": self.alias,
            "bootstrap_servers": self.bootstrap_servers,
            "reachable": not self.error,
            "brokers": self.brokers,
            "error": self.error,
        }


@dataclass(frozen=True, slots=True)
class TaskStatus:
    """One task: its worker (``host/pid``, empty without one) and its partitions by state."""

    task: int
    worker: str
    partitions: Mapping[State, int]
    lag_records: int

    def as_json(self) -> dict[str, Any]:
        counts = {state.value: self.partitions.get(state, 0) for state in State}
        total = sum(counts.values())
        return {
            "task": self.task,
            "worker": self.worker,
            "partitions": total,
            **counts,
            "lag_records": self.lag_records,
        }


@dataclass(frozen=True, slots=True)
class FlowStatus:
    """One flow. `lag` and `tasks` are empty where the target was not reached; lags are unknown without the source.

    Args:
        halted: the halt of each task that must not run.
    """

    flow: str
    source: Side
    target: Side
    group: str
    workers: Workers
    data_plane: str
    tasks: tuple[TaskStatus, ...]
    halted: Mapping[int, Mapping[str, Any]]
    lag: Lag
    problems: tuple[str, ...]

    @property
    def is_reachable(self) -> bool:
        """Whether both clusters were reached."""
        return not (self.source.error or self.target.error)

    def as_json(self) -> dict[str, Any]:
        """The contract of ``status -o json``, one flow."""
        return {
            "flow": self.flow,
            "source": self.source.as_json(),
            "target": self.target.as_json(),
            "data_plane": self.data_plane,
            "group": self.group,
            "group_state": self.workers.state.lower(),
            "workers": [{"worker": name, "tasks": list(tasks)} for name, tasks in self.workers.tasks.items()],
            "tasks": [task.as_json() for task in self.tasks],
            "halted": [{"task": task, **halt} for task, halt in sorted(self.halted.items())],
            "partitions": {"total": len(self.lag.partitions)} | {it.value: self.lag.count(it) for it in State},
            "total_lag_records": self.lag.total_records if self.is_reachable else None,
            "lag_seconds": self.lag.oldest_seconds if self.is_reachable else None,
            "stopped_partitions": [
                {"topic": it.tp.topic, "partition": it.tp.partition, "reason": it.reason, "since": it.since}
                for it in self.lag.partitions
                if it.state is State.STOPPED
            ],
            "unmatched_patterns": list(self.lag.unmatched),
            "problems": list(self.problems),
        }


def flow_status(flow: Flow, timeout_s: float) -> FlowStatus:
    """Look at both clusters once; an unreachable cluster raises nothing.

    Args:
        timeout_s: for each step, including the connection.
    """
    with contextlib.closing(Observer(flow, timeout_s)) as observer:
        failed = observer.connect()
        facts: LagFacts | None = None
        lag = Lag(flow.name, (), Workers())
        if flow.target not in failed:
            try:
                facts = observer.facts()
                lag = observer.lag_of(facts)
            except ReplicatorError as error:
                failed[observer.asked] = error
        tasks = _tasks(facts, lag) if facts else ()
        return FlowStatus(
            flow=flow.name,
            source=_side(flow.source, flow.source_cluster, observer.brokers, failed),
            target=_side(flow.target, flow.target_cluster, observer.brokers, failed),
            group=flow.group,
            workers=lag.workers,
            data_plane=observer.data_plane() if not failed else flow.settings.data_plane,
            tasks=tasks,
            halted=facts.syncs.halted if facts else {},
            lag=lag,
            problems=tuple(_problems(flow, facts, observer.tasks, lag)) if facts else (),
        )


def _side(
    alias: str, settings: ClusterSettings, brokers: Mapping[str, int], failed: Mapping[str, ReplicatorError]
) -> Side:
    error = str(failed[alias]) if alias in failed else ""
    return Side(alias, settings.bootstrap_servers, brokers.get(alias, 0), error)


def _tasks(facts: LagFacts, lag: Lag) -> tuple[TaskStatus, ...]:
    states: dict[int, Counter[State]] = {task: Counter() for task in range(facts.tasks)}
    records: Counter[int] = Counter()
    for it in lag.partitions:
        states[it.task][it.state] += 1
        records[it.task] += it.lag_records or 0
    owners = facts.workers.owners
    return tuple(TaskStatus(task, owners.get(task, ""), dict(states[task]), records[task]) for task in states)


def _problems(flow: Flow, facts: LagFacts, tasks: int | None, lag: Lag) -> list[str]:
    """What an operator should look at, worst first, in sentences."""
    problems = [lag.halted] if lag.halted else []
    if lag.halted and len(facts.syncs.halted) < facts.tasks:
        problems.append(
            f"only the tasks {', '.join(map(str, sorted(facts.syncs.halted)))} are halted; run the command again"
        )
    idle = [task for task in range(facts.tasks) if task not in facts.workers.owners]
    if not facts.workers.tasks:
        problems.append(
            f"no worker is running: nothing is replicated (the group {flow.group} on {flow.target} has no members)"
        )
    elif facts.workers.is_moving:
        problems.append("the workers' group is rebalancing; look again in a few seconds")
    elif idle:
        problems.append(f"no worker has the tasks {', '.join(map(str, idle))}")
    if stopped := lag.count(State.STOPPED):
        problems.append(f"{stopped} partition{'s' if stopped > 1 else ''} stopped")
    if tasks is None:
        problems.append(f"{flow.target} has no topic {flow.syncs_topic}: no worker of this flow has run yet")
    elif tasks != flow.settings.tasks:
        problems.append(
            f"flows.{flow.name}.tasks is {flow.settings.tasks}, but {flow.syncs_topic} has {tasks} partitions, one per "
            f"task: workers with this configuration refuse to start"
        )
    problems += [f"the pattern {pattern!r} matches no topic of {flow.source}" for pattern in lag.unmatched]
    if facts.topics is not None and not lag.partitions:
        problems.append("no topic matches: there is nothing to replicate")
    return problems
