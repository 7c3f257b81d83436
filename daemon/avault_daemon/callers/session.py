"""One plugin's connection after its hello: who is there, and what it declared."""

from __future__ import annotations

from dataclasses import dataclass, field

from .policy import Caller, Policy


@dataclass(slots=True)
class Session:
    """One connection after its hello: who is there, as which plugin, and the names that it declared.

    The decision is kept for as long as the same snapshot of the policy is in force.
    """

    caller: Caller
    agent: str
    plugin: str
    declared: set[str]
    snapshot: Policy | None = field(default=None, repr=False)
    readable: frozenset[str] = field(default=frozenset(), repr=False)

    def request(self, name: str) -> None:
        """Declare one more name."""
        self.declared.add(name)
