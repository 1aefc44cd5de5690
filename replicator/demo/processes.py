"""Processes of `replicator`, as an operator would start them, that can't outlive the demo."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from replicator.demo.flights import DemoError
from replicator.embedded import OwnedProcess, Reaper


class Processes:
    """Starts them, with one configuration.

    Args:
        reaper: owns them.
        config: for `replicator -c`.
    """

    def __init__(self, reaper: Reaper, config: Mapping[str, Any]) -> None:
        self._reaper = reaper
        self._file = reaper.directory / "replicator.yaml"
        write_config(self._file, {**config, "http": {"port": 0}})

    def start(self, name: str, *arguments: str) -> OwnedProcess:
        """Start `replicator` with these arguments.

        Args:
            name: of its log; what it prints on stdout goes to the file of `output_of`.
        """
        argv = [*_clean_environment(), sys.executable, "-m", "replicator", "-c", str(self._file), *arguments]
        keep_apart = ["/bin/sh", "-c", 'exec "$@" >"$0"', str(self.output_of(name))]
        return self._reaper.spawn([*keep_apart, *argv], log=self._reaper.directory / f"{name}.log")

    def output_of(self, name: str) -> Path:
        """What a process printed on stdout; stderr is its log."""
        return self._reaper.directory / f"{name}.out"


@contextlib.contextmanager
def open_processes(config: Mapping[str, Any]) -> Iterator[Processes]:
    """Processes that end when the block ends; their configuration and logs are removed.

    They belong to a reaper process, which ends them even when the demo is killed with kill -9.
    """
    with Reaper() as reaper:
        yield Processes(reaper, config)


class Tail:
    """Follows a file that a process writes."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._read_bytes = 0

    def lines(self) -> Iterator[bytes]:
        """The whole lines since the last call; an incomplete line is returned once it is complete."""
        with contextlib.suppress(FileNotFoundError), self._file.open("rb") as log:
            log.seek(self._read_bytes)
            for line in log:
                if not line.endswith(b"\n"):
                    return
                self._read_bytes += len(line)
                yield line


def write_config(file: Path, config: Mapping[str, Any]) -> None:
    """Write a configuration that `replicator -c` reads."""
    file.write_text(yaml.safe_dump(dict(config), sort_keys=False), encoding="utf-8")


def _clean_environment() -> list[str]:
    """Run without the user's REPLICATOR_* variables: they would override the demo's configuration."""
    variables = [name for name in os.environ if name.upper().startswith("REPLICATOR_")]
    if not variables:
        return []
    env = shutil.which("env")
    if env is None:
        raise DemoError(f"unset {', '.join(variables)}: they would change the demo's configuration")
    return [env, *(argument for name in variables for argument in ("-u", name))]
