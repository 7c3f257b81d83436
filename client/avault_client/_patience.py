"""How long a caller is willing to wait for a vault that is locked or a daemon that is away."""

from __future__ import annotations

from time import monotonic

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

# Seconds between two tries: soon at first, for a daemon that restarts, then seldom enough to cost nothing.
SHORTEST_PAUSE = 0.05
LONGEST_PAUSE = 1.0
FOR_EVER = float("inf")


class Patience:
    """Counts down *seconds*, and says how long to pause before the next try."""

    __slots__ = ("_clock", "_end", "_longest", "_pause")

    def __init__(
        self, seconds: float, *, longest: float = LONGEST_PAUSE, clock: Callable[[], float] = monotonic
    ) -> None:
        self._clock = clock
        self._end = clock() + seconds
        self._longest = longest
        self._pause = SHORTEST_PAUSE

    def left(self) -> float:
        """Return the seconds that are left, 0 if none are."""
        return max(self._end - self._clock(), 0.0)

    def pause(self) -> float:
        """Return the seconds to pause: twice as many each time, but no more than are left; 0: give up."""
        pause = min(self._pause, self.left())
        self._pause = min(2 * self._pause, self._longest)
        return pause


NONE = Patience(0.0)
"""Of whoever does not wait. Anybody may share it: no time is left in it from the beginning."""
