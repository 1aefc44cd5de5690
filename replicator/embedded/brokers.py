"""A cluster of brokers that this process started, as Java processes or containers."""

from __future__ import annotations

import signal
import time
from collections.abc import Collection, Mapping
from typing import Protocol

from replicator.deadline import Deadline
from replicator.embedded.probe import NotReady, Ready, probe, warm_up
from replicator.embedded.spec import START_TIMEOUT_S, STOP_TIMEOUT_S, ClusterError, ClusterSpec

POLL_INTERVAL_S = 0.02
FLUSH_TIMEOUT_S = 1.5


class Broker(Protocol):
    """One broker: its data and addresses stay through any number of launches, until `close`."""

    @property
    def advertised(self) -> str:
        """Where clients find it, `host:port`."""

    @property
    def admin(self) -> str:
        """Where a plaintext client finds it, `host:port`."""

    @property
    def pid(self) -> int:
        """Process id, or `ClusterError` where it has none on this machine."""

    def launch(self) -> None:
        """Start it, without waiting for anything."""

    def status(self) -> str | None:
        """None while it runs, else in which way it ended or that it was never started."""

    def signal(self, signum: int) -> None:
        """Send a signal; nothing happens when it has ended."""

    def log_tail(self) -> str:
        """The end of its log."""

    def close(self) -> None:
        """Kill it if it runs, and remove its data."""


class BrokerCluster:
    """See `Cluster`, whose promises these are."""

    supports_kill = True

    def __init__(self, spec: ClusterSpec, brokers: Mapping[int, Broker]) -> None:
        self.spec = spec
        self._brokers = brokers

    @property
    def name(self) -> str:
        return self.spec.name

    @property
    def broker_count(self) -> int:
        return len(self._brokers)

    @property
    def bootstrap_servers(self) -> str:
        return ",".join(broker.advertised for broker in self._brokers.values())

    @property
    def admin_servers(self) -> str:
        return ",".join(broker.admin for broker in self._brokers.values())

    def start(self) -> None:
        deadline = Deadline(START_TIMEOUT_S)
        self._start(self._brokers, deadline)
        while lacking := warm_up(self._brokers[1].admin):
            self._check(1, lacking, deadline)
            time.sleep(POLL_INTERVAL_S)

    def start_broker(self, node_id: int) -> None:
        self._broker(node_id)
        self._start([node_id], Deadline(START_TIMEOUT_S))

    def _start(self, node_ids: Collection[int], deadline: Deadline) -> None:
        running = self._running()
        for node_id in node_ids:
            if node_id not in running:
                self._brokers[node_id].launch()
        for node_id in node_ids:
            self._await_ready(node_id, deadline)

    def _await_ready(self, node_id: int, deadline: Deadline) -> None:
        """Wait until this broker sees every running broker and the controller accepts topics on all of them."""
        while True:
            running = self._running()
            match probe(self._brokers[node_id].admin, replication_factor=max(1, len(running))):
                case Ready(node_ids) if running and node_ids >= running:
                    return
                case Ready(node_ids):
                    reason = f"it sees the brokers {sorted(node_ids)} of {sorted(running)}"
                case NotReady(reason):
                    pass
            self._check(node_id, reason, deadline)
            time.sleep(POLL_INTERVAL_S)

    def _check(self, node_id: int, reason: str, deadline: Deadline) -> None:
        """Raise if waiting for this broker is pointless."""
        broker = self._brokers[node_id]
        called = f"broker {node_id} of cluster {self.name}"
        if (ended := broker.status()) is not None:
            raise ClusterError(f"{called} {ended}; its log ends with\n{broker.log_tail()}")
        if deadline.expired:
            waited = f"{called} was not ready within {deadline.seconds:g} s ({reason})"
            raise ClusterError(f"{waited}; its log ends with\n{broker.log_tail()}")

    def stop(self) -> None:
        for node_id in self._running():
            self._brokers[node_id].signal(signal.SIGTERM)
        deadline = Deadline(STOP_TIMEOUT_S)
        had_quorum = True
        while left := self._running():
            # A clean shutdown asks the controller for leave. Once most brokers are gone there is none, and Kafka would
            # wait for one for five minutes; a broker past that point still gets the time to flush its logs.
            has_quorum = len(left) > self.broker_count // 2
            if had_quorum and not has_quorum:
                deadline = Deadline(deadline.slice_s(FLUSH_TIMEOUT_S))
                had_quorum = False
            if deadline.expired:
                for node_id in left:
                    self._brokers[node_id].signal(signal.SIGKILL)
            time.sleep(POLL_INTERVAL_S)

    def restart(self) -> None:
        self.stop()
        self.start()

    def stop_broker(self, node_id: int) -> None:
        self._broker(node_id).signal(signal.SIGTERM)
        self._await_end(node_id, Deadline(STOP_TIMEOUT_S))

    def kill_broker(self, node_id: int) -> None:
        self._broker(node_id).signal(signal.SIGKILL)
        self._await_end(node_id, Deadline(STOP_TIMEOUT_S))

    def _await_end(self, node_id: int, deadline: Deadline) -> None:
        """Wait for a broker that was signalled to end, and kill it at the deadline."""
        broker = self._brokers[node_id]
        while broker.status() is None:
            if deadline.expired:
                broker.signal(signal.SIGKILL)
                deadline = Deadline(STOP_TIMEOUT_S)
            time.sleep(POLL_INTERVAL_S)

    def signal_broker(self, node_id: int, signum: int) -> None:
        self._broker(node_id).signal(signum)

    def broker_pid(self, node_id: int) -> int:
        return self._broker(node_id).pid

    def broker_log(self, node_id: int) -> str:
        return self._broker(node_id).log_tail()

    def close(self) -> None:
        for broker in self._brokers.values():
            broker.close()

    def _running(self) -> frozenset[int]:
        return frozenset(node_id for node_id, broker in self._brokers.items() if broker.status() is None)

    def _broker(self, node_id: int) -> Broker:
        if node_id not in self._brokers:
            raise ClusterError(f"cluster {self.name} has no broker {node_id}, only {sorted(self._brokers)}")
        return self._brokers[node_id]
