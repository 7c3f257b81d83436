"""Asking the operator's phone without being told to: when the daemon starts, or when an agent waits for an unlock.

However many wait, there is one request at a time, and between two there is a pause, which doubles with each that came to
nothing: a phone that rings all night is a phone that says yes at last. Whoever still waits when it is over is rung for.
The operator's own requests know no pause.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager
from math import inf
from typing import TYPE_CHECKING, Literal

import trio

from avault_protocol import AuditFailedError, AvaultError

from ..confine import traced
from ..faults import log_fault
from ..nostr.relay import ignore

if TYPE_CHECKING:
    from ..audit import Record
    from ..vault import Vault
    from .phones import Phones

AskPhone = Literal["at-start", "when-needed", "never"]

LEAST, MOST = 60.0, 3600.0
"""Seconds of the first pause, and of the longest."""

log = logging.getLogger(__name__)


class Restraint:
    """When the phone may be asked again. Times are seconds of any one clock."""

    def __init__(self) -> None:
        self._due = self._ended = float("-inf")
        self._pause = LEAST
        self._unlocked = False  # since the request began

    def left(self, now: float) -> float:
        """Return the seconds until a request may begin."""
        return max(0.0, self._due - now)

    def begin(self) -> None:
        """Take note that a request begins."""
        self._unlocked = False

    def end(self, now: float, *, in_vain: bool) -> None:
        """Take note that it is over. One during which something else unlocked bothered nobody in vain."""
        self._ended, self._due = now, now + LEAST
        if in_vain and not self._unlocked:
            self._due = now + self._pause
            self._pause = min(2 * self._pause, MOST)

    def reset(self) -> None:
        """Begin anew: the vault was unlocked, however that was."""
        self._unlocked = True
        self._pause = LEAST
        self._due = min(self._due, self._ended + LEAST)


class Bell:
    """Rings the phone for those that wait; *ask_phone*, the setting, may be changed at any time."""

    def __init__(self, vault: Vault, phones: Phones, record: Record, ask_phone: AskPhone) -> None:
        self._vault, self._phones, self._record = vault, phones, record
        self.ask_phone = ask_phone
        self._restraint = Restraint()
        self._waiting = Counter[str]()  # why, and how many; the first is named on the record
        self._news = trio.Event()  # set, and replaced, when `run` should look again

    def follow_vault(self, event: str, detail: dict[str, object]) -> None:
        """Begin anew after an unlock, and look again after a lock; a listener of the vault."""
        if event == "unlocked":
            self._restraint.reset()
        elif event == "locked":
            self._wake()

    @contextmanager
    def waiting(self, why: str) -> Generator[None]:
        """Have the phone asked, for *why*, as soon as that may be, if it is before the block ends."""
        self._waiting[why] += 1
        self._wake()
        try:
            yield
        finally:
            self._waiting[why] -= 1
            if not self._waiting[why]:
                del self._waiting[why]

    async def run(self) -> None:
        """Ask whenever somebody waits and it may be; for ever."""
        if self.ask_phone == "at-start" and self._possible():
            await self._try("the start of avaultd")
        while True:
            left = self._left()
            if left == 0:
                await self._try(next(iter(self._waiting)))
            else:
                with trio.move_on_after(left):
                    await self._news.wait()

    def _left(self) -> float:
        """Return the seconds until it is time to ask, or to look again."""
        if not self._waiting:
            return inf
        return self._restraint.left(trio.current_time()) if self._possible() else LEAST

    def _possible(self) -> bool:
        return self.ask_phone != "never" and self._vault.locked and self._phones.reachable

    def _wake(self) -> None:
        self._news.set()
        self._news = trio.Event()

    async def _try(self, why: str) -> None:
        self._restraint.begin()
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
