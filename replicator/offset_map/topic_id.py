"""The id of a topic, which is another one for a topic that is deleted and created again (KIP-516). Pure."""

from __future__ import annotations


class TopicId(bytes):
    """The 16 bytes of a topic id; zeros, or no bytes, where the broker did not say.

    Brokers before 2.8 have no topic ids, and some proxies leave them out. So compare with `same_as`, never with ``==``:
    an id that is not known is the same as any.
    """

    __slots__ = ()

    @property
    def is_known(self) -> bool:
        """Whether a broker said it."""
        return any(self)

    def same_as(self, other: TopicId) -> bool:
        """Whether both may be of one topic; False only where both are known and differ."""
        are_both_known = self.is_known and other.is_known
        return not are_both_known or self == other


NO_ID = TopicId(bytes(16))
"""What is on the wire where a broker has no topic ids."""
