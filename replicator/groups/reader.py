"""What groups have committed, read again and again without waiting long for one that gives no answer.

One pass over 5,000 groups with 10 partitions each is a handful of requests.

Source: KIP-88, KIP-447 (`require_stable`), KIP-709 (many groups in one request).
"""

from __future__ import annotations

from collections.abc import Iterable

from replicator.deadline import Deadline
from replicator.errors import KafkaOpError
from replicator.groups.client import GroupClient, OffsetsQuery, ReadOffsets
from replicator.groups.offsets import GroupOffsets
from replicator.groups.refusals import is_passing
from replicator.log import Logger

LATE_AFTER_S = 2.0
"""How long nothing may be answered before the others go on without what is missing: a transaction may stay open."""
LOOK_AGAIN_S = 0.2


class OffsetsReader:
    """Reads what groups committed.

    Args:
        stable: whether offsets of an open transaction are waited for; else they are looked past.

    Threading: the client's thread.
    """

    def __init__(self, client: GroupClient, log: Logger, *, stable: bool = True) -> None:
        self._client = client
        self._log = log
        self._stable = stable
        self.failures: dict[str, KafkaOpError] = {}
        """Why groups of the last call could not be read."""
        self.unsure: set[str] = set()
        """Groups of the last call whose offsets of that time are not known: there was no answer, or one that was asked
        for earlier, or one that lacks partitions."""
        self._late: dict[str, OffsetsQuery] = {}
        self._refused: set[str] = set()

    def read(self, groups: Iterable[str], deadline: Deadline) -> dict[str, GroupOffsets]:
        """What each of these groups committed; a group that failed is left out.

        Raises:
            KafkaOpError: not one of them could be read, and not for want of a right.
        """
        wanted = list(groups)
        late = {group: self._late.pop(group) for group in wanted if group in self._late}
        new = [group for group in wanted if group not in late]
        asked = dict(late)
        if new:
            asked |= dict.fromkeys(new, self._client.ask_offsets(new, deadline, stable=self._stable))
        found, self.failures, self.unsure = {}, {}, set(late)
        for group, result in self._await(asked, deadline).items():
            if isinstance(result, KafkaOpError):
                self._note_failure(group, result)
                continue
            found[group] = result.offsets
            self._refused.discard(group)
            if not result.is_complete:
                self.unsure.add(group)
        self.unsure.update(group for group in wanted if group not in found)
        passing = [it for it in self.failures.values() if is_passing(it)]
        if passing and not found:
            raise passing[0]
        return found

    def _await(self, asked: dict[str, OffsetsQuery], deadline: Deadline) -> dict[str, ReadOffsets | KafkaOpError]:
        """The answers that come in time; those that do not are late."""
        queries = list(dict.fromkeys(asked.values()))
        for query in queries:
            _await_silence(query, deadline)
        found = {group: query.results[group] for group, query in asked.items() if group in query.results}
        left = [group for group in asked if group not in found]
        for query in queries if left else ():
            found.update(query.take_partial([group for group in left if asked[group] is query]))
        self._late.update({group: asked[group] for group in left if group not in found})
        return found

    def _note_failure(self, group: str, error: KafkaOpError) -> None:
        self.failures[group] = error
        if group not in self._refused and not is_passing(error):
            self._refused.add(group)
            alias = self._client.cluster.alias
            self._log.warning("group_not_readable", group=group, cluster=alias, error=str(error))

    def forget_late(self) -> None:
        """Ask again for what was not answered yet."""
        self._late.clear()


def _await_silence(query: OffsetsQuery, deadline: Deadline) -> None:
    """Until all is answered, or nothing more is: thousands of groups may keep brokers busy for longer."""
    answered = -1
    while len(query.results) > answered and not query.is_done and not deadline.expired:
        answered = len(query.results)
        patience = Deadline(LATE_AFTER_S)
        while len(query.results) == answered and not query.is_done and not patience.expired and not deadline.expired:
            query.wait(Deadline(patience.slice_s(LOOK_AGAIN_S)), deadline)
