"""The names and the configuration of a test's flow, whether a worker in this process or a real one runs it."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any

Section = Mapping[str, Any]
NOTHING: Section = {}


class FlowNames:
    """Names that no other test uses; the flow has every topic that ends with its `run`."""

    def __init__(self) -> None:
        self.run = uuid.uuid4().hex[:8]
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
