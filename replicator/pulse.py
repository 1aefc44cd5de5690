"""The pulse: how fresh the checkpoints are, told by one record among them.

A checkpoint is written only when it changes, so its own time says nothing: a group that stands still has an old
checkpoint and is known all the same. After each complete pass the duty writes a checkpoint of the flow's own group,
which nobody asks for:

    group            replicator-<source>-<target>
    topic, partition the syncs topic, 0
    upstream_next    when the pass began to read the groups' offsets, in ms since 1970
    downstream_next  0
    metadata         JSON list of the groups that matched and whose offsets are not of that moment

So what a group had committed at that time is in its checkpoints, unless it is on the list. A group that is younger than
the duty's list of groups (`checkpoints.GROUPS_EVERY_S`) may be in neither.

Pure.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass

from replicator.errors import TP
from replicator.mm2_wire import LONGEST_STRING, Checkpoint
from replicator.wire import WireError

MOST_LATE = 500


@dataclass(frozen=True, slots=True)
class Pulse:
    """One complete pass over the groups.

    Args:
        began_ms: when it began to read their offsets.
        late: groups that it has no offsets of.
    """

    began_ms: int
    late: frozenset[str]


def pulse_key(group: str, syncs_topic: str) -> tuple[str, TP]:
    """Under which key the pulse of a flow is found among the checkpoints."""
    return group, TP(syncs_topic, 0)


def encode_pulse(key: tuple[str, TP], began_ms: int, late: Collection[str]) -> Checkpoint | None:
    """The record; None when there are more late groups than it can name: then the checkpoints are as old as before."""
    names = json.dumps(sorted(late), ensure_ascii=False, separators=(",", ":"))
    fits = len(late) <= MOST_LATE and len(names.encode()) <= LONGEST_STRING
    return Checkpoint(*key, began_ms, 0, names) if fits else None


def decode_pulse(checkpoint: Checkpoint) -> Pulse:
    """Read it.

    Raises:
        WireError: its metadata is no list of names: a newer release may have written it.
    """
    try:
        names = json.loads(checkpoint.metadata)
    except ValueError as error:
        raise WireError(f"the pulse of {checkpoint.group} can't be read: {error}") from error
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise WireError(f"the pulse of {checkpoint.group} can't be read: no list of names")
    return Pulse(checkpoint.upstream_next, frozenset(names))
