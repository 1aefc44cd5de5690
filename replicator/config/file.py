"""From the file, under the environment, to settings; and errors that name each wrong key, without its secret value."""

from __future__ import annotations

import os
import re
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import (
    ValidationError,
)
from pydantic_settings import SettingsError

from replicator.config.settings import ENVIRONMENT_PREFIX, Settings
from replicator.errors import ConfigError

DEFAULT_FILE = "config/replicator.yaml"
ENVIRONMENT_FILE = "REPLICATOR_CONFIG"
MASK = "********"
MESSAGES = {
    "dict_type": "it should be keys and values, indented below it",
    "list_type": "it should be a list, such as ['orders', 'payments-.*']",
    "model_type": "it should be keys and values, indented below it",
    "string_pattern_mismatch": "it has another form than is allowed here (see docs/configuration.md)",
    "too_short": "it should have at least one entry",
}
"""Texts for pydantic's types of errors whose own texts speak of Python."""


def config_file(given: str | None) -> Path:
    """The file to read: the flag, else ``$REPLICATOR_CONFIG``, else ``config/replicator.yaml``."""
    return Path(given or os.environ.get(ENVIRONMENT_FILE) or DEFAULT_FILE)


def load(file: Path) -> Settings:
    """Read and validate the configuration.

    Raises:
        ConfigError: the file or a value is wrong; the text names every wrong key, one a line.
    """
    try:
        content = yaml.load(file.read_text(), Loader=_UniqueKeys)
    except OSError as error:
        raise ConfigError(
            "", f"can't read the configuration {str(file)!r}: {error.strerror} (-c FILE, or {ENVIRONMENT_FILE})"
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError("", f"{file} is not valid YAML: {_yaml_problem(error)}") from None
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise ConfigError("", f"{file}: expected the keys clusters and flows at the top")
    return build(content)


def _yaml_problem(error: yaml.YAMLError | UnicodeDecodeError) -> str:
    """What is wrong and where, without the text of the line: a secret may stand there."""
    if isinstance(error, UnicodeDecodeError):
        return f"not UTF-8 at byte {error.start}"
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or "it can't be read"
    without_values = re.sub(
        r"(tag|alias|anchor|handle) .*", r"\1 (a value that begins with ! & * or % needs quotes)", problem
    )
    return without_values + (f", line {mark.line + 1}, column {mark.column + 1}" if mark else "")


def build(content: Mapping[str, Any]) -> Settings:
    """Validate `content` under the environment's overrides.

    Raises:
        ConfigError: as `load`.
    """
    try:
        return Settings(**content)
    except ValidationError as error:
        raise ConfigError("", "\n".join(_lines(error))) from None
    except SettingsError as error:  # its text names the field, not the value
        text = f"the environment ({ENVIRONMENT_PREFIX}…): {error} (write lists and mappings as JSON)"
        raise ConfigError("", text) from None


def _lines(error: ValidationError) -> list[str]:
    lines: list[str] = []
    for item in error.errors(include_url=False):
        path = ".".join(str(part) for part in item["loc"] if not _is_union_branch(part))
        message = MESSAGES.get(item["type"]) or item["msg"].removeprefix("Value error, ")
        if item["type"] == "extra_forbidden":
            message = "unknown key"
        elif item["type"] == "missing":
            message = "missing"
        elif item["input"] is None:
            message = f"has no value; {message[0].lower()}{message[1:]}"
        elif not _may_be_secret(path) and not isinstance(item["input"], dict | list):
            message = f"{item['input']!r} is not allowed: {message[0].lower()}{message[1:]}"
        line = f"{path}: {message}" if path else message
        if line not in lines:
            lines.append(line)
    return lines


def _may_be_secret(path: str) -> bool:
    """Whether a wrong value at `path` must not be shown: under `clusters`, only addresses are shown."""
    return path.startswith("clusters") and not path.endswith(".bootstrap_servers")


def _is_union_branch(part: object) -> bool:
    """Pydantic names the branch of a union in the path; an operator has no such key."""
    return isinstance(part, str) and (part in {"str", "int", "float", "bool", "datetime"} or "[" in part)


def shown(settings: Settings) -> dict[str, Any]:
    """The effective values, for `config show`: secrets masked, also those hidden in a `client` block."""
    content = settings.model_dump(mode="json")
    for cluster in content["clusters"].values():
        for section in (cluster["security"], cluster["security"]["oauth"] or {}):
            for key, value in section.items():
                if re.search("password|secret", key) and not key.endswith("_file") and value is not None:
                    section[key] = MASK
        for key in cluster["client"]:
            if re.search(r"password|secret|\.pem|oauthbearer\.config|jaas", key):
                cluster["client"][key] = MASK
    return content


class _UniqueKeys(yaml.SafeLoader):
    """Refuses a key that is given twice, where YAML would silently keep the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, Hashable):
                raise yaml.constructor.ConstructorError(None, None, "a key must be a plain value", key_node.start_mark)
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} is given twice", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)
