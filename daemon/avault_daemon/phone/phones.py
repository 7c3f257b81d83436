"""The operator's phones: asked to unlock, asked to allow one action, and paired.

An answer is believed only because it opens the sealed key, or says back a challenge that nobody else could read. After
every unlock the slot is renewed: another token, another pepper, so that what was seen on the screen or the relay this
time opens nothing the next. The order of a renewal: the new pepper is stored beside the old one, then the vault is
written, then the old one is dropped; a process that is killed anywhere in between leaves a slot that opens.

Whatever waits for a phone holds keys in the arena. `Vault.lock` zeroes them: what then comes in opens nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import partial
from hmac import compare_digest
from typing import TYPE_CHECKING, TypeVar

import trio

from avault_protocol import (
    AvaultError,
    BadRequestError,
    BusyError,
    CorruptError,
    DeniedError,
    NotFoundError,
)

from ..memory import sodium
from ..memory.arena import Arena, Slot
from ..nostr.keys import SecretKey
from ..nostr.nip46 import Answer
from ..nostr.relay import OnStage, ignore
from ..slots import phone as slots
from ..slots.phone import KEY, Phone, PhoneSlot
from .pairings import Pairing, Pairings, random_slot
from .patience import GOODBYE, PATIENCE, Stages, first_good, in_time

if TYPE_CHECKING:
    from ..vault import Vault
    from .signers import Candidate, Signers

log = logging.getLogger(__name__)

T = TypeVar("T")


@dataclass(slots=True)
class _Opened:
    """What a phone's answer opened."""

    key: SecretKey
    slot: str
    phone: Phone
    pairing: Pairing

    def close(self) -> None:
        self.key.close()
        self.pairing.close()


