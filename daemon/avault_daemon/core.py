"""The parts of one daemon, put together in `main` and handed to every conversation."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from .arena import Arena
    from .audit import Record
    from .bindings import Bindings
    from .gate import Gate
    from .places import Places
    from .processes import Processes
    from .requests import Requests
    from .settings import Settings
    from .throttle import Throttle
    from .vault import Vault


@dataclass(slots=True)
class Signals:
    """What conversations may wait for."""

    unlocked: trio.Event = field(default_factory=trio.Event)

    def on_event(self, event: str, detail: dict[str, object]) -> None:
        """Follow the vault; one of its listeners."""
        if event == "unlocked":
            self.unlocked.set()
        elif event == "locked":
            self.unlocked = trio.Event()


@dataclass(frozen=True, slots=True)
class Core:
    """The parts of one daemon. *service* is "user" or "system"; *confinement* says what the process forbids itself."""

    settings: Settings
    places: Places
    service: str
    confinement: str
    clock: Callable[[], float]
    arena: Arena
    vault: Vault
    record: Record
    requests: Requests
    gate: Gate
    bindings: Bindings
    processes: Processes
    throttle: Throttle
    signals: Signals
    guesses: defaultdict[int, trio.Lock] = field(default_factory=lambda: defaultdict(trio.Lock))
    """One lock a uid: its passphrases are checked one after the other."""
