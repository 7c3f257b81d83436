"""The vault's door: opened by a key or a passphrase, and locked. `ways` adds its slots, `vault` what is done inside.

How threads and the loop share a vault:

- All fields are read and replaced on the loop's thread alone, between two awaits.
- A transaction (encrypt, sign, append, fdatasync, anchor) runs in one worker thread, under one lock, and cannot be
  cancelled once it has begun: a caller that goes away leaves it to finish. The loop's view is replaced only afterwards.
- A key derivation runs in a worker thread too, two at a time (ADR 26), so that somebody's guess does not hold up the
  owner's unlock. Of several unlocks the first that succeeds opens the vault.
- `lock` waits for neither: it zeroes the arena under them, and what they then come up with is discarded. A derivation
  is compared with the epoch in which it was asked for; a transaction has no key left to sign its commit with.
- A transaction whose commit was signed before such a wipe is written, and counts, although the vault is locked by the
  time it is done.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import TypeVar

import trio

from avault_protocol import (
    UNINITIALIZED,
    UNLOCKED,
    UNLOCKING,
    AvaultError,
    BadRequestError,
    BusyError,
    CorruptError,
    LockedError,
    StorageFailedError,
    UninitializedError,
)

from ..anchor import Anchor
from ..callers.policy import Policy
from ..files import Files
from ..memory.arena import Arena, Slot
from ..nostr.keys import SecretKey
from ..nostr.nip49 import MAX_LOG_N, MIN_LOG_N
from ..slots import passphrase as passphrases
from . import states
from .cache import Cache
from .catalog import Catalog
from .draft import Draft
from .logfile import LogFile
from .opening import open_slot
from .seal import Seal

DERIVATIONS = 2
"""Keys derived at a time, at most: scrypt takes 256 MiB for each, and a core."""

Listener = Callable[[str, dict[str, object]], None]
T = TypeVar("T")


class Door:
    """See `vault.Vault`, the only one there is of these."""

    def __init__(
        self,
        home: Path,
        state_dir: Path,
        arena: Arena,
        anchor: Anchor,
        *,
        clock: Callable[[], float] = time.time,
        min_log_n: int = MIN_LOG_N,
        files: Files | None = None,
    ) -> None:
        self.state: str = UNINITIALIZED
        self.policy = Policy()
        self.fault: AvaultError | None = None
        self.listeners: list[Listener] = []
        self.epoch: int = 0
        self._directories = home, state_dir
        self._arena = arena
        self._anchor = anchor
        self._clock = clock
        self._min_log_n = min_log_n
        self._file = LogFile(home / "vault.jsonl", anchor, files or Files())
        self._catalog = Catalog()
        self._seal: Seal | None = None
        self._cache = Cache(arena)
        self._switching = False
        self._unlocks = 0  # under way, of this epoch
        self._writing = trio.Lock()
        # Asked for last: who holds `_writing` may wait for it.
        self._deriving = trio.CapacityLimiter(DERIVATIONS)

    # --- what everyone may know ---------------------------------------------------------------------------------

    @property
    def locked(self) -> bool:
        """Whether the vault is anything but unlocked."""
        return self.state != UNLOCKED

    @property
    def unlocked(self) -> bool:
        """Whether the vault's key is in the arena."""
        return self.state == UNLOCKED

    @property
    def public(self) -> bytes | None:
        """The vault's public key, also while locked; None before there is one."""
        return bytes.fromhex(self._anchor.current.vault) if self._anchor.current else None

    @property
    def generation(self) -> int:
        """Number of the last commit; 0 before the first."""
        return self._anchor.current.generation if self._anchor.current else 0

    @property
    def count(self) -> int:
        """How many secrets there are."""
        return len(self._catalog.secrets)

    @property
    def warnings(self) -> list[str]:
        """What was odd at the start; of a vault file that cannot be used, why."""
        return [*self._file.warnings, *([self.fault.message] if self.fault else [])]

    def check_epoch(self, before: int) -> None:
        """Raise `LockedError` if the arena was wiped after the epoch *before*: what came there in it is zeroes."""
        if self.epoch != before:
            raise LockedError("the vault was locked meanwhile")

    # --- start and end ------------------------------------------------------------------------------------------

    def open(self) -> None:
        """Take `vault.lock` and read the vault file; blocks.

        `BusyError`: another daemon holds it; `OSError`: the directories or the lock cannot be used.

        `CorruptError`, `RollbackError`, `StorageFailedError`: the file cannot be used. Then the lock is kept, the state
        is "locked", `fault` is this error and the answer to each unlock, and `restore_vault` leads on: catch them, and
        serve. Of the file there are then those slots that are still whole: the operator may prove by them.
        """
        for directory in self._directories:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._file.lock()
        try:
            self._anchor.load()
            lines = self._file.open()
            catalog = None if lines is None else Catalog.of(lines)
        except AvaultError as error:
            self.fault = error
            self._to("found")
            self._catalog = Catalog.of(self._file.remains())
            raise
        if catalog is not None:
            self._to("found")
            self._publish(catalog)

    def close(self) -> None:
        """Lock, and let another daemon have the vault."""
        self.lock()
        self._file.unlock()

    # --- locking and unlocking ----------------------------------------------------------------------------------

    def lock(self) -> None:
        """Wipe the arena, first of all; then forget the key. Idempotent; an unlock under way fails.

        What lies in the arena of anyone else is zeroes from here on: see `epoch`.
        """
        self._arena.wipe()
        self._next_epoch()
        was = self.state
        # An `init` under way has made no vault that could be locked; it finds out by itself that its key is gone.
        if was != UNLOCKING or self._catalog.slots:
            self._to("lock")
        self._take(None)
        self.policy = self.policy.locked()
        if was == UNLOCKED:
            self._tell("locked")

    async def unlock(
        self, passphrase: Slot, slot: str | None = None, kind: passphrases.Kind = passphrases.TYPE
    ) -> str:
        """Unlock by the slot *slot*, or by whichever of *kind* the passphrase opens; return its id.

        `WrongPassphraseError`; `NotFoundError`: no such slot; `BadRequestError`: it is unlocked, or was by another
        meanwhile; `LockedError`: it was locked meanwhile; `CorruptError`: what the slot holds is not this vault's key.
        Cancelled while it waits for other derivations it is as if never asked for; later it goes on.
        """
        with self._unlocking():
            seal, opened_by = await self._derive(self._opening(passphrase, slot, kind), close_key)
            if self.unlocked:
                seal.close()
                raise _unlocked_already()
            self._enter(seal, "opened")
        return opened_by

    def unlock_with(self, key: SecretKey, slot: str) -> None:
        """Unlock with the key that *slot*, of another type than a passphrase, gave; takes *key* over.

        `BadRequestError`: it is unlocked; `LockedError`: *key* was wiped by a lock; `CorruptError`: it is the key of
        another vault.
        """
        with ExitStack() as undo:
            undo.callback(key.close)
            with self._unlocking():
                if key.public != self.public:
                    raise CorruptError(f"slot {slot} holds the key of another vault")
                undo.pop_all()
                self._enter(Seal(self._arena, key), "opened")

    @contextmanager
    def _unlocking(self) -> Generator[None]:
        """See that there is something to unlock, and be "unlocking" until this or another attempt has succeeded.

        There may be several: nobody is refused for another's, or whoever guesses could keep the owner out.
        """
        self._check_there()
        if self.unlocked:
            raise _unlocked_already()
        before = self.epoch
        self._to("try")
        self._unlocks += 1
        try:
            yield
        finally:
            if self.epoch == before:
                self._unlocks -= 1
                if self.state == UNLOCKING and not self._unlocks:
                    self._to("failed")

    async def prove(self, passphrase: Slot, slot: str | None = None) -> str:
        """Check a passphrase and do nothing else; return the id of the slot that it opens. Errors as for `unlock`."""
        if self.fault is None or not self._catalog.slots:
            self._check_there()
        seal, opened_by = await self._derive(self._opening(passphrase, slot), close_key)
        seal.close()
        return opened_by

    def _opening(
        self, passphrase: Slot, slot: str | None, kind: passphrases.Kind = passphrases.TYPE
    ) -> Callable[[], tuple[Seal, str]]:
        """Return what opens, in a thread, a slot of the vault as it is now."""
        # The anchor's, which a file must be under to be used: of one that cannot be, it is all that is sure.
        public = self.public.hex() if self.public is not None else None
        return partial(
            open_slot,
            self._arena,
            self._catalog,
            public,
            passphrase,
            slot,
            min_log_n=self._min_log_n,
            kind=kind,
        )

    async def _derive(self, work: Callable[[], T], discard: Callable[[T], None]) -> T:
        """Run *work*, which takes a passphrase from the arena, in a thread; *discard* what it finds in vain."""
        before = self.epoch
        with self._unless_wiped(before):
            found = await trio.to_thread.run_sync(work, limiter=self._deriving)
        if self.epoch != before:
            discard(found)
            raise LockedError("the vault was locked meanwhile")
        return found

    @contextmanager
    def _unless_wiped(self, before: int) -> Generator[None]:
        """Turn what goes wrong because it was given zeroes, in another epoch than *before*, into `LockedError`."""
        try:
            yield
        except StorageFailedError:
            raise
        except AvaultError:
            if self.epoch == before:
                raise
            raise LockedError("the vault was locked meanwhile") from None

    def _enter(self, seal: Seal, occasion: states.Occasion) -> None:
        try:
            policy = self._catalog.policy(seal)
        except BaseException:
            seal.close()
            raise
        self._take(seal)
        self._to(occasion)
        self.policy = policy
        self._tell("unlocked")

    def _next_epoch(self) -> None:
        self.epoch += 1
        self._unlocks = 0

    def _take(self, seal: Seal | None) -> None:
        self._cache.clear()
        if self._seal is not None:
            self._seal.close()
        self._seal = seal

    # --- transactions -------------------------------------------------------------------------------------------

    async def _transact(self, change: Callable[[Draft], T], since: int | None = None) -> T:
        """Make and write one change, which uses what came to the arena in the epoch *since*, if not in this one.

        Cancelled while it waits for its turn it is as if never asked for; once begun it is finished.
        """
        before = self.epoch if since is None else since
        self._need_since(before)
        async with self._writing:
            seal = self._need_since(before)

            def work() -> tuple[T, Catalog]:
                draft = Draft(seal, self._catalog, self._file.chain, self._now())
                return change(draft), draft.write(self._file)

            with seal.held(), self._unless_wiped(before):
                found, catalog = await trio.to_thread.run_sync(work)
            self._publish(catalog)
        return found

    # --- helpers ------------------------------------------------------------------------------------------------

    def _publish(self, catalog: Catalog) -> None:
        changed = catalog.agents != self._catalog.agents
        counted = len(catalog.secrets) != len(self._catalog.secrets)
        self._catalog = catalog
        self._cache.clear()
        if changed:
            self.policy = catalog.policy(self._seal)
            self._tell("policy")
        if counted:
            self._tell("counted")

    def _to(self, occasion: states.Occasion) -> None:
        self.state = states.after(self.state, occasion)

    def _tell(self, event: str, **detail: object) -> None:
        for listener in self.listeners:
            listener(event, detail)

    def _check_there(self) -> None:
        if self.fault is not None:
            raise self.fault.with_traceback(None)  # raised again and again, it would gather the traces of all
        if not self._catalog.slots:
            raise UninitializedError
        self._check_key()

    def _check_key(self) -> None:
        """Raise `BusyError` between the announcement of another key and its use: the file may have either by now."""
        if self._switching:
            raise BusyError("the vault's key is being replaced")

    def _check_new(self, passphrase: Slot, log_n: int) -> None:
        passphrases.check(passphrase)
        if not self._min_log_n <= log_n <= MAX_LOG_N:
            raise BadRequestError(f"log_n {log_n}, not from {self._min_log_n} to {MAX_LOG_N}")

    def _need(self) -> Seal:
        if self._seal is None:
            self._check_there()
            raise LockedError
        return self._seal

    def _need_since(self, before: int) -> Seal:
        """Return the key, unless the arena was wiped after the epoch *before*: what the caller put there is zeroes."""
        seal = self._need()
        self.check_epoch(before)
        return seal

    def _now(self) -> int:
        return int(self._clock())


def _unlocked_already() -> BadRequestError:
    return BadRequestError("the vault is unlocked already")


def close_key(found: tuple[Seal, object]) -> None:
    """Close the key of what a derivation found in vain."""
    found[0].close()
