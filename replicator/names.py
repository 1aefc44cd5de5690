"""Names on both clusters: remote topics, the replicator's own topics, topic and group filters, cycles.

Pure. The naming rules are Kafka's, so that MirrorMaker 2 and its clients see what they expect.

Source: connect/mirror-client `DefaultReplicationPolicy`, `IdentityReplicationPolicy`, `ReplicationPolicy`;
connect/mirror `MirrorSourceConnector#shouldReplicateTopic`, `DefaultTopicFilter`,
`DefaultGroupFilter`.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

HEARTBEATS_TOPIC = "heartbeats"
AUDIT_TOPIC = "replicator.audit"

DEFAULT_EXCLUDED_TOPICS = (r".*[\-\.]internal", r".*\.replica", r"__.*")
"""Topics that MM2 excludes by default (`DefaultTopicFilter`)."""
DEFAULT_EXCLUDED_GROUPS = (r"console-consumer-.*", r"connect-.*", r"__.*")
"""Groups that MM2 excludes by default (`DefaultGroupFilter`)."""


def syncs_topic(source: str) -> str:
    """The topic on the target that holds the positions and the offset map of all flows from `source`."""
    return f"replicator.{source}.syncs"


def worker_group(source: str, target: str) -> str:
    """The consumer group of a flow's workers, on the target."""
    return f"replicator-{source}-{target}"


def transactional_id(source: str, target: str, task: int) -> str:
    """Never random, so that the next owner of a task fences the last one (invariant C)."""
    return f"replicator-{source}-{target}-{task}"


def moves_id(source: str, target: str) -> str:
    """The transactional id under which operators claim a flow and write its audit."""
    return f"replicator-{source}-{target}-moves"


def groups_id(source: str, target: str) -> str:
    """The transactional id under which group sync commits."""
    return f"replicator-{source}-{target}-groups"


def task_of(topic: str, partition: int, tasks: int) -> int:
    """The task that owns a source partition."""
    return (zlib.crc32(topic.encode()) + partition) % tasks


@dataclass(frozen=True, slots=True)
class Naming:
    """Names the remote topics of `source` on the target.

    Args:
        source: alias of the source cluster.
        kind: ``prefix`` (``east.orders``) or ``identity`` (``orders``).
        separator: between alias and topic.
        renames: source topic to target topic; wins over `kind`.
    """

    source: str
    kind: Literal["prefix", "identity"] = "prefix"
    separator: str = "."
    renames: Mapping[str, str] = field(default_factory=dict)

    def remote_topic(self, topic: str) -> str:
        """The name on the target. Heartbeats are prefixed under ``identity`` too, as MM2 does."""
        renamed = self.renames.get(topic)
        if renamed is not None:
            return renamed
        keeps_name = self.kind == "identity" and not topic.endswith(HEARTBEATS_TOPIC)
        return topic if keeps_name else f"{self.source}{self.separator}{topic}"

    @property
    def checkpoints_topic(self) -> str:
        """Where MM2's clients look on the target for the translated offsets of groups."""
        return self.separator.join((self.source, "checkpoints", "internal"))

    def is_cycle(self, topic: str, target: str) -> bool:
        """Whether the records of `topic` came from `target` at some hop; never known under ``identity``."""
        has_no_origin = self.kind == "identity" and not topic.endswith(HEARTBEATS_TOPIC)
        if has_no_origin:
            return False
        hop = f"{self.separator}{target}{self.separator}"  # an alias may contain the separator: no splitting
        return hop in f"{self.separator}{topic}"

    def is_heartbeats(self, topic: str) -> bool:
        """Whether a topic is ``heartbeats``, or the remote topic of one."""
        return topic.rsplit(self.separator, 1)[-1] == HEARTBEATS_TOPIC


def is_internal(topic: str, separator: str = ".") -> bool:
    """Whether a topic belongs to Kafka, Connect, MM2 or the replicator: never replicated, whatever the filters say."""
    is_kafkas = topic.startswith(("__", ".")) or topic.endswith(("-internal", ".internal", f"{separator}internal"))
    is_ours = topic == AUDIT_TOPIC or (topic.startswith("replicator.") and topic.endswith(".syncs"))
    return is_kafkas or is_ours


class TopicFilter:
    """Which topics of the source a flow replicates.

    Args:
        include: regular expressions that must match the whole name; an empty list matches nothing.
        exclude: regular expressions; one that matches the whole name wins over `include`.
        naming: to recognise cycles and heartbeats.
        target: alias of the target cluster.

    Raises:
        re.error: an expression can't be compiled (checked earlier, with its key's path, by `config`).
    """

    def __init__(self, include: Sequence[str], exclude: Sequence[str], naming: Naming, target: str) -> None:
        self._include = [re.compile(pattern) for pattern in include]
        self._exclude = [re.compile(pattern) for pattern in (*exclude, *DEFAULT_EXCLUDED_TOPICS)]
        self._naming = naming
        self._target = target

    def matches(self, topic: str) -> bool:
        """Whether the flow replicates `topic`."""
        is_wanted = any(p.fullmatch(topic) for p in self._include)
        is_excluded = any(p.fullmatch(topic) for p in self._exclude)
        is_allowed = not is_internal(topic, self._naming.separator) and not self._naming.is_cycle(topic, self._target)
        return is_allowed and ((is_wanted and not is_excluded) or self._naming.is_heartbeats(topic))

    def unmatched(self, topics: Sequence[str]) -> list[str]:
        """The include expressions that match none of `topics`: usually a typing mistake or a missing right."""
        return [p.pattern for p in self._include if not any(p.fullmatch(t) for t in topics)]


class GroupFilter:
    """Which groups of the source a flow translates.

    Args:
        include: regular expressions that must match the whole name; an empty list matches nothing.
        exclude: regular expressions; one that matches the whole name wins over `include`.
        source: alias of the source cluster, to recognise the groups of the replicator's workers there.
    """

    def __init__(self, include: Sequence[str], exclude: Sequence[str], source: str) -> None:
        self._include = [re.compile(pattern) for pattern in include]
        self._exclude = [re.compile(pattern) for pattern in (*exclude, *DEFAULT_EXCLUDED_GROUPS)]
        alias = re.escape(source)
        self._ours = re.compile(rf"replicator-(.+-{alias}|{alias}-.+)")

    def matches(self, group: str) -> bool:
        """Whether the flow translates the offsets of `group`."""
        is_wanted = any(p.fullmatch(group) for p in self._include)
        is_excluded = any(p.fullmatch(group) for p in self._exclude) or self._ours.fullmatch(group) is not None
        return is_wanted and not is_excluded
