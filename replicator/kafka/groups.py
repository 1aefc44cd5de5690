"""Consumer groups of a cluster: which there are, what they committed, and commits in their name.

One request asks for one group (that is all the client can do), so requests go out many at a time: 5,000 groups with
10 partitions each take 1.5 to 3 s and 0.5 s of CPU.

Source: KIP-88, KIP-447 (`require_stable`); a broker refuses the commit of one that is no member, with
UNKNOWN_MEMBER_ID, as long as the group has members.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future
from itertools import islice
from typing import Any

from replicator.deadline import Deadline
from replicator.errors import TP, AbortTransactionError, KafkaOpError, RetriableError
from replicator.kafka.cluster import (
    AdminClient,
    Cluster,
    ConsumerGroupTopicPartitions,
    KafkaException,
    TopicPartition,
    await_results,
)
from replicator.kafka.error_codes import classify
from replicator.kafka.group_offsets import INACTIVE, Committed, GroupOffsets, GroupState
from replicator.log import Logger

AT_ONCE = 1000
LATE_AFTER_S = 2.0
"""What a group's answer may take before the others go on without it: one with an open transaction can take long."""


def list_groups(cluster: Cluster, admin: AdminClient, deadline: Deadline) -> dict[str, str]:
    """Kafka's word for the state, in capitals, by group; only groups that the principal may DESCRIBE.

    A group that is not among them may exist all the same (`unlisted_groups`): a broker that does not have the groups of
    a coordinator any more, or not yet, tells the others without a word about these, and so does one that has none.

    Raises:
        KafkaOpError: no broker answered.
    """
    return _list_groups(cluster, admin, deadline)[0]


def _list_groups(cluster: Cluster, admin: AdminClient, deadline: Deadline) -> tuple[dict[str, str], bool]:
    """As `list_groups`, and whether every broker told its groups."""
    future = admin.list_consumer_groups(request_timeout=max(0.1, deadline.left_s()))
    result = await_results({"": future}, deadline)[""]
    if isinstance(result, Exception):
        raise cluster.error(result, op="list groups", right="DESCRIBE")
    if result.errors and not result.valid:
        raise cluster.error(result.errors[0], op="list groups", right="DESCRIBE")
    return {it.group_id: it.state.name for it in result.valid}, not result.errors


def describe_groups(
    cluster: Cluster, admin: AdminClient, groups: Iterable[str], deadline: Deadline
) -> dict[str, GroupState]:
    """State and members of each group; one that does not exist is ``DEAD``.

    Raises:
        KafkaOpError: a group gave no answer, or may not be described.
    """
    found: dict[str, GroupState] = {}
    for group, result in _described(cluster, admin, groups, deadline):
        if isinstance(result, KafkaOpError):
            raise result
        found[group] = result
    return found


def unlisted_groups(cluster: Cluster, admin: AdminClient, groups: Iterable[str], deadline: Deadline) -> set[str]:
    """Of groups that `list_groups` lacks, those that exist; one that the principal may not DESCRIBE is none.

    Raises:
        RetriableError: the coordinator of one gave no answer: nobody can tell.
    """
    found: set[str] = set()
    for group, result in _described(cluster, admin, groups, deadline):
        if isinstance(result, GroupState):
            found |= {group} if result.state != GroupState().state else set()
        elif "AUTHORIZATION" not in result.code:
            text = f"no broker lists the group {group}, and its coordinator gives no answer: try again"
            raise RetriableError(text, op=f"list groups on {cluster.alias}", hint=str(result))
    return found


def _described(
    cluster: Cluster, admin: AdminClient, groups: Iterable[str], deadline: Deadline
) -> Iterator[tuple[str, GroupState | KafkaOpError]]:
    for some in chunks(groups, AT_ONCE):
        futures = admin.describe_consumer_groups(some, request_timeout=max(0.1, deadline.left_s()))
        for group, result in await_results(futures, deadline).items():
            if isinstance(result, Exception):
                error = cluster.error(result, op=f"describe the group {group}", right="DESCRIBE", group=group)
                yield group, GroupState() if error.code == "GROUP_ID_NOT_FOUND" else error
            else:
                members = tuple(f"{it.client_id} at {it.host.lstrip('/')}" for it in result.members)
                yield group, GroupState(result.state.name, members)


