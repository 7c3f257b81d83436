"""The vault: what can be done behind the door. How threads and the loop share it is said in `door`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import trio

from avault_protocol import (
    UNINITIALIZED,
    UNLOCKING,
    BadRequestError,
    BusyError,
    LockedError,
    ProofRequiredError,
)

from ..callers.policy import Agent
from ..memory.arena import Slot
from ..slots import passphrase as passphrases
from . import copies, states
from .cache import Value
from .catalog import Catalog
from .door import close_key
from .draft import Draft
from .eventlog import Chain
from .logfile import LogFile
from .opening import check_passphrase_slot
from .seal import Seal, SecretInfo
from .ways import Ways

T = TypeVar("T")

# Secrets opened between two looks at everyone else: some 5 ms.
LISTED_AT_ONCE = 256


class Vault(Ways):
    """The vault in *home*, remembered by *anchor* in *state_dir*; unusable until `open`.

    *clock*: Unix seconds. *min_log_n*: the least scrypt cost of a slot (less than 16 in tests only).

    *state* is one of the protocol's. *policy* is replaced after each commit that changes it. *fault* is why the vault
    file cannot be used, if so: the state is then "locked", each unlock raises it, and `restore_vault` leads on. *epoch*
    counts the wipes of the arena: what was put there in an earlier one is zeroes.

    *listeners* are called on the loop, after the fact: ("unlocked", {}), ("locked", {}), ("policy", {}),
    ("rotated", {"names"}), ("counted", {}) when there are more or fewer secrets than before; and before the fact
    ("key", {"new": public key in hex}), which a listener's exception prevents.

    What needs an unlocked vault raises `UninitializedError`, `LockedError`, or the fault. What writes may raise
    `StorageFailedError`: the outcome is then unknown, and nothing is written until a restart.
    """

    # --- secrets ------------------------------------------------------------------------------------------------

    def has(self, name: str) -> bool:
        """Report whether there is a secret *name*."""
        return self._need().blind(name) in self._catalog.secrets

    def value(self, name: str, version: int | None = None) -> Value:
        """Return the newest value of *name*, or an earlier one, open: until the next await, at least. `NotFoundError`."""
        key = name, version
        return self._cache.get(key) or self._cache.keep(key, self._catalog.open(self._need(), name, version))

    async def secrets(self) -> list[SecretInfo]:
        """Return the newest version of each secret, by name. `LockedError`, also if it is locked or rekeyed meanwhile."""
        seal, infos = self._need(), list[SecretInfo]()
        for versions in list(self._catalog.secrets.values()):
            infos.append(seal.info(versions[-1]))
            if len(infos) % LISTED_AT_ONCE == 0:
                await trio.lowlevel.checkpoint()
                self._need_same(seal)
        return sorted(infos, key=lambda info: info.name)

    def _need_same(self, seal: Seal) -> None:
        if self._need() is not seal:
            raise LockedError("the vault got another key meanwhile", hint="try again")

    def history(self, name: str) -> list[SecretInfo]:
        """Return the versions of *name* that can still be read, newest first. `NotFoundError`."""
        seal = self._need()
        return [seal.info(line) for line in reversed(self._catalog.versions(seal, name))]

    async def put(
        self, secrets: Sequence[tuple[str, str, memoryview]], *, replace: bool
    ) -> list[tuple[str, int]]:
        """Store all *secrets*, each its name, encoding and value, in one transaction; return their names and versions.

        They keep to the protocol's limits, and no two have one name. `BadRequestError`: a value is not UTF-8, or names
        exist and *replace* is false.
        """

        def change(draft: Draft) -> list[tuple[str, int]]:
            if not replace:
                draft.refuse_existing([name for name, _, _ in secrets])
            return [
                (name, draft.put_secret(name, encoding, value).version) for name, encoding, value in secrets
            ]

        stored = await self._transact(change)
        self._tell_rotated(stored)
        return stored

    async def rm(self, name: str) -> None:
        """Remove a secret with all its versions, from the file too. `NotFoundError`."""
        await self._transact(lambda draft: draft.remove_secret(name))

    async def restore(self, name: str, version: int) -> int:
        """Store the value of an earlier version as the newest; return its number. `NotFoundError`."""
        restored = await self._transact(lambda draft: draft.restore_secret(name, version))
        self._tell_rotated([(name, restored)])
        return restored

    def _tell_rotated(self, stored: list[tuple[str, int]]) -> None:
        names = frozenset(name for name, version in stored if version > 1)
        if names:
            self._tell("rotated", names=names)

    # --- agents -------------------------------------------------------------------------------------------------

    async def put_agent(self, agent: Agent) -> None:
        """Store an agent with its grants, in place of one of the same name."""
        await self._transact(lambda draft: draft.put_agent(agent))

    async def remove_agent(self, name: str) -> None:
        """Remove an agent with its grants. `NotFoundError`."""
        await self._transact(lambda draft: draft.remove_agent(name))

    # --- the whole ----------------------------------------------------------------------------------------------

    async def init(self, passphrase: Slot, log_n: int) -> str:
        """Make the vault and unlock it; return the id of its one slot.

        `BadRequestError`: there is one already, or the passphrase or *log_n* is not good enough; `LockedError`: it was
        locked meanwhile (and made all the same, if it came to that).
        """
        self._check_new(passphrase, log_n)
        if self.state != UNINITIALIZED:
            raise BadRequestError("there is a vault already")
        before = self.epoch
        self._to("init")
        try:
            seal, catalog = await self._make(passphrase, log_n)
        except BaseException:
            self._leave("init_failed")
            raise
        self._publish(catalog)
        if self.epoch != before:
            seal.close()
            self._leave("failed")
            raise LockedError("the vault was made, and locked at once")
        self._enter(seal, "opened")
        return passphrases.TYPE

    async def _make(self, passphrase: Slot, log_n: int) -> tuple[Seal, Catalog]:
        before = self.epoch
        async with self._writing:
            if self._file.chain.head is not None or self.epoch != before:
                raise BusyError("a vault was put here meanwhile")
            seal, content = await self._derive(lambda: self._new_key(passphrase, log_n), close_key)
            try:
                with seal.held(), self._unless_wiped(before):
                    draft = Draft(seal, Catalog(), self._file.chain, self._now())
                    return seal, await trio.to_thread.run_sync(_write_first, draft, content, self._file)
            except BaseException:
                seal.close()
                raise

    def _new_key(self, passphrase: Slot, log_n: int) -> tuple[Seal, str]:
        seal = Seal.generate(self._arena)
        try:
            return seal, passphrases.make(self._arena, seal.key, passphrase, log_n)
        except BaseException:
            seal.close()
            raise

    def _leave(self, occasion: states.Occasion) -> None:
        """Leave "unlocking" after an `init`, unless others have done so meanwhile, by a restore or a lock."""
        if self.state == UNLOCKING and not self._unlocks:
            self._to(occasion)

    async def rekey(
        self,
        passphrase: Slot,
        log_n: int,
        slot: str,
        reseal: copies.Reseal = lambda slot, content, key: None,
    ) -> list[str]:
        """Give the vault a fresh key, which *slot* holds under *passphrase*; return the ids of the slots that are gone.

        *reseal*, called in a thread, makes slots of other types anew.

        `NotFoundError`, `BadRequestError`: no such passphrase slot, or no good passphrase. An exception of a listener
        told of the new key leaves all as it was. Cancelled while it waits for its turn it is as if never asked for.
        """
        before = self.epoch
        self._check_new(passphrase, log_n)
        self._need()
        async with self._writing:
            seal, catalog = self._need_since(before), self._catalog
            check_passphrase_slot(catalog, slot)
            with seal.held():
                fresh, draft = await self._renew(passphrase, log_n, slot, self._file.chain, reseal)
            with self._unless_wiped(before):
                renewed = await self._switch(fresh, lambda: draft.rewrite(self._file))
            if self.epoch == before:
                self._take(fresh)
            else:
                fresh.close()
            self._publish(renewed)
        return [other for other in catalog.slots if other not in renewed.slots]

    async def _switch(self, fresh: Seal, write: Callable[[], T]) -> T:
        """Announce the key *fresh* and *write* the file that is under it; neither happens without the other."""
        try:
            with fresh.held():
                self._tell("key", new=fresh.public)  # the record signs this by the old key
                self._switching = True
                return await _to_its_end(write)
        except BaseException:
            fresh.close()
            raise
        finally:
            self._switching = False

    def sign(self, digest: bytes) -> bytes:
        """Return the vault's BIP-340 signature of a digest of 32 bytes.

        `BusyError` between the announcement of another key and its use.
        """
        self._check_key()
        return self._need().sign(digest)

    async def export(self, fd: int, passphrase: Slot, log_n: int) -> None:
        """Write a copy to *fd*: a vault of its own, under a fresh key that *passphrase* opens; on return it is durable.

        It holds the agents, and all versions of all secrets. `StorageFailedError`: part of it may be there; the vault
        itself is as it was.
        """
        before = self.epoch
        self._check_new(passphrase, log_n)
        with self._need().held():
            fresh, draft = await self._renew(passphrase, log_n, passphrases.TYPE, Chain())
            try:
                with fresh.held(), self._unless_wiped(before):
                    await trio.to_thread.run_sync(copies.write_copy, fd, draft)
            finally:
                fresh.close()

    async def _renew(
        self,
        passphrase: Slot,
        log_n: int,
        slot: str,
        chain: Chain,
        reseal: copies.Reseal = lambda slot, content, key: None,
    ) -> tuple[Seal, Draft]:
        source = copies.Source(self._need(), self._catalog)

        def renew() -> tuple[Seal, Draft]:
            return copies.under_new_key(
                self._arena,
                source,
                chain,
                self._now(),
                passphrase=passphrase,
                log_n=log_n,
                slot=slot,
                reseal=reseal,
            )

        return await self._derive(renew, close_key)

    async def restore_vault(self, fd: int, passphrase: Slot, *, proven: bool = True) -> str:
        """Replace the vault by the file in *fd*, a copy or an older one, which *passphrase* opens; unlocked on return.

        Returns the id of the slot that it opens.

        *proven*: the operator has proven for the vault that is replaced. Else it must be one that cannot be used, and
        the file under its very key, so that its passphrase is proof: `ProofRequiredError`, or the fault with what is to
        be done if none can be given.

        `WrongPassphraseError`, `CorruptError`, `TooLargeError`, `BadRequestError`: all is as it was. `BusyError`: the
        vault became another while this waited. `LockedError`: it was locked or restored meanwhile.
        """
        before, replaced = self.epoch, self.public
        async with self._writing:
            if self.public != replaced:
                raise BusyError("the vault became another meanwhile")
            if self.epoch != before:
                raise LockedError("the vault was locked or restored meanwhile")
            if not proven and self.state != UNINITIALIZED and self.fault is None:
                raise ProofRequiredError  # it has come to be of use meanwhile
            under = None if proven or self.fault is None else (self.public or b"").hex()
            seal, copy = await self._derive(lambda: self._read_copy(fd, passphrase, under), close_key)
            await self._switch(seal, lambda: self._file.replace(copy.data))
            self._restored(seal, copy.catalog, since=before)
        return copy.slot

    def _read_copy(self, fd: int, passphrase: Slot, under: str | None) -> tuple[Seal, copies.Copy]:
        try:
            return copies.read_copy(self._arena, fd, passphrase, min_log_n=self._min_log_n, under=under)
        except ProofRequiredError:
            if self.fault is None or self._catalog.slots:
                raise
            raise type(self.fault)(
                f"{self.fault.message}; nothing is left of it to prove by, and this copy has another key",
                hint=f"move {self._file.path} and {self._anchor.path} away, restart avaultd, and restore it then",
            ) from None

    def _restored(self, seal: Seal, catalog: Catalog, *, since: int) -> None:
        self.fault = None
        self._take(None)
        self._publish(catalog)
        self._to("found")
        if self.epoch != since:
            seal.close()
            raise LockedError("the copy is in place, and was locked at once")
        self._next_epoch()  # an unlock under way is of the vault that was
        self._enter(seal, "restored")


async def _to_its_end(work: Callable[[], T]) -> T:
    """Run *work* in a thread, whoever cancels."""
    done: list[T] = []
    with trio.CancelScope(shield=True):
        done.append(await trio.to_thread.run_sync(work))
    return done[0]


def _write_first(draft: Draft, content: str, file: LogFile) -> Catalog:
    draft.put_slot(passphrases.TYPE, content)
    return draft.write(file)
