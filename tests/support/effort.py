"""How much a test run may cost: `HYPOTHESIS_PROFILE=long` for many more examples and deaths."""

from __future__ import annotations

import os

PROFILE = os.environ.get("HYPOTHESIS_PROFILE", "untimed")


def is_long() -> bool:
    """Whether there is time for everything."""
    return PROFILE == "long"
