"""The command line without a cluster: exit codes, where output goes, and how numbers read."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path
from typing import NamedTuple, Protocol

import pytest

from replicator.cli import COMMANDS, files_for, main
from replicator.cli.app import app
from replicator.cli.output import count_text, seconds_text

CONFIG = """
clusters: {east: {bootstrap_servers: "none:1"}, west: {bootstrap_servers: "none:2"}}
flows: {east->west: {topics: [orders]}, west->east: {topics: [orders]}}
"""


class Done(NamedTuple):
    """What a run of the console script left behind."""

    returncode: int
    stdout: str
    stderr: str


class Run(Protocol):
    """Runs the console script in this process."""

    def __call__(self, *arguments: str) -> Done:
        """What `replicator ARGUMENTS` does."""


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    def call(*arguments: str) -> Done:
        monkeypatch.setattr(sys, "argv", ["replicator", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capsys.readouterr()
        return Done(int(ended.value.code or 0), captured.out, captured.err)

    return call


@pytest.fixture
def config(tmp_path: Path) -> str:
    file = tmp_path / "replicator.yaml"
    file.write_text(CONFIG)
    return str(file)


def test_help_names_the_commands(run: Run) -> None:
    done = run("--help")
    assert done.returncode == 0
    assert all(f" {name} " in done.stdout for name in ("run", "status", "lag", "config"))


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("lag",), "--flow is needed"),
        (("lag", "--flow", "east->north"), "no flow 'east->north'"),
        (("lag", "--flow", "east->west", "--topic", "("), "'(' is not a regular expression"),
        (("lag", "--flow", "east->west", "--top", "0"), "--top"),
        (("status", "--flow", "nowhere"), "no flow 'nowhere'"),
        (("lag", "-o", "xml"), "xml"),
        (("pause",), "--flow is needed"),
        (("resume", "--flow", "east->north"), "no flow 'east->north'"),
        (("pause", "--flow", "east->west", "--timeout", "0"), "--timeout"),
        (("history", "--flow", "east->west", "--top", "0"), "--top"),
    ],
)
def test_a_mistake_of_the_caller_is_exit_2_with_the_option_named(
    run: Run, config: str, arguments: tuple[str, ...], text: str
) -> None:
    done = run("-c", config, *arguments)
    assert done.returncode == 2, done.stderr
    assert text in done.stderr
    assert done.stdout == ""


def test_a_configuration_that_is_not_there_is_exit_2(run: Run) -> None:
    done = run("-c", "nowhere.yaml", "status")
    assert (done.returncode, done.stdout) == (2, "")
    assert "nowhere.yaml" in done.stderr


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "?"), (0.0, "0.0 s"), (0.44, "0.4 s"), (9.97, "10 s"), (59.4, "59 s"), (59.6, "1 m 00 s"),
        (185, "3 m 05 s"), (3599.7, "1 h 00 m"), (7_800, "2 h 10 m"), (356_400, "4 d 03 h"),
    ],
)  # fmt: skip
def test_seconds_read_as_a_person_says_them(seconds: float | None, text: str) -> None:
    assert seconds_text(seconds) == text


def test_counts_have_separators() -> None:
    assert (count_text(1_234_567), count_text(0), count_text(None)) == ("1,234,567", "0", "?")


def test_each_command_is_found_in_its_file() -> None:
    found: dict[str, set[str]] = {}
    for file in COMMANDS:
        import_module(f"replicator.cli.{file}")
    for command in app.registered_commands:
        assert command.callback is not None
        file = command.callback.__module__.rpartition(".")[2]
        found.setdefault(file, set()).add(command.name or command.callback.__name__)
    groups = {group.name or "" for group in app.registered_groups}
    assert found | {name: {name} for name in groups} == {file: set(names) for file, names in COMMANDS.items()}


@pytest.mark.parametrize(
    ("arguments", "files"),
    [
        ("run --processes 2", ["run"]),
        ("-c run status -o json", ["status"]),
        ("--config=run.yaml explain billing", ["groups"]),
        ("-crun.yaml config show", ["config"]),
        ("--help", list(COMMANDS)),
        ("-c", list(COMMANDS)),
        ("nonsense", list(COMMANDS)),
    ],
)
def test_only_the_file_of_the_command_is_imported(arguments: str, files: list[str]) -> None:
    assert files_for(arguments.split()) == files
