"""The clock that goes on while the machine sleeps: clock_gettime(2), CLOCK_BOOTTIME."""

from __future__ import annotations

import time


def boottime() -> float:
    """Return seconds since the machine started, those that it slept among them."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)
