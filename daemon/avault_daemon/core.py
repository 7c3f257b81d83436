"""The parts of one daemon, put together in `main` and handed to every conversation."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from .audit import Record
    from .callers.bindings import Bindings
    from .callers.gate import Gate
    from .callers.requests import Requests
    from .callers.throttle import Throttle
    from .keyring.slots import KeyringSlots
    from .lock_on.locker import Locker
    from .memory.arena import Arena
    from .phone.bell import Bell
    from .phone.phones import Phones
    from .places import Places
    from .settings import Settings
    from .systemd.unattended import Unattended
    from .vault import Vault


@dataclass(slots=True)
class Core:
    """The parts of one daemon. *confinement* says what the process forbids itself."""

    settings: Settings
    places: Places
    confinement: str
    arena: Arena
    vault: Vault
    record: Record
    requests: Requests
    gate: Gate
    bindings: Bindings
    throttle: Throttle
    phones: Phones
    bell: Bell
    locker: Locker
    keyring: KeyringSlots
    unattended: Unattended
    unlocked: trio.Event = field(default_factory=trio.Event)
    """Set while the vault is unlocked; a new one after each lock."""
    reading: trio.CapacityLimiter = field(default_factory=lambda: trio.CapacityLimiter(1))
    """Of the threads that read the record: they keep the interpreter busy, and anybody with the socket may ask."""
    granting: trio.Lock = field(default_factory=trio.Lock)
    """Held from the look at an agent to its change, or one operator's revocation could be undone by another's grant."""
    guesses: defaultdict[int, trio.Lock] = field(default_factory=lambda: defaultdict(trio.Lock))
    """One lock a uid: its passphrases are checked one after the other."""

    def follow_vault(self, event: str, detail: dict[str, object]) -> None:
        """Hand the record its key and take it away; a listener of the vault."""
        if event == "unlocked":
            self.adopt_key()
            self.unlocked.set()
        elif event == "locked":
            self.record.signer = self.record.public = None
            self.unlocked = trio.Event()
        elif event == "key":
            self.record.rekeyed(bytes.fromhex(str(detail["new"])))

    def adopt_key(self) -> None:
        """Let the record be signed by the vault's present key."""
        self.record.public, self.record.signer = self.vault.public, self.vault.sign

    def adopt_settings(self, settings: Settings) -> None:
        """Go by *settings* from now on, as far as `settings.reread` lets them differ from those before."""
        self.settings = settings
        self.bell.ask_phone = settings.ask_phone

    def close(self) -> None:
        """Give everything back; the vault first, since it is what must not stay open."""
        self.vault.close()
        self.keyring.keyring.close()
        self.record.close()
        self.bindings.close()
