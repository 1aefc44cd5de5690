"""Free ports that stay free while a broker is down."""

from __future__ import annotations

import random
import socket

from replicator.embedded.spec import ClusterError

HOST = "127.0.0.1"

# Below the ranges from which Linux (32768) and macOS (49152) take the local ports of outgoing connections: such a
# connection could otherwise sit on a broker's port when the broker comes back.
FIRST_PORT, LAST_PORT = 20_000, 32_700
ATTEMPTS = 1_000


def free_ports(count: int) -> list[int]:
    """Different ports on the loopback interface on which nobody listens.

    Random ones, so that processes that ask at the same moment hardly ever get the same.
    """
    ports: set[int] = set()
    for _ in range(ATTEMPTS):
        if len(ports) == count:
            return sorted(ports)
        port = random.SystemRandom().randint(FIRST_PORT, LAST_PORT)
        if port not in ports and _is_free(port):
            ports.add(port)
    raise ClusterError(f"no {count} free ports between {FIRST_PORT} and {LAST_PORT} on {HOST}")


def _is_free(port: int) -> bool:
    with socket.socket() as candidate:
        try:
            candidate.bind((HOST, port))
        except OSError:
            return False
    return True
