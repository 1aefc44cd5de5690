"""Texts for people are in plain English: a list of words that must not be in them, and what to say instead.

`WORDS` is about every text that an operator reads: errors, prompts, tables, hints, `--help`, README, docs, comments of
the sample configurations. `IMAGES` is about docstrings and comments, too.
"""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "replicator"

WORDS = {
    r"anew": "again, or re-…: re-replicate, reconnect",
    r"nobody": "unknown, none; or name who is missing",
    r"whoever": "who, the one who",
    r"told|tells? (that|of|whether)": "reported, published, known",
    r"mend(s|ed|ing)?": "repair, fix",
    r"stands? still|standing still|stood still": "is stopped, is idle",
    r"made? (new|again)": "create, recreate",
    r"lets? in|lets? through": "accepts",
    r"of ours": "the replicator's",
    r"loose ends?": "hanging transactions",
    r"fates?": "outcome",
    r"thinned( out)?": "sparse",
    r"goes on (from|where|with)": "continues",
    r"what hurts": "the worst first",
}
"""Words that are not in texts for people (regular expressions, whole words), and what to say instead."""

IMAGES = {
    r"anew": "again",
    r"nobody": "name the subject that is missing",
    r"whoever": "the user who, the caller that",
    r"mend(s|ed|ing)?": "repair",
    r"stands? still": "is stopped",
    r"of ours": "the replicator's",
    r"loose[ _]ends?": "hanging transactions",
    r"fates?": "outcome, repair",
    r"lanes?": "partition queue",
    r"slabs?": "buffers",
    r"what hurts": "the worst first",
}
"""Private images that are not in docstrings and comments, either."""

CODES = {"thinned"}
"""Reason codes that documents and texts quote as they are."""


def _docstrings(tree: ast.AST) -> set[int]:
    """The ids of constants that stand alone: docstrings of modules, classes, functions and attributes."""
    return {
        id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }


def texts_of(source: str) -> Iterator[tuple[int, str]]:
    """(line, text) of the string literals for people: those with a space, and no docstrings but those of commands."""
    tree = ast.parse(source)
    docstrings = _docstrings(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and any("command" in ast.unparse(it) for it in node.decorator_list):
            yield node.lineno, ast.get_docstring(node) or ""
        if not (isinstance(node, ast.Constant) and isinstance(node.value, str)) or id(node) in docstrings:
            continue
        if " " in node.value.strip():
            yield node.lineno, node.value


def prose_of(source: str) -> Iterator[tuple[int, str]]:
    """(line, text) of docstrings and comments."""
    tree = ast.parse(source)
    docstrings = _docstrings(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) in docstrings:
            yield node.lineno, node.value
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string


def words_in(text: str, words: Iterable[str]) -> list[str]:
    """Those of `words` that the text has, outside of code that it quotes."""
    without_codes = re.sub(rf"`({'|'.join(CODES)})`|\b({'|'.join(CODES)}):", "", text)
    return [word for word in words if re.search(rf"\b(?:{word})\b", without_codes, re.IGNORECASE)]


def modules(packages: Iterable[str]) -> list[Path]:
    return sorted(path for name in packages for path in (PACKAGE / name).rglob("*.py"))


def packages() -> set[str]:
    return {path.parent.name for path in PACKAGE.glob("*/__init__.py")}


def found_in(path: Path, texts: Iterable[tuple[int, str]], words: dict[str, str]) -> list[str]:
    return [
        f"{path.relative_to(ROOT)}:{line}: {text.strip()[:80]!r}: instead of {word!r} say: {words[word]}"
        for line, text in texts
        for word in words_in(text, words)
    ]


def test_texts_of_the_program_are_plain() -> None:
    """Errors, prompts, tables, hints, log texts and `--help`, of every package."""
    paths = [*PACKAGE.glob("*.py"), *modules(packages())]
    texts = [(path, *it) for path in paths for it in texts_of(path.read_text())]
    assert len(texts) > 300
    assert any("no terminal to confirm on" in text for *_, text in texts)
    assert any("Move groups to the target when the source is lost" in text for *_, text in texts), "help texts"
    found = [line for path, number, text in texts for line in found_in(path, [(number, text)], WORDS)]
    assert not found, "\n".join(found)


def test_docstrings_and_comments_are_plain() -> None:
    paths = [*PACKAGE.glob("*.py"), *modules(packages())]
    prose = [(path, *it) for path in paths for it in prose_of(path.read_text())]
    assert len(prose) > 1000
    found = [line for path, number, text in prose for line in found_in(path, [(number, text)], IMAGES)]
    assert not found, "\n".join(found)


def _documents() -> list[Path]:
    return [
        ROOT / "README.md",
        ROOT / "CONTRIBUTING.md",
        ROOT / "CHANGELOG.md",
        *sorted((ROOT / "docs").rglob("*.md")),
        *sorted((ROOT / "config").glob("*.yaml")),
        *sorted((ROOT / "monitoring").glob("*.yml")),
    ]


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """(number, line); without what the demo prints, which is shown on README's first screen."""
    is_output = False
    for number, line in enumerate(path.read_text().splitlines(), 1):
        is_fence = line.startswith("```")
        is_output = is_fence and not is_output if is_fence else is_output
        if not (is_output and path.name == "README.md"):
            yield number, line


def test_documents_and_samples_are_plain() -> None:
    """README, docs, decision records, the changelog, the sample configurations and the alerts."""
    lines = [(path, it) for path in _documents() for it in _lines(path)]
    assert len(lines) > 1000
    found = [text for path, line in lines for text in found_in(path, [line], WORDS)]
    assert not found, "\n".join(found)


def test_documents_name_no_module_that_is_gone() -> None:
    """A file that a document names, with its folder, is there."""
    named = {
        (path.name, name)
        for path in _documents()
        for name in re.findall(r"`((?:tests|replicator|[a-z_]+)/[\w/]+\.py)\b", path.read_text())
    }
    assert len(named) > 20
    gone = {it for it in named if not any((folder / it[1]).exists() for folder in (ROOT, PACKAGE))}
    assert not gone


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("orders anew, 3 partitions", ["anew"]),
        ("Nobody says how old they are", ["nobody"]),
        ("`thinned`, `expired`", []),
        ("the map is thinned out here", [r"thinned( out)?"]),
        ("a new topic is recommended", []),
    ],
)
def test_words_are_found_as_whole_words_and_codes_are_no_words(text: str, words: list[str]) -> None:
    assert words_in(text, WORDS) == words
