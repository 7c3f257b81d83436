"""Refusals, coalesced: the first of a kind is written at once, its repetitions within a minute are counted.

The kind is the caller and what was refused it, and why. One uid has at most `PER_UID` kinds a minute, all together
`TOTAL`; beyond that only a number is kept, a line a minute. So whoever provokes refusals writes some kilobytes a
minute, not more, and every refusal is still counted.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Iterator
from dataclasses import dataclass

from .lines import Entry

WINDOW = 60.0
PER_UID = 30
TOTAL = 300
OVERFLOW = "too many to write each"


@dataclass(slots=True)
class _Window:
    entry: Entry
    ends: float
    count: int = 0


class Refusals:
    """The kinds of the last minute. Times are seconds of any clock that never goes back."""

    def __init__(self) -> None:
        # In the order in which they end: every window is as long as every other.
        self._windows: dict[Hashable, _Window] = {}
        self._kinds: Counter[int | None] = Counter()

    def admit(self, entry: Entry, now: float) -> bool:
        """Report whether *entry* gets a line of its own; otherwise it has been counted. Call `due` before."""
        key: Hashable = (
            entry.uid,
            entry.pid,
            entry.agent,
            entry.plugin,
            entry.action,
            entry.secret,
            entry.reason,
        )
        if (window := self._windows.get(key)) is not None:
            window.count += 1
            return False
        if self._kinds[entry.uid] >= PER_UID:
            return self._count_only(entry.uid, now)
        if self._kinds.total() >= TOTAL:
            return self._count_only(None, now)
        self._kinds[entry.uid] += 1
        self._windows[key] = _Window(entry, now + WINDOW)
        return True

    def _count_only(self, uid: int | None, now: float) -> bool:
        entry = Entry("refusals", "refused", uid=uid, reason=OVERFLOW)
        self._windows.setdefault(("overflow", uid), _Window(entry, now + WINDOW)).count += 1
        return False

    def due(self, now: float = math.inf) -> Iterator[Entry]:
        """Close the windows that have ended; give a line for each in which something was only counted."""
        while self._windows:
            key, window = next(iter(self._windows.items()))
            if window.ends > now:
                return
            del self._windows[key]
            if window.entry.reason != OVERFLOW:
                self._kinds -= Counter([window.entry.uid])
            if window.count:
                yield window.entry._replace(times=window.count)

    def next_due(self) -> float:
        """Return when the next window ends, inf if none is open."""
        return next(iter(self._windows.values())).ends if self._windows else math.inf