def group_states(
    cluster: Cluster, admin: AdminClient, groups: Iterable[str], deadline: Deadline
) -> dict[str, GroupState]:
    """As `describe_groups`, for many: one answer tells which are at rest, and only the others are described.

    Raises:
        KafkaOpError: as `describe_groups`.
    """
    wanted = list(groups)
    listed = list_groups(cluster, admin, deadline)
    found = {group: GroupState(listed[group]) for group in wanted if listed.get(group) in INACTIVE}
    return found | describe_groups(cluster, admin, (group for group in wanted if group not in found), deadline)


class OffsetsReader:
    """Reads what groups committed, again and again, without waiting long for one that gives no answer.

    Args:
        stable: whether offsets of an open transaction are waited for; else they are looked past.

    Threading: one thread.
    """

    def __init__(self, cluster: Cluster, admin: AdminClient, log: Logger, *, stable: bool = True) -> None:
        self._cluster = cluster
        self._admin = admin
        self._log = log
        self._stable = stable
        self.failures: dict[str, KafkaOpError] = {}
        """Why groups of the last call could not be read."""
        self.unsure: set[str] = set()
        """Groups of the last call whose offsets of that time are not known: there was no answer, or one that was asked
        for earlier, or one that lacks partitions."""
        self._late: dict[str, Future[Any]] = {}
        self._refused: set[str] = set()

    def read(self, groups: Iterable[str], deadline: Deadline) -> dict[str, GroupOffsets]:
        """What each of these groups committed; a group that failed is left out.

        Raises:
            KafkaOpError: not one of them could be read, and not for want of a right.
        """
        found: dict[str, GroupOffsets] = {}
        self.failures = {}
        self.unsure = set()
        for some in chunks(groups, AT_ONCE):
            late = {group: self._late.pop(group) for group in some if group in self._late}
            futures = late | {group: self._ask(group, deadline) for group in some if group not in late}
            self._await(futures, deadline)
            for group, future in futures.items():
                if not future.done():
                    self._late[group] = future
                    continue
                result = self._result(group, future)
                if isinstance(result, KafkaOpError):
                    self.failures[group] = result
                else:
                    found[group] = result
            self.unsure |= late.keys() | (set(some) - found.keys())
            passing = [it for it in self.failures.values() if is_passing(it)]
            if passing and not found:
                raise passing[0]
        return found

    def forget_late(self) -> None:
        """Ask anew for what was not answered yet."""
        self._late.clear()

    def _ask(self, group: str, deadline: Deadline) -> Future[Any]:
        timeout_s = max(0.1, deadline.left_s())
        request = [ConsumerGroupTopicPartitions(group)]
        answers = self._admin.list_consumer_group_offsets(
            request, require_stable=self._stable, request_timeout=timeout_s
        )
        return answers[group]

    @staticmethod
    def _await(futures: Mapping[str, Future[Any]], deadline: Deadline) -> None:
        patience = Deadline(LATE_AFTER_S)
        for future in futures.values():
            while not future.done() and not patience.expired and not deadline.expired:
                _wait(future, 0.1)

    def _result(self, group: str, future: Future[Any]) -> GroupOffsets | KafkaOpError:
        try:
            answer = future.result(timeout=0)
        except (KafkaException, TimeoutError) as cause:
            error = self._cluster.error(
                cause, op=f"read the offsets of the group {group}", right="DESCRIBE", group=group
            )
            if group not in self._refused and not is_passing(error):
                self._refused.add(group)
                self._log.warning("group_not_readable", group=group, cluster=self._cluster.alias, error=str(error))
            return error
        self._refused.discard(group)
        if any(it.error for it in answer.topic_partitions):
            self.unsure.add(group)
        return {
            TP(it.topic, it.partition): Committed(it.offset, it.metadata or "")
            for it in answer.topic_partitions
            if it.error is None and it.offset >= 0
        }


Refusals = Mapping[TP, KafkaOpError]
"""Why commits were not taken, by partition."""


def commit_offsets(
    cluster: Cluster, admin: AdminClient, wanted: Mapping[str, GroupOffsets], deadline: Deadline
) -> dict[str, Refusals]:
    """Commit offsets in the name of groups without members; what of it was not taken, by group.

    The broker decides: a group that got a member meanwhile keeps its offsets.
    """
    outcome: dict[str, Refusals] = {}
    for some in chunks(wanted, AT_ONCE):
        futures: dict[str, Future[Any]] = {}
        for group in some:
            partitions = [
                TopicPartition(tp.topic, tp.partition, it.next_offset, metadata=it.metadata)
                for tp, it in wanted[group].items()
            ]
            request = [ConsumerGroupTopicPartitions(group, partitions)]
            timeout_s = max(0.1, deadline.left_s())
            futures[group] = admin.alter_consumer_group_offsets(request, request_timeout=timeout_s)[group]
        for group, result in await_results(futures, deadline).items():
            outcome[group] = _refusals(cluster, group, wanted[group], result)
    return outcome


