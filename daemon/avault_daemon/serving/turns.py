"""Whose turn it is: parties are served in turn, and so are those who belong to the same party."""

from __future__ import annotations

from collections import deque
from typing import Generic, TypeVar

T = TypeVar("T")


class Turns(Generic[T]):
    """Those who wait for their turn, each of them once.

    Between two turns of a party each other party that waits has had one; and between two turns of one who waits, each
    other one of the same party that did.
    """

    def __init__(self) -> None:
        self._parties: dict[int, deque[T]] = {}  # in the order of their next turns
        self.waiting: set[T] = set()
        """Those who wait."""

    def add(self, party: int, one: T) -> None:
        """Let *one*, of *party*, wait behind all of that party. Who waits already keeps its place."""
        if one in self.waiting:
            return
        self.waiting.add(one)
        queue = self._parties.get(party)
        if queue is None:
            self._parties[party] = deque((one,))
        else:
            queue.append(one)

    def deal(self, most: int) -> list[T]:
        """Return those whose turns are next, at most so many, and where several parties wait one of each; they wait no more."""
        if len(self._parties) == 1:
            ((party, queue),) = self._parties.items()
            dealt = [queue.popleft() for _ in range(min(most, len(queue)))]
            if not queue:
                del self._parties[party]
        else:
            dealt = [self._next() for _ in range(min(most, len(self._parties)))]
        self.waiting.difference_update(dealt)
        return dealt

    def _next(self) -> T:
        """Take the first of the party whose turn it is; its next turn is behind those of all others."""
        party = next(iter(self._parties))
        queue = self._parties.pop(party)
        one = queue.popleft()
        if queue:
            self._parties[party] = queue
        return one
