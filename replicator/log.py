"""Logging: structlog on stderr, JSON when not on a terminal, readable on one; stdout is left to JSON and tables.

Events are fixed snake_case names; their keys are words of the project (flow, task, topic, partition, reason, hint).
Lifecycle is info, decisions with their reason are debug, nothing is logged per record.
"""

from __future__ import annotations

import logging
import sys

import structlog
from structlog.typing import EventDict, FilteringBoundLogger

from replicator.config import LogSettings

Logger = FilteringBoundLogger
NO_LOG: Logger = structlog.wrap_logger(None, wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
"""Discards everything; for commands, which print their results themselves."""


def configure(settings: LogSettings, *, quiet: bool = False) -> None:
    """Set the process's log format and level; `quiet` raises the level to warning, for commands that print a table."""
    level = logging.WARNING if quiet else getattr(logging, settings.level.upper())
    on_terminal = settings.format == "console" or (settings.format == "auto" and sys.stderr.isatty())
    processors: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="%H:%M:%S" if on_terminal else "iso", utc=not on_terminal),
        structlog.processors.format_exc_info,
    ]
    if on_terminal:
        processors += [
            _in_reading_order,
            structlog.dev.ConsoleRenderer(24, colors=sys.stderr.isatty(), sort_keys=False),
        ]
    else:
        processors.append(structlog.processors.JSONRenderer())
    structlog.configure(
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),  # one write a line: processes share stderr
        cache_logger_on_first_use=False,
    )


def get_logger(**bound: object) -> Logger:
    """A logger with `bound` on every event."""
    logger: Logger = structlog.get_logger(**bound)
    return logger


def _in_reading_order(logger: object, name: str, event: EventDict) -> EventDict:
    """Put the keys that say where it happened first, and long texts last."""
    ends = [key for key in ("error", "hint", "exception") if key in event]
    starts = [key for key in ("flow", "task", "topic", "partition", "reason") if key in event]
    middle = [key for key in event if key not in starts and key not in ends]
    return {key: event[key] for key in (*starts, *middle, *ends)}
