"""The keyring slots: opened by, and kept together with, what lies in the keyring of the operator's desktop.

An item of the keyring is stored before its slot is written and removed after the slot is gone, so that a process killed in
between leaves a vault that opens as before, and at most an item that opens nothing.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path

import trio

from avault_protocol import AvaultError, CorruptError, DeniedError, LockedError, NotFoundError

from ..memory.arena import Arena, Slot
from ..nostr.keys import SecretKey
from ..phone.pairings import random_slot
from ..slots import keyring as slots
from ..slots.keyring import KEY, KeyringSlot
from ..vault import Vault
from ..vault.copies import Reseal
from .oskeyring import Keyring


class KeyringSlots:
    """Those of *vault*, which lies in *home*: items of the keyring are named by that, for the operator to know them."""

    def __init__(self, arena: Arena, vault: Vault, keyring: Keyring, home: Path) -> None:
        self.keyring = keyring
        self._arena = arena
        self._vault = vault
        self._home = home

    def slots(self) -> list[str]:
        """Return the ids of the keyring slots."""
        return [slot.id for slot in self._vault.slots() if slot.type == slots.TYPE]

    async def unlock(self) -> str:
        """Unlock by the first slot whose key is in the keyring; return its id.

        `NotFoundError`: no slot, or nothing in the keyring for it; `DeniedError`: the keyring is locked, or its key opens
        nothing; `LockedError`: it was locked meanwhile; else by `Keyring.check` and `Vault.unlock_with`.
        """
        errors: list[AvaultError] = []
        for slot in self.slots():
            try:
                self._vault.unlock_with(await self._open(slot), slot)
            except (NotFoundError, CorruptError, DeniedError, LockedError) as error:
                errors.append(error)
            else:
                return slot
        if errors:
            raise errors[0]
        raise NotFoundError("this vault has no keyring slot", hint="make one: avault slot add keyring")

    async def _open(self, slot: str) -> SecretKey:
        before, public = self._vault.epoch, self._vault.public
        content = KeyringSlot.parse(self._vault.slot_content(slot))
        with await self._fetch(slot, content) as wrap:
            self._vault.check_epoch(before)
            return slots.open_key(self._arena, public or b"", slot, content, wrap)

    async def _fetch(self, slot: str, content: KeyringSlot) -> Slot:
        wrap = await trio.to_thread.run_sync(self.keyring.get, self._arena, self._name(content.item))
        if wrap is None:
            raise NotFoundError(
                f"the keyring holds nothing for slot {slot}",
                hint="it was made elsewhere, or removed: avault slot remove it, then add it again",
            )
        if wrap.size != KEY:
            wrap.release()
            raise CorruptError(f"what the keyring holds for slot {slot} is no key")
        return wrap

    async def add(self) -> str:
        """Add a slot; return its id. `DeniedError`: the keyring is locked; else by `Keyring.check` and `Vault.add_slot`."""
        epoch, item = self._vault.epoch, slots.new_item()
        with random_slot(self._arena) as wrap:
            await trio.to_thread.run_sync(self.keyring.put, self._name(item), wrap)
            try:
                return await self._vault.add_slot(
                    slots.TYPE,
                    lambda slot, key: slots.make(self._arena, key, slot, item, wrap),
                    since=epoch,
                )
            except BaseException:
                with trio.CancelScope(shield=True):
                    await self._delete(item)
                raise

    async def forget(self, content: str) -> bool:
        """Remove what the keyring holds for a slot of this content, which has been removed; report whether that worked."""
        return await self._delete(KeyringSlot.parse(content).item)

    async def _delete(self, item: str) -> bool:
        try:
            await trio.to_thread.run_sync(self.keyring.delete, self._name(item))
        except AvaultError:
            return False
        return True

    @asynccontextmanager
    async def resealing(self, others: Reseal) -> AsyncGenerator[Reseal]:
        """Give what makes the slots anew for the vault's next key: each under its key, if that is at hand; the rest by *others*.

        The keys are fetched here, since the keyring may take its time, and a rekeying vault does nothing else.
        """
        with ExitStack() as held:
            found: dict[str, tuple[str, Slot]] = {}
            for slot in self.slots():
                text = self._vault.slot_content(slot)
                try:
                    wrap = held.enter_context(await self._fetch(slot, KeyringSlot.parse(text)))
                except AvaultError:
                    continue
                found[slot] = text, wrap

            def reseal(slot: str, content: str, key: SecretKey) -> str | None:
                text, wrap = found.get(slot, ("", None))
                if wrap is None or text != content:
                    return others(slot, content, key)
                return slots.make(self._arena, key, slot, KeyringSlot.parse(content).item, wrap)

            yield reseal

    def _name(self, item: str) -> str:
        return f"{self._home}: key {item}"
