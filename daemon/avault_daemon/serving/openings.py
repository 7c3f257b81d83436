"""How callers began their connections, so that one that begins another in the same words is greeted as before.

A plugin that connects anew says the same hello. What the kernel attests of the caller has been asked anew by then, and
it is one and the same caller only where all of that is the same. Whether the plugin is still the caller's, and whether the
answer still holds, is for the bindings and the gate to say.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from ..callers.policy import Caller
    from .conversation import Answer
    from .standing import Standing

CALLERS = 64
"""Callers that are remembered."""
MOST = 8
"""Openings of one caller that are remembered."""
LONGEST = 1024
"""Bytes of a hello that is remembered: it declares some thirty names."""


class Opening(NamedTuple):
    """A *hello*, its bytes, and the *answer* that it had under *id*; all that it *declared* was granted.

    *standing* is what all who began so have been given since, of what is declared by it.
    """

    hello: bytes
    id: int
    answer: Answer
    agent: str
    plugin: str
    declared: frozenset[str]
    standing: Standing


class Openings:
    """The openings of the callers that came last."""

    def __init__(self) -> None:
        self._of: dict[Caller, list[Opening]] = {}

    def find(self, caller: Caller, data: bytes) -> Opening | None:
        """Return how *caller* began with the hello with which *data* begins, if it has."""
        for opening in self._of.get(caller, ()):
            if data.startswith(opening.hello):  # no message begins another, so this is the first one
                return opening
        return None

    def note(self, caller: Caller, opening: Opening) -> None:
        """Remember *opening*, of *caller*, unless it is long; in place of what the same hello was answered before."""
        if len(opening.hello) > LONGEST:
            return
        others = [one for one in self._of.pop(caller, ()) if one.hello != opening.hello]
        if len(self._of) >= CALLERS:
            del self._of[next(iter(self._of))]
        self._of[caller] = [*others[1 - MOST :], opening]

    def clear(self) -> None:
        """Forget all."""
        self._of.clear()
