"""Free ports that stay free while a broker is down.

A port belongs to the process that took it until that ends, also while nothing listens there: a lock on one byte of
a file in the cache, which the user's processes share, says so. Without it, a cluster that starts next door could take
the port of a broker that was just killed, and answer in its place.
"""

from __future__ import annotations

import fcntl
import random
import socket
import threading
from typing import BinaryIO

from replicator.embedded.jars import cache_dir
from replicator.embedded.spec import ClusterError

HOST = "127.0.0.1"

# Below the ranges from which Linux (32768) and macOS (49152) take the local ports of outgoing connections: such a
# connection could otherwise sit on a broker's port when the broker comes back.
FIRST_PORT, LAST_PORT = 20_000, 32_700
ATTEMPTS = 1_000


class _Ports:
    """The ports that this process took. Threading: any."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._file: BinaryIO | None = None
        self._ours: set[int] = set()

    def take(self, port: int) -> bool:
        """Take a port, and return whether it was free: not taken by a process, and without a listener."""
        with self._lock:
            if self._file is None:  # closing it would give all of them back
                cache_dir().mkdir(parents=True, exist_ok=True)
                self._file = (cache_dir() / "ports").open("ab")
            if port in self._ours or not _lock_byte(self._file, port):
                return False
            if not _is_free(port):
                fcntl.lockf(self._file, fcntl.LOCK_UN, 1, port)
                return False
            self._ours.add(port)
            return True


_PORTS = _Ports()


def free_ports(count: int) -> list[int]:
    """Take different ports on the loopback interface, which no other process is given.

    Raises:
        ClusterError: there are not so many.
    """
    ports: set[int] = set()
    for _ in range(ATTEMPTS):
        if len(ports) == count:
            return sorted(ports)
        port = random.SystemRandom().randint(FIRST_PORT, LAST_PORT)
        if _PORTS.take(port):
            ports.add(port)
    raise ClusterError(f"no {count} free ports between {FIRST_PORT} and {LAST_PORT} on {HOST}")


def _lock_byte(file: BinaryIO, place: int) -> bool:
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, place)
    except OSError:
        return False
    return True


def _is_free(port: int) -> bool:
    with socket.socket() as candidate:
        try:
            candidate.bind((HOST, port))
        except OSError:
            return False
    return True
