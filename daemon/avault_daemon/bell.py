"""Asking the operator's phone without being told to: when the daemon starts, or when an agent waits for an unlock.

However many wait, there is one request at a time. After one that came to nothing there is a pause, which doubles each
time: a phone that rings all night is a phone that says yes at last. The operator's own requests know no pause.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Literal

import trio

from avault_protocol import LOCKED, AuditFailedError, AvaultError

from .confine import traced
from .faults import log_fault
from .nostr.relay import ignore

if TYPE_CHECKING:
    from .audit import Record
    from .phones import Phones
    from .vault import Vault

AskPhone = Literal["at-start", "when-needed", "never"]

LEAST, MOST = 60.0, 3600.0
"""Seconds of the first pause, and of the longest."""

log = logging.getLogger(__name__)


class Restraint:
    """When the phone may be asked again. Times are seconds of any one clock."""

    def __init__(self) -> None:
        self._open = False
        self._pause = LEAST
        self._since = float("-inf")
        self._unlocked = False  # since the request began

    def begin(self, now: float) -> bool:
        """Report whether a request may begin now; if so it has."""
        if self._open or now < self._since:
            return False
        self._open, self._unlocked = True, False
        return True

    def end(self, now: float, *, in_vain: bool) -> None:
        """Take note that the request is over. One during which something else unlocked bothered nobody in vain."""
        self._open = False
        if in_vain and not self._unlocked:
            self._since = now + self._pause
            self._pause = min(2 * self._pause, MOST)

    def reset(self) -> None:
        """Begin anew: the vault was unlocked, however that was."""
        self._unlocked = True
        self._pause = LEAST
        self._since = float("-inf")


class Bell:
    """Rings the phone for those that wait; *ask_phone*, the setting, may be changed at any time."""

    def __init__(self, vault: Vault, phones: Phones, record: Record, ask_phone: AskPhone) -> None:
        self._vault, self._phones, self._record = vault, phones, record
        self.ask_phone = ask_phone
        self._restraint = Restraint()
        self._send, self._rung = trio.open_memory_channel[str](1)

    def follow_vault(self, event: str, detail: dict[str, object]) -> None:
        """Begin anew after an unlock; a listener of the vault."""
        if event == "unlocked":
            self._restraint.reset()

    def ring(self, why: str) -> None:
        """Have the phone asked, for *why*, unless that is not wanted, in vain, or too soon. Does not wait."""
        wanted = self.ask_phone != "never" and self._vault.state == LOCKED and self._phones.reachable
        if wanted and self._restraint.begin(trio.current_time()):
            self._send.send_nowait(why)

    async def run(self) -> None:
        """Ask whenever it was rung; for ever."""
        if self.ask_phone == "at-start":
            self.ring("the start of avaultd")
        while True:
            why = await self._rung.receive()
            in_vain = True
            try:
                in_vain = not await self._ask(why)
            except Exception as error:  # noqa: BLE001 - the daemon goes on without it
                log_fault("asking the phone", error)
            finally:
                self._restraint.end(trio.current_time(), in_vain=in_vain)

    async def _ask(self, why: str) -> bool:
        """Ask for *why*, on record; report whether that unlocked the vault."""
        try:
            if traced():
                self._note("not asked: a debugger is attached")
                return False
            self._record.note("phone_ask", f"for {why}")
            self._record.flush()
            slot = await self._phones.unlock(ignore)
        except AuditFailedError as error:
            log.error("the phone was not asked: %s", error.message)
            return False
        except AvaultError as error:
            self._note(f"{error.code}: {error.message}")
            return False
        self._record.note("phone_unlock", f"slot {slot}, for {why}")
        self._record.try_flush()
        return True

    def _note(self, outcome: str) -> None:
        self._record.note("phone_ask", outcome)
        self._record.try_flush()
