"""How fast one uid may guess passphrases.

After each wrong passphrase a uid waits: 1 s, then twice as long each time, at most 30 s; and it has at most ten wrong
ones in any minute. Others are not delayed, whatever one uid does. A right passphrase ends the wait; it does not empty
the minute, or someone who knows one passphrase could guess another without limit.

A check that a lock cuts short counts for the minute too, or one that found no memory: anyone with the socket may lock, and
of two slots the first has been tried by then. It makes nobody wait before the minute is full, since that may be another's doing.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from avault_protocol import ThrottledError

FIRST_DELAY = 1.0
MAX_DELAY = 30.0
PER_MINUTE = 10
MINUTE = 60.0
FORGET = 600.0
"""Seconds after which a uid that has not tried again starts anew."""
MAX_UIDS = 1024
"""More than this many guess on no machine; past it the one that has been quiet for longest is forgotten."""


@dataclass(slots=True)
class _Misses:
    in_a_row: int = 0
    latest: float = -math.inf
    times: deque[float] = field(default_factory=lambda: deque[float](maxlen=PER_MINUTE))

    def free_at(self) -> float:
        """Return when the next guess may be made."""
        delay = min(MAX_DELAY, FIRST_DELAY * 2.0 ** (self.in_a_row - 1)) if self.in_a_row else 0.0
        minute_is_full = self.times[0] + MINUTE if len(self.times) == PER_MINUTE else -math.inf
        return max(self.latest + delay, minute_is_full)


class Throttle:
    """Wrong passphrases, by uid. *clock* gives seconds and never goes back."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._misses: dict[int, _Misses] = {}  # the one that missed last is last

    def check(self, uid: int) -> None:
        """Raise `ThrottledError`, with the seconds left, if *uid* may not guess now."""
        misses = self._misses.get(uid)
        left = misses.free_at() - self._clock() if misses else 0.0
        if left > 0:
            raise ThrottledError(f"too many wrong passphrases: wait {math.ceil(left)} s")

    def failed(self, uid: int) -> None:
        """Note a wrong passphrase of *uid*."""
        self._missed(uid).in_a_row += 1

    def interrupted(self, uid: int) -> None:
        """Note a passphrase of *uid* of which something kept the daemon from saying whether it was right."""
        self._missed(uid)

    def _missed(self, uid: int) -> _Misses:
        now = self._clock()
        self._forget(now)
        misses = self._misses.pop(uid, None) or _Misses()
        self._misses[uid] = misses
        misses.latest = now
        misses.times.append(now)
        return misses

    def succeeded(self, uid: int) -> None:
        """Note a right passphrase of *uid*."""
        if (misses := self._misses.get(uid)) is not None:
            misses.in_a_row = 0

    def _forget(self, now: float) -> None:
        while self._misses:
            quiet = next(iter(self._misses))
            if len(self._misses) < MAX_UIDS and self._misses[quiet].latest + FORGET > now:
                return
            del self._misses[quiet]
