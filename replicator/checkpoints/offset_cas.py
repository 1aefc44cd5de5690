"""Commits offsets of groups by compare-and-set, which Kafka lacks: a commit by anyone else at the same time wins.

    begin → place (the offsets are in the broker's log, but not visible) → look → commit, or abort

Offsets of a transaction take effect with its end, but only over what is older: their place in the log of
`__consumer_offsets` counts, not the time of the end. So of what another client commits

    before these are placed   the look sees it: abort
    after they are placed     it is newer: the end of this transaction changes nothing

wherever this process is stopped in between, and for however long. What a look decides must be read after it began, and
past the open transaction (`require_stable` would wait for this very transaction).

Source: `GroupMetadata#completePendingTxnOffsetCommit` (Kafka 0.11 to 3.x) and `OffsetMetadataManager` (4.x), which both
compare positions in the log; measured on real brokers by `test_group_commits`.

Invariants:
    F: no other client's commit is written over, whatever happens between the look and the commit.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from contextlib import suppress

from replicator.deadline import Deadline
from replicator.errors import KafkaOpError
from replicator.groups.client import GroupClient, OffsetsTransaction
from replicator.groups.offsets import GroupOffsets
from replicator.groups.refusals import is_passing

AT_ONCE = 250
"""Groups of a transaction: half a second, in which their consumers have to wait if they begin on the target."""
ABORT_TIMEOUT_S = 5.0

Look = Callable[[Collection[str]], Collection[str]]
"""Of these groups, those whose offsets may be written over now."""
Tell = Callable[[str, KafkaOpError | None], None]
"""What became of a group: None, or why its offsets are refused."""


class OffsetCas:
    """Commits for groups. Threading: the client's thread.

    Args:
        client: of the cluster where they are committed.
        transactional_id: two that commit under the same one fence each other.
    """

    def __init__(self, client: GroupClient, transactional_id: str) -> None:
        self._client = client
        self._transactional_id = transactional_id
        self._transaction: OffsetsTransaction | None = None

    def open(self, deadline: Deadline) -> OffsetsTransaction:
        """End what another holder of the id left open, if that was not done.

        Raises:
            KafkaOpError: no answer within `deadline`, or a right is missing.
        """
        if self._transaction is None:
            self._transaction = self._client.transaction(self._transactional_id, deadline)
        return self._transaction

    def commit(self, wanted: Mapping[str, GroupOffsets], look: Look, tell: Tell, deadline: Deadline) -> None:
        """Commit what `look` confirms.

        A group whose coordinator gives no answer is left out, without a word: it comes again.

        Args:
            wanted: at most `AT_ONCE` groups.
            look: called while the offsets are placed; with fewer groups again, when it did not confirm all.
            tell: called for each group that `look` did not take out; of those that are refused at once, so that it is
                known even when the deadline passes before the others are written.

        Raises:
            FencedError: somebody else opened the id.
            KafkaOpError: not committed, or not known to be; or no group's coordinator gives an answer.
        """
        left = dict(wanted)
        try:
            while left:
                transaction = self.open(deadline)
                failed = transaction.place(left, deadline)
                if failed:
                    left = {group: it for group, it in left.items() if group not in failed}
                    _tell_refused(failed, tell)
                elif len(confirmed := set(look(left.keys()))) < len(left):
                    left = {group: it for group, it in left.items() if group in confirmed}
                else:
                    transaction.commit(deadline)
                    break
                transaction.abort(deadline)
                if failed and not left and all(map(is_passing, failed.values())):
                    raise next(iter(failed.values()))
        except KafkaOpError:
            self._give_up()
            raise
        for group in left:
            tell(group, None)

    def _give_up(self) -> None:
        """Leave nothing open that consumers would have to wait for, if the cluster answers."""
        if self._transaction is not None:
            with suppress(KafkaOpError):
                self._transaction.abort(Deadline(ABORT_TIMEOUT_S))
        self.close()

    def close(self) -> None:
        """Let go of the producer, at once."""
        if self._transaction is not None:
            self._transaction.close()
            self._transaction = None


def _tell_refused(failed: Mapping[str, KafkaOpError], tell: Tell) -> None:
    for group, error in failed.items():
        if not is_passing(error):
            tell(group, error)
