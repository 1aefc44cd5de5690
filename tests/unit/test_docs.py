"""The documentation names everything that there is, and nothing that there is not."""

from __future__ import annotations

import ast
import importlib
import pkgutil
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeGuard

import pytest
import typer.main
import yaml
from prometheus_client import generate_latest
from pydantic import BaseModel

import replicator.cli
from replicator.cli.app import app
from replicator.config import ClusterSettings, FlowSettings, OAuthSettings, Settings
from replicator.errors import StopReason
from replicator.metrics import TASK_STATES, Metrics
from replicator.moves.model import MoveReason
from replicator.operations.group_report import ADVICE

ROOT = Path(__file__).parents[2]
SECTIONS: dict[str, type[BaseModel]] = {
    "clusters.<alias>": ClusterSettings,
    "clusters.<alias>.security.oauth": OAuthSettings,
    "flows.<source>-><target>": FlowSettings,
}
"""Sections under names of the operator's choice; the others are found in `Settings`."""


def text(*names: str) -> str:
    return "\n".join((ROOT / name).read_text() for name in names if (ROOT / name).exists())


def table_keys(markdown: str) -> list[str]:
    """The first column of its tables, where that is code."""
    return re.findall(r"^\| `([^`]+)` \|", markdown, re.MULTILINE)


def is_section(annotation: object) -> TypeGuard[type[BaseModel]]:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def sections() -> Iterator[tuple[str, type[BaseModel]]]:
    """Heading in docs/configuration.md → the keys of that section."""
    named = [(name, field.annotation) for name, field in Settings.model_fields.items()]
    pending = [*SECTIONS.items(), *((name, kind) for name, kind in named if is_section(kind))]
    while pending:
        heading, model = pending.pop()
        yield heading, model
        for name, field in model.model_fields.items():
            if is_section(field.annotation):
                pending.append((f"{heading}.{name}", field.annotation))


def section_text(heading: str) -> str:
    """What stands under a heading of docs/configuration.md."""
    match = re.search(rf"^## {re.escape(heading)}\n(.*?)(?=^## |\Z)", text("docs/configuration.md"), re.S | re.M)
    assert match, f"docs/configuration.md has no heading {heading}"
    return match[1]


@pytest.mark.parametrize(("heading", "model"), sorted(sections(), key=str))
def test_every_setting_is_explained(heading: str, model: type[BaseModel]) -> None:
    """One row for each key of a section, in any order, and no row for what is no key."""
    assert sorted(table_keys(section_text(f"`{heading}`"))) == sorted(model.model_fields)


def test_every_section_is_explained() -> None:
    """`Settings` has no part that the pages above leave out."""
    headings = set(re.findall(r"^## `([^`]+)`", text("docs/configuration.md"), re.MULTILINE))
    assert headings == {heading for heading, _ in sections()}
    plain = set(Settings.model_fields) - {re.split(r"\W", heading)[0] for heading in headings}
    assert set(table_keys(section_text("Beside the sections"))) == plain
    assert plain


@pytest.mark.parametrize(("heading", "model"), sorted(sections(), key=str))
def test_defaults_are_told_as_they_are(heading: str, model: type[BaseModel]) -> None:
    """A default in the table is the one of the program."""
    rows = re.findall(r"^\| `(\w+)` \| .*? \| (\S.*?) \| ", section_text(f"`{heading}`"), re.MULTILINE)
    documented = {key: default.strip("`") for key, default in rows if default.startswith("`")}
    for key, default in documented.items():
        assert yaml.safe_load(default) == model.model_fields[key].default, f"{heading}.{key}"
    silent = {key for key in model.model_fields if key not in documented}
    required = {key for key, default in rows if default == "*required*"}
    assert required == {key for key, field in model.model_fields.items() if field.is_required()}
    assert {key for key in silent - required if model.model_fields[key].default is not None} <= {"security"}


def metric_names() -> set[str]:
    """As they are scraped and queried: counters with `_total`."""
    scraped = generate_latest(Metrics().registry).decode()
    names = set(re.findall(r"^# TYPE (\w+) (?:counter|gauge|histogram)$", scraped, re.MULTILINE))
    assert len(names) >= 14
    return names


def test_every_metric_is_explained() -> None:
    """One row each, with the labels that it has."""
    page = text("docs/metrics.md")
    rows = dict(re.findall(r"^\| `(replicator_\w+)` \| \w+ \| ([\w, ]+) \|", page, re.MULTILINE))
    assert set(rows) == metric_names()
    for metric in vars(Metrics()).values():
        labels = getattr(metric, "_labelnames", None)
        if labels is not None:
            name = next(name for name in rows if name in {metric._name, f"{metric._name}_total"})
            assert tuple(rows[name].split(", ")) == labels, name