class Phones:
    """Asks the phones of *vault*'s slots, which *signers* reaches; their keys are in *pairings*."""

    def __init__(self, arena: Arena, vault: Vault, pairings: Pairings, signers: Signers) -> None:
        self.signers = signers
        self._arena = arena
        self._vault = vault
        self._pairings = pairings
        self._asking = set[trio.CancelScope]()  # what asks for an unlock
        self._changing = (
            trio.Lock()
        )  # from the choice of an id until slot and keys are both there, or both gone

    def follow_vault(self, event: str, detail: dict[str, object]) -> None:
        """Withdraw what asks for an unlock once there was one; a listener of the vault."""
        if event == "unlocked":
            for asking in self._asking:
                asking.cancel()

    @property
    def kind(self) -> str:
        """Whether the pairings lie in a "file" or in the "keyring"."""
        return self._pairings.kind

    @property
    def where(self) -> str:
        """Where the pairings lie."""
        return self._pairings.where

    @property
    def reachable(self) -> bool:
        """Whether there is a phone to be asked, and a network to ask it on."""
        return self.signers.enabled and bool(self.slots())

    async def settle(self) -> None:
        """Bring the pairings to where the settings want them, if they are not there; log how that went."""
        try:
            if await trio.to_thread.run_sync(self._pairings.settle):
                log.info("the phones' keys have gone to %s", self.where)
        except AvaultError as error:
            log.warning("the phones' keys stay in %s: %s", self.where, error.message)

    def slots(self) -> list[str]:
        """Return the ids of the phone slots."""
        return [slot.id for slot in self._vault.slots() if slot.type == slots.TYPE]

    def relays(self) -> list[str]:
        """Return the relays of all phone slots, each once."""
        phones = (PhoneSlot.parse(self._vault.slot_content(slot)) for slot in self.slots())
        return list(dict.fromkeys(url for phone in phones for url in phone.relays))

    # --- unlocking ----------------------------------------------------------------------------------------------

    async def unlock(self, on_stage: OnStage, *, patience: float = PATIENCE) -> str:
        """Ask every phone at once; the first good answer unlocks, and its slot, whose id is returned, is renewed.

        That a renewal failed is told by a stage, ``unrenewed``: the slot is as it was, and good.

        `NotFoundError`: no phone slot; `DeniedError`: every phone said no; `RequestTimeoutError`; `LockedError`: it was
        locked meanwhile; `BadRequestError`: it was unlocked by something else meanwhile.
        """
        opened = await self._asked(Stages(on_stage), patience)
        with opened.pairing:
            self._vault.unlock_with(opened.key, opened.slot)
            epoch = self._vault.epoch
            try:
                await self._renew(opened)  # cancelled, it is only done the next time
            except AvaultError as error:
                # If not locked meanwhile, the vault is open, whatever the disk says.
                self._vault.check_epoch(epoch)
                log.warning("slot %s was not renewed: %s", opened.slot, error.message)
                on_stage(
                    "unrenewed", "", f"unlocked, but slot {opened.slot} was not renewed: {error.message}"
                )
        return opened.slot

    async def _asked(self, stages: Stages, patience: float) -> _Opened:
        with trio.CancelScope() as asking:
            self._asking.add(asking)
            try:
                return await self._first(
                    lambda slot: self._open(slot, stages), stages, patience, _Opened.close
                )
            finally:
                self._asking.discard(asking)
        raise BadRequestError("the vault was unlocked otherwise meanwhile")

    async def _open(self, slot: str, on_stage: OnStage) -> _Opened:
        """Ask one phone for its token, and open the slot with it."""
        before, public = self._vault.epoch, self._vault.public or b""
        content = PhoneSlot.parse(self._vault.slot_content(slot))
        with (
            ExitStack() as undo
        ):  # also if another phone was the first while this one says goodbye to its relays
            pairing = undo.enter_context(await self._load(slot))
            async with self.signers.paired(content, pairing, on_stage) as remote:
                with await remote.ask(remote.signer.nip44_decrypt(public, content.payload)) as answer:
                    self._vault.check_epoch(before)
                    key = self._open_with(public, slot, content, answer, pairing)
                    undo.callback(key.close)
            undo.pop_all()
            return _Opened(key, slot, content, pairing)

    def _open_with(
        self, public: bytes, slot: str, content: PhoneSlot, answer: Answer, pairing: Pairing
    ) -> SecretKey:
        token = _only_token(answer)
        for index, pepper in enumerate(pairing.peppers):
            try:
                key = slots.open_key(self._arena, public, slot, content, token, pepper)
            except DeniedError:
                continue
            for other in pairing.peppers[:index] + pairing.peppers[index + 1 :]:
                other.release()
            pairing.peppers = [pepper]  # the one in force
            return key
        raise DeniedError(
            f"the phone's answer does not open slot {slot}", hint="is it the right account on the phone?"
        )

    async def _renew(self, opened: _Opened) -> None:
        epoch, pairing = self._vault.epoch, opened.pairing
        with random_slot(self._arena) as token:
            pairing.peppers.insert(0, random_slot(self._arena))
            await self._save(opened.slot, pairing)
            await self._vault.renew_slot(
                opened.slot,
                lambda slot, key: self._make(slot, key, opened.phone, token, pairing),
                since=epoch,
            )
        pairing.peppers.pop().release()
        await self._save(opened.slot, pairing)

    def _make(self, slot: str, key: SecretKey, phone: Phone, token: Slot, pairing: Pairing) -> str:
        return slots.make(self._arena, key, slot, phone, self.signers.host, token, pairing.peppers[0])

    def reseal(self, slot: str, content: str, key: SecretKey) -> str | None:
        """Make a phone slot anew for the vault's next key, from what is at hand; None if it is none, or nothing is.

        A `copies.Reseal`; blocks. The pepper stays: only a new token is needed.
        """
        try:
            phone = PhoneSlot.parse(content)
            with self._pairings.load(slot) as pairing, random_slot(self._arena) as token:
                return self._make(slot, key, phone, token, pairing)
        except (CorruptError, NotFoundError):
            return None

    # --- proof --------------------------------------------------------------------------------------------------

    async def prove(self, action: str, on_stage: OnStage, *, patience: float = PATIENCE) -> str:
        """Have a phone allow *action*; return its slot's id. Errors as for `unlock`.

        Each phone is sent a fresh challenge, in words that no unlock uses, and has to say it back.
        """
        stages = Stages(on_stage)
        return await self._first(
            lambda slot: self._allow(slot, action, stages), stages, patience, lambda slot: None
        )

    async def _allow(self, slot: str, action: str, on_stage: OnStage) -> str:
        before, public = self._vault.epoch, self._vault.public
        content = PhoneSlot.parse(self._vault.slot_content(slot))
        text = f"avault allow {self.signers.host}: {action} "
        with await self._load(slot) as pairing, random_slot(self._arena) as challenge:
            payload = self._vault.encrypt_for(content.operator, text, challenge)
            async with self.signers.paired(content, pairing, on_stage) as remote:
                with await remote.ask(remote.signer.nip44_decrypt(public or b"", payload)) as answer:
                    self._vault.check_epoch(before)
                    token = _only_token(answer)
                    same = sodium.memcmp(token.address, challenge.address, KEY)
                    if not same or not compare_digest(answer.text, text + "0" * (2 * KEY)):
                        raise DeniedError(f"the phone of slot {slot} answers something else than was asked")
        return slot

    # --- pairing ------------------------------------------------------------------------------------------------

    async def confirm(self, candidate: Candidate, on_stage: OnStage, *, patience: float = PATIENCE) -> str:
        """Try whether the phone opens what is sealed for it; only then write the slot, with another token. Return its id.

        The candidate is used up in every case.
        """
        epoch = self._vault.epoch
        with candidate.pairing as pairing, random_slot(self._arena) as token:
            slot, trial = self._vault.draft_slot(
                "phone", lambda slot, key: self._make(slot, key, candidate.phone, token, pairing)
            )
            with in_time(patience, on_stage) as stages:
                await self._try(slot, PhoneSlot.parse(trial), pairing, stages)
            sodium.random_into(token.address, KEY)  # the one before was on the screen
            async with self._changing:
                return await self._add(candidate.phone, token, pairing, since=epoch)

    async def _add(self, phone: Phone, token: Slot, pairing: Pairing, *, since: int) -> str:
        slot, _ = self._vault.draft_slot(
            "phone", lambda slot, key: ""
        )  # the one of the trial may be another's by now
        await self._save(slot, pairing)
        try:
            return await self._vault.add_slot(
                "phone",
                lambda now, key: self._make(_same(slot, now), key, phone, token, pairing),
                since=since,
            )
        except BaseException:
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(self._pairings.forget, slot)
            raise

    async def _try(self, slot: str, trial: PhoneSlot, pairing: Pairing, on_stage: OnStage) -> None:
        public = self._vault.public or b""
        async with self.signers.paired(trial, pairing, on_stage) as remote:
            with await remote.ask(remote.signer.nip44_decrypt(public, trial.payload)) as answer:
                slots.open_key(
                    self._arena, public, slot, trial, _only_token(answer), pairing.peppers[0]
                ).close()

    async def forget(self, slot: str, content: str) -> None:
        """Drop the keys of the slot *slot*, which has been removed, having said goodbye to its signer if that is quick."""
        if self.signers.enabled:
            with suppress(AvaultError), in_time(GOODBYE), await self._load(slot) as pairing:
                async with self.signers.paired(PhoneSlot.parse(content), pairing, ignore) as remote:
                    (await remote.ask(remote.signer.logout())).release()
        async with self._changing:
            if slot not in self.slots():  # nor is it another's by now
                await trio.to_thread.run_sync(self._pairings.forget, slot)

    async def prune(self) -> None:
        """Drop the keys of slots that are no more; never raises, since whatever removed them is done."""
        try:
            with trio.CancelScope(shield=True):
                async with self._changing:
                    await trio.to_thread.run_sync(self._pairings.keep, self.slots())
        except AvaultError as error:
            log.warning("keys of phones that are gone stay in %s: %s", self.where, error.message)

    # --- what they share ----------------------------------------------------------------------------------------

    async def _first(
        self,
        ask: Callable[[str], Awaitable[T]],
        stages: Stages,
        patience: float,
        discard: Callable[[T], None],
    ) -> T:
        """Ask with every phone slot at once; see `first_good`."""
        self.signers.check()
        waiting = self.slots()
        if not waiting:
            raise NotFoundError("no phone is paired with this vault", hint="pair one: avault slot add phone")
        return await first_good([partial(ask, slot) for slot in waiting], stages, patience, discard)

    async def _load(self, slot: str) -> Pairing:
        return await trio.to_thread.run_sync(self._pairings.load, slot)

    async def _save(self, slot: str, pairing: Pairing) -> None:
        await trio.to_thread.run_sync(self._pairings.save, slot, pairing)


def _only_token(answer: Answer) -> Slot:
    if len(answer.tokens) != 1:
        raise DeniedError(
            "the phone's answer is not what was asked for", hint="is it the right account on the phone?"
        )
    return answer.tokens[0]


def _same(expected: str, now: str) -> str:
    if now != expected:
        raise BusyError("another phone was paired meanwhile", hint="try again")
    return now
