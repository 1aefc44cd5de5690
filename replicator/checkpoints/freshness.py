"""Freshness: one record among the checkpoints says up to when all of them are complete.

A checkpoint is written only when it changes, so its own time says nothing: an idle group has an old checkpoint, and its
offset is known all the same. After each complete pass the checkpoints job writes a checkpoint of the flow's own group,
which no consumer uses:

    group            replicator-<source>-<target>
    topic, partition the syncs topic, 0
    upstream_next    when the pass began to read the groups' offsets, in ms since 1970
    downstream_next  0
    metadata         JSON: the groups that matched and whose offsets are not of that moment, each with the time up to
                     which they are known instead, or null

So what a group had committed at that time is in its checkpoints, unless it is named there. A group that is younger than
the job's list of groups (`checkpoints.GROUPS_EVERY_S`) may be in neither.

Pure.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from replicator.errors import TP
from replicator.offset_map.mm2_format import LONGEST_STRING, Checkpoint
from replicator.offset_map.sync_format import WireError

MOST_LATE = 500


@dataclass(frozen=True, slots=True)
class Freshness:
    """One complete pass over the groups.

    Args:
        began_ms: when it began to read their offsets.
        late: groups whose offsets this pass could not read → when the last pass began that could; None: unknown.
    """

    began_ms: int
    late: Mapping[str, int | None]


def pulse_key(group: str, syncs_topic: str) -> tuple[str, TP]:
    """Under which key the pulse of a flow is found among the checkpoints."""
    return group, TP(syncs_topic, 0)


def encode_pulse(key: tuple[str, TP], began_ms: int, late: Mapping[str, int | None]) -> Checkpoint | None:
    """The record; None when there are more late groups than it can name: then the checkpoints are as old as before."""
    text = json.dumps(late, ensure_ascii=False, separators=(",", ":"), sort_keys=True)
    fits = len(late) <= MOST_LATE and len(text.encode()) <= LONGEST_STRING
    return Checkpoint(*key, began_ms, 0, text) if fits else None


def decode_pulse(checkpoint: Checkpoint) -> Freshness:
    """Read it.

    Raises:
        WireError: its metadata says something else: another release may have written it.
    """
    try:
        late = json.loads(checkpoint.metadata)
    except ValueError as error:
        raise WireError(f"the checkpoint times of {checkpoint.group} can't be read: {error}") from error
    if not isinstance(late, dict) or not all(it is None or type(it) is int for it in late.values()):
        raise WireError(f"the checkpoint times of {checkpoint.group} can't be read: no groups with times")
    return Freshness(checkpoint.upstream_next, late)
