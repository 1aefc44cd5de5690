"""Which groups a cluster has, and their states, also those that a broker's list lacks.

A broker that does not have the groups of a coordinator any more, or not yet, lists the others without an error, and so
does one that has none.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping

from replicator.deadline import Deadline
from replicator.errors import KafkaOpError, RetriableError
from replicator.groups.client import GroupClient
from replicator.groups.offsets import INACTIVE, GroupOffsets, GroupState
from replicator.groups.reader import OffsetsReader
from replicator.groups.refusals import is_passing
from replicator.log import Logger


def list_groups(client: GroupClient, deadline: Deadline) -> Mapping[str, str]:
    """Kafka's word for the state, in capitals, by group; only groups that the principal may DESCRIBE.

    A group that is not among them may exist all the same (`unlisted_groups`).

    Raises:
        KafkaOpError: no broker answered.
    """
    return client.list(deadline).states


def describe_groups(client: GroupClient, groups: Iterable[str], deadline: Deadline) -> dict[str, GroupState]:
    """State and members of each group; one that does not exist is ``DEAD``.

    Raises:
        KafkaOpError: a group gave no answer, or may not be described.
    """
    found: dict[str, GroupState] = {}
    for group, result in client.describe(groups, deadline).items():
        if isinstance(result, KafkaOpError):
            raise result
        found[group] = result
    return found


def unlisted_groups(client: GroupClient, groups: Iterable[str], deadline: Deadline) -> set[str]:
    """Of groups that `list_groups` lacks, those that exist; one that the principal may not DESCRIBE is none.

    Raises:
        RetriableError: the coordinator of one gave no answer: it is unknown.
    """
    found: set[str] = set()
    for group, result in client.describe(groups, deadline).items():
        if isinstance(result, GroupState):
            found |= {group} if result.state != GroupState().state else set()
        elif "AUTHORIZATION" not in result.code:
            text = f"no broker lists the group {group}, and its coordinator gives no answer: try again"
            raise RetriableError(text, op=f"list groups on {client.cluster.alias}", hint=str(result))
    return found


def group_states(client: GroupClient, groups: Iterable[str], deadline: Deadline) -> dict[str, GroupState]:
    """As `describe_groups`, for many: one answer tells which are at rest, and only the others are described.

    What is listed and can't be described (share groups) has the state of the list.

    Raises:
        KafkaOpError: as `describe_groups`.
    """
    wanted = list(groups)
    listed = list_groups(client, deadline)
    found = {group: GroupState(listed[group]) for group in wanted if listed.get(group) in INACTIVE}
    described = describe_groups(client, (group for group in wanted if group not in found), deadline)
    for group, it in described.items():
        is_hidden = it.state == GroupState().state and group in listed
        found[group] = GroupState(listed[group]) if is_hidden else it
    return found


class GroupList:
    """The groups that match, looked up again every few seconds.

    One that a list lacks stays until its coordinator says that it has no offsets: while coordinators move, lists lack
    their groups.

    Args:
        every_s: how old the list may be; new groups are found within this.
    """

    def __init__(self, client: GroupClient, matches: Callable[[str], bool], every_s: float, log: Logger) -> None:
        self._client = client
        self._matches = matches
        self._every_s = every_s
        self._log = log
        self._listed_s: float | None = None
        self._known: set[str] = set()
        self._unlisted: set[str] = set()
        self.is_complete = False
        """Whether every broker listed its groups."""
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
        listing = self._client.list(deadline)
        self.is_complete = not listing.errors
        listed = {name for name in listing.states if self._matches(name)}
        self._listed_s = time.monotonic()
        if new := listed - self._known:
            self._log.info("groups_found", groups=len(new), first=sorted(new)[:5])
        self._unlisted = self._known - listed
        self._known = self._known | listed
        if not self._known and not self._warned:
            hint = f"there is none yet, or DESCRIBE on the groups is missing for {self._client.cluster.principal}"
            self._log.warning("groups_none_visible", cluster=self._client.cluster.alias, hint=hint)
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
