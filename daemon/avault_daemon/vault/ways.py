"""The ways through the vault's door: its slots, each of which holds the key."""

from __future__ import annotations

from collections.abc import Callable

from ..memory.arena import Slot
from ..nostr.keys import SecretKey
from ..slots import passphrase as passphrases, phone as phones
from .catalog import SlotInfo
from .door import Door
from .draft import Draft
from .opening import check_passphrase_slot


class Ways(Door):
    """See `vault.Vault`."""

    def slots(self) -> list[SlotInfo]:
        """Return the ways to unlock."""
        return [self._catalog.slot(slot) for slot in self._catalog.slots]

    async def add_passphrase(
        self, passphrase: Slot, log_n: int, kind: passphrases.Kind = passphrases.TYPE
    ) -> str:
        """Add a slot of *kind*; return its id. `BadRequestError`: the passphrase or *log_n* is not good enough."""
        before = self.epoch
        content = await self._slot_content(passphrase, log_n, kind)

        def change(draft: Draft) -> str:
            slot = draft.catalog.free_slot(kind)
            draft.put_slot(slot, content)
            return slot

        return await self._transact(change, since=before)

    async def change_passphrase(self, slot: str, passphrase: Slot, log_n: int) -> None:
        """Seal the key anew in *slot*; the old form is gone from the file. Errors as for `add_passphrase` and `rekey`."""
        before = self.epoch
        self._need()
        check_passphrase_slot(self._catalog, slot)
        content = await self._slot_content(passphrase, log_n)

        def change(draft: Draft) -> None:
            check_passphrase_slot(draft.catalog, slot)
            draft.put_slot(slot, content)

        await self._transact(change, since=before)

    def slot_content(self, slot: str) -> str:
        """Return what the vault file says of *slot*, for types whose secrets lie elsewhere. `NotFoundError`."""
        return self._catalog.slot_line(slot).text

    def encrypt_for(self, operator: str, text: str, secret: Slot) -> str:
        """Return the NIP-44 payload from the vault to *operator* (public key, hex) of *text* and *secret* in hex."""
        return phones.encrypt_text(self._arena, self._need().key, operator, text, secret)

    def draft_slot(self, kind: str, make: Callable[[str, SecretKey], str]) -> tuple[str, str]:
        """Return the id that another slot of *kind* would get now, and the content that *make* gives; nothing is written."""
        slot = self._catalog.free_slot(kind)
        return slot, make(slot, self._need().key)

    async def add_slot(self, kind: str, make: Callable[[str, SecretKey], str], *, since: int) -> str:
        """Add a slot of another kind than a passphrase; return its id.

        *make*, given the id and the vault's key, returns the content; it is called in a thread. *since*: the epoch in
        which it got what it uses.
        """

        def change(draft: Draft) -> str:
            slot = draft.catalog.free_slot(kind)
            draft.put_slot(slot, make(slot, draft.seal.key))
            return slot

        return await self._transact(change, since=since)

    async def renew_slot(self, slot: str, make: Callable[[str, SecretKey], str], *, since: int) -> None:
        """Replace the content of *slot*; the old one is gone from the file. `NotFoundError`; else as for `add_slot`."""

        def change(draft: Draft) -> None:
            draft.catalog.slot_line(slot)
            draft.put_slot(slot, make(slot, draft.seal.key))

        await self._transact(change, since=since)

    async def remove_slot(self, slot: str) -> None:
        """Remove a slot, from the file too. `NotFoundError`; `BadRequestError`: the last that a passphrase opens."""
        await self._transact(lambda draft: draft.remove_slot(slot))

    async def _slot_content(
        self, passphrase: Slot, log_n: int, kind: passphrases.Kind = passphrases.TYPE
    ) -> str:
        self._check_new(passphrase, log_n)
        seal = self._need()
        with seal.held():
            return await self._derive(
                lambda: passphrases.make(self._arena, seal.key, passphrase, log_n, kind),
                discard=lambda content: None,
            )
