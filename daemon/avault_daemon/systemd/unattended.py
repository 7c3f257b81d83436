"""Unlocking at the start, by a passphrase that the service manager has and hands over as a credential.

The unit says ``LoadCredentialEncrypted=avault.passphrase``; systemd decrypts it, by a key of this machine or its TPM, into
a file that this service can read. Its slot is one under a passphrase (NIP-49) of a type of its own: no operator proves
anything by it. The passphrase goes from the file into the arena and nowhere else.

Sources: systemd.exec(5) on Credentials, systemd-creds(1).
"""

from __future__ import annotations

import logging
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from avault_protocol import (
    AvaultError,
    BadRequestError,
    DeniedError,
    LockedError,
    NotFoundError,
    StorageFailedError,
    WrongPassphraseError,
)
from avault_protocol.limits import MAX_PASSPHRASE

from ..confine import traced
from ..memory.arena import Arena, Slot
from ..nostr.keys import SecretKey
from ..slots import passphrase as slots

if TYPE_CHECKING:
    from ..audit import Record
    from ..vault import Vault

log = logging.getLogger(__name__)

NAME = "avault.passphrase"
MIN = 32
"""Bytes: it is made by chance, for nobody to remember, and never comes from a person's memory."""
_HINT = (
    f"make one: head -c 32 /dev/urandom | base64 -w0 | systemd-creds encrypt --name={NAME} - "
    f"/etc/credstore.encrypted/{NAME}"
)


class Unattended:
    """The credential in *directory*, which is ``$CREDENTIALS_DIRECTORY``, if there is one, and the slots of *vault* for it."""

    def __init__(self, arena: Arena, vault: Vault, record: Record, directory: Path | None) -> None:
        self._arena, self._vault, self._record = arena, vault, record
        self._path = directory / NAME if directory is not None else None

    def slots(self) -> list[str]:
        """Return the ids of the slots that are opened so."""
        return [slot.id for slot in self._vault.slots() if slot.type == slots.CREDENTIAL]

    async def add(self, log_n: int) -> str:
        """Add a slot for the credential that is there; return its id. Errors by `read` and `Vault.add_passphrase`."""
        with await self._fetch() as passphrase:
            return await self._vault.add_passphrase(passphrase, log_n, slots.CREDENTIAL)

    async def at_start(self) -> None:
        """Unlock if there are a slot and the credential for it; log, and put on record, how that went. Never raises."""
        there = self._path is not None and await trio.to_thread.run_sync(os.path.exists, self._path)
        if not self.slots():
            if there:
                log.info("the credential %s opens nothing yet: avault slot add systemd-credential", NAME)
            return
        if self._vault.unlocked:
            return
        try:
            outcome = f"slot {await self._unlock()}"
        except AvaultError as error:
            outcome = f"{error.code}: {error.message}"
            hint = f"; {error.hint}" if error.hint else ""
            log.error("the vault stays locked, the credential did not unlock it: %s%s", error.message, hint)
        self._record.note("credential_unlock", outcome)
        self._record.try_flush()

    async def _unlock(self) -> str:
        if traced():
            raise DeniedError(
                "a debugger is attached to avaultd", hint="end it, restart avaultd, then unlock"
            )
        with await self._fetch() as passphrase:
            try:
                return await self._vault.unlock(passphrase, kind=slots.CREDENTIAL)
            except WrongPassphraseError:
                raise DeniedError(
                    f"the credential {NAME} opens no slot",
                    hint="it was made anew: avault slot remove the old slot, then avault slot add systemd-credential",
                ) from None

    async def _fetch(self) -> Slot:
        before = self._vault.epoch
        passphrase = await trio.to_thread.run_sync(self.read)
        if self._vault.epoch != before:
            passphrase.release()
            raise LockedError("the vault was locked meanwhile")
        return passphrase

    def read(self) -> Slot:
        """Return the credential, less one final newline, in the arena; blocks.

        `NotFoundError`: there is none; `BadRequestError`: it is no good one; `StorageFailedError`: it cannot be read.
        """
        if self._path is None:
            raise NotFoundError(f"this daemon was given no credential {NAME}", hint=_HINT)
        try:
            descriptor = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except FileNotFoundError:
            raise NotFoundError(f"this daemon was given no credential {NAME}", hint=_HINT) from None
        except OSError as error:
            raise _unreadable(error) from error
        try:
            return self._read(descriptor)
        except OSError as error:
            raise _unreadable(error) from error
        finally:
            os.close(descriptor)

    def _read(self, descriptor: int) -> Slot:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or not MIN <= status.st_size <= MAX_PASSPHRASE:
            raise BadRequestError(
                f"the credential {NAME} is no file of {MIN} to {MAX_PASSPHRASE} bytes", hint=_HINT
            )
        passphrase = self._arena.take(status.st_size)
        try:
            if os.readv(descriptor, [passphrase.view]) != passphrase.size:
                raise BadRequestError(f"the credential {NAME} became shorter while it was read")
            if passphrase.view[-1] == ord("\n"):
                passphrase.narrow(0, passphrase.size - 1)
            if not slots.is_utf8(passphrase.view):
                raise BadRequestError(f"the credential {NAME} is no text", hint=_HINT)
        except BaseException:
            passphrase.release()
            raise
        return passphrase

    def reseal(self, slot: str, content: str, key: SecretKey) -> str | None:
        """Make one of these slots anew for the vault's next key, if the credential opens it; else None.

        A `copies.Reseal`; blocks.
        """
        if slot not in self.slots():
            return None
        try:
            with self.read() as passphrase:
                slots.open_key(self._arena, content, passphrase, min_log_n=1).close()
                log_n = slots.log_n_of(content)
                return slots.make(self._arena, key, passphrase, log_n, slots.CREDENTIAL)
        except (NotFoundError, BadRequestError, StorageFailedError, WrongPassphraseError):
            return None


def _unreadable(error: OSError) -> StorageFailedError:
    return StorageFailedError(f"the credential {NAME}: {(error.strerror or 'unreadable').lower()}")
