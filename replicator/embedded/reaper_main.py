"""The process that owns the brokers, so that they and their data go away whatever happens to their parent.

Started by `reaper.py` as a plain script with `python -I -S`: it imports the standard library only. Standard input is a
socket to the parent, one JSON object per line in each direction. Every process is this script's own child, so there is
no moment at which a broker runs that would not be killed, and no pid that could have been reused.

It ends, killing every child with SIGKILL and removing its directory, when the parent says `close`, when the parent is
gone (end of file, or another parent process id: a fork of the parent can hold the socket open), and on SIGTERM. After
`detach` the parent no longer counts: it then listens on the socket `control` in its directory for one `close`.
"""

from __future__ import annotations

import ctypes
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from typing import Any, BinaryIO

PARENT_CHECK_S = 0.5
REMOVE_ATTEMPTS = 20
CONTROL_SOCKET = "control"
PR_SET_PDEATHSIG = 1


class Children:
    """The processes started so far, by pid, and the directory with all their files."""

    def __init__(self) -> None:
        """Make the directory."""
        self.directory = tempfile.mkdtemp(prefix="replicator-kafka-")
        self._by_pid: dict[int, subprocess.Popen[bytes]] = {}
        # Linux alone can tie a child to this process; elsewhere a SIGKILL of the reaper itself leaves brokers behind.
        self._prctl = ctypes.CDLL(None).prctl if sys.platform == "linux" else None

    def spawn(self, argv: list[str], log: str, env: dict[str, str]) -> int:
        """Start a process with its output appended to `log`, and return its pid."""
        with open(log, "ab") as output:
            process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=self.directory,
                env={**os.environ, **env},
                preexec_fn=self._die_with_us,  # noqa: PLW1509 - this process has a single thread
            )
        self._by_pid[process.pid] = process
        return process.pid

    def _die_with_us(self) -> None:
        if self._prctl is not None:
            self._prctl(PR_SET_PDEATHSIG, signal.SIGKILL)

    def poll(self, pid: int) -> int | None:
        """The exit status, negative for a signal, or None while it runs."""
        return self._by_pid[pid].poll()

    def signal(self, pid: int, signum: int) -> None:
        """Send a signal, unless the process has ended."""
        self._by_pid[pid].send_signal(signum)

    def collect(self) -> None:
        """Let ended children go from the process table."""
        for process in self._by_pid.values():
            process.poll()

    def close(self) -> None:
        """Kill all children and remove the directory."""
        for process in self._by_pid.values():
            process.kill()
        for process in self._by_pid.values():
            process.wait()
        for _ in range(REMOVE_ATTEMPTS):
            shutil.rmtree(self.directory, ignore_errors=True)
            if not os.path.exists(self.directory):
                break
            time.sleep(0.05)


def handle(children: Children, request: dict[str, Any]) -> dict[str, Any]:
    """Carry out one request and return the answer to it."""
    try:
        match request["op"]:
            case "spawn":
                return {"pid": children.spawn(request["argv"], request["log"], request["env"])}
            case "poll":
                return {"status": children.poll(request["pid"])}
            case "signal":
                children.signal(request["pid"], request["signum"])
                return {}
            case unknown:
                return {"error": f"unknown request {unknown!r}"}
    except (KeyError, OSError) as error:
        return {"error": f"{type(error).__name__}: {error}"}


def serve_parent(children: Children, control: socket.socket, parent_pid: int) -> bool:
    """Answer requests until the parent closes, goes away or detaches.

    Returns:
        True after `detach`: the children go on without the parent.
    """
    lines: BinaryIO = control.makefile("rb")
    reply(control, {"directory": children.directory})
    while True:
        readable, _, _ = select.select([control], [], [], PARENT_CHECK_S)
        children.collect()
        if os.getppid() != parent_pid:
            return False
        if not readable:
            continue
        # One request is outstanding at a time, so the file object never holds a second line back from select().
        line = lines.readline()
        if not line:
            return False
        request = json.loads(line)
        if request["op"] == "close":
            return False
        if request["op"] == "detach":
            return True
        reply(control, handle(children, request))


def reply(control: socket.socket, answer: dict[str, Any]) -> None:
    """Send one answer; a parent that is gone is noticed at the next read."""
    try:
        control.sendall(json.dumps(answer).encode() + b"\n")
    except OSError:
        return


def serve_detached(children: Children, control: socket.socket) -> None:
    """Wait for one `close` on the socket in the directory."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.path.join(children.directory, CONTROL_SOCKET))
        listener.listen()
        listener.settimeout(PARENT_CHECK_S)
        reply(control, {"directory": children.directory})
        control.close()
        while True:
            children.collect()
            try:
                connection, _ = listener.accept()
            except TimeoutError:
                continue
            with connection:
                connection.settimeout(5)
                if connection.recv(64).strip() == b"close":
                    children.close()
                    return


def main() -> None:
    """Serve, then clean up."""
    parent_pid = int(sys.argv[1])
    for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(signum, lambda *_: sys.exit(1))
    control = socket.socket(fileno=0)
    children = Children()
    try:
        if serve_parent(children, control, parent_pid):
            serve_detached(children, control)
    finally:
        for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(signum, signal.SIG_IGN)
        children.close()


if __name__ == "__main__":
    main()
