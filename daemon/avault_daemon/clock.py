"""The clock that goes on while the machine sleeps: clock_gettime(2), CLOCK_BOOTTIME."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

boottime: Callable[[], float] = partial(time.clock_gettime, time.CLOCK_BOOTTIME)
"""Returns seconds since the machine started, those that it slept among them."""
