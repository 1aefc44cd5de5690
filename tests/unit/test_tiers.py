"""The tiers of the tests stand side by side: what two of them need is in tests/support."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
TIERS = ("unit", "contract", "integration", "e2e", "equipment")


def imported(file: Path) -> set[str]:
    """The modules that a file imports, anywhere in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
    return found


@pytest.mark.parametrize("folder", [*TIERS, "support"])
def test_no_tier_imports_another(folder: str) -> None:
    files = sorted((TESTS / folder).rglob("*.py"))
    assert files, folder
    others = [f"tests.{tier}" for tier in TIERS if tier != folder]
    wrong = {
        f"{file.relative_to(TESTS)}: {name}"
        for file in files
        for name in imported(file)
        for other in others
        if name == other or name.startswith(f"{other}.")
    }
    assert not wrong


def test_every_folder_is_a_tier() -> None:
    """Else `make test` and `make test-all` would leave it out."""
    folders = {it.name for it in TESTS.iterdir() if it.is_dir() and not it.name.startswith((".", "__"))}
    assert folders == {*TIERS, "support"}