def _refusals(cluster: Cluster, group: str, wanted: GroupOffsets, result: Any) -> Refusals:
    op = f"commit for the group {group}"
    if isinstance(result, Exception):
        error = cluster.error(result, op=op, right="READ", group=group)
        return dict.fromkeys(wanted, error)
    return {
        TP(it.topic, it.partition): cluster.error(it.error, op=op, right="READ", topic=it.topic, group=group)
        for it in result.topic_partitions
        if it.error
    }


def first_error(refusals: Refusals | None) -> KafkaOpError | None:
    """One of them, if there is one."""
    return next(iter(refusals.values()), None) if refusals else None


def _wait(future: Future[Any], seconds: float) -> None:
    try:
        future.exception(timeout=seconds)
    except TimeoutError:
        return


def chunks(groups: Iterable[str], at_once: int) -> Iterator[list[str]]:
    """So many at a time."""
    left = iter(groups)
    while some := list(islice(left, at_once)):
        yield some


class GroupList:
    """The groups that match, looked up again every few seconds.

    One that a list lacks stays until its coordinator says that it has no offsets: while coordinators move, lists lack
    their groups.

    Args:
        every_s: how old the list may be; new groups are found within this.
    """

    def __init__(
        self, cluster: Cluster, admin: AdminClient, matches: Callable[[str], bool], every_s: float, log: Logger
    ) -> None:
        self._cluster = cluster
        self._admin = admin
        self._matches = matches
        self._every_s = every_s
        self._log = log
        self._listed_s: float | None = None
        self._known: set[str] = set()
        self._unlisted: set[str] = set()
        self.is_complete = False
        """Whether every broker told its groups."""
        self._warned = False

    def add(self, groups: Iterable[str]) -> None:
        """Take these for known, until it turns out that they are gone."""
        self._known = self._known.union(groups)

    def get(self, deadline: Deadline) -> set[str]:
        """Their names.

        Raises:
            KafkaOpError: as `list_groups`.
        """
        is_fresh = self._listed_s is not None and time.monotonic() - self._listed_s < self._every_s
        if is_fresh:
            return self._known
        states, self.is_complete = _list_groups(self._cluster, self._admin, deadline)
        listed = {name for name in states if self._matches(name)}
        self._listed_s = time.monotonic()
        if new := listed - self._known:
            self._log.info("groups_found", groups=len(new), first=sorted(new)[:5])
        self._unlisted = self._known - listed
        self._known = self._known | listed
        if not self._known and not self._warned:
            hint = f"there is none yet, or DESCRIBE on the groups is missing for {self._cluster.principal}"
            self._log.warning("groups_none_visible", cluster=self._cluster.alias, hint=hint)
        self._warned = not self._known
        return self._known

    def take(self, offsets: Mapping[str, GroupOffsets], reader: OffsetsReader) -> None:
        """Drop the groups that are gone, by what `reader` has read of them."""
        empty = {group for group, it in offsets.items() if not it} - reader.unsure
        hidden = {group for group, error in reader.failures.items() if not is_passing(error)}
        if gone := self._unlisted & (empty | hidden):
            self._log.info("groups_gone", groups=len(gone), first=sorted(gone)[:5], then="their checkpoints stay")
            self._known = self._known - gone
            self._unlisted -= gone


def is_refusal_of_members(error: KafkaOpError) -> bool:
    """Whether a commit was not taken because the group has members, or had some a moment ago."""
    return error.code in {"UNKNOWN_MEMBER_ID", "REBALANCE_IN_PROGRESS", "ILLEGAL_GENERATION", "STALE_MEMBER_EPOCH"}


def is_passing(error: KafkaOpError) -> bool:
    """Whether it may be over in a moment; else it is about the group, and an operator has to do something.

    That of a transaction counts by its code: whatever it is, it ends the transaction.
    """
    is_about_the_group = "AUTHORIZATION" in error.code or error.code == "UNKNOWN_TOPIC_OR_PART"
    is_aborted = isinstance(error, AbortTransactionError)
    kind = classify(error.code, "target", has_tp=False, fatal=False, aborts=False, retriable=False)
    may_pass = kind is RetriableError if is_aborted else isinstance(error, RetriableError)
    return may_pass and not is_about_the_group
