"""What a consumer group has on one cluster: its state, its committed offsets, and who wrote them. Pure.

Commits of the replicator carry a tag in their metadata, so a later commit by anyone else is recognised, also at the
same offset, and also by a process that has just started.

    replicator east->west 4711                  group sync of the flow wrote offset 4711
    replicator-move 20260131T0300-7f3a 4711     a move wrote offset 4711; the group has not committed since
    anything else                               the group, or a person

The offset is in it because some clients keep the metadata that they find with their own commits.

Invariants:
    F: group sync writes only over nothing, or over its own last write.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass

from replicator.errors import TP

INACTIVE = frozenset({"EMPTY", "DEAD"})
"""States of a group without members; every other one, also one that the client does not know, may have some."""
SYNC_TAG = "replicator "
MOVE_TAG = "replicator-move "


@dataclass(frozen=True, slots=True)
class GroupState:
    """A group on one cluster.

    Args:
        state: Kafka's word, in capitals; ``DEAD`` when there is no such group.
        members: ``client-id at host`` of each.
    """

    state: str = "DEAD"
    members: tuple[str, ...] = ()

    @property
    def is_active(self) -> bool:
        """Whether it has members, or may have some."""
        return bool(self.members) or self.state not in INACTIVE


@dataclass(frozen=True, slots=True)
class Committed:
    """One committed offset."""

    next_offset: int
    metadata: str = ""


GroupOffsets = Mapping[TP, Committed]


class OffsetOwner(enum.Enum):
    """Who wrote a committed offset last."""

    ABSENT = "absent"
    """There is none."""
    SYNC = "sync"
    MOVE = "move"
    GROUP = "group"


def tag(flow: str, next_offset: int) -> str:
    """The metadata of group sync's own commit."""
    return f"{SYNC_TAG}{flow} {next_offset}"


def is_ours(committed: Committed, flow: str) -> bool:
    """Whether group sync of this flow made the commit."""
    return committed.metadata == tag(flow, committed.next_offset)


def move_tag(move_id: str, next_offset: int) -> str:
    """The metadata of a move's commit, where the group had none of its own."""
    return f"{MOVE_TAG}{move_id} {next_offset}"


def owner_of(committed: Committed | None) -> OffsetOwner:
    """Who wrote it, whichever flow's group sync that was: a topic belongs to one flow."""
    if committed is None:
        return OffsetOwner.ABSENT
    if not committed.metadata.endswith(f" {committed.next_offset}"):
        return OffsetOwner.GROUP
    if committed.metadata.startswith(MOVE_TAG):
        return OffsetOwner.MOVE
    return OffsetOwner.SYNC if committed.metadata.startswith(SYNC_TAG) else OffsetOwner.GROUP


def is_a_tag(metadata: str) -> bool:
    """Whether the metadata is one of our tags, not the group's own."""
    return metadata.startswith((MOVE_TAG, SYNC_TAG))