def test_every_state_and_reason_is_explained() -> None:
    page = text("docs/metrics.md")
    assert set(table_keys(page)) - metric_names() == {reason.value for reason in StopReason}
    (states,) = re.findall(r"^\| `replicator_task_state` .*$", page, re.MULTILINE)
    assert re.findall(r"`([a-z]+)`", states) == list(TASK_STATES)


def test_the_alert_rules_use_metrics_that_exist() -> None:
    """Those in the page, and those in monitoring/."""
    page = text("docs/metrics.md")
    (block,) = re.findall(r"^```yaml\n(.*?)^```", page, re.S | re.M)
    (group,) = yaml.safe_load(block)["groups"]
    assert len(group["rules"]) >= 3
    known = metric_names() | {f"{name}{end}" for name in metric_names() for end in ("_bucket", "_sum", "_count")}
    for files in (block, text("monitoring/alerts.yml")):
        used = set(re.findall(r"\breplicator_\w+", files))
        assert used
        assert used <= known


def commands() -> list[str]:
    """Every command of the program: `run`, `config check`, …"""
    for module in pkgutil.iter_modules(replicator.cli.__path__):
        importlib.import_module(f"replicator.cli.{module.name}")
    found: list[str] = []
    pending: list[tuple[str, Any]] = [("", typer.main.get_command(app))]
    while pending:
        path, command = pending.pop()
        children = getattr(command, "commands", None)
        if children is None:
            found.append(path)
        else:
            pending += [(f"{path} {name}".strip(), child) for name, child in children.items()]
    assert "run" in found
    return sorted(found)


@pytest.mark.parametrize("command", commands())
def test_every_command_is_documented(command: str) -> None:
    """In the README, or on a page of docs/: as it is typed."""
    assert re.search(
        rf"\breplicator (-\S+ \S+ )*{command}\b", text("README.md", "docs/commands.md", "docs/configuration.md")
    )


@pytest.mark.parametrize("command", commands())
def test_every_command_is_in_both_tables(command: str) -> None:
    """That of the README, and that of docs/commands.md."""
    for page in ("README.md", "docs/commands.md"):
        first_cells = re.findall(r"^\| (`replicator .*?) \| ", text(page), re.MULTILINE)
        assert any(re.search(rf"\b{command}\b", cell) for cell in first_cells), page


def test_the_exit_codes_are_told_alike() -> None:
    codes = re.findall(r"^\| (\d+) \| ", text("docs/commands.md"), re.MULTILINE)
    assert codes == ["0", "1", "2", "3", "4", "5", "130"]
    (sentence,) = re.findall(r"^Exit codes: .*?\n\n", text("README.md"), re.S | re.M)
    assert re.findall(r"(?:^Exit codes: |·\s)(\d+) ", sentence) == codes


def test_every_reason_of_a_move_is_explained() -> None:
    """In one table; `explain` has an advice for each."""
    cells = re.findall(r"^\| (`.*?) \|", text("docs/operations.md").partition("The reasons that rows")[2], re.MULTILINE)
    documented = [name for cell in cells for name in re.findall(r"`([a-z_]+)`", cell)]
    known = [reason.value for reason in MoveReason]
    assert sorted(it for it in documented if it in known) == sorted(known)
    assert ADVICE.keys() == set(MoveReason)


# --- the packages -----------------------------------------------------------------------------------------------------


def packages() -> list[str]:
    """From the top down, as the contract in pyproject.toml has them."""
    project = tomllib.loads(text("pyproject.toml"))
    contracts = {it["id"]: it for it in project["tool"]["importlinter"]["contracts"]}
    layers = [name.strip() for layer in contracts["layers"]["layers"] for name in layer.split("|")]
    return [name for name in layers if (ROOT / "replicator" / name / "__init__.py").exists()]


def test_every_package_says_what_it_is_about() -> None:
    """In its docstring, and in one row of docs/ARCHITECTURE.md, from the bottom up."""
    found = {it.parent.name for it in (ROOT / "replicator").glob("*/__init__.py")}
    assert found == set(packages())
    for name in found:
        assert ast.get_docstring(ast.parse((ROOT / "replicator" / name / "__init__.py").read_text())), name
    rows = re.findall(r"^\| `(\w+)/` \| ", text("docs/ARCHITECTURE.md"), re.MULTILINE)
    assert rows == packages()[::-1]


@pytest.mark.parametrize(
    "page", [*sorted(p.relative_to(ROOT).as_posix() for p in ROOT.glob("docs/**/*.md")), "README.md"]
)
def test_links_lead_somewhere(page: str) -> None:
    """Links to files of the project."""
    for link in re.findall(r"\]\((?!https?:|#|mailto:)([^)#]+)", text(page)):
        assert (ROOT / page).parent.joinpath(link).exists(), f"{page} links to {link}"
