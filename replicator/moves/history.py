"""What was done before a move: by earlier moves, by group sync, by the group itself. Pure; `plan` uses it.

A committed offset tells who wrote it (`groups.offsets.owner_of`), the audit whether the last move came to its end and
where it put the group. Together they tell a move that was interrupted, and goes on, from a group that works where it
went.

    on `destination` is      the last move, the same way, was interrupted        it came to its end, or there was none
    nothing, group sync's    commit                                              commit
    a move's, at its place   committed before                                    committed before
    a move's, elsewhere      commit: the group has gone on on `origin`           as the group's
    the group's              leave it: the group has gone on on `destination`    refused; on the way home: commit

Invariants:
    F: see `plan`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from replicator.errors import TP
from replicator.groups.offsets import Committed, OffsetOwner, owner_of
from replicator.moves.model import MoveCommand, MoveReason, Order, Row, RowState


@dataclass(frozen=True, slots=True)
class LastMove:
    """What the audit says of a group's last move.

    Args:
        positions: what the group was to have on the flow's source by the plan, as far as the audit has it.
        places: the same on the flow's target.
    """

    move_id: str
    command: str
    is_done: bool
    positions: Mapping[TP, int] = field(default_factory=dict)
    places: Mapping[TP, int] = field(default_factory=dict)

    @property
    def is_homeward(self) -> bool:
        return self.command == MoveCommand.FAILBACK

    def __str__(self) -> str:
        return f"{self.command} {self.move_id}"


@dataclass(frozen=True, slots=True)
class GroupVerdict:
    """What is true of a group as a whole; empty texts: nothing keeps it.

    Args:
        is_disputed: it is skipped, and somebody has to decide about it first.
    """

    refusal: str = ""
    wait: str = ""
    skip: str = ""
    is_disputed: bool = False


def refuse_or_skip(order: Order, reason: MoveReason, text: str, *, is_disputed: bool = True) -> GroupVerdict:
    """A group that was named is refused; one of all is left out."""
    return (
        GroupVerdict(skip=f"{reason}: {text}", is_disputed=is_disputed) if order.is_all else GroupVerdict(refusal=text)
    )


def skipped(row: Row, reason: str) -> Row:
    """The row, left out: it keeps nothing from being done, and nothing is at stake."""
    return replace(
        row, state=RowState.SKIPPED, reason=reason, reread_records=0, at_risk_records=0, must_wait=False,
        is_obstacle=False,
    )  # fmt: skip


def _kept(row: Row, found: Committed, reason: str) -> Row:
    """The row, done: what is there is where the group goes on."""
    return replace(skipped(row, reason), state=RowState.COMMITTED, destination_next=found.next_offset)


@dataclass(frozen=True, slots=True)
class MoveHistory:
    """What is known of one group's past.

    Args:
        origin, destination: aliases.
        last: None when the group never moved.
    """

    order: Order
    origin: str
    destination: str
    group: str
    last: LastMove | None

    # --- one partition ------------------------------------------------------------------------------------------------

    def settle(self, row: Row) -> Row:
        """What is done already is not done again, and what the group did since is left as it is."""
        is_open = row.state is RowState.PLANNED and row.destination is not None
        if self.order.command is MoveCommand.RESYNC or row.found is None or not is_open:
            return row
        kept = self._by_others(row, row.found) or self._by_the_group(row, row.found)
        if kept is not None:
            return kept
        is_sure = not (row.must_wait or row.is_obstacle)
        if is_sure and self._owner(row) is OffsetOwner.MOVE and row.found.next_offset == row.destination_next:
            return replace(row, state=RowState.COMMITTED, reason="already committed")
        return row

    @property
    def _is_interrupted(self) -> bool:
        """Whether this move goes on where the last one stopped."""
        return self.last is not None and not self.last.is_done and self.last.is_homeward is self.order.is_homeward

    def _place(self, row: Row) -> int | None:
        """Where the interrupted move was to put the group."""
        if self.last is None or row.destination is None or not self._is_interrupted:
            return None
        return (self.last.positions if self.last.is_homeward else self.last.places).get(row.destination)

    def _owner(self, row: Row) -> OffsetOwner:
        """Who wrote what is on `destination`; a group's metadata, which moves carry along, does not tell."""
        owner = owner_of(row.found)
        if owner is not OffsetOwner.GROUP or row.found is None:
            return owner
        is_same = row.found.next_offset == row.destination_next and row.found.metadata == row.metadata
        is_what_we_write = is_same and row.metadata != ""
        return OffsetOwner.MOVE if is_what_we_write or row.found.next_offset == self._place(row) else owner

    def _by_others(self, row: Row, found: Committed) -> Row | None:
        """A partition without an offset on `origin`: what the group has on `destination` is its own, and newer."""
        is_homeward = self.order.is_homeward
        if row.origin_owner is OffsetOwner.SYNC:
            if self._is_interrupted and is_homeward:  # handed back
                return _kept(row, found, "already committed")
            text = f"the group never committed this partition on {self.origin}; its offset on {self.destination} stays"
            return skipped(row, f"{MoveReason.SYNCED}: {text}")
        if row.origin_owner is not OffsetOwner.MOVE or not is_homeward or self.last is None or row.destination is None:
            return None
        if self._is_interrupted:
            return _kept(row, found, "already committed") if found.next_offset == self._place(row) else None
        is_where_it_left = found.next_offset == self.last.positions.get(row.destination)
        if self.last.is_homeward or is_where_it_left or owner_of(found) is not OffsetOwner.GROUP:
            return None
        return _kept(
            row, found, f"the group committed nothing new on {self.origin}; its offset on {self.destination} stays"
        )

    def _by_the_group(self, row: Row, found: Committed) -> Row | None:
        """A partition where the group has gone on on `destination`, since an interrupted move."""
        if not self._is_interrupted or self._owner(row) is not OffsetOwner.GROUP:
            return None
        place = self._place(row)
        if place is not None and found.next_offset > place:
            return _kept(row, found, "the group has already read past this offset")
        may_be_older = row.is_inverse or self.order.is_homeward  # from when it was there before
        if may_be_older:
            return None
        return skipped(row, f"{MoveReason.MOVED_ALREADY}: the group has committed on {self.destination} since the move")

    # --- the whole group ----------------------------------------------------------------------------------------------

    def whole(self, rows: list[Row]) -> GroupVerdict | None:
        """What follows for the group from where it is; None when nothing keeps it.

        Args:
            rows: of the partitions that the flows carry; at least one.
        """
        if self.order.command is MoveCommand.RESYNC:
            return None
        return self._home(rows) if self.order.is_homeward else self._away(rows)

    def _home(self, rows: list[Row]) -> GroupVerdict | None:
        """A group that is on its way home must have been away."""
        if self._is_interrupted:
            return None
        copies = [row for row in rows if row.is_inverse]
        is_away = self.last is not None and not self.last.is_homeward
        is_used = any(row.origin_owner is not OffsetOwner.SYNC for row in copies)
        if is_used or (is_away and not copies):
            return None
        if self.last is not None and self.last.is_homeward:
            return GroupVerdict(skip=f"{MoveReason.MOVED_ALREADY}: {self.last} moved the group back")
        return self._is_elsewhere()

    def _is_elsewhere(self) -> GroupVerdict:
        text = f"the group {self.group} has not moved to {self.origin}: group sync wrote its offsets there"
        return refuse_or_skip(self.order, MoveReason.MOVED_ALREADY, text, is_disputed=False)

    def _away(self, rows: list[Row]) -> GroupVerdict | None:
        """A group that goes away must be at home; if it worked on `destination`, a move has brought it home since."""
        if all(row.origin_owner is OffsetOwner.SYNC for row in rows):
            return self._is_elsewhere()
        owners = {self._owner(row) for row in rows if not row.is_inverse}
        if self.last is not None and not self.last.is_homeward:
            return self._moved(self.last, owners, rows)
        if OffsetOwner.GROUP not in owners:
            return None
        text = f"the group {self.group} has committed offsets on {self.destination}"
        if self.last is None:
            why = "it ran there without a move"
        elif self.last.is_done:
            why = f"it ran there after {self.last} moved it back"
        else:
            why = f"{self.last} was interrupted, and `replicator failback` finishes it"
        return refuse_or_skip(
            self.order, MoveReason.MOVED_ALREADY, f"{text} ({why}); `replicator resync` hands them to group sync"
        )

    def _moved(self, last: LastMove, owners: set[OffsetOwner], rows: list[Row]) -> GroupVerdict | None:
        """A group that went away before; `owners`: of its offsets on `destination`, where known."""
        is_given_back = owners and not owners & {OffsetOwner.GROUP, OffsetOwner.MOVE}
        if not last.is_done or is_given_back:
            return None
        if all(row.origin_next == last.positions.get(row.origin, row.origin_next) for row in rows):
            return GroupVerdict(skip=f"{MoveReason.MOVED_ALREADY}: already moved by {last}")
        if not owners:  # it reads topics of `destination` alone, and came home by the flow back
            return None
        text = f"the group {self.group} moved to {self.destination} ({last}) and has committed on {self.origin} since"
        return refuse_or_skip(
            self.order, MoveReason.MOVED_ALREADY, f"{text}; run `replicator failback` or `replicator resync` first"
        )
