"""A test's flow, whether a worker in this process or a real one runs it: names, configuration, what it has copied."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

from confluent_kafka import KafkaException

from tests.support.compare import Outcome, check_flow, lag
from tests.support.eventually import eventually
from tests.support.records import create_topic, has_topic
from tests.support.run_ids import new_run_id

CATCH_UP_S = 120.0
"""How long a flow may take for what it was given, on a machine that is busy."""

Section = Mapping[str, Any]
NOTHING: Section = {}


class ReplicatedFlow(ABC):
    """A flow whose names no other test uses; it has every topic that ends with its `run`.

    Args:
        servers: of source and target, as somebody sees them who may do everything there.
    """

    def __init__(self, servers: tuple[str, str]) -> None:
        self.servers = servers
        self.run = new_run_id()
        self.alias, self.target_alias = f"east-{self.run}", f"west-{self.run}"
        self.name = f"{self.alias}->{self.target_alias}"
        self.group = f"replicator-{self.alias}-{self.target_alias}"
        self.topic, self.other = f"orders-{self.run}", f"payments-{self.run}"
        self.syncs_topic = f"replicator.{self.alias}.syncs"
        self.checkpoints_topic = f"{self.alias}.checkpoints.internal"

    def remote(self, topic: str) -> str:
        """The name of a topic's copy, unless the flow names it otherwise."""
        return f"{self.alias}.{topic}"

    def configuration(
        self, servers: tuple[str, str], *, flow: Section, worker: Section, others: Section,
        clusters: Mapping[str, Section] = NOTHING,
    ) -> dict[str, Any]:  # fmt: skip
        """What stands in the file.

        Args:
            servers: of source and target.
            flow: the flow's settings, over the defaults of the tests.
            worker: the worker's, over a session of 6 s: a busy machine makes no member late.
            others: at the top of the file.
            clusters: of each, under ``source`` and ``target``.
        """
        source, target = servers
        return {
            "clusters": {
                self.alias: {"bootstrap_servers": source, **clusters.get("source", {})},
                self.target_alias: {"bootstrap_servers": target, **clusters.get("target", {})},
            },
            "flows": {self.name: {"topics": [rf".*-{self.run}"], "heartbeat_interval_s": 0, **flow}},
            "worker": {"session_timeout_s": 6, **worker},
            **others,
        }

    @abstractmethod
    def log(self) -> str:
        """The last of what its workers wrote, for the text of a failed assertion."""

    def create(self, topic: str, **options: Any) -> str:
        """Create a topic on the source."""
        return create_topic(self.servers[0], topic, **options)

    def behind(self, topic: str) -> dict[int, int]:
        """Source offsets not passed yet, of the partitions where there are any.

        Raises:
            AssertionError: not known: no syncs topic yet, or a broker that has just come back.
        """
        source, target = self.servers
        try:
            assert has_topic(target, self.syncs_topic), "no syncs topic"
            return lag(source, target, topic, self.syncs_topic)
        except KafkaException as error:
            raise AssertionError(str(error)) from error

    def await_caught_up(self, *topics: str, without: tuple[int, ...] = (), within_s: float = CATCH_UP_S) -> None:
        """Wait until all is replicated but the partitions `without`; nothing may be written meanwhile.

        Args:
            topics: `topic` where none is given.
        """

        def is_caught_up() -> bool:
            behind = {topic: self.behind(topic) for topic in topics or (self.topic,)}
            late = [partition for it in behind.values() for partition in it if partition not in without]
            assert not late, f"offsets not replicated, by partition: {behind}\n{self.log()}"
            return True

        eventually(is_caught_up, within_s, every_s=0.2)

    def verify(self, *topics: str, remote: str = "", within_s: float = CATCH_UP_S) -> Outcome:
        """Wait until all is replicated, and compare record by record, and every run (invariants A, B, D).

        Args:
            topics: `topic` where none is given.
            remote: the copy's name, where it is not the usual one.

        Returns:
            Of the last topic.
        """
        topics = topics or (self.topic,)
        self.await_caught_up(*topics, within_s=within_s)
        for topic in topics:
            outcome = check_flow(*self.servers, topic, remote or self.remote(topic), self.syncs_topic)
            print(f"{topic}: {outcome}")
        return outcome
