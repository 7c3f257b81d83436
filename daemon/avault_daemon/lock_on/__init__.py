"""What the vault is locked on, as the settings say it: ``lock_on = ["suspend", "screen-lock", "idle:8h"]``."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from avault_protocol import BadRequestError

EVENTS = ("suspend", "screen-lock")
MAX_IDLE = 30 * 24 * 3600
"""Seconds; the least is one."""
_IDLE = re.compile(r"idle:([1-9][0-9]{0,6})([smhd])", re.ASCII)
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 24 * 3600}


@dataclass(frozen=True, slots=True)
class LockOn:
    """The events; *idle* is seconds without a use, None: however long."""

    suspend: bool = False
    screen_lock: bool = False
    idle: int | None = None

    @property
    def needs_bus(self) -> bool:
        """Whether it takes logind to know."""
        return self.suspend or self.screen_lock


def parse(texts: Sequence[str]) -> LockOn:
    """Return what *texts* say; `BadRequestError`, which does not repeat them, if one says nothing or two say idle."""
    idle = [seconds(text) for text in texts if text not in EVENTS]
    if len(idle) > 1:
        raise BadRequestError("there is more than one idle:DURATION")
    return LockOn("suspend" in texts, "screen-lock" in texts, idle[0] if idle else None)


def seconds(text: str) -> int:
    """Return the seconds of *text*, ``idle:DURATION``; `BadRequestError` if it is no such, or longer than `MAX_IDLE`."""
    found = _IDLE.fullmatch(text)
    span = int(found[1]) * _UNITS[found[2]] if found else 0
    if not 0 < span <= MAX_IDLE:
        raise BadRequestError("an entry is not suspend, screen-lock or idle:DURATION, up to idle:30d")
    return span
