"""What locks the vault without being asked: sleep, a locked screen, a long time without a use, the daemon's end."""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING

import trio

from ..clock import boottime
from ..faults import log_fault
from . import LockOn

if TYPE_CHECKING:
    from ..audit import Record
    from ..callers.gate import Gate
    from ..callers.policy import Service
    from ..vault import Vault
    from .logind import Logind

log = logging.getLogger(__name__)

LOOK = 60.0
"""Seconds between two looks at the clock, at most: one that goes on in sleep does not wake anybody."""


class Locker:
    """Locks *vault* on what is *wanted*. *bus* is from `logind.connect`, or the reason why there is none, or None: no need.

    *clock* is that of `gate`.
    """

    def __init__(
        self,
        vault: Vault,
        record: Record,
        gate: Gate,
        service: Service,
        wanted: LockOn,
        bus: socket.socket | str | None = None,
        *,
        clock: Callable[[], float] = boottime,
    ) -> None:
        self._vault, self._record, self._gate = vault, record, gate
        self._service: Service = service
        self._wanted, self._bus, self._clock = wanted, bus, clock
        self._logind: Logind | None = None
        self._lost = f"{bus}; {self._unheard()}" if isinstance(bus, str) else None
        self._unlocked_at = 0.0

    @property
    def problem(self) -> str | None:
        """What keeps the vault from being locked as wanted; None if nothing does."""
        return self._lost or (self._logind.problem if self._logind else None)

    def _unheard(self) -> str:
        events = [
            name
            for name, on in (("suspend", self._wanted.suspend), ("screen-lock", self._wanted.screen_lock))
            if on
        ]
        return f"lock_on does not work for {' and '.join(events)} until avaultd is restarted"

    def lock(self, why: str) -> None:
        """Wipe first; then put on record *why*, if there was anything to lock and that is possible."""
        was_unlocked = self._vault.unlocked
        self._vault.lock()
        if was_unlocked:
            self._record.note("lock", why)
            self._record.try_flush()

    def follow_vault(self, event: str, detail: dict[str, object]) -> None:
        """Count an unlock as a use; a listener of the vault."""
        if event == "unlocked":
            self._unlocked_at = self._clock()

    async def run(self) -> None:
        """Watch, for ever."""
        async with trio.open_nursery() as nursery:
            if self._wanted.idle is not None:
                nursery.start_soon(self._watch_idle, self._wanted.idle)
            if isinstance(self._bus, socket.socket):
                nursery.start_soon(self._watch_bus, self._bus)
            elif self._lost:
                log.warning("%s", self._lost)

    async def _watch_idle(self, seconds: int) -> None:
        while True:
            left = max(self._unlocked_at, self._gate.used_at) + seconds - self._clock()
            if left <= 0 and self._vault.unlocked:
                self.lock(f"idle for {seconds} s")
            await trio.sleep(min(left, LOOK) if left > 0 else min(seconds, LOOK))

    async def _watch_bus(self, bus: socket.socket) -> None:
        from .logind import BusGoneError, Logind, concerns  # what it brings is for those who want it

        self._logind = Logind(bus, self._wanted, concerns(self._service))
        try:
            await self._logind.run(self.lock)
        except BusGoneError as error:
            self._lost = f"{error}; {self._unheard()}"
        except Exception as error:  # noqa: BLE001 - whatever is said on the bus, it takes nobody down
            log_fault("listening to logind", error)
            self._lost = f"the system bus is not understood; {self._unheard()}"
        log.error("%s", self._lost)
        self.lock("the system bus is gone")
