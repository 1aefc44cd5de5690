"""A cluster that was started elsewhere, by its bootstrap addresses."""

from __future__ import annotations

import time
from typing import NoReturn

from replicator.deadline import Deadline
from replicator.embedded.probe import NotReady, Ready, probe
from replicator.embedded.spec import ClusterError

CONNECT_TIMEOUT_S = 20.0
POLL_INTERVAL_S = 0.2


class ExistingCluster:
    """See `Cluster`. Nothing here stops, kills or removes anything: its topics stay when it is closed."""

    supports_kill = False

    def __init__(self, name: str, bootstrap_servers: str) -> None:
        self.name = name
        self.bootstrap_servers = bootstrap_servers
        self.admin_servers = bootstrap_servers
        self.broker_count = 0

    def start(self) -> None:
        """Find out that it answers, without authentication, and how many brokers it has."""
        deadline = Deadline(CONNECT_TIMEOUT_S)
        while True:
            reasons = []
            for address in self.bootstrap_servers.split(","):
                match probe(address.strip(), replication_factor=1, timeout_s=deadline.slice_s(5.0) or 0.1):
                    case Ready(node_ids):
                        self.broker_count = len(node_ids)
                        return
                    case NotReady(reason):
                        reasons.append(reason)
            if deadline.expired:
                raise ClusterError(f"cluster {self.name} does not answer: {'; '.join(reasons)}")
            time.sleep(POLL_INTERVAL_S)

    def stop(self) -> None:
        self._refuse("stopped")

    def restart(self) -> None:
        self._refuse("restarted")

    def start_broker(self, node_id: int) -> None:
        self._refuse(f"asked to start broker {node_id}")

    def stop_broker(self, node_id: int) -> None:
        self._refuse(f"asked to stop broker {node_id}")

    def kill_broker(self, node_id: int) -> None:
        self._refuse(f"asked to kill broker {node_id}")

    def signal_broker(self, node_id: int, signum: int) -> None:
        self._refuse(f"asked to send signal {signum} to broker {node_id}")

    def broker_pid(self, node_id: int) -> int:
        self._refuse(f"asked for the process of broker {node_id}")

    def broker_log(self, node_id: int) -> str:
        return f"(broker {node_id} was not started here)"

    def close(self) -> None:
        """Nothing to do."""

    def _refuse(self, what: str) -> NoReturn:
        raise ClusterError(f"cluster {self.name} ({self.bootstrap_servers}) was not started here and can't be {what}")
