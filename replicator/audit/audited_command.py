"""One command on a flow, apart from moves of groups: claims the flow, looks again, acts, reads back, and records it.

Before the operator confirms, another command may have begun and ended, which no claim fences. So the command looks
again once the flow is claimed, and refuses to act on anything that is not as it was shown.

Invariants:
    G: a refused command changed nothing; what it reports as done was read back.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from replicator.audit.audit import Audit, AuditRecord
from replicator.config import Flow
from replicator.deadline import Deadline
from replicator.errors import RefusedError, ReplicatorError
from replicator.kafka.cluster import AdminClient, Cluster

READ_TIMEOUT_S = 300.0
"""For the whole history of a large flow; a small one takes milliseconds."""
LAST_WORDS_S = 2.0
Rows = tuple[Mapping[str, Any], ...]
"""One JSON object per task or partition."""
Found = TypeVar("Found")


@dataclass(frozen=True, slots=True)
class CommandOutcome:
    """The outcome of a command.

    Args:
        state: done | refused | partly_done | failed; in the audit also started | interrupted.
        texts: why, and what else the operator should know; one line each.
    """

    state: str
    rows: Rows
    texts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class AuditedCommand:
    """One command of an operator on one flow.

    Args:
        command: as in the audit and in JSON.
        timeout_s: for each request to the audit.
    """

    flow: Flow
    target: Cluster
    admin: AdminClient
    command: str
    move_id: str
    timeout_s: float

    def carry_out(
        self, plan: Rows, look_again: Callable[[], Found], act: Callable[[Found], CommandOutcome]
    ) -> CommandOutcome:
        """Claim the flow, `look_again`, record the start, `act` on what was found, and record the outcome.

        Args:
            look_again: raises RefusedError if `plan` is no longer what was shown (`refuse_changes`).

        Raises:
            RefusedError: another operator is acting, or has acted since; nothing was changed.
            KafkaOpError: the target did not answer before anything was changed.
        """
        with Audit(self.flow, self.target, self.admin) as audit:
            audit.begin(Deadline(self.timeout_s))
            try:
                found = look_again()
            except ReplicatorError as error:
                state = "refused" if isinstance(error, RefusedError) else "failed"
                with contextlib.suppress(ReplicatorError):
                    audit.write(self._record(CommandOutcome(state, plan, (str(error),))), Deadline(self.timeout_s))
                raise
            audit.write(self._record(CommandOutcome("started", plan)), Deadline(self.timeout_s))
            try:
                outcome = act(found)
            except KeyboardInterrupt:
                with contextlib.suppress(ReplicatorError):
                    audit.write(self._record(CommandOutcome("interrupted", plan)), Deadline(LAST_WORDS_S))
                raise
            try:
                audit.write(self._record(outcome), Deadline(self.timeout_s))
            except ReplicatorError as error:
                text = f"the result is not in the audit: {error}"
                return CommandOutcome(outcome.state, outcome.rows, (*outcome.texts, text))
            return outcome

    def _record(self, outcome: CommandOutcome) -> AuditRecord:
        result = "; ".join(outcome.texts)
        return AuditRecord.new(self.move_id, self.command, self.flow.name, outcome.state, outcome.rows, result)


def refuse_changes(flow: str, changes: Sequence[str]) -> None:
    """Refuse to act if anything changed since it was shown.

    Raises:
        RefusedError: there are `changes`.
    """
    if changes:
        what = "; ".join(changes)
        raise RefusedError(f"{flow} has changed since it was shown ({what}); nothing was done, run the command again")
