"""`replicator demo` as a process, in a directory of its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

RUN_TIMEOUT_S = 200.0


class Home:
    """A directory of its own for everything that a demo writes, so that all it left is found."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Run the demo, without waiting."""
        return subprocess.Popen(
            [sys.executable, "-m", "replicator", "demo", *arguments],
            env={**os.environ, "TMPDIR": str(self.directory)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run the demo to its end."""
        with self.start(*arguments) as process:
            try:
                out, err = process.communicate(timeout=RUN_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                raise
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def processes(self) -> list[str]:
        """Brokers, workers and reapers that run with files of this directory."""
        listing = subprocess.run(
            ["ps", "-ww", "-eo", "pid=,args="], capture_output=True, text=True, check=True, timeout=10
        )
        return [line for line in listing.stdout.splitlines() if str(self.directory) in line]

    def files(self) -> list[str]:
        return sorted(str(path) for path in self.directory.iterdir())

    def is_empty(self) -> bool:
        """Nothing runs and nothing is left."""
        assert not self.processes()
        assert not self.files()
        return True


@pytest.fixture
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """An empty one, with a short name: a Unix socket may be made in it."""
    return Home(tmp_path_factory.mktemp("d"))


def is_running(pid: int) -> bool:
    """Whether there is such a process."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def pids(stderr: str) -> list[int]:
    """The workers', as announced."""
    found = [int(pid) for pid in re.findall(r"\(pid (\d+)\)", stderr)]
    assert len(found) == 2, stderr
    return found
